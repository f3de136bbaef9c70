//! What the sidecar needs to be allowed: five verbs on one name. What is missing is said once, as the Role to apply,
//! and what is granted later works without a restart. Credentials that change are read again.

mod support;

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use support::clock::wait_until;
use support::control_plane::{SIDECAR, shared};
use support::front::{Act, Front};
use support::recorder::Recorder;
use support::sidecar::Sidecar;
use support::stage::{LEASE, QUICK, SOON, Stage, token};

const VERBS: [&str; 5] = ["get", "list", "watch", "update", "create"];
/// What a Role in a log line looks like.
const ROLE: &str = "kind: Role";

#[test]
fn five_verbs_on_one_name_are_enough_from_nothing_to_a_hand_over() {
    // A stage's pods are allowed just that.
    let stage = Stage::new(shared(), "enough");
    let (mut first, second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    first.sigterm();
    second.wait_leader(SOON);
    assert!(first.wait(SOON).success());
    assert_eq!(first.warnings(), Vec::<String>::new());
    assert_eq!(second.warnings(), Vec::<String>::new());
    recorder.assert_no_overlap();
}

/// A pod that may do all but `verb`, on a Lease that exists unless it is to be created.
fn pod_without(verb: &str) -> (Sidecar, String) {
    let control_plane = shared();
    let namespace = control_plane.namespace(&format!("without-{verb}"));
    let allowed: Vec<_> = VERBS.into_iter().filter(|other| *other != verb).collect();
    allow(&namespace, &allowed);
    let stage = Stage { control_plane, namespace };
    if verb != "create" {
        stage.create_released();
    }
    (stage.pod("a").start(), stage.namespace)
}

fn allow(namespace: &str, verbs: &[&str]) {
    let rules = json!([{
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [LEASE], "verbs": verbs,
    }]);
    shared().allow(namespace, SIDECAR, rules);
}

/// Refused again and again, it says so once, with the Role; and that Role, applied, is the cure.
fn is_told_once(pod: &Sidecar, namespace: &str, verb: &str) {
    pod.wait_requests(verb, "403", 4, SOON);
    assert_eq!(pod.count_log(&[ROLE]), 1, "{:?}", pod.warnings());
    let warnings = pod.warnings();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.contains(&format!("cannot {verb} resource")), "{warning}");

    // What it says is applied as it stands, bound to the user that asked.
    let role = &warning[warning.find("apiVersion").expect("the Role")..];
    let file = shared().write_file("role.yaml", role);
    shared().run_kubectl(&["apply", "-f", &file.to_string_lossy()]);
    let name = format!("leasehold-{LEASE}");
    let binding = ["create", "rolebinding", "granted", "-n", namespace];
    shared().run_kubectl(&[&binding[..], &[&format!("--role={name}"), &format!("--user={SIDECAR}")]].concat());
}

#[test]
fn without_list_the_role_is_told_once_and_it_leads_when_granted() {
    let (pod, namespace) = pod_without("list");
    is_told_once(&pod, &namespace, "list");
    pod.wait_leader(SOON);
}

#[test]
fn without_create_the_role_is_told_once_and_it_leads_when_granted() {
    let (pod, namespace) = pod_without("create");
    is_told_once(&pod, &namespace, "create");
    pod.wait_leader(SOON);
}

#[test]
fn without_update_the_role_is_told_once_and_it_leads_when_granted() {
    let (pod, namespace) = pod_without("update");
    is_told_once(&pod, &namespace, "update");
    pod.wait_leader(SOON);
}

#[test]
fn without_watch_it_polls_and_leads_and_the_role_is_told_once() {
    let (pod, namespace) = pod_without("watch");
    let before = token(&pod.wait_leader(SOON));
    is_told_once(&pod, &namespace, "watch");
    pod.wait_requests("watch", "200", 1, SOON);
    assert_eq!(token(&pod.status()), before);
}

#[test]
fn without_get_it_leads_and_the_role_is_told_once_a_conflict_must_be_looked_into() {
    let (pod, namespace) = pod_without("get");
    pod.wait_leader(SOON);
    drop(pod);
    // Conflicts that the watch does not explain, which real ones seldom are.
    let front = Front::open_as(shared(), SIDECAR);
    let [lease, deadline, interval, retry] = QUICK;
    let pod = Sidecar::of(LEASE, &namespace, &front.kubeconfig(), "b").times(lease, deadline, interval, retry).start();
    pod.wait_leader(SOON);
    front.set(|request| match request.is_write() {
        true => Act::status(409, "Conflict", "the object has been modified"),
        false => Act::Pass,
    });
    pod.wait_requests("get", "403", 1, SOON);
    assert_eq!(pod.count_log(&[ROLE]), 1, "{:?}", pod.warnings());
}

#[test]
fn a_namespace_that_does_not_exist_is_told_once() {
    let kubeconfig = shared().kubeconfig();
    let [lease, deadline, interval, retry] = QUICK;
    let pod = Sidecar::of(LEASE, "absent", &kubeconfig, "a").times(lease, deadline, interval, retry).start();
    pod.wait_requests("create", "404", 3, SOON);
    let warnings = pod.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("no namespace absent"), "{warnings:?}");
}

#[test]
fn a_namespace_that_is_being_deleted_is_told_once_and_not_as_a_missing_role() {
    let stage = Stage::new(shared(), "terminating");
    // No controller runs that would finish it.
    let path = format!("/api/v1/namespaces/{}", stage.namespace);
    assert_eq!(shared().api("DELETE", &path, None).expect("answers").status, 200);
    let pod = stage.pod("a").start();
    pod.wait_requests("create", "403", 3, SOON);
    let warnings = pod.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("is being deleted") && !warnings[0].contains(ROLE), "{warnings:?}");
}

// --- Service account tokens, as the kubelet rotates them ---

/// A service account with rights on the Lease, whose tokens live as long as the Secret that each is bound to.
struct Account<'a> {
    stage: &'a Stage<'a>,
    file: std::path::PathBuf,
}

impl<'a> Account<'a> {
    fn new(stage: &'a Stage) -> Self {
        let namespace = &stage.namespace;
        shared().run_kubectl(&["create", "serviceaccount", "app", "-n", namespace]);
        shared().allow_lease(namespace, &format!("system:serviceaccount:{namespace}:app"), LEASE);
        Self { stage, file: shared().write_file("token", "") }
    }

    /// Puts a new token, bound to a new Secret, in place of what the file holds, by renaming as the kubelet does.
    fn rotate(&self, secret: &str) {
        let namespace = &self.stage.namespace;
        shared().run_kubectl(&["create", "secret", "generic", secret, "-n", namespace]);
        let bound = ["--bound-object-kind=Secret", "--bound-object-name", secret];
        let token = shared().run_kubectl(&[&["create", "token", "app", "-n", namespace][..], &bound].concat());
        let aside = shared().write_file("token", token.trim());
        std::fs::rename(aside, &self.file).expect("renames the token");
    }

    /// The tokens of this Secret stop working, within the ten seconds for which the API server remembers them.
    fn revoke(&self, secret: &str) {
        shared().run_kubectl(&["delete", "secret", secret, "-n", &self.stage.namespace]);
    }

    fn pod(&self, name: &str) -> support::sidecar::Builder {
        let file = self.file.clone();
        let kubeconfig = shared().kubeconfig_edited(|config| {
            config["users"][0]["user"] = json!({ "tokenFile": file });
        });
        self.pod_with(name, &kubeconfig)
    }

    fn pod_with(&self, name: &str, kubeconfig: &Path) -> support::sidecar::Builder {
        let [lease, deadline, interval, retry] = QUICK;
        Sidecar::of(LEASE, &self.stage.namespace, kubeconfig, name).times(lease, deadline, interval, retry)
    }
}

const UNAUTHORIZED: &str = "code=\"401\"";

#[test]
fn a_rotated_token_is_read_again_and_leadership_survives() {
    let stage = Stage::released(shared(), "rotated");
    let account = Account::new(&stage);
    account.rotate("first");
    let pod = account.pod("a").start();
    let before = token(&pod.wait_leader(SOON));
    let recorder = Recorder::start([&pod]);
    recorder.wait_leader(Duration::ZERO, SOON, |_| true);
    account.rotate("second");
    account.revoke("first");
    wait_until("the old token to be refused", Duration::from_secs(30), || {
        pod.metric("leasehold_api_requests_total", &[UNAUTHORIZED]) >= 1.0
    });
    for _ in 0..2 {
        let renewed = stage.spec()["renewTime"].clone();
        wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
    }
    assert_eq!(token(&pod.status()), before);
    assert!(recorder.transitions().iter().all(|turn| turn.leader), "{:?}", recorder.transitions());
    assert_eq!(pod.warnings(), Vec::<String>::new());
    recorder.assert_no_overlap();
}

#[test]
fn a_token_that_ends_before_the_next_one_comes_is_told_once_and_healed() {
    let stage = Stage::released(shared(), "late-token");
    let account = Account::new(&stage);
    account.rotate("first");
    let pod = account.pod("a").start();
    pod.wait_leader(SOON);
    account.revoke("first");
    wait_until("the old token to be refused", Duration::from_secs(30), || {
        pod.metric("leasehold_api_requests_total", &[UNAUTHORIZED]) >= 6.0
    });
    pod.wait_not_leader(SOON);
    let about = pod.warnings().iter().filter(|warning| warning.contains("401")).count();
    assert_eq!(about, 1, "{:?}", pod.warnings());
    account.rotate("second");
    pod.wait_leader(SOON);
}
