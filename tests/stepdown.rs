//! `leasehold stepdown`: somebody at a workstation has the leader hand over, and is told who leads then, or why nobody
//! else does.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use support::clock::{self, wait_until};
use support::control_plane::{ADMIN, OTHER, Port, shared};
use support::proxy::Proxy;
use support::sidecar::binary;
use support::stage::{LEASE, SOON, Stage};

const STEP_DOWN: &str = "leasehold.dev/step-down";
const TOKEN: &str = "leasehold.dev/token";

/// What a run of the command came to.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    said: String,
    complained: String,
}

impl Ended {
    #[track_caller]
    fn assert(&self, code: i32, text: &str) {
        let (wanted, other) = if code == 0 { (&self.said, &self.complained) } else { (&self.complained, &self.said) };
        assert!(self.code == Some(code) && wanted.contains(text) && other.is_empty(), "{code} {text:?}: {self:?}");
    }
}

/// `leasehold stepdown it ARGUMENTS`, with this kubeconfig.
fn run(kubeconfig: &Path, arguments: &[&str]) -> Ended {
    let output = Command::new(binary())
        .args(["stepdown", LEASE])
        .args(arguments)
        .env_clear()
        .env("KUBECONFIG", kubeconfig)
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Ended { code: output.status.code(), said: text(&output.stdout), complained: text(&output.stderr) }
}

/// The same as an admin, in a stage's namespace.
fn ask(stage: &Stage, arguments: &[&str]) -> Ended {
    run(&shared().kubeconfig(), &[&["-n", &stage.namespace], arguments].concat())
}

// --- Without any pod: the test itself writes what an election would ---

/// A Lease that `a` holds under token 7.
fn held(name: &str) -> Stage<'static> {
    let stage = Stage::new(shared(), name);
    stage.create(
        json!({"annotations": {TOKEN: "7"}}),
        json!({"holderIdentity": "a_1", "leaseDurationSeconds": 60, "leaseTransitions": 2}),
    );
    stage
}

/// Asks, and answers for the election by `patch` as soon as the request `asked` is there.
fn answered(stage: &Stage, arguments: &[&str], asked: &str, patch: serde_json::Value) -> Ended {
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| ask(stage, arguments));
        wait_until("the request", SOON, || stage.annotation(STEP_DOWN).as_deref() == Some(asked));
        stage.patch(patch);
        ended.join().expect("does not panic")
    })
}

fn taken(holder: &str, token: &str) -> serde_json::Value {
    let annotations = json!({TOKEN: token, STEP_DOWN: null});
    json!({"metadata": {"annotations": annotations}, "spec": {"holderIdentity": holder, "leaseTransitions": 3}})
}

#[test]
fn who_leads_then_is_told_and_whether_that_is_who_was_meant() {
    let stage = held("taken");
    answered(&stage, &[], "7", taken("b_1", "9")).assert(0, "b leads now (fencing token 9, transitions 3); before: a");
    answered(&stage, &["--to", "c.x"], "9/c.x", taken("c.x_1", "11")).assert(0, "c.x leads now (fencing token 11,");
    answered(&stage, &["--to", "b"], "11/b", taken("a_2", "13"))
        .assert(1, "a leads now (fencing token 13, transitions 3), and not b; before: c.x");
    answered(&stage, &[], "13", taken("a_3", "15"))
        .assert(1, "a leads now (fencing token 15, transitions 3): nobody else took the lease");
    // client-go leaves the token of a former term; a name of another elector may hold anything.
    let foreign = json!({"spec": {"holderIdentity": "\u{1b}[31mx", "leaseTransitions": 4}});
    answered(&stage, &[], "15", foreign)
        .assert(0, r"\u{1b}[31mx holds it now, not by leasehold (no fencing token, transitions 4); before: a");
}

#[test]
fn a_request_that_nobody_obeys_stands_and_can_be_taken_back_as_is_said() {
    let stage = held("not-obeyed");
    let ended = ask(&stage, &["--timeout=300ms"]);
    ended.assert(1, "a has not handed the Lease it over within 300ms");
    assert_eq!(stage.annotation(STEP_DOWN).as_deref(), Some("7"));
    let command = ended.complained.split('`').nth(1).expect("a command").trim_start_matches("kubectl ");
    shared().run_kubectl(&command.split(' ').collect::<Vec<_>>());
    assert_eq!(stage.annotation(STEP_DOWN), None);
}

#[test]
fn a_lease_that_nobody_takes_in_time_is_told_as_what_it_is() {
    let stage = held("nobody");
    let released = json!({"spec": {"holderIdentity": ""}});
    answered(&stage, &["--timeout=2s"], "7", released)
        .assert(1, "a stepped down, and nobody took the Lease it within 2s");

    let stage = held("deleted-meanwhile");
    let ended = std::thread::scope(|scope| {
        let ended = scope.spawn(|| ask(&stage, &["--timeout=2s"]));
        wait_until("the request", SOON, || stage.annotation(STEP_DOWN).is_some());
        stage.delete();
        ended.join().expect("does not panic")
    });
    ended.assert(1, "was deleted after a was asked to step down");
}

#[test]
fn whoever_cannot_be_asked_is_left_alone_and_the_reason_is_said() {
    let refused = |stage: &Stage, arguments: &[&str], text: &str| {
        let before = stage.lease();
        ask(stage, arguments).assert(1, text);
        assert_eq!(stage.lease(), before, "nothing is written");
    };
    let absent = Stage::new(shared(), "absent");
    refused(&absent, &[], &format!("there is no Lease it in the namespace {}", absent.namespace));
    refused(&Stage::released(shared(), "unheld"), &[], "nobody holds the Lease it");
    refused(&held("itself"), &["--to=a"], "a holds the Lease it already");
    for token in [json!(null), json!("seven")] {
        let stage = held("foreign");
        stage.patch(json!({"metadata": {"annotations": {TOKEN: token}}}));
        refused(&stage, &[], "not by leasehold, which would have left the annotation leasehold.dev/token");
    }
}

#[test]
fn the_namespace_is_that_of_the_context_and_contexts_are_chosen_by_name() {
    let stage = held("context");
    let kubeconfig = shared().kubeconfig_edited(|config| {
        let mut elsewhere = config["contexts"][0].clone();
        elsewhere["name"] = json!("elsewhere");
        config["contexts"][0]["context"]["namespace"] = json!(stage.namespace);
        config["contexts"].as_array_mut().expect("a list").push(elsewhere);
    });
    run(&kubeconfig, &["--to=a"]).assert(1, "a holds the Lease it already");
    run(&kubeconfig, &["--to=a", "--context=elsewhere"]).assert(1, "in the namespace default");
    run(&kubeconfig, &["--context=nowhere"]).assert(64, "nowhere");
}

#[test]
fn wrong_usage_exits_64_with_a_sentence_for_each_fault() {
    let nowhere = Path::new("/nonexistent/kubeconfig");
    let ended = run(nowhere, &["--to=Web_0", "-n=a.b"]);
    ended.assert(64, "--to \"Web_0\" is no name of a pod");
    ended.assert(64, "the namespace \"a.b\" is no namespace");
    run(nowhere, &["another"]).assert(64, "another");
    run(nowhere, &["--timeout=30"]).assert(64, "is no duration");
    run(nowhere, &["--kubeconfig=/nonexistent/other"]).assert(64, "/nonexistent/other");
    let bad_name = Command::new(binary()).args(["stepdown", "No"]).output().expect("the binary runs");
    assert_eq!(bad_name.status.code(), Some(64));
}

#[test]
fn a_missing_permission_is_told_as_the_role_that_grants_it() {
    let stage = held("forbidden");
    let kubeconfig = shared().kubeconfig_for(OTHER, None);
    let asked = |arguments: &[&str]| run(&kubeconfig, &[&["-n", &stage.namespace, "--timeout=1s"], arguments].concat());
    asked(&[]).assert(2, "cannot get resource");
    shared().allow(
        &stage.namespace,
        OTHER,
        json!([{
            "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [LEASE], "verbs": ["get"],
        }]),
    );
    let ended = asked(&[]);
    ended.assert(2, "cannot patch resource");

    // What it says is applied as it stands, bound to who asked.
    let role = &ended.complained[ended.complained.find("apiVersion").expect("the Role")..];
    let file = shared().write_file("role.yaml", role);
    shared().run_kubectl(&["apply", "-f", &file.to_string_lossy()]);
    let namespace = ["-n", stage.namespace.as_str()];
    shared().run_kubectl(
        &[&["create", "rolebinding", "granted", "--role=leasehold-stepdown-it", "--user=other"][..], &namespace]
            .concat(),
    );
    wait_until("the role to count", SOON, || asked(&[]).complained.contains("has not handed the Lease it over"));
}

#[test]
fn an_api_server_that_cannot_be_reached_leaves_it_open_what_became_of_the_request() {
    let nobody = Port::reserve();
    let kubeconfig = shared().kubeconfig_for(ADMIN, Some(nobody.address()));
    run(&kubeconfig, &["--timeout=1s"]).assert(2, "cannot read the Lease it: the API server cannot be reached");

    let stage = held("cut");
    let link = Proxy::start(shared().address());
    let kubeconfig = shared().kubeconfig_for(ADMIN, Some(link.address()));
    let ended = std::thread::scope(|scope| {
        let ended = scope.spawn(|| run(&kubeconfig, &["--timeout=2s", "-n", &stage.namespace]));
        wait_until("the request", SOON, || stage.annotation(STEP_DOWN).is_some());
        link.silence();
        ended.join().expect("does not panic")
    });
    ended.assert(2, "a was asked to step down, and what became of it cannot be read");
}

#[test]
fn a_link_that_breaks_while_waiting_is_tried_again() {
    let stage = held("broken");
    let link = Proxy::start(shared().address());
    let kubeconfig = shared().kubeconfig_for(ADMIN, Some(link.address()));
    let ended = std::thread::scope(|scope| {
        let ended = scope.spawn(|| run(&kubeconfig, &["-n", &stage.namespace]));
        wait_until("the request", SOON, || stage.annotation(STEP_DOWN).is_some());
        link.cut();
        let cut = clock::now();
        wait_until("some looks to fail", SOON, || clock::now() - cut > Duration::from_millis(500));
        link.heal();
        stage.patch(taken("b_1", "9"));
        ended.join().expect("does not panic")
    });
    ended.assert(0, "b leads now (fencing token 9, transitions 3); before: a");
}
