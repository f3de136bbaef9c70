//! Each folder of examples/, run as its README says: beside sidecars on a real API server, and beside `leasehold dev`.
//!
//! An example writes rows under its fencing token to a store that refuses older tokens. So the store's rows tell all:
//! who worked when, that only one did, and that it stopped when its sidecar's word ran out.

mod store;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::clock::{wait_for, wait_until};
use support::control_plane::{Port, shared};
use support::process::{Folder, Process};
use support::proxy::Proxy;
use support::sidecar::{Builder, Sidecar, binary};
use support::stage::Stage;

use store::{Kind, Row, Store};

/// How long what ought to happen may take on a machine that runs all of them at once, starting a JVM included.
const PATIENCE: Duration = Duration::from_secs(180);
/// A look at a store starts a process.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// The renew deadline of [`support::stage::QUICK`], in seconds: nothing is promised for longer after a cut.
const RENEW_DEADLINE: f64 = 4.0;
/// How long an answer is good for, in seconds.
const ANSWER_TTL: f64 = 1.0;
/// From the last look at the clock to the row, in seconds, on a busy machine: a step that began in time.
const ONE_STEP: f64 = 1.0;
const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/examples/build.sh");
/// No term comes so far.
const LATER_TERM: u64 = 1 << 52;

struct Example {
    /// Its folder.
    name: &'static str,
    store: Kind,
    /// What shows the sidecar that it lives.
    alive: &'static str,
    /// Its command line, in the folder that it was built in.
    command: &'static [&'static str],
}

const PYTHON: Example =
    Example { name: "python", store: Kind::Sqlite, alive: "lock", command: &["python3", "worker.py"] };
const GUNICORN: Example = Example {
    name: "gunicorn",
    store: Kind::Sqlite,
    alive: "session",
    command: &["venv/bin/python", "-m", "gunicorn", "--bind=127.0.0.1:0", "--no-control-socket", "app:app"],
};
const SHELL_HTTP: Example =
    Example { name: "shell-http", store: Kind::Sqlite, alive: "lock", command: &["sh", "worker.sh"] };
const SHELL_FILE: Example = Example { name: "shell-file", ..SHELL_HTTP };
const C: Example = Example { name: "c", store: Kind::Sqlite, alive: "lock", command: &["./worker"] };
const NODE: Example =
    Example { name: "node", store: Kind::Postgresql("postgres:"), alive: "session", command: &["node", "worker.mjs"] };
const GO: Example = Example { name: "go", store: Kind::Postgresql("postgres:"), alive: "lock", command: &["./worker"] };
const JAVA: Example = Example {
    name: "java",
    store: Kind::Postgresql("jdbc:postgresql:"),
    alive: "session",
    command: &["java", "-jar", "target/worker.jar"],
};
const SPRING_BOOT: Example = Example { name: "spring-boot", ..JAVA };

const ALL: [&Example; 9] = [&PYTHON, &GUNICORN, &SHELL_HTTP, &SHELL_FILE, &C, &NODE, &GO, &JAVA, &SPRING_BOOT];

#[test]
fn python() {
    PYTHON.is_kept_to_one_pod();
}

#[test]
fn gunicorn() {
    GUNICORN.is_kept_to_one_pod();
}

#[test]
fn shell_by_http() {
    SHELL_HTTP.is_kept_to_one_pod();
}

#[test]
fn shell_by_the_file() {
    SHELL_FILE.is_kept_to_one_pod();
}

#[test]
fn c_by_the_file() {
    C.is_kept_to_one_pod();
}

#[test]
fn node() {
    NODE.is_kept_to_one_pod();
}

#[test]
fn go() {
    GO.is_kept_to_one_pod();
}

#[test]
fn java() {
    JAVA.is_kept_to_one_pod();
}

#[test]
fn spring_boot() {
    SPRING_BOOT.is_kept_to_one_pod();
}

#[test]
fn when_the_worker_that_leads_is_killed_another_of_its_pod_goes_on() {
    let built = built(GUNICORN.name);
    let store = Store::new(GUNICORN.store, "workers");
    let stage = Stage::released(shared(), "workers");
    let pod = Pod::start(&GUNICORN, &built, &store, stage.slow_pod("a"), None);
    let mut writers = BTreeSet::new();
    for _ in 0..3 {
        let row =
            wait_for("another worker", PATIENCE, || look(&store).pop().filter(|row| !writers.contains(&row.writer)));
        let pid = row.writer.split('/').nth(1).and_then(|pid| Pid::from_raw(pid.parse().ok()?)).expect("a process id");
        kill_process(pid, Signal::KILL).expect("the worker is there");
        writers.insert(row.writer);
    }
    one_at_a_time(&look(&store));
    assert!(!pod.app.said().contains("refused"), "one worked after its time");
}

#[test]
fn an_answer_that_comes_late_is_believed_by_nobody_who_asks_over_http() {
    let asking = [&PYTHON, &GUNICORN, &SHELL_HTTP, &NODE, &GO, &JAVA, &SPRING_BOOT];
    let running: Vec<_> = asking
        .into_iter()
        .map(|example| {
            let store = Store::new(example.store, &format!("late_{}", example.name));
            let stage = Stage::released(shared(), &format!("late-{}", example.name));
            let sidecar = stage.slow_pod("a").flag("--app-alive", example.alive).flag("--answer-ttl", "500ms").start();
            let link = Proxy::start(sidecar.address());
            let url = format!("http://{}", link.address());
            let app = App::start(example, &built(example.name), "a", &url, sidecar.report_dir(), &store);
            (example.name, store, link, app, sidecar)
        })
        .collect();
    for (name, store, link, ..) in &running {
        wait_for(&format!("{name} to work"), PATIENCE, || look(store).pop());
        link.delay_replies(Duration::from_millis(700));
    }
    // What was begun before ends; then nothing can be seen to happen for a while.
    std::thread::sleep(Duration::from_secs(2));
    let before: Vec<_> = running.iter().map(|(_, store, ..)| look(store).len()).collect();
    std::thread::sleep(Duration::from_secs(3));
    for ((name, store, link, ..), before) in running.iter().zip(before) {
        assert_eq!(look(store).len(), before, "{name} believed a late answer");
        link.heal();
        wait_until(&format!("{name} to work again"), PATIENCE, || look(store).len() > before);
    }
}

#[test]
fn every_example_works_beside_leasehold_dev() {
    for alive in ["lock", "session"] {
        let port = Port::reserve();
        let temporary = Folder::new("dev");
        let mut command = Command::new(binary());
        command.args(["dev", "--replicas=1", "--listen", &port.address().to_string()]);
        command.env("TMPDIR", temporary.path()).env("LEASEHOLD_APP_ALIVE", alive);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut dev = Process::start(command).expect("dev starts");
        let report = wait_for("the report folder", PATIENCE, || {
            let folders = std::fs::read_dir(temporary.path()).ok()?;
            let mut reports = folders.flatten().map(|folder| folder.path().join("dev-1/report"));
            reports.find(|report| report.join("status.json").exists() && TcpStream::connect(port.address()).is_ok())
        });
        let url = format!("http://{}", port.address());
        let of_this_kind = ALL.into_iter().filter(|example| example.alive == alive);
        let running: Vec<_> = of_this_kind
            .map(|example| {
                let store = Store::new(example.store, &format!("dev_{}", example.name));
                let app = App::start(example, &built(example.name), "dev-1", &url, &report, &store);
                (example.name, store, app)
            })
            .collect();
        for (name, store, _app) in &running {
            wait_for(&format!("{name} to work"), PATIENCE, || look(store).pop());
        }
        dev.signal(Signal::TERM);
        assert!(dev.wait(PATIENCE).success());
    }
}

impl Example {
    /// Two pods of it: one works at a time, also when the API server is cut off, a sidecar or an app is killed; and
    /// the store's word counts more than the sidecar's.
    fn is_kept_to_one_pod(&self) {
        let built = built(self.name);
        let store = Store::new(self.store, self.name);
        let stage = Stage::released(shared(), self.name);
        let mut pods = ["a", "b"].map(|name| {
            let link = Proxy::start(shared().address());
            let sidecar = stage.pod_over(name, Some(link.address()));
            Pod::start(self, &built, &store, sidecar, Some(link))
        });
        let worker = |but: Option<&str>| {
            let but = but.unwrap_or_default();
            let row = wait_for("a pod to work", PATIENCE, || look(&store).pop().filter(|row| row.pod() != but));
            usize::from(row.pod() == "b")
        };

        let cut = worker(None);
        let cut_at = store.now();
        pods[cut].link().cut();
        let killed = worker(Some(pods[cut].name()));
        pods[cut].link().heal();
        pods[cut].stopped_by(&store, cut_at, RENEW_DEADLINE);

        let killed_at = store.now();
        pods[killed].sidecar.kill9();
        let abandoned = worker(Some(pods[killed].name()));
        assert_eq!(abandoned, cut, "its app bore the cut");
        pods[killed].stopped_by(&store, killed_at, ANSWER_TTL);
        pods[killed].sidecar.restart();

        assert_eq!(pods[abandoned].app.process.ended(), None, "it ended by itself");
        pods[abandoned].app.process.kill();
        let last = worker(Some(pods[abandoned].name()));
        assert_eq!(last, killed, "its app bore its sidecar's end");

        assert_eq!(pods[last].app.process.ended(), None, "it ended by itself");
        for pod in &pods {
            assert!(!pod.app.said().contains("refused"), "{} worked after its time", pod.name());
        }
        one_at_a_time(&look(&store));

        store.query(&format!("UPDATE fence SET token = {LATER_TERM}"));
        let done = look(&store).len();
        wait_until("the refusal to be told", PATIENCE, || pods[last].app.said().matches("refused").count() > 2);
        assert_eq!(look(&store).len(), done, "the store took an old token");
    }
}

/// No token comes after a later one, and each is of one writer.
#[track_caller]
fn one_at_a_time(rows: &[Row]) {
    assert!(rows.is_sorted_by_key(|row| row.token), "{rows:?}");
    for term in rows.chunk_by(|one, next| one.token == next.token) {
        assert!(term.iter().all(|row| row.writer == term[0].writer), "two under one token: {term:?}");
    }
}

struct Pod {
    link: Option<Proxy>,
    _port: Port,
    sidecar: Sidecar,
    app: App,
}

impl Pod {
    fn start(example: &Example, built: &Path, store: &Store, sidecar: Builder, link: Option<Proxy>) -> Self {
        // Its own over a restart.
        let port = Port::reserve();
        let listen = port.address().to_string();
        let sidecar = sidecar.flag("--listen", &listen).flag("--app-alive", example.alive).start();
        sidecar.address();
        let app = App::start(example, built, sidecar.pod(), &format!("http://{listen}"), sidecar.report_dir(), store);
        Pod { link, _port: port, sidecar, app }
    }

    fn name(&self) -> &str {
        self.sidecar.pod()
    }

    /// To the API server.
    fn link(&self) -> &Proxy {
        self.link.as_ref().expect("one was given")
    }

    /// Nothing of this pod's was written later than so many seconds after that.
    #[track_caller]
    fn stopped_by(&self, store: &Store, at: f64, deadline: f64) {
        let rows = look(store);
        let last = rows.iter().rfind(|row| row.pod() == self.name()).expect("it worked once");
        assert!(last.at < at + deadline + ONE_STEP, "worked {} s after it was cut off", last.at - at);
    }
}

/// A running example; what it printed is shown when its test fails.
struct App {
    process: Process,
    log: PathBuf,
    _folder: Folder,
}

impl App {
    fn start(example: &Example, built: &Path, pod: &str, url: &str, report: &Path, store: &Store) -> Self {
        let folder = Folder::new(example.name);
        let log = folder.join("log");
        let file = || File::options().create(true).append(true).open(&log).expect("makes a file");
        let mut command = Command::new(example.command[0]);
        command.args(&example.command[1..]).current_dir(built).stdin(Stdio::null()).stdout(file()).stderr(file());
        command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME"));
        command.env("POD_NAME", pod).env("LEASEHOLD_URL", url).env("LEASEHOLD_DIR", report);
        command.env("STORE", store.address());
        // A virtual machine that is soon killed need not compile much: the tests share few cores.
        command.env("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto");
        // Nobody listens there: who asks localhost by a proxy hears nothing.
        for proxy in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(proxy, "http://127.0.0.1:9");
        }
        let process =
            Process::start(command).unwrap_or_else(|error| panic!("{:?} cannot be started: {error}", example.command));
        Self { process, log, _folder: folder }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- an app's output ---\n{}", self.said());
        }
    }
}

/// The rows so far.
#[track_caller]
fn look(store: &Store) -> Vec<Row> {
    std::thread::sleep(LOOK_EVERY);
    store.rows()
}

/// The folder that an example or a store is run from; a missing runtime fails the test with what to install.
#[track_caller]
fn built(name: &str) -> PathBuf {
    let output = Command::new(BUILD).arg(name).stdin(Stdio::null()).output().expect("build.sh can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

#[test]
fn a_runtime_that_is_missing_is_an_error_that_says_how_to_install_it() {
    let path = Folder::new("bare");
    for program in ["bash", "dirname"] {
        let found = wait_for(program, Duration::ZERO, || {
            ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(program)).into_iter().find(|path| path.exists())
        });
        std::os::unix::fs::symlink(found, path.join(program)).expect("makes a link");
    }
    for (name, sentence) in [
        ("sqlite", "sqlite3 is not installed: apt-get install sqlite3"),
        ("python", "python3 is not installed: apt-get install python3"),
        ("shell-http", "curl is not installed: apt-get install curl"),
        ("shell-file", "flock is not installed: apt-get install util-linux"),
        ("c", "cc is not installed: apt-get install gcc libc6-dev"),
        ("node", "node is not installed: apt-get install nodejs"),
        ("gunicorn", "python3 is not installed: apt-get install python3"),
        ("java", "javac is not installed: apt-get install default-jdk-headless"),
        ("spring-boot", "javac is not installed: apt-get install default-jdk-headless"),
    ] {
        let output = Command::new(BUILD).arg(name).env("PATH", path.path()).output().expect("build.sh can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(sentence), "{name}: {said}");
    }
}

/// The `sql` of docs/fencing.md, in its order, for a token.
fn sql_of_the_page(token: u64) -> Vec<String> {
    let page = include_str!("../../docs/fencing.md");
    let blocks = page.split("```sql\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    blocks.map(|sql| sql.replace(":token", &token.to_string()).replace(":pod", "'pod'")).collect()
}

#[test]
fn the_sql_of_the_page_refuses_an_older_token_and_takes_the_same_one_again() {
    for (kind, begin) in [(Kind::Sqlite, "BEGIN IMMEDIATE"), (Kind::Postgresql("postgres:"), "BEGIN")] {
        let store = Store::new(kind, "page");
        store.query("DROP TABLE fence");
        store.query(&sql_of_the_page(0)[0]);
        for token in [5, 5, 7, 6, 7, 5, 8] {
            store.query(&format!("{begin}; {} COMMIT;", sql_of_the_page(token)[1]));
        }
        let tokens: Vec<u64> = store.rows().iter().map(|row| row.token).collect();
        assert_eq!(tokens, [5, 5, 7, 7, 8]);
        assert_eq!(store.query("SELECT * FROM fence").trim(), "work|8");
        if let Kind::Postgresql(_) = kind {
            for token in [8, 7, 9] {
                store.query(&sql_of_the_page(token)[2]);
            }
            let tokens: Vec<u64> = store.rows().iter().map(|row| row.token).collect();
            assert_eq!(tokens, [5, 5, 7, 7, 8, 8, 9]);
        }
    }
}

#[test]
fn two_terms_that_write_at_once_take_turns_in_postgresql_and_the_older_one_is_refused() {
    for (way, first, second, written) in
        [(1, 6, 5, vec![6]), (2, 6, 5, vec![6]), (1, 5, 6, vec![5, 6]), (2, 5, 6, vec![5, 6])]
    {
        let store = Store::new(Kind::Postgresql("postgres:"), &format!("turns_{way}_{first}"));
        store.query(&sql_of_the_page(1)[1]);
        let mut slow = store.session();
        slow.write(&format!("BEGIN; {}", sql_of_the_page(first)[way]));
        store.wait_for_sessions("one to be in its transaction", "state = 'idle in transaction'", 1);
        let mut other = store.session();
        other.write(&format!("BEGIN; {} COMMIT;", sql_of_the_page(second)[way]));
        store.wait_for_sessions("the other to wait for it", "wait_event_type = 'Lock'", 1);
        slow.write("COMMIT;");
        other.end();
        slow.end();
        let tokens: Vec<u64> = store.rows().iter().map(|row| row.token).collect();
        assert_eq!(tokens[1..], written, "{first} then {second}");
    }
}
