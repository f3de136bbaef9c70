//! `--app-alive lock`: leadership is where somebody holds the lock, and the end of the last holder is a proof.
//!
//! Answers promise for so long here that whatever goes quickly goes by proof.

mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use support::app::Lock;
use support::clock::{self, wait_until};
use support::control_plane::shared;
use support::process::Process;
use support::recorder::Recorder;
use support::sidecar::{Builder, Sidecar, binary};
use support::stage::{LEASE, SOON, Stage, token};

const STEP_DOWN: &str = "/v1/leases/it/stepdown";
/// Longer than anything here may take.
const LONG: Duration = Duration::from_secs(20);

fn pod(stage: &Stage, name: &str) -> Builder {
    stage.slow_pod(name).flag("--app-alive", "lock").flag("--answer-ttl", "20s").flag("--shutdown-grace", "60s")
}

/// A leader and a standby, each with its app.
fn two(stage: &Stage) -> ((Sidecar, Lock), (Sidecar, Lock)) {
    let pod = |name| {
        let pod = pod(stage, name).start();
        let app = Lock::alive(&pod);
        (pod, app)
    };
    let first = pod("a");
    first.0.wait_leader(SOON);
    let second = pod("b");
    second.0.wait_status("a standby", SOON, |status| status["holder"] == "a");
    (first, second)
}

fn leads(pod: &Sidecar) -> bool {
    pod.status()["leader"] == true
}

#[test]
fn a_pod_campaigns_only_while_its_app_holds_the_lock() {
    let stage = Stage::released(shared(), "lock-campaign");
    let pod = pod(&stage, "a").start();
    let status = pod.wait_status("why it does not lead", SOON, |status| status["reason"] == "app_not_alive");
    assert!(status["message"].as_str().is_some_and(|why| why.contains("lock")), "{status}");
    assert_eq!(stage.holder(), None);

    let app = Lock::alive(&pod);
    let first = token(&pod.wait_leader(SOON));
    drop(app);
    pod.wait_status("the end of its app", SOON, |status| status["reason"] == "app_not_alive");
    wait_until("the release", SOON, || stage.holder().is_none());

    let _app = Lock::alive(&pod);
    assert!(token(&pod.wait_leader(SOON)) > first);
}

#[test]
fn a_killed_apps_lease_is_another_pods_at_once_although_answers_were_promised_for_long() {
    let stage = Stage::released(shared(), "lock-killed");
    let ((first, app), (second, _lock)) = two(&stage);
    let before = token(&first.status());
    let recorder = Recorder::start([&first, &second]);
    recorder.wait_leader(Duration::ZERO, SOON, |leader| leader == "a");
    let since = clock::now();
    recorder.app_ended("a");
    drop(app);
    let turn = recorder.wait_leader(since, SOON, |leader| leader == "b");
    assert!(turn.received - since < LONG / 2, "it waited for the promise: {:?}", turn.received - since);
    assert!(token(&second.status()) > before);
    recorder.assert_no_overlap();
}

#[test]
fn the_lock_is_held_until_the_last_process_of_the_app_is_gone() {
    let stage = Stage::released(shared(), "lock-tree");
    let pod = pod(&stage, "a").start();
    let alive = pod.report_dir().join("alive");
    wait_until("the lock file", SOON, || alive.exists());
    let mut command = Command::new("flock");
    // Its child inherits the descriptor, and outlives it.
    command.arg("-s").arg(&alive).args(["sh", "-c", "sleep 1000 & echo $! >\"$0\"; wait", "child"]);
    command.current_dir(pod.state_dir());
    let app = Process::start(command).expect("flock of util-linux");
    pod.wait_leader(SOON);
    let child = || fs::read_to_string(pod.state_dir().join("child")).unwrap_or_default().trim().parse::<i32>().ok();
    wait_until("its child", SOON, || child().is_some());
    let child = rustix::process::Pid::from_raw(child().unwrap()).expect("a process id");
    app.signal(Signal::KILL);
    for _ in 0..20 {
        assert!(leads(&pod), "a process of the app still lives");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The group of the killed one, which the shell was in.
    let _ = rustix::process::kill_process(child, Signal::KILL);
    app.signal_group(Signal::KILL);
    pod.wait_status("the end of its app", SOON, |status| status["reason"] == "app_not_alive");
}

#[test]
fn one_of_two_holders_is_enough() {
    let stage = Stage::released(shared(), "lock-both");
    let pod = pod(&stage, "a").start();
    let (one, two) = (Lock::alive(&pod), Lock::alive(&pod));
    pod.wait_leader(SOON);
    drop(one);
    for _ in 0..20 {
        assert!(leads(&pod));
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(two);
    pod.wait_not_leader(SOON);
}

/// Proof is a state: an app that is back within a moment either goes on in the same term, or reads a no. Were the
/// lock let go before the files say no, it would read a yes whose lease is being released.
#[test]
fn an_app_that_is_back_within_a_moment_never_reads_what_its_forerunner_was_told() {
    let stage = Stage::released(shared(), "lock-back");
    let pod = pod(&stage, "a").flag("--answer-ttl", "5s").start();
    let mut app = Lock::alive(&pod);
    let (mut went_on, mut read_no) = (0, 0);
    let mut waits = (0..).map(|round: u64| Duration::from_micros(round * 37 % 700));
    while went_on < 20 || read_no < 60 {
        pod.wait_leader(SOON);
        wait_until("the file", SOON, || pod.report("status.env").contains("LEASEHOLD_LEADER=1"));
        drop(app);
        let wait = waits.next().unwrap_or_default();
        let since = clock::now();
        while clock::now() - since < wait {}
        app = Lock::alive(&pod);
        let read = pod.report("status.env");
        if read.contains("LEASEHOLD_LEADER=0") {
            read_no += 1;
            continue;
        }
        went_on += 1;
        // Whoever read a yes with the lock in hand is the app that lives: nothing may end its term now.
        std::thread::sleep(Duration::from_millis(30));
        let again = pod.report("status.env");
        let token = |text: &str| text.lines().find(|line| line.contains("TOKEN")).map(str::to_owned);
        assert_eq!(token(&again), token(&read), "after {went_on} and {read_no}, waiting {wait:?}");
        assert!(went_on < 3000, "its end is never noticed");
    }
}

#[test]
fn a_release_waits_for_who_works_until_stop_by_and_goes_when_that_has_ended() {
    let stage = Stage::released(shared(), "enforced");
    let pod = |name| stage.slow_pod(name).flag("--answer-ttl", "200ms").start();
    let first = pod("a");
    first.wait_leader(SOON);
    let second = pod("b");
    second.wait_status("a standby", SOON, |status| status["holder"] == "a");
    let works = Lock::enforcing(&first, LEASE);
    let answer = first.connect().post(&format!("{STEP_DOWN}?wait=0s"), &json!({})).expect("answers");
    assert_eq!(answer.status, 202);
    // Several answer TTLs.
    for _ in 0..60 {
        assert_eq!(stage.holder().as_deref(), Some("a"), "somebody still works under its token");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(works);
    second.wait_leader(SOON);
}

#[test]
fn a_killed_sidecar_finds_the_app_that_lived_on() {
    let stage = Stage::released(shared(), "lock-restart");
    let mut pod = pod(&stage, "a").start();
    let _app = Lock::alive(&pod);
    let before = token(&pod.wait_leader(SOON));
    pod.kill9();
    pod.restart();
    assert!(token(&pod.wait_leader(SOON)) > before);
}

#[test]
fn what_is_at_the_locks_place_and_no_file_is_refused_at_the_start() {
    for name in ["alive", "it.lock"] {
        for make in ["mkdir", "mkfifo"] {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join(name);
            assert!(Command::new(make).arg(&path).status().expect("coreutils").success());
            let report = format!("--report-dir={}", dir.path().display());
            let kubeconfig = format!("--kubeconfig={}", shared().kubeconfig().display());
            let arguments = ["run", "--lease=it", "--namespace=default", "--pod-name=a", "--listen=127.0.0.1:0"];
            // One that starts all the same is ended, and fails the test.
            let output = Command::new("timeout")
                .arg("20")
                .arg(binary())
                .args(arguments)
                .args([&report, &kubeconfig])
                .args(["--probe-listen=off", "--state-dir=off"])
                .output()
                .expect("runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(64), "{said}");
            assert!(said.contains("no regular file") && said.contains(name), "{said}");
        }
    }
}

#[test]
fn a_lock_that_is_replaced_while_nobody_holds_it_is_said_once_and_found_again() {
    let stage = Stage::released(shared(), "lock-replaced");
    let pod = pod(&stage, "a").start();
    let alive = pod.report_dir().join("alive");
    pod.wait_status("why it does not lead", SOON, |status| status["reason"] == "app_not_alive");
    fs::remove_file(&alive).expect("removes it");
    fs::create_dir(&alive).expect("makes a directory");
    pod.wait_log("what is wrong", SOON, |line| line.to_string().contains("no regular file"));
    std::thread::sleep(Duration::from_millis(2200));
    assert_eq!(pod.count_log(&["nothing shows that the app is alive"]), 1);
    fs::remove_dir(&alive).expect("removes it");
    let _app = Lock::alive(&pod);
    pod.wait_leader(SOON);
}
