//! A pod's own token labels that pod with its role, and changes nothing else of any pod.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::*;
use crate::support::clock::wait_until;
use crate::support::http::Answer;

const ROLE: &str = "leasehold-role-label";

/// Two pods of the account `web`, which bears the role, and the first one's token.
struct Pods<'a> {
    namespace: Namespace<'a>,
    token: String,
}

impl Pods<'_> {
    fn new(prefix: &str) -> Self {
        let namespace = cluster().namespace(prefix);
        namespace.account("web");
        namespace.bind(ROLE, "web");
        for name in ["web-0", "web-1"] {
            let mut pod = with(pod(None), json!({"spec": {"serviceAccountName": "web"}}));
            pod["metadata"] = json!({"name": name, "labels": {"app": "web"}, "annotations": {"team": "a"}});
            let path = format!("/api/v1/namespaces/{}/pods", namespace.name);
            let answer = cluster().control_plane.api("POST", &path, Some(&pod)).expect("the API server answers");
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
        let token = namespace.token("web", Some("web-0"));
        let pods = Self { namespace, token };
        wait_until("the role and its guard", Duration::from_secs(30), || {
            pods.patch("web-0", &label("leader")).status == 200 && pods.patch("web-1", &label("leader")).status == 422
        });
        pods
    }

    fn path(&self, pod: &str) -> String {
        format!("/api/v1/namespaces/{}/pods/{pod}", self.namespace.name)
    }

    fn patch(&self, pod: &str, patch: &Value) -> Answer {
        self.patch_with(&self.token, pod, patch)
    }

    fn patch_with(&self, token: &str, pod: &str, patch: &Value) -> Answer {
        let answer = cluster().control_plane.api_with_token(token, "PATCH", &self.path(pod), Some(patch));
        answer.expect("the API server answers")
    }

    fn read(&self, pod: &str) -> Value {
        cluster().control_plane.api("GET", &self.path(pod), None).expect("the API server answers").json()
    }

    #[track_caller]
    fn guarded(&self, pod: &str, patch: &Value, sentence: &str) {
        let before = self.read(pod);
        guarded(&self.patch(pod, patch), sentence);
        assert_eq!(self.read(pod), before);
    }
}

fn label(role: &str) -> Value {
    json!({"metadata": {"labels": {"leasehold.dev/role": role}}})
}

#[track_caller]
fn guarded(answer: &Answer, sentence: &str) {
    assert_eq!(answer.status, 422, "{}", answer.text());
    let message = answer.json()["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("leasehold-role-label") && message.contains(sentence), "{sentence:?}: {message}");
}

#[test]
fn a_pod_says_leader_or_standby_of_itself() {
    let pods = Pods::new("label");
    for role in ["leader", "standby", "leader", "leader"] {
        let answer = pods.patch("web-0", &label(role));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(pods.read("web-0")["metadata"]["labels"], json!({"app": "web", "leasehold.dev/role": role}));
    }
    // With its uid, as the sidecar does.
    let mut patch = label("standby");
    patch["metadata"]["uid"] = pods.read("web-0")["metadata"]["uid"].clone();
    assert_eq!(pods.patch("web-0", &patch).status, 200);
}

#[test]
fn it_says_nothing_else_of_itself() {
    let pods = Pods::new("nothing");
    for role in ["primary", "Leader", ""] {
        pods.guarded("web-0", &label(role), &format!("would be \"{role}\": it is leader or standby"));
    }
    pods.guarded("web-0", &label(""), "it is leader or standby");
    let gone = json!({"metadata": {"labels": {"leasehold.dev/role": null}}});
    pods.guarded("web-0", &gone, "it is leader or standby");
    let only = "may change its label leasehold.dev/role and nothing else of itself";
    let metadata =
        |key: &str, value: Value| json!({"metadata": {key: value, "labels": {"leasehold.dev/role": "standby"}}});
    for patch in [
        json!({"metadata": {"labels": {"app": "db", "leasehold.dev/role": "leader"}}}),
        json!({"metadata": {"labels": {"app": null}}}),
        json!({"metadata": {"labels": {"more": "x"}}}),
        metadata("annotations", json!({"team": "b"})),
        metadata("annotations", json!({"more": "x"})),
        metadata("finalizers", json!(["example.com/stay"])),
        metadata("ownerReferences", json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "1"}])),
        json!({"spec": {"containers": [{"name": "app", "image": "evil"}]}}),
        json!({"spec": {"activeDeadlineSeconds": 1}}),
        json!({"spec": {"tolerations": [{"operator": "Exists"}]}}),
    ] {
        let before = pods.read("web-0");
        let answer = pods.patch("web-0", &patch);
        // Some of these the API server refuses by itself.
        match answer.text().contains("ValidatingAdmissionPolicy") {
            true => guarded(&answer, only),
            false => assert_eq!(answer.status, 422, "{}", answer.text()),
        }
        assert_eq!(pods.read("web-0"), before);
    }
}

#[test]
fn it_says_nothing_of_another_pod() {
    let pods = Pods::new("another");
    for patch in [label("leader"), label("standby"), json!({"metadata": {"labels": {"app": "db"}}})] {
        pods.guarded("web-1", &patch, "the pod web-0 may label itself, and this is web-1");
    }
    let delete = cluster().control_plane.api_with_token(&pods.token, "DELETE", &pods.path("web-1"), None);
    assert_eq!(delete.expect("the API server answers").status, 403);
    let whole = pods.read("web-0");
    let put = cluster().control_plane.api_with_token(&pods.token, "PUT", &pods.path("web-0"), Some(&whole));
    assert_eq!(put.expect("the API server answers").status, 403);
}

#[test]
fn a_token_that_is_bound_to_no_pod_labels_none() {
    let pods = Pods::new("unbound");
    let token = pods.namespace.token("web", None);
    guarded(&pods.patch_with(&token, "web-0", &label("leader")), "is bound to no pod");
}

#[test]
fn who_does_not_bear_the_role_is_not_held_to_it() {
    let pods = Pods::new("bystander");
    let namespace = &pods.namespace;
    // A controller that patches pods, and one that bears the role and may update them by another.
    for (account, verb) in [("cni", "patch"), ("web", "update")] {
        if account != "web" {
            namespace.account(account);
        }
        let user = format!("system:serviceaccount:{}:{account}", namespace.name);
        let rule = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": [verb, "get"]}]);
        cluster().control_plane.allow(&namespace.name, &user, rule);
        let patch = json!({"metadata": {"annotations": {"address": account}}});
        let token = namespace.token(account, None);
        wait_until("the other role", Duration::from_secs(30), || {
            pods.patch_with(&token, "web-1", &patch).status == 200
        });
        assert_eq!(pods.read("web-1")["metadata"]["annotations"]["address"], account);
    }
    let patch = json!({"metadata": {"annotations": {"address": "admin"}}});
    let admin = cluster().control_plane.api("PATCH", &pods.path("web-0"), Some(&patch));
    assert_eq!(admin.expect("the API server answers").status, 200);
}
