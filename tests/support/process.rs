//! Child processes and folders that end with the test process, however that ends.
//!
//! A child is killed by the kernel when the thread that started it is gone
//! (`PR_SET_PDEATHSIG`), and a test's thread is gone when that test is. So one thread that never
//! ends starts them all. A folder is removed by a small shell that waits for the test process's
//! end, for a shared control plane in a `static` is never dropped.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group, set_parent_process_death_signal};

use super::clock;

type Request = (Command, mpsc::Sender<io::Result<Child>>);

static STARTER: LazyLock<mpsc::Sender<Request>> = LazyLock::new(|| {
    let (requests, inbox) = mpsc::channel::<Request>();
    thread::Builder::new()
        .name("starts processes".into())
        .spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        })
        .expect("a thread starts");
    requests
});

/// A process in a process group of its own.
pub struct Process {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; the process ends with this one, or when dropped, with its whole group.
    pub fn start(mut command: Command) -> io::Result<Self> {
        command.process_group(0);
        // SAFETY: prctl is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let (answer, child) = mpsc::channel();
        STARTER.send((command, answer)).expect("the starting thread never ends");
        let child = child.recv().expect("the starting thread answers")?;
        Ok(Self { child, ended: None })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The standard streams that were asked for as pipes.
    pub fn streams(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The lines of its standard output, if that was asked for as a pipe, as they come.
    pub fn lines(&mut self) -> mpsc::Receiver<String> {
        let (tell, lines) = mpsc::channel();
        let output = self.child.stdout.take().expect("a pipe");
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
        });
        lines
    }

    /// Signals the process alone. SIGSTOP takes its time: waits until every thread has stopped.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_some() {
            return;
        }
        kill_process(self.pid(), signal).expect("a child that was not waited for is there");
        if signal == Signal::STOP {
            clock::wait_until("a process to stop", Duration::from_secs(5), || {
                self.thread_states().iter().all(|state| *state == 'T')
            });
        }
    }

    /// The state letter of each thread, as proc(5) has it.
    fn thread_states(&self) -> Vec<char> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id()));
        let stats = tasks.into_iter().flatten().flatten();
        let stats = stats.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
        // The name before it, in parentheses, may hold anything.
        stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
    }

    /// Signals the process and its descendants that stayed in its group.
    pub fn signal_group(&self, signal: Signal) {
        let _ = kill_process_group(self.pid(), signal);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        clock::wait_for("a process to end", within, || self.ended())
    }

    /// SIGKILL to the group, and waits for the process's end.
    pub fn kill(&mut self) -> ExitStatus {
        self.signal_group(Signal::KILL);
        let ended = match self.ended {
            Some(ended) => ended,
            None => self.child.wait().unwrap_or(ExitStatus::from_raw(0)),
        };
        self.ended = Some(ended);
        ended
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A temporary folder, removed when dropped or when the test process ends.
pub struct Folder {
    path: PathBuf,
    /// Its standard input is held open by this process alone.
    remover: Mutex<Child>,
}

impl Folder {
    /// A new folder whose name begins with `leasehold-` and `name`.
    pub fn new(name: &str) -> Self {
        let path = tempfile::Builder::new()
            .prefix(&format!("leasehold-{name}-"))
            .tempdir()
            .expect("a temporary folder can be made")
            .keep();
        // Twice: what a child wrote while the kernel killed it goes with the second.
        let remover = Command::new("sh")
            .args(["-c", r#"read -r _; rm -rf "$1"; sleep 1; rm -rf "$1""#, "remove"])
            .arg(&path)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be started");
        Self { path, remover: Mutex::new(remover) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        if let Ok(remover) = self.remover.get_mut() {
            let _ = remover.kill();
            let _ = remover.wait();
        }
    }
}
