//! Evidence that proves nothing (a port, questions), and several kinds together: leadership follows the app, and
//! waits for what was promised.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use support::app::{Endpoint, Lock};
use support::clock;
use support::control_plane::shared;
use support::stage::{SOON, Stage};

#[test]
fn a_pod_whose_app_answers_unwell_hands_over_when_what_was_promised_is_over() {
    let stage = Stage::released(shared(), "health");
    let endpoint = Endpoint::start();
    let pod = |name| stage.slow_pod(name).flag("--answer-ttl", "3s");
    let first = pod("a").flag("--app-alive", &endpoint.url).flag("--app-health-interval", "100ms");
    let (first, second, recorder) = stage.leader_and_standby(first, pod("b"));
    endpoint.well.store(false, Ordering::SeqCst);
    let since = clock::now();
    let status = first.wait_status("its app's end", SOON, |status| status["reason"] == "app_not_alive");
    assert!(status["message"].as_str().is_some_and(|why| why.contains("answered 503")), "{status}");
    let turn = recorder.wait_leader(since, SOON, |leader| leader == "b");
    assert!(turn.received - since > Duration::from_secs(2), "nothing was proved: {:?}", turn.received - since);
    recorder.assert_no_overlap();
    // It is a candidate again when its app is well.
    endpoint.well.store(true, Ordering::SeqCst);
    first.wait_status("a standby", SOON, |status| status["reason"] == "held_by_other");
    drop(second);
}

#[test]
fn an_app_that_asks_nothing_for_too_long_does_not_lead() {
    let stage = Stage::released(shared(), "asking");
    let pod = stage.slow_pod("a").flag("--app-alive", "asking").flag("--app-timeout", "1s").start();
    let file_says = |what: &str| pod.report("status.env").contains(what);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(stage.holder(), None);
    // A question by HTTP; a look at the file is none.
    pod.wait_leader(SOON);
    clock::wait_until("the end of its asking", SOON, || file_says("LEASEHOLD_LEADER=0"));
    assert_eq!(pod.get("/v1/leader").json()["reason"], "app_not_alive");
    pod.wait_leader(SOON);
}

#[test]
fn with_several_kinds_the_app_lives_while_all_say_so() {
    let stage = Stage::released(shared(), "several");
    let endpoint = Endpoint::start();
    let pod = stage.slow_pod("a").argument("--app-alive=lock").argument(&format!("--app-alive={}", endpoint.url));
    let pod = pod.flag("--app-health-interval", "100ms").start();
    pod.wait_status("why not", SOON, |status| status["message"].as_str().is_some_and(|why| why.contains("its lock")));
    // Several probes long.
    for _ in 0..40 {
        assert_eq!(pod.status()["reason"], "app_not_alive");
        std::thread::sleep(Duration::from_millis(10));
    }
    let app = Lock::alive(&pod);
    pod.wait_leader(SOON);
    endpoint.well.store(false, Ordering::SeqCst);
    pod.wait_status("why not", SOON, |status| status["message"].as_str().is_some_and(|why| why.contains("503")));
    endpoint.well.store(true, Ordering::SeqCst);
    pod.wait_leader(SOON);
    drop(app);
    pod.wait_status("why not", SOON, |status| status["message"].as_str().is_some_and(|why| why.contains("its lock")));
}
