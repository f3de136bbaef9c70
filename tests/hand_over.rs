//! How leadership begins, goes on and is handed over, on a real API server.

mod support;

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use support::clock::{self, wait_until};
use support::control_plane::shared;
use support::proxy::Proxy;
use support::recorder::Recorder;
use support::stage::{DURATION, LEASE, SOON, Stage, token};

const STEP_DOWN: &str = "/v1/leases/it/stepdown";
const STOPPED: &str = "/v1/leases/it/stopped";

#[test]
fn the_first_pod_creates_the_lease_takes_it_and_renews_it() {
    let stage = Stage::new(shared(), "first");
    let pod = stage.pod("a").start();
    let status = pod.wait_leader(SOON);
    let recorder = Recorder::start([&pod]);

    let lease = stage.lease().expect("was created");
    let holder = lease["spec"]["holderIdentity"].as_str().expect("is held");
    assert!(holder.starts_with("a_"), "{holder}");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 5);
    assert_eq!(lease["spec"]["leaseTransitions"], status["transitions"]);
    assert_eq!(lease["metadata"]["annotations"]["leasehold.dev/token"], token(&status).to_string());

    let mut renewed = lease["spec"]["renewTime"].clone();
    for _ in 0..3 {
        wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
        let spec = stage.spec();
        assert!(spec["renewTime"].as_str() > renewed.as_str(), "{renewed} -> {spec}");
        assert_eq!(spec["holderIdentity"], holder);
        assert_eq!(spec["leaseTransitions"], status["transitions"]);
        assert_eq!(spec["acquireTime"], lease["spec"]["acquireTime"]);
        renewed = spec["renewTime"].clone();
    }
    assert_eq!(token(&pod.status()), token(&status));
    assert!(recorder.transitions().iter().all(|turn| turn.leader), "{:?}", recorder.transitions());
    // What every test here relies on: each way of asking is recorded.
    for by in ["http", "status.env", "status.json"] {
        assert!(recorder.promises().iter().any(|promise| promise.by == by), "{by} promised nothing");
    }
    recorder.assert_no_overlap();
}

#[test]
fn sigterm_after_the_app_ended_hands_over_at_once() {
    let stage = Stage::released(shared(), "release");
    let first = stage.slow_pod("a").flag("--on-sigterm", "release").flag("--answer-ttl", "20s");
    let (mut first, second, recorder) = stage.leader_and_standby(first, stage.slow_pod("b"));
    let before = token(&first.status());
    recorder.app_ended("a");
    let asked = clock::now();
    first.sigterm();
    // Far sooner than the answers given before would have run out.
    recorder.wait_leader(asked, Duration::from_secs(10), |pod| pod == "b");
    assert!(token(&second.status()) > before);
    assert!(first.wait(SOON).success());
    recorder.assert_no_overlap();
}

#[test]
fn sigterm_alone_waits_for_the_end_of_what_was_promised_and_then_hands_over() {
    let stage = Stage::released(shared(), "auto");
    let (mut first, second, recorder) = stage.leader_and_standby(stage.slow_pod("a"), stage.slow_pod("b"));
    let before = token(&first.status());
    let asked = clock::now();
    first.sigterm();
    recorder.wait_leader(asked, SOON, |pod| pod == "b");
    assert!(token(&second.status()) > before);
    assert!(first.wait(SOON).success());
    assert_eq!(stage.annotation("leasehold.dev/released"), None, "the take-over removes the proof");
    recorder.assert_no_overlap();
}

#[test]
fn the_last_pod_leaves_a_released_lease_with_its_proof_and_the_next_takes_it_at_once() {
    let stage = Stage::new(shared(), "proof");
    let mut first = stage.slow_pod("a").start();
    let before = token(&first.wait_leader(SOON));
    first.sigterm();
    assert!(first.wait(SOON).success());
    let lease = stage.lease().expect("stays");
    assert_eq!(lease["spec"]["holderIdentity"], "");
    assert_eq!(lease["metadata"]["annotations"]["leasehold.dev/released"], lease["spec"]["renewTime"]);
    let second = stage.slow_pod("b").start();
    assert!(token(&second.wait_leader(SOON)) > before);
    assert_eq!(stage.spec()["leaseTransitions"], 2);
}

#[test]
fn a_second_signal_ends_the_sidecar_at_once_and_releases_nothing() {
    let stage = Stage::released(shared(), "second");
    let mut pod = stage.slow_pod("a").flag("--answer-ttl", "30s").flag("--shutdown-grace", "60s").start();
    pod.wait_leader(SOON);
    pod.sigterm();
    pod.wait_not_leader(SOON);
    pod.sigterm();
    let ended = pod.wait(Duration::from_secs(10));
    assert!(!ended.success(), "{ended}");
    assert_eq!(stage.holder().as_deref(), Some("a"));
    assert_eq!(stage.annotation("leasehold.dev/released"), None);
}

#[test]
fn a_killed_leader_is_followed_when_its_lease_has_run_out() {
    let stage = Stage::released(shared(), "killed");
    let (mut first, second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    let before = token(&first.status());
    // The last renewal was sent after that.
    let not_before = clock::now() - Duration::from_secs(1) - Duration::from_millis(300);
    let killed = clock::now();
    first.kill9();
    let taken = recorder.wait_leader(killed, SOON, |pod| pod == "b").received;
    assert!(taken >= not_before + DURATION - Duration::from_secs(1), "after {:?}", taken - killed);
    // L1, and a second for a busy machine.
    assert!(taken <= killed + DURATION + Duration::from_millis(1300), "after {:?}", taken - killed);
    assert!(token(&second.status()) > before);
    recorder.assert_no_overlap();
}

#[test]
fn a_leader_steps_down_on_request_and_comes_back_when_it_is_its_turn() {
    let stage = Stage::released(shared(), "stepdown");
    let (first, second, recorder) = stage.leader_and_standby(stage.slow_pod("a"), stage.slow_pod("b"));
    let refused = second.connect().post(STEP_DOWN, &json!({})).expect("answers");
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("not_leader")));
    assert!(refused.json()["message"].as_str().is_some_and(|why| why.contains("a holds the lease")), "{refused:?}");
    let refused = first.connect().post(STEP_DOWN, &json!({"to": "a"})).expect("answers");
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("leads_already")));

    let mut tokens = vec![token(&first.status())];
    for (leaves, follows) in [(&first, &second), (&second, &first)] {
        let asked = clock::now();
        let answer = leaves.connect().post(STEP_DOWN, &json!({})).expect("answers");
        // It says who leads then.
        assert_eq!((answer.status, &answer.json()["leader"]), (200, &json!(false)));
        assert_eq!(answer.json()["holder"], follows.pod());
        recorder.wait_leader(asked, SOON, |pod| pod == follows.pod());
        tokens.push(token(&follows.status()));
    }
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
    recorder.assert_no_overlap();
}

#[test]
fn a_successor_is_named_in_a_request_and_one_that_is_not_there_keeps_nobody_waiting() {
    let stage = Stage::released(shared(), "named-successor");
    let (first, second, recorder) = stage.leader_and_standby(stage.slow_pod("a"), stage.slow_pod("b"));
    let third = stage.slow_pod("c").start();
    third.wait_status("a standby", SOON, |status| status["holder"] == "a");
    let answer = first.connect().post(STEP_DOWN, &json!({"to": "nobody"})).expect("answers");
    assert_eq!(answer.status, 200);
    let holder = answer.json()["holder"].as_str().expect("somebody leads").to_owned();
    assert!(["b", "c"].contains(&holder.as_str()), "{holder}");
    let (leader, next) = if holder == "b" { (&second, "c") } else { (&third, "b") };
    let answer = leader.connect().post(STEP_DOWN, &json!({"to": next})).expect("answers");
    assert_eq!((answer.status, &answer.json()["leader"]), (200, &json!(false)));
    assert_eq!(stage.annotation("leasehold.dev/step-down"), None, "a take-over removes it");
    recorder.assert_no_overlap();
}

#[test]
fn a_leader_without_a_rival_steps_down_and_leads_again_under_a_new_token() {
    let stage = Stage::released(shared(), "alone");
    let pod = stage.slow_pod("a").start();
    let before = token(&pod.wait_leader(SOON));
    let recorder = Recorder::start([&pod]);
    let answer = pod.connect().post(STEP_DOWN, &json!({})).expect("answers");
    assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("nobody_took_over")));
    let again = token(&pod.wait_leader(SOON));
    assert!(again > before);
    recorder.assert_no_overlap();
}

/// One pod: its app's word lets it release while an answer would still hold, which a second pod's recorder could not
/// know.
#[test]
fn an_acknowledged_loss_is_released_before_the_promise_runs_out() {
    let stage = Stage::released(shared(), "stopped");
    let pod = stage.slow_pod("a").flag("--answer-ttl", "40s").flag("--shutdown-grace", "60s").start();
    let term = token(&pod.wait_leader(SOON));
    let acknowledge = |token: u64| {
        let answer = pod.connect().post(STOPPED, &json!({ "fencing_token": token })).expect("answers");
        (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(acknowledge(term), (409, "still_leading".into()));
    assert_eq!(acknowledge(term + 1), (409, "wrong_token".into()));

    let asked = clock::now();
    let answer = pod.connect().post(&format!("{STEP_DOWN}?wait=0s"), &json!({})).expect("answers");
    assert_eq!((answer.status, &answer.json()["reason"]), (202, &json!("stepped_down")));
    assert_eq!(acknowledge(term - 1), (409, "wrong_token".into()));
    assert_eq!(stage.holder().as_deref(), Some("a"), "a promise is in force");
    assert_eq!(acknowledge(term).0, 200);
    wait_until("the release", Duration::from_secs(10), || stage.holder().is_none());
    assert!(clock::now() - asked < Duration::from_secs(20), "the machine is too slow for this test to mean anything");
}

#[test]
fn a_signal_before_the_lease_was_ever_seen_ends_the_sidecar() {
    let stage = Stage::new(shared(), "early");
    let nobody = support::control_plane::Port::reserve();
    let mut pod = stage.pod_over("a", Some(nobody.address())).start();
    pod.address();
    pod.sigterm();
    assert!(pod.wait(SOON).success());
    assert_eq!(shared().lease(&stage.namespace, LEASE), None);
}

#[test]
fn a_leader_that_cannot_release_ends_when_its_lease_has_run_out() {
    let stage = Stage::released(shared(), "cannot-release");
    let link = Proxy::start(shared().address());
    let mut pod = stage.pod_over("a", Some(link.address())).start();
    pod.wait_leader(SOON);
    link.silence();
    let asked = clock::now();
    pod.sigterm();
    assert!(pod.wait(SOON).success());
    assert!(clock::now() - asked < DURATION + Duration::from_secs(2), "after {:?}", clock::now() - asked);
    assert_eq!(stage.holder().as_deref(), Some("a"));
}

#[test]
fn a_standby_ends_at_once_also_behind_a_silent_link() {
    let stage = Stage::released(shared(), "silent-standby");
    let link = Proxy::start(shared().address());
    let (leader, mut standby, recorder) =
        stage.leader_and_standby(stage.slow_pod("a"), stage.pod_over("b", Some(link.address())));
    link.silence();
    let asked = clock::now();
    standby.sigterm();
    assert!(standby.wait(SOON).success());
    assert!(clock::now() - asked < Duration::from_secs(3), "after {:?}", clock::now() - asked);
    assert_eq!(leader.get("/leader").status, 200);
    recorder.assert_no_overlap();
}

#[test]
fn sigint_is_a_termination_signal_as_well() {
    let stage = Stage::released(shared(), "sigint");
    let mut pod = stage.slow_pod("a").start();
    pod.wait_leader(SOON);
    pod.signal(Signal::INT);
    assert!(pod.wait(SOON).success());
    assert_eq!(stage.holder(), None);
}
