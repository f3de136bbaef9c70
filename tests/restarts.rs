//! What is remembered over a restart, and what is not: of one pod's sidecar, of its neighbours in a process, and of
//! the whole control plane.

mod support;

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::{Value, json};

use support::clock::{self, wait_until};
use support::control_plane::{ControlPlane, SIDECAR, shared};
use support::recorder::Recorder;
use support::stage::{DURATION, LEASE, SOON, Stage, token};

// --- One pod's sidecar ---

#[test]
fn a_restarted_sidecar_of_the_same_pod_leads_again_at_once_under_a_new_token() {
    let stage = Stage::released(shared(), "same-pod");
    let (mut first, second, recorder) = stage.leader_and_standby(stage.slow_pod("a"), stage.slow_pod("b"));
    let mut before = token(&first.status());
    for _ in 0..3 {
        first.kill9();
        first.restart();
        let status = first.wait_leader(SOON);
        assert!(token(&status) > before);
        before = token(&status);
    }
    second.wait_status("a standby", SOON, |status| status["holder"] == "a" && status["leader"] == false);
    recorder.assert_no_overlap();
}

#[test]
fn a_lease_that_the_restarted_pod_lost_meanwhile_is_not_taken_back() {
    let stage = Stage::released(shared(), "lost-meanwhile");
    let (mut first, _second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    first.kill9();
    let killed = clock::now();
    recorder.wait_leader(killed, SOON, |pod| pod == "b");
    let restarted = clock::now();
    first.restart();
    first.wait_status("a standby", SOON, |status| status["holder"] == "b");
    assert!(recorder.first_leader(restarted, |pod| pod == "a").is_none());
    recorder.assert_no_overlap();
}

/// A write to `/dev/full` fails as one to a full disk does.
#[test]
fn a_restart_on_a_full_disk_leads_all_the_same_and_the_next_waits_the_lease_out() {
    let stage = Stage::released(shared(), "full-disk");
    let mut pod = stage.pod("a").start();
    let mut before = token(&pod.wait_leader(SOON));
    let kept = pod.state_dir().join(format!("{LEASE}.json.new"));
    pod.kill9();
    symlink("/dev/full", &kept).expect("a link");
    // The identity of the one before is still known, and its own cannot be kept.
    let killed = clock::now();
    pod.restart();
    let again = token(&pod.wait_leader(SOON));
    assert!(clock::now() - killed < DURATION, "it waited for its own former self");
    assert!(again > before);
    before = again;
    assert_eq!(pod.count_log(&["the state directory is full", "wait the lease out"]), 1);

    let killed = clock::now();
    pod.kill9();
    pod.restart();
    let again = token(&pod.wait_leader(SOON));
    assert!(
        clock::now() - killed > DURATION - Duration::from_millis(1300),
        "nobody proved that the former one is dead"
    );
    assert!(again > before);
}

/// Its leader is killed and its sidecar starts anew with another POD_UID: it waits for the lease to run out.
fn waits_its_turn_as(name: &str, pod_uid: Option<&str>) {
    let stage = Stage::released(shared(), name);
    let mut pod = stage.pod("a").start();
    let before = token(&pod.wait_leader(SOON));
    let killed = clock::now();
    pod.kill9();
    pod.restart_with_env("POD_UID", pod_uid);
    let waits = pod.wait_status("a standby", SOON, |status| status["reason"] == "held_by_other");
    assert_eq!(waits["holder"], "a");
    let again = token(&pod.wait_leader(SOON));
    let after = clock::now() - killed;
    // The last renewal was at most an interval and a little before the kill.
    assert!(after > DURATION - Duration::from_millis(1300), "led again after {after:?}");
    assert!(again > before);
}

#[test]
fn another_pod_on_the_same_state_directory_waits_for_the_lease_to_run_out() {
    waits_its_turn_as("other-uid", Some("another-uid"));
}

#[test]
fn a_restarted_sidecar_that_is_not_told_its_pods_uid_waits_for_the_lease_to_run_out() {
    waits_its_turn_as("no-uid", None);
}

#[test]
fn a_candidate_that_restarts_more_often_than_the_lease_lasts_still_takes_a_dead_leaders_lease() {
    let stage = Stage::released(shared(), "restless");
    let (mut first, mut second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    first.kill9();
    let killed = clock::now();
    let mut starts = 0;
    let led = clock::wait_for("b to lead in spite of its restarts", SOON, || {
        second.restart();
        starts += 1;
        let seen = second.wait_status("to see the lease", SOON, |status| status["reason"] != "starting");
        let left = seen["lease_remaining_ms"].as_u64().unwrap_or(0);
        // A second later it starts anew, unless it leads.
        let status = second.wait_status("a second older", SOON, |status| {
            status["leader"] == true || status["lease_remaining_ms"].as_u64().is_some_and(|now| now + 1000 < left)
        });
        (status["leader"] == true).then(clock::now)
    });
    assert!(starts > 2, "{starts} starts");
    assert!(led - killed < DURATION + Duration::from_secs(3), "led after {:?}", led - killed);
    recorder.assert_no_overlap();
}

#[test]
fn a_second_sidecar_of_the_same_pod_waits_for_the_end_of_the_first_and_follows_at_once() {
    let stage = Stage::released(shared(), "two-of-a-pod");
    let mut first = stage.slow_pod("a").start();
    let before = token(&first.wait_leader(SOON));
    let state = first.state_dir();
    let second = stage.slow_pod("a").flag("--state-dir", &state.to_string_lossy()).start();
    second.wait_log("that it waits", SOON, |line| {
        line["message"].as_str().is_some_and(|message| message.contains("waiting for its end"))
    });
    // The first one's ports and files are not touched.
    assert_eq!(second.count_log(&["\"listening\""]), 0);
    assert_eq!(first.get("/leader").status, 200);
    first.kill9();
    assert!(token(&second.wait_leader(SOON)) > before);
}

#[test]
fn a_state_directory_that_two_pods_share_by_mistake_is_told_and_not_used() {
    let stage = Stage::released(shared(), "shared-state");
    let mut first = stage.slow_pod("a").start();
    first.wait_leader(SOON);
    let state = first.state_dir();
    let second = stage.slow_pod("b").flag("--state-dir", &state.to_string_lossy()).start();
    let recorder = Recorder::start([&first, &second]);
    recorder.wait_leader(Duration::ZERO, SOON, |pod| pod == "a");
    second.wait_status("a standby", SOON, |status| status["holder"] == "a");
    assert!(
        second.warnings().iter().any(|warning| warning.contains("another pod's sidecar")),
        "{:?}",
        second.warnings()
    );
    let asked = clock::now();
    first.sigterm();
    recorder.wait_leader(asked, SOON, |pod| pod == "b");
    assert!(first.wait(SOON).success());
    recorder.assert_no_overlap();
}

// --- Several leases in one process ---

#[test]
fn each_lease_of_a_process_has_its_own_election_routes_and_files() {
    let stage = Stage::released(shared(), "several");
    let namespace = &stage.namespace;
    shared().allow_lease(namespace, SIDECAR, "batch");
    let pod = |name| stage.slow_pod(name).argument("--lease=batch").start();
    let first = pod("a");
    first.wait_leader(SOON);
    let batch = |pod: &support::sidecar::Sidecar| pod.get("/v1/leases/batch").json();
    wait_until("a to lead batch as well", SOON, || batch(&first)["leader"] == true);
    let kept = token(&first.status());
    let second = pod("b");
    wait_until("b to stand by", SOON, || batch(&second)["holder"] == "a" && second.status()["holder"] == "a");
    // It watches the first lease: the one that is not handed over.
    let recorder = Recorder::start([&first, &second]);
    recorder.wait_leader(Duration::ZERO, SOON, |pod| pod == "a");

    assert_eq!((first.get("/leader").status, first.get("/leader/batch").status), (200, 200));
    assert_eq!(first.get("/leader/absent").status, 404);
    let answer = first.connect().post("/v1/leases/batch/stepdown", &json!({})).expect("answers");
    assert_eq!(answer.status, 200);
    wait_until("b to lead batch", SOON, || batch(&second)["leader"] == true);
    assert_eq!((first.get("/leader").status, first.get("/leader/batch").status), (200, 503));
    assert_eq!((second.get("/leader").status, second.get("/leader/batch").status), (503, 200));
    assert_eq!(token(&first.status()), kept);

    let file = |pod: &support::sidecar::Sidecar, name: &str| -> Value {
        serde_json::from_str(&pod.report(name)).unwrap_or_default()
    };
    wait_until("the files to say so", SOON, || file(&second, "batch.json")["leader"] == true);
    assert_eq!(file(&first, "batch.json")["leader"], false);
    for name in ["it.json", "status.json"] {
        assert_eq!((&file(&first, name)["lease"], &file(&first, name)["leader"]), (&json!(LEASE), &json!(true)));
    }
    assert!(second.report("batch.env").contains("LEASEHOLD_LEADER=1"));
    assert!(second.report("status.env").contains("LEASEHOLD_LEADER=0"));
    let all = second.get("/v1/leases").json();
    let names: Vec<_> = all["leases"].as_array().into_iter().flatten().map(|lease| lease["lease"].clone()).collect();
    assert_eq!(names, [json!(LEASE), json!("batch")]);
    recorder.assert_no_overlap();
}

#[test]
fn all_leases_of_a_process_are_released_when_it_ends() {
    let stage = Stage::released(shared(), "both-released");
    shared().allow_lease(&stage.namespace, SIDECAR, "batch");
    let mut pod = stage.slow_pod("a").argument("--lease=batch").start();
    pod.wait_leader(SOON);
    wait_until("a to lead batch", SOON, || pod.get("/leader/batch").status == 200);
    pod.sigterm();
    assert!(pod.wait(SOON).success());
    for name in [LEASE, "batch"] {
        let lease = shared().lease(&stage.namespace, name).expect("stays");
        assert_eq!(lease["spec"]["holderIdentity"], "", "{name}");
    }
}

// --- A start that cannot succeed ---

#[test]
fn what_cannot_be_used_ends_the_start_with_64_and_a_sentence() {
    let stage = Stage::released(shared(), "cannot");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let cases = [
        ("--listen", address.as_str(), address.as_str()),
        ("--probe-listen", &address, &address),
        ("--state-dir", "/dev/null/state", "/dev/null/state"),
        ("--report-dir", "/dev/null/report", "/dev/null/report"),
        ("--kubeconfig", "/nowhere/kubeconfig", "/nowhere/kubeconfig"),
        ("--renew-deadline", "5s", "renew deadline"),
        ("--lease", "It", "lease name"),
    ];
    for (flag, value, said) in cases {
        let mut pod = stage.pod("a").flag(flag, value).start();
        assert_eq!(pod.wait(SOON).code(), Some(64), "{flag}");
        let sentence =
            clock::wait_for("a sentence", SOON, || pod.log().into_iter().find(|line| line.starts_with("leasehold: ")));
        assert!(sentence.contains(said), "{flag}: {sentence}");
    }
    assert_eq!(stage.holder(), None);
}

#[test]
fn a_question_for_another_pod_is_misdirected() {
    let stage = Stage::released(shared(), "misdirected");
    let pod = stage.slow_pod("a").start();
    pod.wait_leader(SOON);
    assert_eq!(pod.get("/leader?pod=a").status, 200);
    let other = pod.get("/leader?pod=b");
    assert_eq!((other.status, &other.json()["code"]), (421, &json!("other_pod")));
}

// --- The control plane goes back in time ---

#[test]
fn elections_go_on_over_a_restore_of_etcd_with_tokens_that_still_grow() {
    let control_plane = ControlPlane::start();
    let stage = Stage::released(&control_plane, "restored");
    let pod = |name| stage.pod(name).times("15s", "13s", "1s", "300ms");
    let (first, second, recorder) = stage.leader_and_standby(pod("a"), pod("b"));
    let old = stage.lease();
    let snapshot = control_plane.snapshot();
    // What the restore forgets: another term of another pod.
    let since = clock::now();
    first.connect().post("/v1/leases/it/stepdown", &json!({})).expect("answers");
    recorder.wait_leader(since, SOON, |pod| pod == "b");
    let forgotten = token(&second.status());
    control_plane.restore(&snapshot);
    assert_eq!(
        old.map(|lease| lease["spec"]["holderIdentity"].clone()),
        stage.lease().map(|lease| lease["spec"]["holderIdentity"].clone())
    );

    let restored = clock::now();
    let turn = recorder.wait_leader(restored, Duration::from_secs(40), |pod| {
        let pod = if pod == "a" { &first } else { &second };
        pod.status()["fencing_token"].as_u64().is_some_and(|token| token > forgotten)
    });
    // It is a term in the new history, and goes on.
    let renewed = stage.spec()["renewTime"].clone();
    wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
    assert_eq!(stage.holder().as_deref(), Some(turn.pod.as_str()));
    recorder.assert_no_overlap();
}
