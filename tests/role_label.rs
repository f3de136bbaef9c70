//! The label `leasehold.dev/role` of a pod, on a real API server: it follows who leads, through restarts, kills and an
//! API server that is away, and where it cannot, leadership is none the worse.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use support::clock::{self, wait_until};
use support::control_plane::{SIDECAR, shared};
use support::front::{Act, Front};
use support::http::Stream;
use support::proxy::Proxy;
use support::sidecar::{Builder, Sidecar};
use support::stage::{LEASE, SOON, Stage, token};

const STEP_DOWN: &str = "/v1/leases/it/stepdown";
const LABEL: &str = "leasehold.dev/role";

/// A stage whose pods may label pods, and no more.
fn stage(name: &str) -> Stage<'static> {
    let stage = Stage::released(shared(), name);
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]);
    shared().allow(&stage.namespace, SIDECAR, rules);
    stage
}

/// A pod that is there and is told who it is.
fn labelled(stage: &Stage, builder: Builder, name: &str) -> Builder {
    let uid = stage.create_pod(name);
    builder.argument("--role-label").env("POD_UID", &uid).env("POD_NAMESPACE", &stage.namespace)
}

fn pod_path(stage: &Stage, name: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{name}", stage.namespace)
}

fn labels(stage: &Stage, name: &str) -> Value {
    let answer = shared().api("GET", &pod_path(stage, name), None).expect("the API server answers");
    answer.json()["metadata"]["labels"].take()
}

fn label(stage: &Stage, name: &str) -> Option<String> {
    Some(labels(stage, name)[LABEL].as_str()?.to_owned())
}

#[track_caller]
fn wait_label(stage: &Stage, name: &str, role: &str) {
    wait_until(&format!("{name} to be labelled {role}"), SOON, || label(stage, name).as_deref() == Some(role));
}

/// What happens to the pods' labels, in the order in which it does.
struct Changes(Stream);

impl Changes {
    fn of(stage: &Stage) -> Self {
        let http = shared().connect().and_then(|http| http.with_timeout(SOON)).expect("the API server answers");
        let path = format!("/api/v1/namespaces/{}/pods?watch=1&resourceVersion=0", stage.namespace);
        Changes(http.stream(&path).expect("a watch"))
    }

    /// Each change of a label until `last` (pod and role) is seen.
    #[track_caller]
    fn until(mut self, last: [&str; 2]) -> Vec<[String; 2]> {
        let mut changes: Vec<[String; 2]> = Vec::new();
        while changes.last().is_none_or(|change| change != &last) {
            let line = self.0.next_line().expect("in time").expect("the watch goes on");
            let event: Value = serde_json::from_str(&line).expect("JSON");
            let metadata = &event["object"]["metadata"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let change = [text(&metadata["name"]), text(&metadata["labels"][LABEL])];
            let of_pod = changes.iter().rev().find(|known| known[0] == change[0]);
            if !change[1].is_empty() && of_pod != Some(&change) {
                changes.push(change);
            }
        }
        changes
    }
}

#[test]
fn the_label_follows_leadership_and_leaves_the_others_alone() {
    let stage = stage("follows");
    let pod = |name| labelled(&stage, stage.slow_pod(name), name);
    let (first, mut second, recorder) = stage.leader_and_standby(pod("a"), pod("b"));
    wait_label(&stage, "a", "leader");
    wait_label(&stage, "b", "standby");
    let changes = Changes::of(&stage);
    first.connect().post(STEP_DOWN, &json!({})).expect("answers");
    let changes = changes.until(["b", "leader"]);
    // At no time do two pods say it.
    let last: Vec<_> = changes.iter().rev().take(2).rev().map(|change| change.each_ref().map(String::as_str)).collect();
    assert_eq!(last, [["a", "standby"], ["b", "leader"]], "{changes:?}");
    second.sigterm();
    assert!(second.wait(SOON).success());
    // Before it ended: nobody would do it later.
    assert_eq!(label(&stage, "b").as_deref(), Some("standby"));
    wait_label(&stage, "a", "leader");
    assert_eq!(labels(&stage, "a"), json!({"app": "web", LABEL: "leader"}));
    // As a Service selects.
    let listed = shared().run_kubectl(&[
        "get",
        "pods",
        "-l",
        "app=web,leasehold.dev/role=leader",
        "-o",
        "name",
        "-n",
        &stage.namespace,
    ]);
    assert_eq!(listed, "pod/a\n");
    assert_eq!(first.warnings(), Vec::<String>::new());
    recorder.assert_no_overlap();
}

#[test]
fn a_sidecar_that_ends_while_it_is_being_labelled_leaves_no_leader_behind() {
    let stage = stage("ends");
    let front = Front::open(shared());
    // The lease is released at once, and the label that it had is answered later.
    front.set(|request| match request.body.contains("\"leader\"") {
        true => Act::PassAfter(Duration::from_millis(200)),
        false => Act::Pass,
    });
    let pod = Sidecar::of(LEASE, &stage.namespace, &front.kubeconfig(), "a").flag("--on-sigterm", "release");
    let mut pod = labelled(&stage, pod, "a").start();
    wait_label(&stage, "a", "leader");
    pod.sigterm();
    assert!(pod.wait(SOON).success());
    assert_eq!(stage.holder(), None);
    assert_eq!(label(&stage, "a").as_deref(), Some("standby"));
}

#[test]
fn what_a_killed_leader_left_is_put_right_by_the_next_sidecar_of_its_pod() {
    let stage = stage("killed");
    let pod = |name| labelled(&stage, stage.pod(name), name);
    let (mut first, _second, recorder) = stage.leader_and_standby(pod("a"), pod("b"));
    wait_label(&stage, "a", "leader");
    first.kill9();
    let killed = clock::now();
    recorder.wait_leader(killed, SOON, |pod| pod == "b");
    wait_label(&stage, "b", "leader");
    // Nobody is there to change it.
    assert_eq!(label(&stage, "a").as_deref(), Some("leader"));
    first.restart();
    wait_label(&stage, "a", "standby");
    assert_eq!(label(&stage, "b").as_deref(), Some("leader"));
}

#[test]
fn a_leader_that_is_cut_off_keeps_its_label_until_it_is_heard_again() {
    let stage = stage("cut-off");
    let link = Proxy::start(shared().address());
    let first = labelled(&stage, stage.pod_over("a", Some(link.address())), "a");
    let second = labelled(&stage, stage.pod("b"), "b");
    let (first, _second, recorder) = stage.leader_and_standby(first, second);
    wait_label(&stage, "a", "leader");
    link.cut();
    wait_label(&stage, "b", "leader");
    // Two endpoints of one Service; the app beside the first one is told the truth.
    assert_eq!(label(&stage, "a").as_deref(), Some("leader"));
    assert_eq!(first.get("/leader").status, 503);
    link.heal();
    wait_label(&stage, "a", "standby");
    assert_eq!(label(&stage, "b").as_deref(), Some("leader"));
    recorder.assert_no_overlap();
}

#[test]
fn a_missing_right_is_told_once_with_the_role_that_cures_it_and_nobody_waits() {
    let stage = Stage::released(shared(), "no-right");
    let pod = labelled(&stage, stage.slow_pod("a"), "a").start();
    let before = token(&pod.wait_leader(SOON));
    pod.wait_requests("patch", "403", 3, SOON);
    let warnings = pod.warnings();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.contains("--role-label") && warning.contains("cannot patch resource"), "{warning}");

    // What it says is applied as it stands, bound to the user that asked.
    let role = &warning[warning.find("apiVersion").expect("the Role")..];
    let file = shared().write_file("role.yaml", role);
    shared().run_kubectl(&["apply", "-f", &file.to_string_lossy()]);
    let binding = ["create", "rolebinding", "granted", "-n", &stage.namespace];
    let name = "--role=leasehold-role-label";
    shared().run_kubectl(&[&binding[..], &[name, &format!("--user={SIDECAR}")]].concat());
    wait_label(&stage, "a", "leader");
    wait_until("the log to say so", SOON, || pod.count_log(&["labelled again"]) == 1);
    assert_eq!(pod.warnings().len(), 1);
    assert_eq!(token(&pod.status()), before);
}

#[test]
fn a_pod_that_is_not_there_is_told_once_and_nobody_waits() {
    let stage = stage("absent");
    let pod = stage.slow_pod("a").argument("--role-label").env("POD_NAMESPACE", &stage.namespace).start();
    pod.wait_leader(SOON);
    pod.wait_requests("patch", "404", 3, SOON);
    let warnings = pod.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("finds no pod a in the namespace"), "{warnings:?}");
}

#[test]
fn a_label_that_is_right_is_not_stored_again() {
    let stage = stage("same");
    let version = || {
        let pod = shared().api("GET", &pod_path(&stage, "a"), None).expect("the API server answers").json();
        pod["metadata"]["resourceVersion"].clone()
    };
    let other = stage.slow_pod("other").start();
    other.wait_leader(SOON);
    let mut pod = labelled(&stage, stage.slow_pod("a"), "a").start();
    wait_label(&stage, "a", "standby");
    let before = version();
    pod.restart();
    pod.wait_requests("patch", "200", 1, SOON);
    assert_eq!(version(), before);
}

#[test]
fn another_pod_of_the_same_name_is_left_alone() {
    let stage = stage("another");
    let builder = labelled(&stage, stage.slow_pod("a"), "a");
    let path = format!("{}?gracePeriodSeconds=0", pod_path(&stage, "a"));
    assert_eq!(shared().api("DELETE", &path, None).expect("the API server answers").status, 200);
    stage.create_pod("a");
    let pod = builder.start();
    pod.wait_leader(SOON);
    wait_until("it to be refused", SOON, || {
        pod.metric("leasehold_api_requests_total", &["resource=\"pods\"", "code=\"4"]) >= 3.0
    });
    assert_eq!(labels(&stage, "a"), json!({"app": "web"}));
    let warnings = pod.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("the pod a is another one now"), "{warnings:?}");
}

#[test]
fn an_attempt_that_is_carried_out_late_does_not_have_the_last_word() {
    let stage = stage("late");
    let front = Front::open(shared());
    let first = AtomicBool::new(true);
    let late = Duration::from_secs(8);
    front.set(move |request| match request.method.as_str() {
        // It arrives when the pod has long given it up, and leads no more.
        "PATCH" if request.body.contains("\"leader\"") && first.swap(false, Ordering::SeqCst) => Act::PassLate(late),
        _ => Act::Pass,
    });
    let builder = Sidecar::of(LEASE, &stage.namespace, &front.kubeconfig(), "a").flag("--log-level", "debug");
    let pod = labelled(&stage, builder, "a").start();
    pod.wait_leader(SOON);
    pod.wait_requests("patch", "timeout", 1, SOON);
    // Another holds it from here on.
    stage.patch_spec(json!({"holderIdentity": "other_1"}));
    pod.wait_not_leader(SOON);
    wait_label(&stage, "a", "standby");
    Changes::of(&stage).until(["a", "leader"]);
    wait_label(&stage, "a", "standby");
}

#[test]
fn only_the_first_lease_counts() {
    let stage = stage("first-lease");
    shared().allow_lease(&stage.namespace, SIDECAR, "batch");
    let other = Sidecar::of(LEASE, &stage.namespace, &shared().kubeconfig_for(SIDECAR, None), "other").start();
    other.wait_leader(SOON);
    let pod = labelled(&stage, stage.slow_pod("a").argument("--lease=batch"), "a").start();
    wait_until("a to lead batch", SOON, || pod.get("/leader/batch").status == 200);
    wait_label(&stage, "a", "standby");
    assert_eq!(pod.metric("leasehold_api_requests_total", &["resource=\"pods\""]), 1.0);
}
