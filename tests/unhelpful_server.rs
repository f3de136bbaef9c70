//! A server that refuses, fails, talks nonsense or takes its time: leadership goes on where it can, and one line of
//! log says what to do.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use support::clock::{self, wait_until};
use support::control_plane::{Port, shared};
use support::front::{Act, Front, watch_event};
use support::recorder::Recorder;
use support::sidecar::{Builder, Sidecar};
use support::stage::{DURATION, LEASE, QUICK, SOON, Stage, token};

fn pod(stage: &Stage, kubeconfig: &Path) -> Builder {
    let [lease, deadline, interval, retry] = QUICK;
    Sidecar::of(LEASE, &stage.namespace, kubeconfig, "a").times(lease, deadline, interval, retry)
}

/// It warned once, of this.
#[track_caller]
fn assert_warned_of(pod: &Sidecar, parts: &[&str]) {
    let warnings = pod.warnings();
    let [warning] = &warnings[..] else { panic!("not one warning: {warnings:#?}") };
    assert!(parts.iter().all(|part| warning.contains(part)), "{warning}");
}

// --- No API server to talk to ---

/// Waits until it has tried several times; its status gives the advice as well.
fn never_gets_through(name: &str, kubeconfig: &Path, code: &str, parts: &[&str]) {
    let stage = Stage { control_plane: shared(), namespace: shared().namespace(name) };
    let mut pod = pod(&stage, kubeconfig).start();
    pod.wait_requests("list", code, 3, Duration::from_secs(30));
    assert_warned_of(&pod, parts);
    let status = pod.status();
    assert_eq!((&status["leader"], &status["reason"]), (&json!(false), &json!("refused")));
    let message = status["message"].as_str().unwrap_or_default();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    assert_eq!(pod.get("/leader").status, 503);
    assert!(pod.ended().is_none());
}

#[test]
fn a_certificate_for_another_name_is_told() {
    let kubeconfig = shared().kubeconfig_edited(|config| {
        config["clusters"][0]["cluster"]["tls-server-name"] = "another.example".into();
    });
    never_gets_through("other-name", &kubeconfig, "error", &["certificate is for another name", "tls-server-name"]);
}

#[test]
fn a_certificate_of_an_unknown_authority_is_told() {
    let kubeconfig = shared().kubeconfig_edited(|config| {
        let cluster = config["clusters"][0]["cluster"].as_object_mut().expect("an object");
        cluster.remove("certificate-authority");
    });
    never_gets_through("other-ca", &kubeconfig, "error", &["not trusted", "certificate-authority"]);
}

#[test]
fn an_authority_that_is_trusted_by_then_needs_no_restart() {
    let stage = Stage::released(shared(), "new-ca");
    let proxy = support::proxy::Proxy::start(shared().address());
    let right = shared().kubeconfig_for("admin", Some(proxy.address()));
    let kubeconfig = right.with_extension("former");
    let text = std::fs::read_to_string(&right).expect("was just written");
    // JSON is YAML.
    let mut former: serde_json::Value = serde_json::from_str(&text).expect("is JSON");
    former["clusters"][0]["cluster"].as_object_mut().expect("an object").remove("certificate-authority");
    std::fs::write(&kubeconfig, former.to_string()).expect("writes a file");
    let pod = pod(&stage, &kubeconfig).start();
    pod.wait_requests("list", "error", 3, Duration::from_secs(30));
    // Nobody hammers at the door meanwhile.
    let (began, before) = (clock::now(), proxy.connections());
    std::thread::sleep(Duration::from_secs(6));
    let made = proxy.connections() - before;
    let seconds = (clock::now() - began).as_secs() as usize;
    assert!(made <= seconds * 3, "{made} connections in {seconds} s");
    std::fs::rename(&right, &kubeconfig).expect("it is replaced");
    pod.wait_leader(SOON);
    assert_warned_of(&pod, &["not trusted", "certificate-authority"]);
}

#[test]
fn a_server_that_refuses_connections_is_told() {
    let port = Port::reserve();
    let kubeconfig = shared().kubeconfig_for("admin", Some(port.address()));
    never_gets_through("refused", &kubeconfig, "error", &["cannot be reached", "refused"]);
}

#[test]
fn something_that_is_no_api_server_is_told() {
    let front = Front::open(shared());
    front.set(|_| Act::Answer(200, vec![("Content-Type", "text/html".into())], "<html>welcome</html>".into()));
    never_gets_through("html", &front.kubeconfig(), "200", &["does the address lead to an API server?"]);
}

#[test]
fn a_server_that_never_answers_is_told() {
    let proxy = support::proxy::Proxy::start(shared().address());
    proxy.silence();
    let kubeconfig = shared().kubeconfig_for("admin", Some(proxy.address()));
    never_gets_through("silent", &kubeconfig, "timeout", &["no answer in time"]);
}

// --- A leader whose writes fail for a while ---

/// A leader through a door; `act` meets its next `count` writes, and its term goes on.
fn leads_on_through(name: &str, count: usize, act: Act) -> (Front, Sidecar) {
    let stage = Stage::released(shared(), name);
    let front = Front::open(shared());
    let pod = pod(&stage, &front.kubeconfig()).start();
    let before = token(&pod.wait_leader(SOON));
    let recorder = Recorder::start([&pod]);
    let from = front.count(|request| request.is_write());
    let met = AtomicUsize::new(0);
    front.set(move |request| {
        let meets = request.is_write() && met.fetch_add(1, Ordering::SeqCst) < count;
        if meets { act.clone() } else { Act::Pass }
    });
    wait_until("the writes to fail and then to work", SOON, || {
        front.count(|request| request.is_write()) > from + count
    });
    let renewed = stage.spec()["renewTime"].clone();
    wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
    assert_eq!(token(&pod.status()), before);
    assert!(recorder.transitions().iter().all(|turn| turn.leader), "{:?}", recorder.transitions());
    recorder.assert_no_overlap();
    (front, pod)
}

#[test]
fn a_429_that_asks_for_32_s_is_not_waited_for_by_a_leader() {
    let Act::Answer(code, mut headers, body) = Act::status(429, "TooManyRequests", "too many requests") else { return };
    headers.push(("Retry-After", "32".into()));
    let (_front, pod) = leads_on_through("too-many", 2, Act::Answer(code, headers, body));
    assert_warned_of(&pod, &["overloaded", "429"]);
}

#[test]
fn server_errors_are_tried_again() {
    let error = Act::status(500, "InternalError", "etcdserver: request timed out");
    let (_front, pod) = leads_on_through("errors", 4, error);
    assert_warned_of(&pod, &["500", "etcdserver: request timed out"]);
    wait_until("the end to be told", SOON, || pod.count_log(&["answers again"]) == 1);
}

#[test]
fn a_write_that_was_committed_under_an_error_is_known_as_our_own() {
    let error = Act::status(504, "Timeout", "request did not complete within the allotted timeout");
    leads_on_through("committed", 2, Act::PassAndThen(Box::new(error)));
}

#[test]
fn writes_whose_answers_are_nonsense_are_known_as_our_own() {
    let nonsense = Act::Answer(200, vec![], "{\"kind\":\"Lea".into());
    leads_on_through("half", 2, Act::PassAndThen(Box::new(nonsense)));
}

#[test]
fn a_take_over_that_was_committed_without_an_answer_begins_the_term() {
    let stage = Stage::released(shared(), "silent-take-over");
    let front = Front::open(shared());
    front.set(|request| match (request.is_write(), request.number) {
        // The first write takes the lease; the list and the watch come before it.
        (true, 0..4) => Act::PassAndThen(Box::new(Act::Silence)),
        _ => Act::Pass,
    });
    let pod = pod(&stage, &front.kubeconfig()).start();
    let status = pod.wait_leader(SOON);
    assert_eq!(stage.annotation("leasehold.dev/token"), Some(token(&status).to_string()));
    assert_eq!(stage.spec()["leaseTransitions"], 2);
    let renewed = stage.spec()["renewTime"].clone();
    wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
    assert_eq!(token(&pod.status()), token(&status));
}

#[test]
fn answers_that_take_their_time_are_waited_for() {
    let (_front, pod) = leads_on_through("slow", 5, Act::PassAfter(Duration::from_millis(700)));
    assert_eq!(pod.warnings(), Vec::<String>::new());
}

#[test]
fn no_answers_at_all_end_the_term_and_it_leads_again_after_them() {
    let stage = Stage::released(shared(), "slower");
    let front = Front::open(shared());
    let pod = pod(&stage, &front.kubeconfig()).start();
    let before = token(&pod.wait_leader(SOON));
    let recorder = Recorder::start([&pod]);
    front.set(|request| if request.is_watch() { Act::Pass } else { Act::Silence });
    pod.wait_not_leader(DURATION);
    front.pass();
    assert!(token(&pod.wait_leader(SOON)) > before);
    assert_warned_of(&pod, &["no answer in time"]);
    recorder.assert_no_overlap();
}

// --- Watches ---

/// A pod whose first watch fails thus: it lists again and hears of everything, and that is nothing to warn of.
fn watches_on_after(name: &str, act: Act) {
    let stage = Stage::released(shared(), name);
    let front = Front::open(shared());
    let met = AtomicBool::new(false);
    front.set(move |request| {
        let meets = request.is_watch() && !met.swap(true, Ordering::SeqCst);
        if meets { act.clone() } else { Act::Pass }
    });
    let pod = pod(&stage, &front.kubeconfig()).start();
    let before = token(&pod.wait_leader(SOON));
    wait_until("another watch", SOON, || front.count(|request| request.is_watch()) == 2);
    assert_eq!(front.count(|request| request.path.contains("fieldSelector") && !request.is_watch()), 2);
    stage.patch_spec(json!({"holderIdentity": "intruder"}));
    pod.wait_status("to see the edit", SOON, |status| status["holder"] == "intruder");
    assert!(pod.wait_leader(SOON)["fencing_token"].as_u64() > Some(before));
    assert_eq!(pod.warnings(), Vec::<String>::new());
}

#[test]
fn a_watch_refused_with_410_lists_again() {
    watches_on_after("gone", Act::status(410, "Expired", "too old resource version"));
}

#[test]
fn a_watch_that_ends_with_a_410_event_lists_again() {
    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired"});
    let event = watch_event("ERROR", &gone);
    watches_on_after("gone-event", Act::Answer(200, vec![("Content-Type", "application/json".into())], event));
}

#[test]
fn a_watch_that_falls_silent_is_doubted_and_begun_anew() {
    let stage = Stage::released(shared(), "hushed");
    let leader = stage.pod("a").start();
    let before = token(&leader.wait_leader(SOON));
    let front = Front::open(shared());
    let [lease, deadline, interval, retry] = QUICK;
    let standby = Sidecar::of(LEASE, &stage.namespace, &front.kubeconfig(), "b");
    let standby = standby.times(lease, deadline, interval, retry).start();
    let recorder = Recorder::start([&leader, &standby]);
    standby.wait_status("a standby", SOON, |status| status["holder"] == "a");
    standby.wait_requests("watch", "200", 1, SOON);
    let watches = front.count(|request| request.is_watch());
    front.hush_watches();
    let hushed = clock::now();
    wait_until("another watch", SOON, || front.count(|request| request.is_watch()) > watches);
    // Long before the record could have seemed to run out twice.
    assert!(clock::now() - hushed < DURATION, "after {:?}", clock::now() - hushed);
    // By which it hears of renewals again.
    standby
        .wait_status("to hear", SOON, |status| status["lease_remaining_ms"].as_u64().is_some_and(|left| left > 4500));
    assert_eq!(token(&leader.status()), before);
    recorder.assert_no_overlap();
}

#[test]
fn watches_that_end_at_once_are_not_asked_for_without_a_pause() {
    let stage = Stage::released(shared(), "ends");
    let front = Front::open(shared());
    front.set(|request| if request.is_watch() { Act::Answer(200, vec![], String::new()) } else { Act::Pass });
    let pod = pod(&stage, &front.kubeconfig()).start();
    pod.wait_leader(SOON);
    // The first few come soon after each other, for most servers are soon back.
    wait_until("some watches", SOON, || front.count(|request| request.is_watch()) >= 5);
    let (began, before) = (clock::now(), front.count(|request| request.is_watch()));
    wait_until("some more", SOON, || front.count(|request| request.is_watch()) >= before + 4);
    // A second apart.
    assert!(clock::now() - began > Duration::from_millis(2500), "four watches in {:?}", clock::now() - began);
    assert_warned_of(&pod, &["the watch ended as soon as it began"]);
}
