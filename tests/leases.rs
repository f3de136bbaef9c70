//! `leasehold leases`: Leases of every kind on the real API server, with short durations; what is said of their
//! holders is what they did, and never what a clock says.

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use support::clock::{self, wait_for, wait_until};
use support::control_plane::{ControlPlane, OTHER, shared};
use support::front::{Act, Front};
use support::process::Process;
use support::sidecar::binary;
use support::stage::SOON;

const MEMBER_OF: &str = "leasehold.dev/member-of";
const IDENTITY: &str = "apiserver.kubernetes.io/identity";
/// API servers renew each 10 s, give or take.
const RENEWAL: Duration = Duration::from_secs(60);

fn command(kubeconfig: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("leases").args(arguments).env_clear().env("KUBECONFIG", kubeconfig);
    command
}

fn run(kubeconfig: &Path, arguments: &[&str]) -> Output {
    command(kubeconfig, arguments).output().expect("the binary runs")
}

/// What it said on standard output and on standard error, and its exit code.
#[track_caller]
fn said(arguments: &[&str]) -> (String, String, Option<i32>) {
    let output = run(&shared().kubeconfig(), arguments);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

#[track_caller]
fn json_of(arguments: &[&str]) -> Value {
    let (out, errors, code) = said(&[arguments, &["-o", "json"]].concat());
    assert_eq!((errors.as_str(), code), ("", Some(0)), "{out}");
    serde_json::from_str(&out).unwrap_or_else(|wrong| panic!("{wrong}: {out}"))
}

/// Name and state of each.
fn states(all: &Value) -> Vec<(&str, &str)> {
    let leases = all["leases"].as_array().expect("a list");
    leases.iter().map(|lease| (text(&lease["name"]), text(&lease["state"]))).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[track_caller]
fn create(control_plane: &ControlPlane, namespace: &str, name: &str, labels: Value, spec: Value) {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "labels": labels}, "spec": spec,
    });
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let answer = control_plane.api("POST", &path, Some(&lease)).expect("the API server answers");
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// Held by `HOLDER_1`, and renewed at a time that no clock here shows.
fn held(holder: &str, seconds: u64) -> Value {
    json!({
        "holderIdentity": format!("{holder}_1"), "leaseDurationSeconds": seconds,
        "renewTime": "2001-01-01T00:00:00.000000Z", "leaseTransitions": 1,
    })
}

/// Renews Leases, each 300 ms, until it is dropped.
struct Renewer {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Renewer {
    fn of(namespace: &str, names: &'static [&'static str]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (until, namespace) = (over.clone(), namespace.to_owned());
        let thread = thread::spawn(move || {
            // A clock that is years behind, and goes backwards.
            for renewal in (0..1_000_000).rev() {
                let time = format!("2001-01-01T00:00:00.{renewal:06}Z");
                for name in names {
                    shared().patch_lease(&namespace, name, &json!({"spec": {"renewTime": time}}));
                }
                if until.load(Ordering::SeqCst) {
                    return;
                }
                thread::sleep(Duration::from_millis(300));
            }
        });
        Renewer { over, thread: Some(thread) }
    }
}

impl Drop for Renewer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// --- Once ---

#[test]
fn each_lease_is_in_the_state_that_its_holder_left_it_in() {
    let namespace = shared().namespace("states");
    let make = |name, spec| create(shared(), &namespace, name, json!({}), spec);
    make("alive", held("a", 60));
    make("dead", held("d", 2));
    make("never", json!({}));
    make("released", json!({"holderIdentity": "", "leaseTransitions": 4}));
    make("silent", held("s", 3600));
    make("timeless", json!({"holderIdentity": "t"}));
    let _renewer = Renewer::of(&namespace, &["alive"]);
    let all = json_of(&["-n", &namespace, "--observe-for=5s"]);
    let expected = [
        ("alive", "held"),
        ("dead", "expired"),
        ("never", "never_held"),
        ("released", "released"),
        ("silent", "observing"),
        ("timeless", "observing"),
    ];
    assert_eq!(states(&all), expected);
    assert_eq!((&all["alive"], &all["observing"]), (&json!(1), &json!(2)));
    assert!(all["observed_ms"].as_u64() >= Some(5000), "{all}");
    let alive = &all["leases"][0];
    assert!(alive["renewed_ms"].as_u64().is_some_and(|age| age < 5000), "{alive}");
    assert_eq!((&alive["holder"], &alive["kind"]), (&json!("a_1"), &json!("workload")));
    assert_eq!((&alive["duration_seconds"], &alive["transitions"]), (&json!(60), &json!(1)));
    assert_eq!((&all["leases"][1]["renewed_ms"], &all["leases"][5]["duration_seconds"]), (&json!(null), &json!(null)));
}

#[test]
fn it_ends_as_soon_as_all_is_known() {
    let namespace = shared().namespace("known");
    create(shared(), &namespace, "alive", json!({}), held("a", 60));
    create(shared(), &namespace, "released", json!({}), json!({"leaseTransitions": 1}));
    let _renewer = Renewer::of(&namespace, &["alive"]);
    let all = json_of(&["-n", &namespace, "--observe-for=1h"]);
    assert_eq!(states(&all), [("alive", "held"), ("released", "released")]);
}

#[test]
fn the_living_are_counted_and_what_could_not_be_judged_is_said() {
    let namespace = shared().namespace("count");
    for (name, app) in [("a", "web"), ("b", "web"), ("c", "other")] {
        create(shared(), &namespace, name, json!({MEMBER_OF: app}), held(name, 60));
    }
    let count =
        |selector: &str, time: &str| said(&["-n", &namespace, "--count", "-l", selector, "--observe-for", time]);
    {
        let _renewer = Renewer::of(&namespace, &["a", "b"]);
        assert_eq!(count("leasehold.dev/member-of=web", "1m"), ("2\n".into(), String::new(), Some(0)));
    }
    let _renewer = Renewer::of(&namespace, &["b"]);
    let (out, errors, code) = count("leasehold.dev/member-of in (web, another)", "3s");
    assert_eq!((out.as_str(), code), ("1\n", Some(1)));
    assert!(errors.contains("1 more is held, and may be alive or not"), "{errors}");
    assert_eq!(count("leasehold.dev/member-of=nobody", "1m"), ("0\n".into(), String::new(), Some(0)));
}

#[test]
fn a_table_shows_one_namespace_or_all_and_the_kinds_are_told_apart() {
    let namespace = shared().namespace("table");
    create(shared(), &namespace, "web-x", json!({MEMBER_OF: "web"}), json!({"leaseTransitions": 7}));
    let patch = json!({"metadata": {"annotations": {"leasehold.dev/token": "4711"}}});
    shared().patch_lease(&namespace, "web-x", &patch);
    let (table, errors, code) = said(&["-n", &namespace]);
    let expected = "NAME    KIND     HOLDER   STATE      RENEWED   DURATION   TRANSITIONS   TOKEN\n\
                    web-x   member   -        released   -         -          7             4711\n";
    assert_eq!((table.as_str(), errors.as_str(), code), (expected, "", Some(0)));
    let (empty, errors, code) = said(&["-n", "default"]);
    assert_eq!((empty.as_str(), errors.as_str(), code), ("", "leasehold: there are no such Leases\n", Some(0)));

    for (place, name) in [("kube-node-lease", "node-1"), ("kube-system", "kube-scheduler")] {
        let path = "/api/v1/namespaces";
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place}});
        // The API server makes them itself, in its own time.
        shared().api("POST", path, Some(&body)).expect("the API server answers");
        create(shared(), place, name, json!({"test": "kinds"}), json!({"leaseTransitions": 1}));
    }
    create(shared(), &namespace, "job", json!({"test": "kinds"}), json!({}));
    let (table, _, _) = said(&["-A", "-l", "test=kinds", "-o", "wide"]);
    let kinds: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    let job = [namespace.as_str(), "job", "workload"];
    let others = [
        ["NAMESPACE", "NAME", "KIND"],
        ["kube-node-lease", "node-1", "node"],
        ["kube-system", "kube-scheduler", "component"],
    ];
    assert_eq!(kinds, [&others[..], &[job]].concat(), "{table}");
    assert!(table.lines().next().is_some_and(|header| header.ends_with("TOKEN   RENEW-TIME   OWNER")), "{table}");
}

#[test]
fn a_long_list_comes_in_pages_and_one_that_takes_too_long_is_begun_anew() {
    let namespace = shared().namespace("pages");
    let mut http = shared().connect().expect("the API server answers");
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    for number in 0..250 {
        let name = format!("lease-{number:03}");
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}});
        assert_eq!(http.post(&path, &lease).expect("the API server answers").status, 201);
    }
    let front = Front::open(shared());
    let met = AtomicBool::new(false);
    front.set(move |request| match request.path.contains("continue=") && !met.swap(true, Ordering::SeqCst) {
        true => Act::status(410, "Expired", "The provided continue parameter is too old"),
        false => Act::Pass,
    });
    let output = run(&front.kubeconfig(), &["-n", &namespace, "-o", "json"]);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|wrong| panic!("{wrong}: {output:?}"));
    let names: Vec<_> = states(&all).into_iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, (0..250).map(|number| format!("lease-{number:03}")).collect::<Vec<_>>());
    assert_eq!(front.count(|request| request.path.contains("limit=100")), 2 + 3, "{:?}", front.requests());
}

// --- While it watches ---

/// The command as it goes on, with its lines.
fn watching(kubeconfig: &Path, namespace: &str) -> (Process, Receiver<String>) {
    let mut command = command(kubeconfig, &["-n", namespace, "--watch", "-o", "json"]);
    command.stdout(Stdio::piped());
    let mut process = Process::start(command).expect("the binary runs");
    let lines = process.lines();
    (process, lines)
}

/// The next line, which should be `what`.
#[track_caller]
fn next(lines: &Receiver<String>, what: &str) -> Value {
    let line = wait_for(what, SOON, || lines.try_recv().ok());
    serde_json::from_str(&line).unwrap_or_else(|wrong| panic!("{wrong}: {line}"))
}

#[track_caller]
fn next_states(lines: &Receiver<String>, states: &[&str]) {
    for state in states {
        let line = next(lines, state);
        assert_eq!((text(&line["name"]), text(&line["state"])), ("it", *state), "{line}");
    }
}

#[test]
fn each_change_is_a_line_from_held_to_expired_and_back_and_a_signal_ends_it() {
    let namespace = shared().namespace("watch");
    create(shared(), &namespace, "it", json!({}), held("a", 4));
    let (mut process, lines) = watching(&shared().kubeconfig(), &namespace);
    next_states(&lines, &["observing"]);
    let renewer = Renewer::of(&namespace, &["it"]);
    next_states(&lines, &["held"]);
    drop(renewer);
    next_states(&lines, &["late", "expired"]);
    shared().patch_lease(&namespace, "it", &json!({"spec": {"holderIdentity": "b_1", "leaseTransitions": 2}}));
    let line = next(&lines, "held");
    assert_eq!((text(&line["state"]), text(&line["holder"])), ("held", "b_1"), "{line}");
    shared().patch_lease(&namespace, "it", &json!({"spec": {"holderIdentity": ""}}));
    next_states(&lines, &["released"]);
    shared().run_kubectl(&["delete", "lease", "it", "-n", &namespace]);
    next_states(&lines, &["deleted"]);
    process.signal(Signal::TERM);
    assert!(process.wait(SOON).success());
}

#[test]
fn a_watch_that_falls_silent_makes_nobody_expire() {
    let namespace = shared().namespace("silent-watch");
    create(shared(), &namespace, "it", json!({}), held("a", 2));
    let _renewer = Renewer::of(&namespace, &["it"]);
    let front = Front::open(shared());
    let (_process, lines) = watching(&front.kubeconfig(), &namespace);
    next_states(&lines, &["observing", "held"]);
    let watches = front.count(|request| request.is_watch());
    front.hush_watches();
    // A read shows that it lives, and there is another watch.
    next_states(&lines, &["late", "held"]);
    wait_until("another watch", SOON, || front.count(|request| request.is_watch()) > watches);
    let until = clock::now() + Duration::from_secs(4);
    while clock::now() < until {
        if let Ok(line) = lines.recv_timeout(Duration::from_millis(100)) {
            // A busy machine may renew late.
            assert!(!line.contains("expired"), "{line}");
        }
    }
}

#[test]
fn an_api_server_that_is_away_makes_nobody_expire_and_each_fault_is_told_once() {
    let namespace = shared().namespace("away");
    create(shared(), &namespace, "it", json!({}), held("a", 2));
    let renewer = Renewer::of(&namespace, &["it"]);
    let front = Front::open(shared());
    let mut command = command(&front.kubeconfig(), &["-n", &namespace, "--watch", "-o", "json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start(command).expect("the binary runs");
    let lines = process.lines();
    next_states(&lines, &["observing", "held"]);
    front.set(|_| Act::status(503, "ServiceUnavailable", "away"));
    front.break_connections();
    drop(renewer);
    next_states(&lines, &["late"]);
    wait_until("some attempts", SOON, || front.count(|_| true) > 8);
    assert!(lines.try_recv().is_err(), "nothing more is known");
    front.pass();
    // Its last renewal may not have been seen before.
    let mut seen = Vec::new();
    wait_until("it to expire", SOON, || {
        seen.extend(lines.try_iter());
        seen.last().is_some_and(|line| line.contains("expired"))
    });
    process.signal(Signal::TERM);
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut process.streams().stderr.take().expect("a pipe"), &mut errors).expect("text");
    let mut faults: Vec<_> = errors.lines().collect();
    assert!(!faults.is_empty() && errors.lines().all(|line| line.contains("cannot read the Leases of")), "{errors}");
    faults.sort_unstable();
    faults.dedup();
    assert_eq!(faults.len(), errors.lines().count(), "each is said once: {errors}");
}

#[test]
fn on_a_terminal_the_table_is_redrawn_and_the_screen_is_given_back() {
    let namespace = shared().namespace("terminal");
    create(shared(), &namespace, "it", json!({}), held("a", 60));
    let _renewer = Renewer::of(&namespace, &["it"]);
    // In the shell's place: a shell that waits for it would die of Ctrl-C itself.
    let watch = format!("exec {} leases -n {namespace} --watch", binary().display());
    let mut command = Command::new("script");
    command.args(["-qec", &watch, "/dev/null"]).env("KUBECONFIG", shared().kubeconfig()).env_remove("NO_COLOR");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process::start(command).expect("script(1) runs");
    let lines = process.lines();
    let line = |what: &str| wait_for(what, SOON, || lines.try_recv().ok().filter(|line| line.contains(what)));
    assert!(line("\x1b[?1049h").contains("NAME"));
    line("\x1b[32mheld\x1b[0m");
    assert!(line("\x1b[H").contains("NAME"), "it is drawn over");
    // Ctrl-C.
    let mut keyboard = process.streams().stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut keyboard, b"\x03").expect("it listens");
    line("\x1b[?1049l");
    assert!(process.wait(SOON).success());
}

// --- Rights ---

#[test]
fn a_right_that_is_missing_is_named_with_the_role_that_gives_it() {
    let control_plane = ControlPlane::start();
    let namespace = control_plane.namespace("rights");
    create(&control_plane, &namespace, "it", json!({}), held("a", 60));
    let kubeconfig = control_plane.kubeconfig_for(OTHER, None);
    let refused = |arguments: &[&str], verb: &str| {
        let output = run(&kubeconfig, arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(&format!("cannot {verb} resource \"leases\"")), "{errors}");
        errors[errors.find("apiVersion").expect("a role")..].to_owned()
    };
    let role = refused(&["-n", &namespace], "list");
    assert!(role.contains("kind: Role\n"), "{role}");
    let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["list"]}]);
    control_plane.allow(&namespace, OTHER, rules);
    assert_eq!(refused(&["-n", &namespace], "watch"), role);
    let apply = |role: &str, binding: &[&str]| {
        let file = control_plane.write_file("role.yaml", role);
        control_plane.run_kubectl(&["apply", "-f", &file.to_string_lossy()]);
        control_plane.run_kubectl(&[&["create"], binding, &[&format!("--user={OTHER}")]].concat());
    };
    apply(&role, &["rolebinding", "reads", "-n", &namespace, "--role=leasehold-leases"]);
    let lists = |arguments: &[&str]| run(&kubeconfig, &[arguments, &["--observe-for=2s"]].concat()).status.success();
    wait_until("the Role to count", SOON, || lists(&["-n", &namespace]));

    let role = refused(&["-A"], "list");
    assert!(role.contains("kind: ClusterRole\n"), "{role}");
    apply(&role, &["clusterrolebinding", "reads", "--clusterrole=leasehold-leases"]);
    wait_until("the ClusterRole to count", SOON, || lists(&["-A"]));
}

#[test]
fn wrong_usage_is_refused_before_anything_is_asked() {
    for arguments in [
        &["-l", "a in b"][..],
        &["--count", "--watch"],
        &["--count", "-o", "json"],
        &["--watch", "--observe-for=3s"],
        &["-n", "Shop"],
        &["-o", "yaml"],
    ] {
        let (out, errors, code) = said(arguments);
        assert_eq!((out.as_str(), code), ("", Some(64)), "{arguments:?}: {errors}");
    }
}

// --- API servers ---

fn identities(kubeconfig: &Path, time: &str) -> Output {
    let label = format!("{IDENTITY}=kube-apiserver");
    run(kubeconfig, &["-n", "kube-system", "--count", "-l", &label, "--observe-for", time])
}

#[test]
fn an_api_server_is_told_by_the_lease_it_keeps_itself() {
    let control_plane = ControlPlane::start();
    let label = format!("{IDENTITY}=kube-apiserver");
    let list = || run(&control_plane.kubeconfig(), &["-A", "-l", &label, "--observe-for=1m"]);
    let table = wait_for("its Lease, renewed", RENEWAL, || {
        let table = String::from_utf8(list().stdout).expect("text");
        table.contains(" held ").then_some(table)
    });
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split("   ").map(str::trim).collect()).collect();
    let [row] = &rows[..] else { panic!("{table}") };
    assert!(row[0] == "kube-system" && row[1].starts_with("apiserver-") && row[2] == "API server", "{table}");
    assert_eq!(row[1], row[3], "its identity begins with its name: {table}");
}

#[test]
fn two_api_servers_on_one_etcd_are_counted_as_two_and_after_the_end_of_one_as_one() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root gives an API server a host name of its own");
        return;
    }
    let control_plane = ControlPlane::start_pair_on_two_hosts();
    let kubeconfig = control_plane.kubeconfig();
    wait_until("both of them", RENEWAL, || {
        let output = identities(&kubeconfig, "1m");
        output.status.code() == Some(0) && output.stdout == b"2\n"
    });
    control_plane.kill_server(1);
    let output = identities(&kubeconfig, "13s");
    let errors = String::from_utf8_lossy(&output.stderr);
    // Its Lease stands for an hour: it may yet be alive, as far as 13 s can tell.
    assert_eq!((&output.stdout[..], output.status.code()), (&b"1\n"[..], Some(1)), "{errors}");
    assert!(errors.contains("1 more is held"), "{errors}");
}

// --- Without a cluster ---

#[test]
fn the_embedded_lease_api_is_read_as_well() {
    let folder = support::process::Folder::new("leases-dev");
    let mut command = Command::new(binary());
    command.args(["dev", "--api-only"]).env("TMPDIR", folder.path()).stdout(Stdio::piped());
    let mut process = Process::start(command).expect("dev starts");
    let lines = process.lines();
    let line = wait_for("its kubeconfig", SOON, || lines.try_recv().ok().filter(|line| line.contains("--kubeconfig")));
    let kubeconfig = line.split_whitespace().nth(3).map(Path::new).expect("a path").to_owned();
    let address = std::fs::read_to_string(&kubeconfig).expect("a kubeconfig");
    let address = address.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("an address");
    let mut http = support::http::Http::connect(address.parse().expect("an address")).expect("it listens");
    for (namespace, name, app) in [("shop", "a", "web"), ("bank", "b", "web"), ("bank", "c", "other")] {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "labels": {MEMBER_OF: app}}, "spec": held(name, 2),
        });
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        assert_eq!(http.post(&path, &lease).expect("it answers").status, 201);
    }
    let output = run(&kubeconfig, &["-A", "-l", "leasehold.dev/member-of=web", "-o", "json"]);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|wrong| panic!("{wrong}: {output:?}"));
    // By name and namespace, and after two seconds without a sign of life.
    assert_eq!(states(&all), [("b", "expired"), ("a", "expired")]);
    let output = run(&kubeconfig, &["-n", "bank", "--count"]);
    assert_eq!((&output.stdout[..], output.status.code()), (&b"0\n"[..], Some(0)), "{output:?}");
}
