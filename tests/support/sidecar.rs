//! The leasehold binary, run as a pod would run it: each [`Sidecar`] is one pod.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::clock;
use super::http::{Answer, Http};
use super::process::{Folder, Process};

/// The binary under test: the one that cargo has just built, or what LEASEHOLD_BINARY names (a
/// release build).
pub fn binary() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_leasehold").into();
    std::env::var_os("LEASEHOLD_BINARY").unwrap_or(built).into()
}

/// What the image gives every process of it, a variable and its value each.
pub fn image_environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    let dockerfile = include_str!("../../Dockerfile");
    dockerfile.lines().filter_map(|line| line.strip_prefix("ENV ")?.split_once('='))
}

/// How long anything that ought to be immediate may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// What a sidecar will be started with. Made by [`Sidecar::of`].
pub struct Builder {
    pod: String,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl Builder {
    /// Gives a flag this value, and no other.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        let flag = format!("{name}=");
        self.arguments.retain(|argument| !argument.starts_with(&flag));
        self.arguments.push(flag + value);
        self
    }

    /// Takes a flag away.
    pub fn without(mut self, name: &str) -> Self {
        let flag = format!("{name}=");
        self.arguments.retain(|argument| !argument.starts_with(&flag));
        self
    }

    /// Adds an argument as it is: a flag that may be repeated.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Lease duration, renew deadline, renew interval and retry period, as `15s` or `500ms`.
    pub fn times(self, lease: &str, deadline: &str, interval: &str, retry: &str) -> Self {
        self.flag("--lease-duration", lease)
            .flag("--renew-deadline", deadline)
            .flag("--renew-interval", interval)
            .flag("--retry-period", retry)
    }

    /// Gives a flag by another of its names.
    pub fn renamed(mut self, name: &str, other: &str) -> Self {
        let flag = format!("{name}=");
        for argument in &mut self.arguments {
            if let Some(value) = argument.strip_prefix(&flag) {
                *argument = format!("{other}={value}");
            }
        }
        self
    }

    /// Sets a variable of its environment, which is the image's; nothing is inherited but PATH.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Starts it, and does not wait for anything.
    pub fn start(self) -> Sidecar {
        let folder = Folder::new(&format!("pod-{}", self.pod));
        for name in ["report", "state"] {
            std::fs::create_dir(folder.join(name)).expect("makes a folder");
        }
        let shared = Arc::new(Shared { pod: self.pod.clone(), report: folder.join("report"), log: Mutex::default() });
        let process = launch(&self, &folder, &shared);
        Sidecar { process, shared, builder: self, folder }
    }

    fn gives(&self, flag: &str) -> bool {
        self.arguments.iter().any(|argument| argument.split('=').next() == Some(flag))
    }
}

/// One pod's sidecar; killed when dropped. Its log is printed when its test fails.
pub struct Sidecar {
    process: Process,
    shared: Arc<Shared>,
    builder: Builder,
    folder: Folder,
}

/// What a recorder needs to know of a sidecar, over restarts.
pub struct Shared {
    pub pod: String,
    pub report: PathBuf,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    lines: Vec<String>,
    /// Of the present process: listener -> address.
    listeners: BTreeMap<String, SocketAddr>,
    /// How many processes there were, and the present one's id.
    starts: usize,
    process_id: u32,
    /// Nobody reads on.
    unread: bool,
}

impl Sidecar {
    /// A sidecar that campaigns for `lease` as `pod`, with its own folders, and listeners on ports
    /// that the kernel chooses.
    pub fn of(lease: &str, namespace: &str, kubeconfig: &Path, pod: &str) -> Builder {
        let builder = Builder { pod: pod.into(), arguments: vec!["run".into()], environment: BTreeMap::new() };
        builder
            .flag("--lease", lease)
            .flag("--namespace", namespace)
            .flag("--kubeconfig", &kubeconfig.to_string_lossy())
            .flag("--pod-name", pod)
            .flag("--listen", "127.0.0.1:0")
            .flag("--probe-listen", "127.0.0.1:0")
            .flag("--log-level", "debug")
    }

    /// The pod's name.
    pub fn pod(&self) -> &str {
        &self.shared.pod
    }

    /// The folder that the app would mount.
    pub fn report_dir(&self) -> &Path {
        &self.shared.report
    }

    /// The sidecar's private folder.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    // --- Asking it ---

    /// Where it serves the app, once it says so.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        self.listener("http")
    }

    /// Where it serves the kubelet's probes, once it says so.
    #[track_caller]
    pub fn probe_address(&self) -> SocketAddr {
        self.listener("probe")
    }

    #[track_caller]
    fn listener(&self, name: &str) -> SocketAddr {
        let what = format!("{} to listen on its {name} listener", self.pod());
        clock::wait_for(&what, SOON, || self.shared.listener(name))
    }

    /// A connection to it as its app.
    #[track_caller]
    pub fn connect(&self) -> Http {
        let http = Http::connect(self.address()).and_then(|http| http.with_timeout(SOON));
        http.expect("the sidecar accepts a connection")
    }

    /// `GET path` on a connection of its own.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.connect().get(path).expect("the sidecar answers")
    }

    /// `/v1/leader`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.get("/v1/leader").json()
    }

    /// Waits until it says that its pod leads; gives that answer.
    #[track_caller]
    pub fn wait_leader(&self, within: Duration) -> Value {
        self.wait_status("leader", within, |status| status["leader"] == true)
    }

    /// Waits until it says that its pod does not lead; gives that answer.
    #[track_caller]
    pub fn wait_not_leader(&self, within: Duration) -> Value {
        self.wait_status("not leader", within, |status| status["leader"] == false)
    }

    /// Waits for a status that `accept` takes.
    #[track_caller]
    pub fn wait_status(&self, what: &str, within: Duration, accept: impl Fn(&Value) -> bool) -> Value {
        let mut http = self.connect();
        let what = format!("{} to be {what}", self.pod());
        clock::wait_for(&what, within, || {
            let status = http.get("/v1/leader").ok()?.json();
            accept(&status).then_some(status)
        })
    }

    /// A file of the report folder, as text; empty when it is not there.
    pub fn report(&self, file: &str) -> String {
        std::fs::read_to_string(self.report_dir().join(file)).unwrap_or_default()
    }

    /// A metric of it: the sum of the series whose line holds every one of `parts`.
    #[track_caller]
    pub fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let answer = Http::connect(self.probe_address()).and_then(|http| http.with_timeout(SOON)?.get("/metrics"));
        let text = answer.expect("the sidecar answers").text();
        let lines =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let lines = lines.filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until it has had `count` answers of `code` to requests of `verb`: `error` and `timeout` are codes, too.
    #[track_caller]
    pub fn wait_requests(&self, verb: &str, code: &str, count: usize, within: Duration) {
        let parts = [format!("verb=\"{verb}\""), format!("code=\"{code}\"")];
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let what = format!("{count} {verb} requests of {} to come to {code}", self.pod());
        clock::wait_until(&what, within, || self.metric("leasehold_api_requests_total", &parts) >= count as f64);
    }

    // --- Its log ---

    /// Every line that it has written to stderr, over restarts.
    pub fn log(&self) -> Vec<String> {
        self.shared.log()
    }

    /// Waits for a JSON log line that `accept` takes, also one already written.
    #[track_caller]
    pub fn wait_log(&self, what: &str, within: Duration, accept: impl Fn(&Value) -> bool) -> Value {
        clock::wait_for(&format!("{} to log {what}", self.pod()), within, || {
            let log = self.shared.lock();
            let mut lines = log.lines.iter().map(|line| fields(line));
            lines.find(|line| accept(line))
        })
    }

    /// Reads its log no further until told to, so that the pipe fills.
    pub fn leave_log_unread(&self, unread: bool) {
        self.shared.lock().unread = unread;
    }

    /// How many lines of its log hold all of `parts`.
    pub fn count_log(&self, parts: &[&str]) -> usize {
        let log = self.shared.lock();
        log.lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    /// The messages that it logged at the level WARN or ERROR.
    pub fn warnings(&self) -> Vec<String> {
        let log = self.shared.lock();
        let lines = log.lines.iter().map(|line| fields(line));
        let loud = lines.filter(|line| line["level"] == "WARN" || line["level"] == "ERROR");
        loud.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    // --- Disturbing it ---

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait(SOON);
    }

    /// Freezes it.
    pub fn sigstop(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn sigcont(&self) {
        self.process.signal(Signal::CONT);
    }

    /// SIGTERM, as the kubelet sends it.
    pub fn sigterm(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Any other signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        self.process.wait(within)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Starts it anew in the same pod: same name, folders and flags. Kills it first if it runs.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = launch(&self.builder, &self.folder, &self.shared);
    }

    /// The same with another variable in its environment: a POD_UID makes it another pod.
    pub fn restart_with_env(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.builder.environment.insert(name.into(), value.into()),
            None => self.builder.environment.remove(name),
        };
        self.restart();
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// A field of /proc/PID/status in kB: `VmRSS`, `RssAnon`.
    pub fn memory_kb(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(path).expect("the sidecar runs");
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let value = value.and_then(|value| value.trim().strip_suffix(" kB"));
        value.expect("a field in kB").parse().expect("a number")
    }

    /// Its resident memory.
    pub fn rss_kb(&self) -> u64 {
        self.memory_kb("VmRSS")
    }

    /// What there is to know of it over restarts, also while somebody disturbs it.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.process.kill();
        if thread::panicking() {
            let log = self.shared.lock();
            eprintln!("--- the log of {} ---", self.shared.pod);
            for line in &log.lines {
                eprintln!("{line}");
            }
        }
    }
}

impl Shared {
    /// Where the present process listens.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        self.lock().listeners.get(name).copied()
    }

    /// The same, and the how manieth process that is.
    pub fn listener_and_start(&self, name: &str) -> Option<(SocketAddr, usize)> {
        let log = self.lock();
        Some((log.listeners.get(name).copied()?, log.starts))
    }

    /// The how manieth process runs, or ran last, and its id.
    pub fn process(&self) -> (usize, u32) {
        let log = self.lock();
        (log.starts, log.process_id)
    }

    /// Every line that it has written to stderr, over restarts.
    pub fn log(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn launch(builder: &Builder, folder: &Folder, shared: &Arc<Shared>) -> Process {
    let mut command = Command::new(binary());
    command
        .args(&builder.arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(image_environment())
        .envs(&builder.environment)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for (flag, name) in [("--report-dir", "report"), ("--state-dir", "state")] {
        if !builder.gives(flag) {
            command.arg(flag).arg(folder.join(name));
        }
    }
    let start = {
        let mut log = shared.lock();
        log.listeners.clear();
        log.starts += 1;
        log.starts
    };
    let mut process = Process::start(command).expect("leasehold can be started");
    shared.lock().process_id = process.id();
    let stderr = process.streams().stderr.take().expect("asked for as a pipe");
    let shared = shared.clone();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut log = shared.lock();
            let said = fields(&line);
            if said["message"] == "listening" && log.starts == start {
                let name = said["listener"].as_str().unwrap_or_default().to_owned();
                let address = said["address"].as_str().unwrap_or_default();
                if let Ok(address) = address.parse() {
                    // The first of a name: `--listen` may be repeated.
                    log.listeners.entry(name).or_insert(address);
                }
            }
            log.lines.push(line);
            drop(log);
            while shared.lock().unread {
                thread::sleep(Duration::from_millis(10));
            }
        }
    });
    process
}

/// A log line's fields, whether they stand in `fields` or beside the level.
fn fields(line: &str) -> Value {
    let mut line: Value = serde_json::from_str(line).unwrap_or_default();
    match line.get_mut("fields").and_then(Value::as_object_mut) {
        Some(inner) => {
            let inner = std::mem::take(inner);
            if let Some(outer) = line.as_object_mut() {
                outer.extend(inner);
            }
            line
        }
        None => line,
    }
}
