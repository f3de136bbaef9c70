//! `leasehold stepdown`: somebody at a workstation has the leader hand over, and is told who leads then, or why nobody
//! else does. The request is an annotation, which kubectl writes as well.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use support::clock::{self, wait_until};
use support::control_plane::{ADMIN, OTHER, Port, shared};
use support::front::{Act, Front};
use support::recorder::Recorder;
use support::sidecar::{Sidecar, binary};
use support::stage::{LEASE, SOON, Stage, token};

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
        .assert(1, "a leads again (fencing token 15, transitions 3): nobody else took the lease");
    // client-go leaves the token of a former term; a name of another elector may hold anything.
    let foreign = json!({"spec": {"holderIdentity": "\u{1b}[31mx", "leaseTransitions": 4}});
    answered(&stage, &[], "15", foreign)
        .assert(0, r"\u{1b}[31mx leads now (not by leasehold: no fencing token, transitions 4); before: a");
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
    answered(&stage, &["--timeout=5s"], "7", released)
        .assert(1, "a stepped down, and nobody took the Lease it within 5s");

    let stage = held("deleted-meanwhile");
    let ended = std::thread::scope(|scope| {
        let ended = scope.spawn(|| ask(&stage, &["--timeout=5s"]));
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

    let stage = held("silent");
    let front = Front::open(shared());
    front.set(|request| if request.number < 2 { Act::Pass } else { Act::Silence });
    run(&front.kubeconfig(), &["-n", &stage.namespace, "--timeout=1s"])
        .assert(2, "a was asked to step down, and what became of it cannot be read");
    assert_eq!(stage.annotation(STEP_DOWN).as_deref(), Some("7"));
}

#[test]
fn what_the_api_server_fails_at_meanwhile_changes_nothing() {
    let stage = held("errors");
    let front = Front::open(shared());
    let failure = || Act::status(500, "InternalError", "etcd has no leader");
    // The request had its effect, and nobody heard so; nor of the next looks.
    front.set(move |request| match request.number {
        1 => Act::PassAndThen(Box::new(failure())),
        2..=5 => failure(),
        _ => Act::Pass,
    });
    let ended = std::thread::scope(|scope| {
        let ended = scope.spawn(|| run(&front.kubeconfig(), &["-n", &stage.namespace]));
        wait_until("the request", SOON, || stage.annotation(STEP_DOWN).is_some());
        stage.patch(taken("b_1", "9"));
        ended.join().expect("does not panic")
    });
    ended.assert(0, "b leads now (fencing token 9, transitions 3); before: a");
    assert_eq!(front.requests()[1].method, "PATCH");
}

#[test]
fn a_request_that_never_arrived_is_told_from_one_that_nobody_obeys() {
    let stage = held("lost");
    let front = Front::open(shared());
    front.set(|request| match request.method.as_str() {
        "PATCH" => Act::status(500, "InternalError", "etcd has no leader"),
        _ => Act::Pass,
    });
    run(&front.kubeconfig(), &["-n", &stage.namespace, "--timeout=1s"])
        .assert(1, "a leads on: the request to step down is not on the Lease it");
}

// --- With pods ---

/// Three pods, of which the first leads, and who records them all.
struct Pods {
    stage: Stage<'static>,
    pods: Vec<Sidecar>,
    recorder: Recorder,
}

impl Pods {
    fn start(name: &str) -> Self {
        let stage = Stage::released(shared(), name);
        let pod = |name: &str| stage.slow_pod(name).flag("--answer-ttl", "200ms");
        let (first, second, mut recorder) = stage.leader_and_standby(pod("a"), pod("b"));
        let third = pod("c").start();
        third.wait_status("a standby", SOON, |status| status["holder"] == "a");
        recorder.watch(&third);
        Self { stage, pods: vec![first, second, third], recorder }
    }

    /// Asks by the command, which must say that the lease went to one of `to`, and that is who leads.
    #[track_caller]
    fn goes_to(&self, to: &[&str], before: &str, ended: &Ended) -> &Sidecar {
        let leader = self.pods.iter().find(|pod| ended.said.starts_with(&format!("{} leads now", pod.pod())));
        let leader = leader.unwrap_or_else(|| panic!("{ended:?}"));
        assert!(to.contains(&leader.pod()), "{ended:?}");
        let status = leader.wait_leader(SOON);
        let (token, transitions) = (token(&status), &status["transitions"]);
        let name = leader.pod();
        ended.assert(
            0,
            &format!("{name} leads now (fencing token {token}, transitions {transitions}); before: {before}"),
        );
        assert_eq!(self.stage.annotation(STEP_DOWN), None, "the take-over removes the request");
        leader
    }

    fn annotate(&self, request: &str) {
        let annotation = format!("{STEP_DOWN}={request}");
        shared().run_kubectl(&["annotate", "lease", LEASE, "--overwrite", &annotation, "-n", &self.stage.namespace]);
    }

    fn token(&self) -> u64 {
        self.stage.annotation(TOKEN).and_then(|token| token.parse().ok()).expect("a token")
    }

    /// Two renewals pass, and nothing else does.
    #[track_caller]
    fn assert_nothing_happens(&self, leader: &str) {
        let before = self.token();
        for _ in 0..2 {
            let renewed = self.stage.spec()["renewTime"].clone();
            wait_until("a renewal", SOON, || self.stage.spec()["renewTime"] != renewed);
        }
        assert_eq!((self.stage.holder().as_deref(), self.token()), (Some(leader), before));
    }
}

#[test]
fn a_leader_hands_over_when_it_is_asked_by_the_command() {
    let pods = Pods::start("by-command");
    let ended = ask(&pods.stage, &[]);
    pods.goes_to(&["b", "c"], "a", &ended);
    pods.recorder.assert_no_overlap();
}

#[test]
fn the_pod_that_is_named_is_the_next_to_lead() {
    let pods = Pods::start("named");
    let mut before = "a".to_owned();
    let mut missed = 0;
    // The others, having just stepped down, hold off, and so would the named one, were it not named. Its 20 ms of head
    // start decide where nobody holds off: on a machine that stalls they are not enough.
    for to in ["c", "b", "c", "a", "b", "c", "a", "c", "b", "a"] {
        loop {
            let ended = ask(&pods.stage, &["--to", to]);
            if ended.code == Some(0) {
                pods.goes_to(&[to], &before, &ended);
                before = to.to_owned();
                break;
            }
            missed += 1;
            assert!(missed <= 3, "{ended:?}");
            ended.assert(1, &format!("and not {to}; before: {before}"));
            before = pods.stage.holder().expect("another took it");
        }
    }
    pods.recorder.assert_no_overlap();
}

#[test]
fn a_leader_hands_over_when_the_annotation_is_written_by_kubectl() {
    let pods = Pods::start("by-kubectl");
    let (first, asked) = (pods.token(), clock::now());
    pods.annotate(&first.to_string());
    let turn = pods.recorder.wait_leader(asked, SOON, |pod| pod != "a");
    assert!(turn.token.is_some_and(|token| token > first), "{turn}");

    let (second, asked) = (pods.token(), clock::now());
    pods.annotate(&format!("{second}/a"));
    pods.recorder.wait_leader(asked, SOON, |pod| pod != turn.pod);
    pods.recorder.assert_no_overlap();
}

#[test]
fn a_request_that_speaks_of_another_term_or_names_the_leader_or_makes_no_sense_does_nothing() {
    let pods = Pods::start("nothing");
    let token = pods.token();
    for request in [format!("{}", token - 1), format!("{}/b", token + 1), format!("{token}/a"), format!("{token}/")] {
        pods.annotate(&request);
        pods.assert_nothing_happens("a");
    }
    ask(&pods.stage, &["--to=a"]).assert(1, "a holds the Lease it already");
    pods.assert_nothing_happens("a");
    pods.recorder.assert_no_overlap();
}

#[test]
fn a_pod_that_does_not_exist_is_waited_for_by_nobody() {
    let pods = Pods::start("ghost");
    let before = pods.token();
    let ended = ask(&pods.stage, &["--to=ghost"]);
    let next = pods.stage.holder().expect("somebody took it");
    assert!(["b", "c"].contains(&next.as_str()), "{next}");
    let token = pods.token();
    assert!(token > before);
    ended.assert(1, &format!("{next} leads now (fencing token {token}, transitions 3), and not ghost; before: a"));
    pods.recorder.assert_no_overlap();
}

#[test]
fn a_lone_replica_leads_again_when_it_has_left_time_to_others_and_that_is_said() {
    let stage = Stage::released(shared(), "lone");
    let pod = stage.slow_pod("a").start();
    let before = token(&pod.wait_leader(SOON));
    let recorder = Recorder::start([&pod]);
    let asked = clock::now();
    let ended = ask(&stage, &[]);
    assert!(clock::now() - asked > Duration::from_secs(2), "the hold-off");
    let again = token(&pod.wait_leader(SOON));
    assert!(again > before);
    ended.assert(1, &format!("a leads again (fencing token {again}, transitions 3): nobody else took the lease"));
    recorder.assert_no_overlap();
}

#[test]
fn a_leader_that_is_frozen_obeys_when_it_goes_on() {
    let pods = Pods::start("frozen");
    pods.pods[0].sigstop();
    ask(&pods.stage, &["--timeout=500ms"]).assert(1, "a has not handed the Lease it over within 500ms");
    let thawed = clock::now();
    pods.pods[0].sigcont();
    pods.recorder.wait_leader(thawed, SOON, |pod| pod != "a");
    pods.recorder.assert_no_overlap();
}
