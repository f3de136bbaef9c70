//! `leasehold exec`, promise by promise (docs/exec.md): real processes, and the report files of a sidecar that a test
//! plays itself where it wants to say when what happens. The last tests have real sidecars and a real API server.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use support::clock::{self, BootTime, wait_for, wait_until};
use support::control_plane::shared;
use support::process::{Folder, Process};
use support::sidecar::{Sidecar, binary};
use support::stage::{SOON, Stage};

const MS: Duration = Duration::from_millis(1);
/// Until `stop_by` after a renewal, with the default times.
const HOLD: Duration = Duration::from_millis(14_970);
/// How late a kill may be on a busy machine before a test of times fails.
const SLACK: Duration = Duration::from_millis(1500);

// --- A sidecar's files ---

/// The report directory of a sidecar that this test plays.
struct Reports {
    folder: Arc<Folder>,
    /// Ends the writing of yes after yes.
    renewing: Mutex<Option<(mpsc::Sender<()>, thread::JoinHandle<()>)>>,
}

/// A yes for the lease `web`.
#[derive(Clone, Copy)]
struct Yes {
    token: u64,
    valid_for: Duration,
    stop_by: BootTime,
}

impl Yes {
    fn fresh(token: u64) -> Self {
        Yes { token, valid_for: Duration::from_secs(1), stop_by: clock::now() + HOLD }
    }
}

impl Reports {
    /// A pod that does not lead yet.
    fn new() -> Self {
        let reports = Reports::empty();
        reports.make_locks();
        reports.no("held_by_other");
        reports
    }

    fn empty() -> Self {
        Reports { folder: Arc::new(Folder::new("exec")), renewing: Mutex::default() }
    }

    fn make_locks(&self) {
        for name in ["alive", "web.lock"] {
            File::create(self.dir().join(name)).expect("a file can be made");
        }
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// One yes that nobody renews.
    fn yes_once(&self, yes: Yes) {
        self.stop_renewing();
        write_yes(self.dir(), yes);
    }

    /// This pod leads from now on: the files are renewed as a sidecar with default times does.
    fn lead(&self, token: u64) {
        self.lead_with(token, Yes::fresh);
    }

    fn lead_with(&self, token: u64, mut yes: impl FnMut(u64) -> Yes + Send + 'static) {
        self.stop_renewing();
        let (stop, stopped) = mpsc::channel();
        let folder = Arc::clone(&self.folder);
        write_yes(self.dir(), yes(token));
        let writer = thread::spawn(move || {
            while stopped.recv_timeout(100 * MS) == Err(RecvTimeoutError::Timeout) {
                write_yes(folder.path(), yes(token));
            }
        });
        *self.renewing.lock().unwrap() = Some((stop, writer));
    }

    /// This pod does not lead.
    fn no(&self, reason: &str) {
        self.stop_renewing();
        let mut report = report(json!({"leader": false, "reason": reason}));
        for key in ["fencing_token", "valid_from_uptime", "valid_until_uptime", "stop_by_uptime"] {
            report[key] = json!(null);
        }
        write(self.dir(), &report);
    }

    /// The sidecar hangs: what it wrote stays.
    fn stop_renewing(&self) {
        if let Some((stop, writer)) = self.renewing.lock().unwrap().take() {
            drop(stop);
            writer.join().expect("the writer ends");
        }
    }

    fn is_held(&self, name: &str) -> bool {
        let Ok(file) = File::open(self.dir().join(name)) else { return false };
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
    }

    /// What the sidecar's release waits for.
    #[track_caller]
    fn wait_released(&self) {
        wait_until("web.lock to be let go", SOON, || !self.is_held("web.lock"));
    }

    /// `leasehold exec` with these flags, for `sh -c SCRIPT`.
    fn exec(&self, flags: &[&str], script: &str) -> Exec {
        self.exec_command(flags, &["sh", "-c", script])
    }

    fn exec_command(&self, flags: &[&str], command: &[&str]) -> Exec {
        Exec::start(&[], self.dir(), self.dir(), flags, command)
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.stop_renewing();
    }
}

fn report(of_lease: serde_json::Value) -> serde_json::Value {
    let mut report = json!({
        "lease": "web", "namespace": "apps", "pod": "web-0", "holder": "web-0", "valid_for_ms": 0,
        "boot_id": fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim(),
        "lease_remaining_ms": 15000, "acquired_at": null, "transitions": 3, "version": "1-1", "message": "",
    });
    report.as_object_mut().unwrap().extend(of_lease.as_object().unwrap().clone());
    report
}

fn write_yes(dir: &Path, yes: Yes) {
    let hundredths = |moment: BootTime| (moment.as_millis() / 10) as f64 / 100.0;
    let now = clock::now();
    write(
        dir,
        &report(json!({
            "leader": true, "reason": "leading", "fencing_token": yes.token,
            "valid_from_uptime": hundredths(now),
            "valid_until_uptime": hundredths(now + yes.valid_for),
            "stop_by_uptime": hundredths(yes.stop_by),
        })),
    );
}

fn write(dir: &Path, report: &serde_json::Value) {
    for name in ["web.json", "status.json"] {
        let aside = dir.join(format!(".leasehold-{name}"));
        fs::write(&aside, format!("{report}\n")).expect("a file can be written");
        fs::rename(&aside, dir.join(name)).expect("a file can be renamed");
    }
}

// --- exec, and what it started ---

/// A `leasehold exec`; killed when dropped, and with it what it started.
struct Exec {
    process: Process,
    said: Arc<Mutex<Vec<String>>>,
    /// What CMD writes: a line for each event.
    log: PathBuf,
    /// In the environment of all that it started, and of nothing else.
    mark: String,
}

impl Exec {
    /// In front of it stands `before`, a command that becomes it or starts it.
    fn start(before: &[&str], reports: &Path, home: &Path, flags: &[&str], command: &[&str]) -> Self {
        let mut exec = Self::unread(before, reports, home, flags, command);
        let stderr = exec.process.streams().stderr.take().expect("asked for as a pipe");
        let said = Arc::clone(&exec.said);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                said.lock().unwrap().push(line);
            }
        });
        exec
    }

    /// Nobody reads what it says.
    fn unread(before: &[&str], reports: &Path, home: &Path, flags: &[&str], command: &[&str]) -> Self {
        ignore_nothing();
        let program = binary();
        let log = home.join("log");
        let mark = home.to_string_lossy().into_owned();
        let words: Vec<&str> = before.iter().copied().chain([program.to_str().expect("a name"), "exec"]).collect();
        let mut exec = Command::new(words[0]);
        exec.args(&words[1..])
            .arg("--report-dir")
            .arg(reports)
            .args(flags)
            .arg("--")
            .args(command)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LOG", &log)
            .env("MARK", &mark)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Exec { process: Process::start(exec).expect("leasehold starts"), said: Arc::default(), log, mark }
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits for a line of the log; gives it.
    #[track_caller]
    fn wait_line(&self, part: &str) -> String {
        let what = format!("CMD to log {part:?}; exec says {:?}", self.said.lock().unwrap());
        wait_for(&what, SOON, || self.lines().into_iter().find(|line| line.contains(part)))
    }

    /// When a [`STUBBORN`] CMD did its last step.
    #[track_caller]
    fn last_beat(&self) -> BootTime {
        let beats = fs::read_to_string(self.log.with_extension("beats")).expect("it began");
        // The very last line may be half of one.
        let beat = beats.lines().rev().find_map(|line| Some(line.split_once('.')?.1.len() == 2).and(line.parse().ok()));
        Duration::from_secs_f64(beat.expect("a step"))
    }

    #[track_caller]
    fn wait_said(&self, part: &str) {
        let said = || self.said.lock().unwrap().iter().any(|line| line.contains(part));
        wait_until(&format!("exec to say {part:?}"), SOON, said);
    }

    fn count_said(&self, part: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }

    fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    #[track_caller]
    fn code(&mut self) -> Option<i32> {
        let status: ExitStatus = self.process.wait(SOON);
        status.code()
    }

    fn id(&self) -> i32 {
        self.process.id() as i32
    }

    /// The keeper of the run that is on.
    #[track_caller]
    fn keeper(&self) -> i32 {
        wait_for("a keeper", SOON, || living(&self.mark).into_iter().find(|pid| parent(*pid) == Some(self.id())))
    }

    /// CMD and what it started: everything below but exec and its keeper.
    fn below(&self) -> Vec<i32> {
        let of_its_own = |pid: &i32| *pid == self.id() || parent(*pid) == Some(self.id());
        living(&self.mark).into_iter().filter(|pid| !of_its_own(pid)).collect()
    }

    #[track_caller]
    fn wait_nothing_left(&self) {
        wait_until("all processes to end", SOON, || living(&self.mark).is_empty());
    }
}

/// A test that runs in the background, or under nohup, ignores signals, and so would what it starts.
fn ignore_nothing() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").expect("there is /proc");
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("Linux tells");
        let ignored = u64::from_str_radix(ignored.trim(), 16).expect("hexadecimal");
        for signal in [Signal::HUP, Signal::INT, Signal::QUIT] {
            if ignored & 1 << (signal.as_raw() - 1) != 0 {
                // What has a handler here is what it is from the start in a child.
                signal_hook::flag::register(signal.as_raw(), Arc::default()).expect("a handler");
            }
        }
    });
}

/// The processes that have this in their environment, zombies aside.
fn living(mark: &str) -> Vec<i32> {
    let mark = format!("MARK={mark}");
    let has_it = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let entries = fs::read_dir("/proc").expect("there is /proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(has_it).collect()
}

/// A field of /proc/PID/stat after the name.
fn stat(pid: i32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').nth(field)?.to_owned())
}

fn parent(pid: i32) -> Option<i32> {
    stat(pid, 1)?.parse().ok()
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn state(pid: i32) -> Option<String> {
    stat(pid, 0)
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("the process is there");
}

/// Logs its start, and stays until it is told to end.
const STAY: &str = r#"echo "begin $LEASEHOLD_TOKEN $LEASEHOLD_LEASE $$" >>"$LOG"; exec sleep 1000"#;
/// Works without end, and does not end when told: the file beats has the time of each step.
const STUBBORN: &str = r#"
    trap 'read -r u _ </proc/uptime; echo "told $u" >>"$LOG"' TERM
    echo "begin $LEASEHOLD_TOKEN" >>"$LOG"
    while :; do read -r u _ </proc/uptime; echo "$u" >>"$LOG.beats"; sleep 0.02; done"#;
/// Starts another that leaves its parent, its group and its session, and heeds no signal.
const RUNAWAY: &str = r#"
    setsid sh -c '(trap "" TERM HUP INT; read -r pid _ </proc/self/stat; echo "runaway $pid" >>"$LOG"
        while :; do sleep 0.05; done) </dev/null >/dev/null 2>&1 &'
    echo "begin $LEASEHOLD_TOKEN" >>"$LOG"; exec sleep 1000"#;

// --- A run ---

#[test]
fn cmd_runs_only_while_this_pod_leads_and_knows_its_token_and_lease() {
    let reports = Reports::new();
    let exec = reports.exec(&[], STAY);
    wait_until("exec to hold alive", SOON, || reports.is_held("alive"));
    assert!(exec.lines().is_empty() && !reports.is_held("web.lock"));

    reports.lead(7);
    let first = exec.wait_line("begin 7 web ");
    assert!(reports.is_held("web.lock"));
    let pid: i32 = first.rsplit(' ').next().unwrap().parse().unwrap();
    // It is left alone while the yes is renewed.
    thread::sleep(2500 * MS);
    assert!(state(pid).is_some() && exec.lines().len() == 1, "{:?}", exec.lines());

    reports.no("stepped_down");
    reports.wait_released();
    assert!(state(pid).is_none() && exec.below().is_empty());
    assert!(reports.is_held("alive"), "exec itself is alive");
    reports.lead(8);
    exec.wait_line("begin 8 web ");
    assert_eq!(exec.lines().len(), 2);
}

#[test]
fn another_token_starts_another_cmd_when_the_old_one_is_gone() {
    let reports = Reports::new();
    let exec = reports.exec(
        &["--term-grace=2s"],
        r#"trap 'sleep 0.5; echo "end $LEASEHOLD_TOKEN" >>"$LOG"; exit' TERM
           echo "begin $LEASEHOLD_TOKEN" >>"$LOG"; while :; do sleep 0.05; done"#,
    );
    reports.lead(7);
    exec.wait_line("begin 7");
    reports.lead(8);
    exec.wait_line("begin 8");
    assert_eq!(exec.lines(), ["begin 7", "end 7", "begin 8"]);
}

#[test]
fn a_named_lease_has_its_own_file_and_lock() {
    let reports = Reports::new();
    let exec = reports.exec(&["--lease=jobs"], STAY);
    reports.lead(7);
    exec.wait_said("jobs.json");
    fs::write(reports.dir().join("jobs.json"), report(json!({"leader": false, "reason": "starting"})).to_string())
        .unwrap();
    File::create(reports.dir().join("jobs.lock")).unwrap();
    let now = clock::now().as_secs_f64();
    let yes = report(json!({
        "leader": true, "lease": "jobs", "reason": "leading", "fencing_token": 70, "valid_from_uptime": now,
        "valid_until_uptime": now + 5.0, "stop_by_uptime": now + 15.0,
    }));
    fs::write(reports.dir().join("jobs.json"), yes.to_string()).unwrap();
    exec.wait_line("begin 70 jobs ");
    assert!(reports.is_held("jobs.lock") && !reports.is_held("web.lock"));
}

#[test]
fn cmd_has_the_streams_of_exec() {
    let reports = Reports::new();
    reports.lead(7);
    let mut exec = Command::new(binary())
        .args(["exec", "--report-dir"])
        .arg(reports.dir())
        .args(["--", "sh", "-c", "cat; echo err >&2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write;
    exec.stdin.take().unwrap().write_all(b"in and out").unwrap();
    let output = exec.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"in and out".as_slice()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("err\n"), "{output:?}");
}

// --- Its end in time ---

#[test]
fn a_cmd_that_heeds_no_sigterm_is_killed_after_the_grace() {
    let reports = Reports::new();
    let exec = reports.exec(&["--term-grace=800ms"], STUBBORN);
    reports.lead(7);
    exec.wait_line("begin");
    let lost = clock::now();
    reports.no("renew_deadline");
    let told = Duration::from_secs_f64(exec.wait_line("told").split_once(' ').unwrap().1.parse().unwrap());
    assert!(told < lost + SLACK, "lost {lost:?}, told {told:?}");
    reports.wait_released();
    let (ended, last_beat) = (clock::now(), exec.last_beat());
    assert!(ended >= lost + 800 * MS && last_beat < lost + 800 * MS + SLACK, "{lost:?}, {last_beat:?}, {ended:?}");
    assert!(exec.below().is_empty());
}

#[test]
fn a_sidecar_that_hangs_or_died_ends_cmd_before_others_can_lead() {
    let reports = Reports::new();
    let exec = reports.exec(&["--term-grace=1s"], STUBBORN);
    let stop_by = clock::now() + 4000 * MS;
    reports.yes_once(Yes { stop_by, ..Yes::fresh(7) });
    exec.wait_line("begin");
    // The file ran out long before: that alone ends nothing.
    let told: f64 = exec.wait_line("told").rsplit(' ').next().unwrap().parse().unwrap();
    let told = Duration::from_secs_f64(told);
    let due = stop_by - 1250 * MS;
    assert!(told + 20 * MS >= due && told < due + SLACK, "told {told:?}, due {due:?}");
    reports.wait_released();
    let (ended, last_beat) = (clock::now(), exec.last_beat());
    assert!(ended + 20 * MS >= stop_by - 250 * MS && last_beat < stop_by, "{stop_by:?}, {last_beat:?}, {ended:?}");
}

#[test]
fn a_sidecar_that_comes_back_in_time_disturbs_nothing() {
    let reports = Reports::new();
    let exec = reports.exec(&[], STAY);
    reports.yes_once(Yes { valid_for: 2000 * MS, stop_by: clock::now() + 7000 * MS, ..Yes::fresh(7) });
    exec.wait_line("begin 7");
    // The file runs out; SIGTERM is due at 5.75 s.
    thread::sleep(3000 * MS);
    reports.lead(7);
    thread::sleep(4500 * MS);
    assert_eq!((exec.lines().len(), exec.count_said("SIGTERM")), (1, 0));
}

#[test]
fn after_a_foreign_change_of_the_lease_cmd_has_only_what_was_promised() {
    for reason in ["lost", "edited", "deleted"] {
        let reports = Reports::new();
        let exec = reports.exec(&["--term-grace=4s"], STUBBORN);
        reports.lead_with(7, |token| Yes { valid_for: 600 * MS, ..Yes::fresh(token) });
        exec.wait_line("begin");
        reports.stop_renewing();
        let last_yes: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(reports.dir().join("status.json")).unwrap()).unwrap();
        let until = Duration::from_secs_f64(last_yes["valid_until_uptime"].as_f64().unwrap());
        reports.no(reason);
        reports.wait_released();
        let (ended, last_beat) = (clock::now(), exec.last_beat());
        assert!(ended + 20 * MS >= until && last_beat < until + SLACK, "{reason}: {until:?}, {last_beat:?}, {ended:?}");
    }
}

#[test]
fn whatever_cmd_started_ends_with_it() {
    let reports = Reports::new();
    let exec = reports.exec(&["--term-grace=500ms"], RUNAWAY);
    reports.lead(7);
    exec.wait_line("begin 7");
    let runaway: i32 = exec.wait_line("runaway").rsplit(' ').next().unwrap().parse().unwrap();
    let session = |pid: i32| stat(pid, 3).expect("it lives");
    assert_ne!(session(runaway), session(exec.id()));
    let lost = clock::now();
    reports.no("renew_deadline");
    reports.wait_released();
    // CMD itself ended at once; the other one had the grace.
    assert!(clock::now() - lost >= 500 * MS);
    assert!(exec.below().is_empty(), "{:?}", exec.below());
    exec.wait_said("has ended: SIGTERM to");
}

#[test]
fn what_cmd_leaves_behind_ends_before_exec_does() {
    let reports = Reports::new();
    let mut exec = reports.exec(
        &["--term-grace=2s"],
        r#"setsid sh -c 'trap "echo rest told >>\"$LOG\"; exit" TERM; echo ready >>"$LOG"; while :; do sleep 0.05; done' &
           while ! grep -q ready "$LOG" 2>/dev/null; do sleep 0.02; done; exit 9"#,
    );
    reports.lead(7);
    assert_eq!(exec.code(), Some(9));
    assert_eq!(exec.lines(), ["ready", "rest told"]);
    assert!(living(&exec.mark).is_empty() && !reports.is_held("alive"));
}

#[test]
fn a_cmd_that_starts_processes_without_end_is_ended_with_all_of_them() {
    let reports = Reports::new();
    // Each lives for a moment and starts the next one in a session of its own.
    let chain = reports.dir().join("chain");
    fs::write(&chain, "trap '' TERM; sleep 0.01; setsid sh \"$0\" & exit\n").unwrap();
    let script =
        format!("for i in 1 2 3 4; do setsid sh {} & done; echo begin >>\"$LOG\"; exec sleep 1000", chain.display());
    let exec = reports.exec(&["--term-grace=200ms"], &script);
    reports.lead(7);
    exec.wait_line("begin");
    thread::sleep(300 * MS);
    reports.no("renew_deadline");
    reports.wait_released();
    assert!(exec.below().is_empty(), "{:?}", exec.below());
}

#[test]
fn a_log_that_nobody_reads_delays_no_end() {
    let reports = Reports::new();
    let exec = Exec::unread(
        &[],
        reports.dir(),
        reports.dir(),
        &["--term-grace=500ms"],
        &["sh", "-c", r#"trap "" TERM; echo begin >>"$LOG"; yes >&2 & wait; while :; do sleep 1; done"#],
    );
    reports.lead(7);
    exec.wait_line("begin");
    let pipe_is_full = || {
        let writer = exec.below().into_iter().find(|pid| state(*pid).as_deref() == Some("S") && name(*pid) == "yes");
        writer.is_some()
    };
    wait_until("the pipe to be full", SOON, pipe_is_full);
    reports.no("renew_deadline");
    reports.wait_released();
    assert!(exec.below().is_empty());
}

// --- Its own end, and its keeper's ---

#[test]
fn killing_exec_kills_all_that_it_started() {
    let reports = Reports::new();
    let exec = reports.exec(&[], RUNAWAY);
    reports.lead(7);
    exec.wait_line("begin 7");
    exec.wait_line("runaway");
    exec.signal(Signal::KILL);
    exec.wait_nothing_left();
    assert!(!reports.is_held("alive") && !reports.is_held("web.lock"));
}

#[test]
fn killing_the_keeper_kills_all_that_it_kept_and_exec_says_so() {
    let reports = Reports::new();
    let mut exec = reports.exec(&[], RUNAWAY);
    reports.lead(7);
    exec.wait_line("begin 7");
    exec.wait_line("runaway");
    kill(exec.keeper(), Signal::KILL);
    assert_eq!(exec.code(), Some(128 + 9));
    assert!(living(&exec.mark).is_empty(), "{:?}", living(&exec.mark));
    assert_eq!(exec.count_said("the keeper was killed"), 1);
    assert!(!reports.is_held("alive") && !reports.is_held("web.lock"));
}

#[test]
fn a_killed_keeper_is_followed_by_another_where_cmd_is_to_be_restarted() {
    let reports = Reports::new();
    let exec = reports.exec(&["--restart"], RUNAWAY);
    reports.lead(7);
    let first = exec.wait_line("runaway");
    let keeper = exec.keeper();
    kill(keeper, Signal::KILL);
    wait_until("another run", SOON, || exec.lines().iter().filter(|line| line.starts_with("begin")).count() == 2);
    let runaway: i32 = first.rsplit(' ').next().unwrap().parse().unwrap();
    // By its mark: its number may be another process's by now, and who has died may not have been buried yet.
    assert!(!living(&exec.mark).contains(&runaway), "{:?}", state(runaway));
    assert_ne!(exec.keeper(), keeper);
}

#[test]
fn killing_both_kills_cmd() {
    let reports = Reports::new();
    let exec = reports.exec(&[], STAY);
    reports.lead(7);
    exec.wait_line("begin 7");
    let keeper = exec.keeper();
    // Neither can do anything about the other's end.
    kill(keeper, Signal::STOP);
    exec.signal(Signal::KILL);
    let _ = kill_process(Pid::from_raw(keeper).unwrap(), Signal::KILL);
    exec.wait_nothing_left();
    assert!(!reports.is_held("alive") && !reports.is_held("web.lock"));
}

#[test]
fn a_stopped_exec_is_enforced_by_its_keeper_and_a_stopped_keeper_is_woken() {
    let reports = Reports::new();
    let exec = reports.exec(&["--term-grace=300ms"], STUBBORN);
    reports.lead(7);
    exec.wait_line("begin 7");
    let keeper = exec.keeper();
    kill(keeper, Signal::STOP);
    exec.wait_said("somebody stopped the keeper");
    wait_until("the keeper to go on", SOON, || state(keeper).as_deref() == Some("S"));
    exec.signal(Signal::STOP);
    reports.no("renew_deadline");
    wait_until("CMD to be killed", SOON, || exec.below().is_empty());
    assert!(reports.is_held("web.lock"), "by exec, which cannot let go");
    exec.signal(Signal::CONT);
    reports.wait_released();
    reports.lead(8);
    exec.wait_line("begin 8");
}

#[test]
fn a_yes_that_ran_out_while_exec_was_stopped_starts_nothing() {
    let reports = Reports::new();
    let exec = reports.exec(&[], STAY);
    wait_until("exec to hold alive", SOON, || reports.is_held("alive"));
    exec.signal(Signal::STOP);
    reports.yes_once(Yes { valid_for: 300 * MS, ..Yes::fresh(7) });
    thread::sleep(400 * MS);
    exec.signal(Signal::CONT);
    thread::sleep(500 * MS);
    reports.lead(8);
    exec.wait_line("begin 8");
    assert_eq!(exec.lines().len(), 1);
}

/// The processes between exec and CMD, as if they had been stopped for long on their way.
#[test]
fn whoever_comes_late_to_the_start_looks_again() {
    let reports = Reports::new();
    let own = std::process::id().to_string();
    let run = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.args(words).args(["--", "sh", "-c", r#"echo began >>"$LOG""#]).env("LOG", reports.dir().join("log"));
        let status = Process::start(command).expect("leasehold starts").wait(SOON);
        (std::os::unix::process::ExitStatusExt::signal(&status), status.code())
    };
    let began = || reports.dir().join("log").exists();
    let file = reports.dir().join("status.json");
    let keeper = |front: &str| run(&["exec-keeper", front, file.to_str().unwrap(), "web", "7", "1000"]);

    let ended_by_the_rule = (Some(15), None);
    assert_eq!(keeper(&own), ended_by_the_rule, "not leader by now");
    reports.lead(8);
    assert_eq!(keeper(&own), ended_by_the_rule, "another term by now");
    reports.lead(7);
    assert_eq!(keeper("1"), ended_by_the_rule, "exec has ended");
    let now = clock::now().as_nanos();
    let (past, future) = ((now - 1).to_string(), (now + 60_000_000_000).to_string());
    assert_eq!(run(&["exec-start", &own, &past]), (None, Some(143)), "too late");
    assert_eq!(run(&["exec-start", "1", &future]), (None, Some(143)), "the keeper has ended");
    assert!(!began());
    assert_eq!(keeper(&own), (None, Some(0)));
    assert!(began());
    assert_eq!(run(&["exec-start", &own, &future]), (None, Some(0)));
}

// --- Exit codes, and starting again ---

#[test]
fn exec_ends_as_cmd_ended() {
    for (script, code) in
        [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137), ("kill -USR1 $$", 138), ("nosuch", 127)]
    {
        let reports = Reports::new();
        reports.lead(7);
        let mut exec = reports.exec(&[], script);
        assert_eq!(exec.code(), Some(code), "{script}");
        assert!(!reports.is_held("alive") && !reports.is_held("web.lock"), "{script}");
    }
}

#[test]
fn a_cmd_that_cannot_be_run_is_said_before_this_pod_leads() {
    let reports = Reports::new();
    let file = reports.dir().join("plain");
    fs::write(&file, "").unwrap();
    let plain = file.to_str().unwrap();
    for (command, code) in [("leasehold-no-such", 127), ("/no/such", 127), (plain, 126), ("/", 126), ("", 127)] {
        let mut exec = reports.exec_command(&[], &[command]);
        assert_eq!(exec.code(), Some(code), "{command}");
        exec.wait_said(if code == 127 { "no such command" } else { "cannot be executed" });
    }
    // Its interpreter is missing, which only the kernel knows.
    let script = reports.dir().join("script");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    reports.lead(7);
    let mut exec = reports.exec_command(&[], &[script.to_str().unwrap()]);
    assert_eq!(exec.code(), Some(127));
    exec.wait_said("cannot start");
}

#[test]
fn with_restart_cmd_is_started_again_after_pauses_that_grow() {
    let reports = Reports::new();
    reports.lead(7);
    let mut exec = reports.exec(&["--restart"], r#"cut -d" " -f1 /proc/uptime >>"$LOG"; exit 4"#);
    wait_until("five runs", SOON, || exec.lines().len() >= 5);
    let times: Vec<f64> = exec.lines().iter().map(|line| line.parse().unwrap()).collect();
    for (run, least) in [(0, 0.1), (1, 0.2), (2, 0.4), (3, 0.8)] {
        let pause = times[run + 1] - times[run];
        assert!(pause > least - 0.02 && pause < least + 5.0, "{pause} after run {run}: {times:?}");
    }
    // Not while it does not lead.
    reports.no("lost");
    let runs = exec.lines().len();
    thread::sleep(2500 * MS);
    assert!(exec.lines().len() <= runs + 1);
    assert!(!reports.is_held("web.lock"));
    exec.signal(Signal::TERM);
    assert_eq!(exec.code(), Some(143));
}

// --- Signals ---

#[test]
fn signals_are_passed_on_and_the_end_that_was_asked_for_is_cmds() {
    const LISTENS: &str = r#"
        for s in HUP QUIT USR1 USR2 WINCH INT; do trap "echo $s >>\"\$LOG\"" $s; done
        trap 'echo TERM >>"$LOG"; exit 5' TERM
        echo begin >>"$LOG"; while :; do sleep 0.02; done"#;
    for flags in [&[][..], &["--restart"][..]] {
        let reports = Reports::new();
        reports.lead(7);
        let mut exec = reports.exec(flags, LISTENS);
        exec.wait_line("begin");
        for (signal, name) in
            [(Signal::HUP, "HUP"), (Signal::USR1, "USR1"), (Signal::USR2, "USR2"), (Signal::WINCH, "WINCH")]
        {
            exec.signal(signal);
            exec.wait_line(name);
        }
        exec.signal(Signal::TERM);
        assert_eq!(exec.code(), Some(5));
        assert_eq!(exec.lines(), ["begin", "HUP", "USR1", "USR2", "WINCH", "TERM"]);
        assert!(living(&exec.mark).is_empty());
    }
}

#[test]
fn a_signal_at_any_moment_of_the_start_is_not_lost_and_ends_nothing_else() {
    for delay in (0..24).step_by(2) {
        let reports = Reports::new();
        reports.lead(7);
        let mut exec = reports.exec(&["--restart"], r#"echo begin >>"$LOG"; exec sleep 1000"#);
        wait_until("exec to hold web.lock", SOON, || reports.is_held("web.lock"));
        thread::sleep(delay * MS);
        exec.signal(Signal::TERM);
        assert_eq!(exec.code(), Some(143), "after {delay} ms");
        assert!(living(&exec.mark).is_empty() && !reports.is_held("web.lock"));
    }
}

#[test]
fn while_nothing_runs_a_signal_that_asks_for_the_end_ends_exec() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let reports = Reports::new();
        let mut exec = reports.exec(&["--restart"], STAY);
        wait_until("exec to hold alive", SOON, || reports.is_held("alive"));
        for harmless in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::WINCH] {
            exec.signal(harmless);
        }
        thread::sleep(100 * MS);
        assert_eq!(exec.process.ended(), None);
        exec.signal(signal);
        assert_eq!(exec.code(), Some(code));
        assert!(!reports.is_held("alive"));
    }
}

#[test]
fn a_terminals_stop_stops_cmd_and_exec_and_the_keeper_still_ends_it_in_time() {
    let reports = Reports::new();
    let exec = reports.exec(&["--term-grace=300ms"], r#"echo "begin $LEASEHOLD_TOKEN" >>"$LOG"; sleep 1000; :"#);
    reports.lead(7);
    exec.wait_line("begin 7");
    wait_until("CMD and its child", SOON, || exec.below().len() == 2);
    let below = exec.below();
    let all_in = |wanted: &str, pids: &[i32]| pids.iter().all(|pid| state(*pid).as_deref() == Some(wanted));
    exec.signal(Signal::TSTP);
    wait_until("all to stop", SOON, || all_in("T", &below) && all_in("T", &[exec.id()]));
    exec.signal(Signal::CONT);
    wait_until("all to go on", SOON, || all_in("S", &below));
    exec.signal(Signal::TSTP);
    wait_until("all to stop again", SOON, || all_in("T", &below) && all_in("T", &[exec.id()]));
    reports.no("renew_deadline");
    wait_until("CMD to end", SOON, || exec.below().is_empty());
    exec.signal(Signal::CONT);
    reports.lead(8);
    exec.wait_line("begin 8");
}

#[test]
fn what_was_ignored_from_the_start_stays_ignored() {
    let reports = Reports::new();
    let home = reports.dir();
    let mut exec = Exec::start(&["sh", "-c", r#"trap "" HUP; exec "$@""#, "sh"], home, home, &[], &["sh", "-c", STAY]);
    reports.lead(7);
    exec.wait_line("begin 7");
    exec.signal(Signal::HUP);
    for pid in exec.below() {
        kill(pid, Signal::HUP);
    }
    thread::sleep(200 * MS);
    assert_eq!((exec.process.ended(), exec.below().len()), (None, 1));
    exec.signal(Signal::TERM);
    assert_eq!(exec.code(), Some(143));
}

// --- As PID 1 ---

/// `unshare` where that is allowed: a pid namespace whose PID 1 is exec.
fn pid_1() -> Option<&'static [&'static str]> {
    const UNSHARE: &[&str] = &["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let allowed = Command::new(UNSHARE[0]).args(&UNSHARE[1..]).arg("true").output();
    let allowed = allowed.is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("not tested: this user may not make a pid namespace");
    }
    allowed.then_some(UNSHARE)
}

#[test]
fn as_pid_1_it_reaps_orphans_and_ends_as_cmd_ended() {
    let Some(unshare) = pid_1() else { return };
    let reports = Reports::new();
    reports.lead(7);
    // Twenty orphans of two generations, then a look at what is left of them.
    let script = r#"
        echo "exec is $(cut -d' ' -f4 /proc/$PPID/stat)" >>"$LOG"
        i=0; while [ $i -lt 20 ]; do setsid sh -c 'sleep 0.05 & sh -c "sleep 0.1 &"' & i=$((i + 1)); done
        wait; sleep 0.6
        echo "zombies: $(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l)" >>"$LOG"
        echo "left: $(ls -d /proc/[0-9]* | wc -l)" >>"$LOG"
        exit 6"#;
    let mut exec = Exec::start(unshare, reports.dir(), reports.dir(), &[], &["sh", "-c", script]);
    assert_eq!(exec.code(), Some(6), "{:?}", exec.said.lock().unwrap());
    let lines = exec.lines();
    assert_eq!((lines[0].as_str(), lines[1].as_str()), ("exec is 1", "zombies: 0"), "{lines:?}");
    // exec, the keeper, CMD, and those of the line itself.
    let left: u32 = lines[2].rsplit(' ').next().unwrap().parse().unwrap();
    assert!(left <= 6, "{lines:?}");
}

#[test]
fn as_pid_1_it_hears_sigterm_with_and_without_a_cmd() {
    let Some(unshare) = pid_1() else { return };
    for leads in [false, true] {
        let reports = Reports::new();
        let mut exec = Exec::start(unshare, reports.dir(), reports.dir(), &[], &["sh", "-c", STAY]);
        wait_until("exec to hold alive", SOON, || reports.is_held("alive"));
        if leads {
            reports.lead(7);
            exec.wait_line("begin 7");
        }
        let pid_1 =
            wait_for("PID 1", SOON, || living(&exec.mark).into_iter().find(|pid| parent(*pid) == Some(exec.id())));
        kill(pid_1, Signal::TERM);
        assert_eq!(exec.code(), Some(143));
        assert!(living(&exec.mark).is_empty());
    }
}

#[test]
fn another_namespaces_proc_is_refused() {
    if pid_1().is_none() {
        return;
    }
    let reports = Reports::new();
    let home = reports.dir();
    let mut exec = Exec::start(&["unshare", "--pid", "--fork", "--kill-child"], home, home, &[], &["true"]);
    assert_eq!(exec.code(), Some(125));
    exec.wait_said("/proc is not that of this process's own namespace");
}

// --- Files that are not there, or not what they should be ---

#[test]
fn what_the_sidecar_has_not_made_yet_is_waited_for_and_said_once() {
    let reports = Reports::empty();
    let dir = reports.dir().join("later");
    let exec = Exec::start(&[], &dir, reports.dir(), &[], &["sh", "-c", STAY]);
    exec.wait_said("alive is not there: waiting for the sidecar to make it");
    thread::sleep(500 * MS);
    assert_eq!(exec.count_said("leasehold:"), 1, "{:?}", exec.said.lock().unwrap());
    fs::create_dir(&dir).unwrap();
    File::create(dir.join("alive")).unwrap();
    exec.wait_said("status.json");
    write_yes(&dir, Yes { valid_for: HOLD - 2000 * MS, ..Yes::fresh(7) });
    exec.wait_said("web.lock is not there");
    File::create(dir.join("web.lock")).unwrap();
    exec.wait_line("begin 7");
    assert_eq!(exec.count_said("waiting"), 3);
}

#[test]
fn a_lock_that_is_no_file_is_an_error_that_says_what_to_do() {
    type Make = fn(&Path);
    let makers: [(&str, Make); 3] = [
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a fifo", |path| rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap()),
        ("a link", |path| std::os::unix::fs::symlink("/dev/null", path).unwrap()),
    ];
    for name in ["alive", "web.lock"] {
        for (what, make) in makers {
            let reports = Reports::new();
            let path = reports.dir().join(name);
            fs::remove_file(&path).unwrap();
            make(&path);
            reports.lead(7);
            let mut exec = reports.exec(&[], STAY);
            assert_eq!(exec.code(), Some(125), "{name} is {what}");
            exec.wait_said("is no regular file");
            assert!(exec.lines().is_empty());
        }
    }
}

#[test]
fn a_fifo_in_the_place_of_the_report_hangs_nothing() {
    let reports = Reports::new();
    let mut exec = reports.exec(&[], STAY);
    reports.lead(7);
    exec.wait_line("begin 7");
    reports.stop_renewing();
    let path = reports.dir().join("status.json");
    rustix::fs::mkfifoat(rustix::fs::CWD, reports.dir().join("fifo"), rustix::fs::Mode::RWXU).unwrap();
    fs::rename(reports.dir().join("fifo"), &path).unwrap();
    thread::sleep(300 * MS);
    exec.signal(Signal::TERM);
    assert_eq!(exec.code(), Some(143));
}

#[test]
fn an_alive_that_the_sidecar_holds_for_a_moment_is_waited_for() {
    let reports = Reports::new();
    let sidecars = File::open(reports.dir().join("alive")).unwrap();
    flock(&sidecars, FlockOperation::NonBlockingLockExclusive).unwrap();
    reports.lead(7);
    let exec = reports.exec(&[], STAY);
    thread::sleep(300 * MS);
    assert!(exec.lines().is_empty() && exec.count_said("alone") == 0);
    exec.wait_said("holds");
    flock(&sidecars, FlockOperation::Unlock).unwrap();
    exec.wait_line("begin 7");
}

#[test]
fn an_alive_that_was_replaced_is_taken_anew() {
    let reports = Reports::new();
    let _exec = reports.exec(&[], STAY);
    wait_until("exec to hold alive", SOON, || reports.is_held("alive"));
    fs::remove_file(reports.dir().join("alive")).unwrap();
    File::create(reports.dir().join("alive")).unwrap();
    wait_until("exec to hold the new one", SOON, || reports.is_held("alive"));
}

#[test]
fn an_alive_that_was_removed_is_let_go_so_that_the_sidecar_makes_another() {
    let reports = Reports::new();
    let path = reports.dir().join("alive");
    let old = File::open(&path).expect("opens");
    reports.lead(7);
    let exec = reports.exec(&["--restart"], r#"echo ran >>"$LOG"; sleep 0.05"#);
    exec.wait_line("ran");
    fs::remove_file(&path).expect("removes it");
    wait_until("the removed file to be let go", SOON, || flock(&old, FlockOperation::NonBlockingLockExclusive).is_ok());
    flock(&old, FlockOperation::Unlock).expect("unlocks");
    let runs = exec.lines().len();
    reports.make_locks();
    wait_until("a run under the new one", SOON, || exec.lines().len() > runs);
}

#[test]
fn a_cmd_that_fails_again_and_again_does_not_count_as_an_app_that_lives() {
    let reports = Reports::new();
    reports.lead(7);
    let exec = reports.exec(&["--restart"], r#"echo ran >>"$LOG"; exit 1"#);
    exec.wait_line("ran");
    assert!(reports.is_held("alive"), "once is not too often");
    wait_until("the app's lock to be let go", SOON, || !reports.is_held("alive"));
    let runs = exec.lines().len();
    assert!(runs >= 3, "after {runs}");
    // It tries again, as a living app, when its pause is over.
    wait_until("another run", SOON, || exec.lines().len() > runs);
}

#[test]
fn a_report_of_another_boot_or_clock_starts_nothing() {
    let reports = Reports::new();
    let exec = reports.exec(&[], STAY);
    let now = clock::now().as_secs_f64();
    let yes = |boot_id: &str, from: f64| {
        let mut yes = report(json!({
            "leader": true, "reason": "leading", "fencing_token": 7, "valid_from_uptime": from,
            "valid_until_uptime": from + 60.0, "stop_by_uptime": from + 90.0,
        }));
        if !boot_id.is_empty() {
            yes["boot_id"] = json!(boot_id);
        }
        write(reports.dir(), &yes);
    };
    yes("11111111-2222-3333-4444-555555555555", now);
    exec.wait_said("before this machine last started");
    yes("", now + 3600.0);
    exec.wait_said("begins in the future");
    fs::write(reports.dir().join("status.json"), "{\"leader\":tr").unwrap();
    exec.wait_said("is not a report");
    let mut evil = report(json!({
        "leader": true, "reason": "leading", "fencing_token": 7, "valid_from_uptime": now,
        "valid_until_uptime": now + 60.0, "stop_by_uptime": now + 90.0,
    }));
    evil["lease"] = json!("../web");
    write(reports.dir(), &evil);
    exec.wait_said("names a lease that cannot be one");
    assert!(exec.lines().is_empty());
}

#[test]
fn a_grace_that_does_not_fit_is_refused_with_what_would() {
    let reports = Reports::new();
    let mut exec = reports.exec(&["--term-grace=14s"], STAY);
    reports.lead(7);
    assert_eq!(exec.code(), Some(64));
    exec.wait_said("--term-grace 14s does not fit");
    assert!(exec.lines().is_empty() && !reports.is_held("web.lock"));
}

#[test]
fn what_follows_cmd_is_cmds_also_without_dashes() {
    let reports = Reports::new();
    reports.lead(7);
    let output = Command::new(binary())
        .args(["exec", "--report-dir", reports.dir().to_str().unwrap(), "echo", "--restart", "-x", "--", "y"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--restart -x -- y\n");
}

#[test]
fn wrong_usage_is_64() {
    let reports = Reports::new();
    for flags in [&["--lease=../x"][..], &["--term-grace=1"][..], &["--no-such-flag"][..]] {
        assert_eq!(reports.exec(flags, STAY).code(), Some(64), "{flags:?}");
    }
    assert_eq!(reports.exec_command(&[], &[]).code(), Some(64));
}

// --- With real sidecars ---

/// Takes three seconds to end: longer than an answer TTL, for which a release waits anyway.
const SLOW_TO_END: &str = r#"
    trap 'sleep 3; echo "end $LEASEHOLD_TOKEN" >>"$LOG"; exit' TERM
    echo "begin $LEASEHOLD_TOKEN" >>"$LOG"; while :; do sleep 0.05; done"#;

/// The log of two pods' CMDs, which they share.
struct Log(Folder);

impl Log {
    fn new() -> Self {
        Log(Folder::new("log"))
    }

    fn exec(&self, pod: &Sidecar, script: &str) -> Exec {
        // Three seconds and a busy machine.
        let flags = ["--term-grace=6s", "--restart"];
        Exec::start(&[], pod.report_dir(), self.0.path(), &flags, &["sh", "-c", script])
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.0.join("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn wait_begun(&self, times: usize) {
        let begun = || self.lines().iter().filter(|line| line.starts_with("begin")).count() >= times;
        wait_until(&format!("{times} runs: {:?}", self.lines()), SOON * 2, begun);
    }

    /// Each began when the one before had ended, under a larger token.
    #[track_caller]
    fn assert_one_after_the_other(&self, runs: usize) {
        let lines = self.lines();
        assert_eq!(lines.len(), 2 * runs - 1, "{lines:?}");
        let mut tokens = Vec::new();
        for run in lines.chunks(2) {
            let token = run[0].strip_prefix("begin ").unwrap_or_else(|| panic!("{lines:?}"));
            assert!(run.len() == 1 || run[1] == format!("end {token}"), "{lines:?}");
            tokens.push(token.parse::<u64>().unwrap());
        }
        assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
    }
}

#[test]
fn two_pods_cmds_never_overlap_when_the_leader_steps_down() {
    let stage = Stage::released(shared(), "exec-stepdown");
    let (first, second, recorder) = stage.leader_and_standby(stage.slow_pod("a"), stage.slow_pod("b"));
    let log = Log::new();
    let _execs = [log.exec(&first, SLOW_TO_END), log.exec(&second, SLOW_TO_END)];
    log.wait_begun(1);
    for (leader, runs) in [(&first, 2), (&second, 3)] {
        leader.connect().post("/v1/leases/it/stepdown", &json!({})).expect("answers");
        log.wait_begun(runs);
    }
    log.assert_one_after_the_other(3);
    recorder.assert_no_overlap();
}

#[test]
fn two_pods_cmds_never_overlap_when_the_leaders_sidecar_is_told_to_end() {
    let stage = Stage::released(shared(), "exec-sigterm");
    let (mut first, second, recorder) = stage.leader_and_standby(stage.slow_pod("a"), stage.slow_pod("b"));
    let log = Log::new();
    let _execs = [log.exec(&first, SLOW_TO_END), log.exec(&second, SLOW_TO_END)];
    log.wait_begun(1);
    first.sigterm();
    log.wait_begun(2);
    log.assert_one_after_the_other(2);
    assert!(first.wait(SOON).success());
    recorder.assert_no_overlap();
}

#[test]
fn a_killed_exec_hands_over_at_once_where_the_lock_shows_that_the_app_lives() {
    let stage = Stage::released(shared(), "exec-killed");
    let pod = |name: &str| stage.slow_pod(name).flag("--app-alive", "lock").flag("--answer-ttl", "20s");
    let (first, second) = (pod("a").start(), pod("b").start());
    let log = Log::new();
    let first_app = log.exec(&first, STAY);
    first.wait_leader(SOON);
    log.wait_begun(1);
    let _second_app = log.exec(&second, STAY);
    second.wait_status("a standby", SOON, |status| status["holder"] == "a");
    let killed = clock::now();
    first_app.signal(Signal::KILL);
    log.wait_begun(2);
    // Far sooner than the answers given before would have run out: the lock proves the app's end.
    assert!(clock::now() - killed < Duration::from_secs(10), "{:?}", clock::now() - killed);
}
