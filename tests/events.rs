//! What `kubectl describe` tells of the terms, on a real API server: when one of a pod began, when it ended and why, on
//! the Lease and on the Pod. No election is the worse for it when that cannot be told.

mod support;

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leasehold::time::{Clock, SystemClock};
use serde_json::{Value, json};

use support::clock::{self, wait_for, wait_until};
use support::control_plane::{ControlPlane, SIDECAR, shared};
use support::front::{Act, Front};
use support::proxy::Proxy;
use support::recorder::Recorder;
use support::sidecar::{Builder, Sidecar};
use support::stage::{LEASE, SOON, Stage, token};

const STEP_DOWN: &str = "/v1/leases/it/stepdown";
/// The requests that Events cost.
const POSTS: [&str; 1] = ["resource=\"events\""];

/// A stage whose pods may create Events.
fn stage<'a>(control_plane: &'a ControlPlane, name: &str) -> Stage<'a> {
    let stage = Stage::released(control_plane, name);
    let rules = json!([{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]);
    control_plane.allow(&stage.namespace, SIDECAR, rules);
    stage
}

/// A pod that is told who it is.
fn told(stage: &Stage, builder: Builder, uid: &str) -> Builder {
    builder.env("POD_UID", uid).env("POD_NAMESPACE", &stage.namespace)
}

/// The Events of a stage about objects of a kind, in the order of their names, which is that of their times.
fn events(stage: &Stage, kind: &str) -> Vec<Value> {
    let path = format!("/api/v1/namespaces/{}/events?fieldSelector=involvedObject.kind%3D{kind}", stage.namespace);
    let mut list = stage.control_plane.api("GET", &path, None).expect("the API server answers").json();
    let mut events = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    events.sort_by_key(|event| event["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    events
}

fn messages(stage: &Stage, kind: &str) -> Vec<String> {
    let text = |event: Value| event["message"].as_str().unwrap_or_default().to_owned();
    events(stage, kind).into_iter().map(text).collect()
}

/// Waits until the Lease has so many Events; gives their messages.
#[track_caller]
fn wait_messages(stage: &Stage, count: usize) -> Vec<String> {
    wait_for(&format!("{count} Events of the Lease"), SOON, || {
        Some(messages(stage, "Lease")).filter(|messages| messages.len() >= count)
    })
}

#[test]
fn both_ends_of_a_term_are_told_on_the_lease_and_on_the_pod() {
    let stage = stage(shared(), "told");
    let uids = ["a", "b"].map(|name| stage.create_pod(name));
    let first = told(&stage, stage.slow_pod("a"), &uids[0]);
    let second = told(&stage, stage.slow_pod("b"), &uids[1]);
    let (first, second, recorder) = stage.leader_and_standby(first, second);
    let lease = stage.lease().expect("is there");
    let before = token(&first.status());
    first.connect().post(STEP_DOWN, &json!({})).expect("answers");
    let after = token(&second.wait_leader(SOON));

    let mut expected = vec![
        format!("a became leader (lease it, fencing token {before})"),
        format!("a stopped leading: this pod steps down on request (lease it, fencing token {before})"),
        format!("b became leader (lease it, fencing token {after})"),
    ];
    assert_eq!(wait_messages(&stage, 3), expected);
    wait_until("the Pods' Events", SOON, || events(&stage, "Pod").len() >= 3);
    let of_pods = events(&stage, "Pod");
    expected.sort();
    assert_eq!(messages(&stage, "Pod"), expected);
    for (event, pod) in of_pods.iter().zip([0, 0, 1]) {
        assert_eq!(event["involvedObject"]["uid"], uids[pod].as_str());
    }
    for event in events(&stage, "Lease") {
        assert_eq!(event["involvedObject"]["uid"], lease["metadata"]["uid"]);
        assert_eq!((&event["reason"], &event["type"]), (&json!("LeaderElection"), &json!("Normal")));
        assert_eq!((&event["source"]["component"], &event["count"]), (&json!("leasehold"), &json!(1)));
        assert_eq!(event["reportingComponent"], "leasehold");
    }

    // As an operator looks for them.
    let kubectl = |arguments: &[&str]| shared().run_kubectl(&[arguments, &["-n", &stage.namespace]].concat());
    for (kind, name, told) in [("lease", LEASE, "b became leader"), ("pod", "a", "a stopped leading: this pod steps")] {
        let described = kubectl(&["describe", kind, name]);
        assert!(described.contains("LeaderElection") && described.contains(told), "{described}");
    }
    let listed = kubectl(&["get", "events", "--field-selector=reason=LeaderElection"]);
    assert_eq!(listed.lines().filter(|line| line.contains("leader")).count(), 4, "{listed}");
    assert_eq!([&first, &second].map(|pod| pod.metric("leasehold_api_requests_total", &POSTS)), [4.0, 2.0]);
    recorder.assert_no_overlap();
}

#[test]
fn why_a_term_ended_is_told() {
    let stage = stage(shared(), "why");
    let uid = stage.create_pod("a");
    let pod = told(&stage, stage.pod("a"), &uid).argument("--trust-unheld").start();
    let mut count = 0;
    let mut next = || {
        count += 2;
        wait_messages(&stage, count).swap_remove(count - 1)
    };
    pod.wait_leader(SOON);
    let uid = stage.lease().expect("is there")["metadata"]["uid"].clone();
    stage.delete();
    let told = next();
    assert!(told.starts_with("a stopped leading: the Lease was deleted (lease it, fencing token "), "{told}");
    assert_eq!(events(&stage, "Lease")[1]["involvedObject"]["uid"], uid);

    pod.wait_leader(SOON);
    stage.patch_spec(json!({"holderIdentity": "other_1", "leaseDurationSeconds": 1}));
    assert!(next().contains("another holder appeared in the lease"));

    pod.wait_leader(SOON);
    pod.connect().post(STEP_DOWN, &json!({})).expect("answers");
    assert!(next().contains("this pod steps down on request"));
}

#[test]
fn a_sidecar_ends_when_the_end_of_its_term_is_told() {
    let stage = stage(shared(), "ends");
    let pod = stage.slow_pod("a").flag("--on-sigterm", "release");
    let mut pod = told(&stage, pod, &stage.create_pod("a")).start();
    pod.wait_leader(SOON);
    wait_until("the Pod's Event", SOON, || messages(&stage, "Pod").len() == 1);
    // The release is written long before that.
    pod.sigterm();
    assert!(pod.wait(SOON).success());
    // There is nobody left to tell it later.
    for kind in ["Lease", "Pod"] {
        let all = messages(&stage, kind);
        assert_eq!(all.len(), 2, "{all:#?}");
        assert!(all[1].starts_with("a stopped leading: this sidecar is ending"), "{all:#?}");
    }
}

#[test]
fn who_never_led_tells_nothing_and_a_killed_leader_s_end_is_told_by_nobody() {
    let stage = stage(shared(), "never");
    let pod = |name| told(&stage, stage.slow_pod(name), &stage.create_pod(name));
    let (mut first, mut second, _recorder) = stage.leader_and_standby(pod("a"), pod("b"));
    let mut tokens = vec![token(&first.status())];
    for number in 1..3 {
        wait_messages(&stage, number);
        first.kill9();
        first.restart();
        tokens.push(token(&first.wait_leader(SOON)));
    }
    wait_messages(&stage, 3);
    second.sigterm();
    assert!(second.wait(SOON).success());
    first.sigterm();
    assert!(first.wait(SOON).success());
    let mut expected: Vec<_> =
        tokens.iter().map(|token| format!("a became leader (lease it, fencing token {token})")).collect();
    expected.push(format!("a stopped leading: this sidecar is ending (lease it, fencing token {})", tokens[2]));
    assert_eq!(messages(&stage, "Lease"), expected);
}

#[test]
fn a_flapping_election_is_told_of_ten_times_and_no_more() {
    let stage = stage(shared(), "flapping");
    let pod = told(&stage, stage.slow_pod("a"), &stage.create_pod("a")).argument("--trust-unheld").start();
    let mut last = token(&pod.wait_leader(SOON));
    for _ in 0..10 {
        stage.patch_spec(json!({"holderIdentity": ""}));
        let status = pod.wait_status("leader again", SOON, |status| status["fencing_token"].as_u64() > Some(last));
        last = token(&status);
    }
    // Slow enough for all that goes before to be told.
    two_terms(&pod);
    assert_eq!((messages(&stage, "Lease").len(), messages(&stage, "Pod").len()), (10, 10));
    assert_eq!(pod.metric("leasehold_leadership_changes_total", &[]), 23.0);
    assert_eq!(pod.metric("leasehold_api_requests_total", &POSTS), 20.0);
}

/// Has it lead, step down and lead again.
fn two_terms(pod: &Sidecar) {
    let before = token(&pod.wait_leader(SOON));
    pod.connect().post(STEP_DOWN, &json!({})).expect("answers");
    pod.wait_status("leader again", SOON, |status| status["fencing_token"].as_u64() > Some(before));
}

#[test]
fn without_the_right_one_request_is_made_and_nobody_is_bothered() {
    let stage = Stage::released(shared(), "no-right");
    let pod = told(&stage, stage.slow_pod("a"), &stage.create_pod("a")).start();
    two_terms(&pod);
    assert_eq!(pod.metric("leasehold_api_requests_total", &[POSTS[0], "code=\"403\""]), 1.0);
    assert_eq!(pod.metric("leasehold_api_requests_total", &POSTS), 1.0);
    assert_eq!(pod.warnings(), Vec::<String>::new());
    assert_eq!(pod.count_log(&["cannot post an Event", "DEBUG"]), 1);
}

#[test]
fn nothing_is_told_where_events_are_off() {
    let stage = stage(shared(), "off");
    let pod = told(&stage, stage.slow_pod("a"), &stage.create_pod("a")).flag("--events", "off").start();
    two_terms(&pod);
    assert_eq!(pod.metric("leasehold_api_requests_total", &POSTS), 0.0);
}

#[test]
fn a_pod_that_does_not_know_its_uid_tells_it_of_the_lease_alone() {
    let stage = stage(shared(), "no-uid");
    let pod = stage.slow_pod("a").env("POD_UID", "").start();
    two_terms(&pod);
    wait_messages(&stage, 3);
    // As many answers as Events of the Lease, and none for the Pod before the last of them.
    wait_until("the answers", SOON, || pod.metric("leasehold_api_requests_total", &POSTS) == 3.0);
    assert_eq!(messages(&stage, "Pod"), Vec::<String>::new());
}

#[test]
fn a_term_that_ends_without_the_api_server_is_told_of_later_with_the_time_when_it_ended() {
    let stage = stage(shared(), "away");
    let link = Proxy::start(shared().address());
    let uid = stage.create_pod("a");
    let pod = told(&stage, stage.pod_over("a", Some(link.address())), &uid).start();
    pod.wait_leader(SOON);
    wait_messages(&stage, 1);
    link.cut();
    pod.wait_not_leader(SOON);

    let ended = SystemClock.wall();
    // Longer than the time of an Event is exact.
    let since = clock::now();
    wait_until("two seconds to pass", SOON, || clock::now() - since > Duration::from_secs(2));
    link.heal();
    let messages = wait_messages(&stage, 2);
    assert!(messages[1].contains("no renewal succeeded within the renew deadline"), "{messages:#?}");
    let told = events(&stage, "Lease")[1]["lastTimestamp"].as_str().and_then(|time| time.parse().ok());
    let told: jiff::Timestamp = told.expect("a time");
    assert!(told <= ended && ended.duration_since(told).as_secs() <= 2, "ended {ended}, told {told}");
}

#[test]
fn an_event_whose_answer_was_lost_is_there_once() {
    let stage = Stage::released(shared(), "once");
    let front = Front::open(shared());
    let first = AtomicBool::new(true);
    front.set(move |request| match request.method.as_str() {
        // The API server has it, and the pod is told otherwise.
        "POST" if first.swap(false, Ordering::SeqCst) => {
            Act::PassAndThen(Box::new(Act::status(500, "InternalError", "oh")))
        }
        _ => Act::Pass,
    });
    let pod = Sidecar::of(LEASE, &stage.namespace, &front.kubeconfig(), "a").start();
    two_terms(&pod);
    let messages = wait_messages(&stage, 3);
    assert!(messages.iter().all(|message| !message.contains("not told")), "{messages:#?}");
    let posts = |code: &str| pod.metric("leasehold_api_requests_total", &[POSTS[0], code]);
    assert_eq!([posts("code=\"500\""), posts("code=\"409\""), posts("code=\"201\"")], [1.0, 1.0, 2.0]);
}

#[test]
fn an_api_server_that_is_slow_with_events_costs_the_election_neither_time_nor_its_connection() {
    let control_plane = ControlPlane::start();
    // It is asked about each Event, and does not answer.
    let slow = TcpListener::bind("127.0.0.1:0").expect("a port");
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "slow"},
        "webhooks": [{
            "name": "slow.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "timeoutSeconds": 30,
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["events"]}],
            "clientConfig": {"url": format!("https://{}/", slow.local_addr().expect("an address"))},
        }],
    });
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let answer = control_plane.api("POST", path, Some(&webhook)).expect("the API server answers");
    assert_eq!(answer.status, 201, "{answer:?}");
    let stage = stage(&control_plane, "slow");
    let link = Proxy::start(control_plane.address());
    let pod = told(&stage, stage.pod_over("a", Some(link.address())), &stage.create_pod("a")).start();
    let before = token(&pod.wait_leader(SOON));
    let recorder = Recorder::start([&pod]);
    let connections = link.connections();
    pod.wait_requests("create", "timeout", 2, Duration::from_secs(30));
    assert_eq!(token(&pod.status()), before);
    assert_eq!(link.connections(), connections, "it gave its connection up");
    assert_eq!(pod.warnings(), Vec::<String>::new());
    recorder.assert_no_overlap();
}
