//! SIGTERM in every order of sidecar and app: `--on-sigterm`, `--shutdown-grace`.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};
use support::app::Lock;
use support::clock::{self, wait_until};
use support::control_plane::shared;
use support::http::Http;
use support::proxy::Proxy;
use support::recorder::Recorder;
use support::sidecar::Sidecar;
use support::stage::{LEASE, SOON, Stage};

#[test]
fn a_leader_whose_app_still_ends_leads_on_and_releases_when_it_has() {
    let stage = Stage::released(shared(), "wait-for-app");
    let pod = |name| {
        let pod = stage.slow_pod(name).flag("--app-alive", "lock").flag("--on-sigterm", "wait-for-app");
        let pod = pod.flag("--answer-ttl", "20s").flag("--shutdown-grace", "60s").start();
        let app = Lock::alive(&pod);
        (pod, app)
    };
    let (mut first, app) = pod("a");
    first.wait_leader(SOON);
    let (second, _lock) = pod("b");
    second.wait_status("a standby", SOON, |status| status["holder"] == "a");
    let recorder = Recorder::start([&first, &second]);
    recorder.wait_leader(Duration::ZERO, SOON, |leader| leader == "a");
    let renewed = stage.spec()["renewTime"].clone();
    first.sigterm();
    wait_until("a renewal after it was told to end", SOON, || stage.spec()["renewTime"] != renewed);
    assert_eq!(first.get("/leader").status, 200);

    let since = clock::now();
    recorder.app_ended("a");
    drop(app);
    let turn = recorder.wait_leader(since, SOON, |leader| leader == "b");
    assert!(turn.received - since < Duration::from_secs(10), "it waited for the promise: {:?}", turn.received - since);
    assert!(first.wait(SOON).success());
    recorder.assert_no_overlap();
}

#[test]
fn an_app_that_does_not_end_is_given_up_before_the_grace_is_over() {
    let stage = Stage::released(shared(), "grace");
    let pod = |name| stage.slow_pod(name).flag("--shutdown-grace", "6s").flag("--on-sigterm", "wait-for-app");
    let mut first = pod("a").flag("--app-alive", "lock").start();
    let _app = Lock::alive(&first);
    first.wait_leader(SOON);
    let second = stage.slow_pod("b").start();
    second.wait_status("a standby", SOON, |status| status["holder"] == "a");
    let recorder = Recorder::start([&first, &second]);
    recorder.wait_leader(Duration::ZERO, SOON, |leader| leader == "a");
    let since = clock::now();
    first.sigterm();
    let turn = recorder.wait_leader(since, SOON, |leader| leader == "b");
    assert!(turn.received - since > Duration::from_secs(2), "its app had the time to end: {:?}", turn.received - since);
    assert!(first.wait(SOON).success());
    assert!(clock::now() - since < Duration::from_secs(7), "after {:?}", clock::now() - since);
    recorder.assert_no_overlap();
}

#[test]
fn a_standby_has_nothing_to_wait_for() {
    let stage = Stage::released(shared(), "standby-ends");
    let leader = stage.slow_pod("a").start();
    leader.wait_leader(SOON);
    let standby = stage.slow_pod("b").flag("--app-alive", "lock").flag("--on-sigterm", "wait-for-app");
    let mut standby = standby.flag("--shutdown-grace", "60s").start();
    let _app = Lock::alive(&standby);
    standby.wait_status("a standby", SOON, |status| status["holder"] == "a");
    standby.sigterm();
    assert!(standby.wait(SOON).success());
}

#[test]
fn a_process_that_cannot_release_ends_with_its_grace_and_leaves_the_lease_to_run_out() {
    let stage = Stage::released(shared(), "grace-over");
    let link = Proxy::start(shared().address());
    let pod = stage.pod_over("a", Some(link.address())).times("60s", "50s", "2s", "500ms");
    let mut pod = pod.flag("--shutdown-grace", "4s").start();
    pod.wait_leader(SOON);
    link.silence();
    let since = clock::now();
    pod.sigterm();
    pod.wait(SOON);
    assert!(clock::now() - since < Duration::from_secs(6), "after {:?}", clock::now() - since);
    assert_eq!(stage.holder().as_deref(), Some("a"));
}

#[test]
fn a_loop_that_hangs_ends_with_the_grace_and_at_once_at_a_second_signal() {
    let stage = Stage::released(shared(), "hangs");
    let mut pod = stage.slow_pod("a").flag("--shutdown-grace", "4s").start();
    pod.wait_leader(SOON);
    let pipe = hang(&pod);
    let since = clock::now();
    pod.sigterm();
    assert_eq!(pod.wait(SOON).code(), Some(1));
    let took = clock::now() - since;
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(6), "after {took:?}");

    std::fs::remove_file(pipe).expect("was made");
    pod.restart();
    pod.wait_leader(SOON);
    hang(&pod);
    let since = clock::now();
    pod.sigterm();
    std::thread::sleep(Duration::from_millis(200));
    pod.sigterm();
    assert_eq!(pod.wait(SOON).code(), Some(1));
    assert!(clock::now() - since < Duration::from_secs(3), "after {:?}", clock::now() - since);
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let stage = Stage::released(shared(), "unread");
    let pod = stage.pod("a").times("60s", "50s", "1s", "500ms").flag("--shutdown-grace", "6s");
    // Of each request and connection many lines: the pipe is soon full.
    let mut pod = pod.env("LEASEHOLD_LOG", "trace").start();
    pod.wait_leader(SOON);
    let ask = |address, path| {
        let http = Http::connect(address).and_then(|http| http.with_timeout(Duration::from_secs(5)));
        let answer = http.and_then(|mut http| http.get(path)).expect("it answers though nobody reads its log");
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let unread = || {
        pod.leave_log_unread(true);
        for _ in 0..100 {
            ask(pod.address(), "/v1/leader");
            ask(pod.probe_address(), "/livez");
        }
        for _ in 0..3 {
            let renewed = stage.spec()["renewTime"].clone();
            wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
        }
        assert_eq!(pod.status()["leader"], true);
    };
    unread();
    pod.leave_log_unread(false);
    let told = pod.wait_log("what nobody read", SOON, |line| line["dropped"].as_u64() > Some(0));
    assert_eq!(told["level"], "WARN", "{told}");
    assert!(told["message"].as_str().is_some_and(|message| message.contains("nobody read")), "{told}");

    unread();
    let since = clock::now();
    pod.sigterm();
    assert!(pod.wait(SOON).success());
    assert!(clock::now() - since < Duration::from_secs(6), "after {:?}", clock::now() - since);
    assert_eq!(stage.holder(), None);
    pod.leave_log_unread(false);
}

/// Its state directory hangs as a disk may: who opens this to write waits for a reader.
fn hang(pod: &Sidecar) -> PathBuf {
    let file = pod.state_dir().join(format!("{LEASE}.json.new"));
    mkfifoat(CWD, &file, Mode::RUSR | Mode::WUSR).expect("makes a pipe");
    wait_until("the loop to hang", SOON, || {
        let probe = Http::connect(pod.probe_address()).and_then(|http| http.with_timeout(Duration::from_millis(500)));
        probe.and_then(|mut probe| probe.get("/livez")).is_err()
    });
    file
}
