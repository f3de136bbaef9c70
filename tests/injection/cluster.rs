//! The API server with the chart installed, and pods as controllers would create them.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::support::clock;
use crate::support::control_plane::ControlPlane;
use crate::support::helm;
use crate::support::http::Answer;

pub const CHART: &str = "leasehold-injector";
/// The labels of a namespace where the chart's second release injects, and the first does not.
pub const OTHER: [(&str, &str); 2] = [("leasehold.dev/injection", "disabled"), ("settings", "other")];
/// A policy is in force some moments after it was created.
const IN_FORCE: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub control_plane: ControlPlane,
}

/// One for all tests, with the chart as it comes, and a second time for namespaces labelled [`OTHER`].
pub fn cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
    &CLUSTER
}

impl Cluster {
    fn start() -> Self {
        // With the plugin that gives pods their accounts' tokens, which the injection must get on with.
        let cluster = Self { control_plane: ControlPlane::start_with(&["--disable-admission-plugins="]) };
        cluster.apply(&helm::template("injector", CHART, &["-n", "default"]).expect("the chart renders"));
        let other = concat!("--values=", env!("CARGO_MANIFEST_DIR"), "/tests/injection/other.yaml");
        cluster.apply(&helm::template("other", CHART, &["-n", "default", other]).expect("the chart renders"));
        cluster
    }

    pub fn apply(&self, manifests: &str) {
        let file = self.control_plane.write_file("manifests.yaml", manifests);
        self.control_plane.run_kubectl(&["apply", "-f", &file.to_string_lossy()]);
    }

    /// A namespace with a default service account, in which the policies are in force.
    pub fn namespace(&self, prefix: &str) -> Namespace<'_> {
        self.labelled_namespace(prefix, &[])
    }

    pub fn labelled_namespace(&self, prefix: &str, labels: &[(&str, &str)]) -> Namespace<'_> {
        let name = self.control_plane.namespace(prefix);
        let namespace = Namespace { cluster: self, name };
        let path = format!("/api/v1/namespaces/{}", namespace.name);
        let labels: Map<_, _> = labels.iter().map(|(key, value)| (key.to_string(), Value::from(*value))).collect();
        let answer = self.control_plane.api("PATCH", &path, Some(&json!({"metadata": {"labels": labels}})));
        assert_eq!(answer.expect("the API server answers").status, 200);
        namespace.account("default");
        namespace
    }
}

pub struct Namespace<'a> {
    pub cluster: &'a Cluster,
    pub name: String,
}

impl Namespace<'_> {
    /// Waits until what the API server makes of `pod` satisfies the condition: policies and labels are seen late.
    pub fn wait_created(&self, what: &str, pod: &Value, holds: impl Fn(&Answer) -> bool) -> &Self {
        let until = clock::now() + IN_FORCE;
        loop {
            let answer = self.try_create(pod);
            if holds(&answer) {
                return self;
            }
            assert!(clock::now() < until, "waited {IN_FORCE:?} for {what}: {}", answer.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the injection works here.
    pub fn ready(self) -> Self {
        let bad = annotated(pod_of_deployment("web"), "timing", "none-such");
        self.wait_created("the injection", &pod_of_deployment("web"), |answer| sidecar(&answer.json()).is_some());
        self.wait_created("the refusal", &bad, |answer| answer.status == 422 || answer.status == 403);
        self
    }

    pub fn try_create(&self, pod: &Value) -> Answer {
        let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", self.name);
        self.cluster.control_plane.api("POST", &path, Some(pod)).expect("the API server answers")
    }

    /// What the API server would store.
    #[track_caller]
    pub fn create(&self, pod: &Value) -> Value {
        let answer = self.try_create(pod);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }

    /// The sentence with which a pod is refused.
    #[track_caller]
    pub fn refusal(&self, pod: &Value) -> String {
        let answer = self.try_create(pod);
        assert!(matches!(answer.status, 403 | 422), "not refused: {}", answer.text());
        answer.json()["message"].as_str().expect("a message").to_owned()
    }

    pub fn account(&self, name: &str) {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts", self.name);
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        let answer = self.cluster.control_plane.api("POST", &path, Some(&account)).expect("the API server answers");
        assert_eq!(answer.status, 201, "{}", answer.text());
    }

    /// A token of a service account, bound to a pod if one is named.
    #[track_caller]
    pub fn token(&self, account: &str, pod: Option<&str>) -> String {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", self.name);
        let bound = pod.map(|name| json!({"apiVersion": "v1", "kind": "Pod", "name": name}));
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound},
        });
        let answer = self.cluster.control_plane.api("POST", &path, Some(&request)).expect("the API server answers");
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Binds a ClusterRole of the chart to a service account of this namespace.
    pub fn bind(&self, role: &str, account: &str) {
        let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": self.name});
        self.bind_subject(role, &format!("{role}-{account}"), subject);
    }

    pub fn bind_subject(&self, role: &str, name: &str, subject: Value) {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings", self.name);
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [subject],
        });
        let answer = self.cluster.control_plane.api("POST", &path, Some(&binding)).expect("the API server answers");
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
}

/// The sidecar of a pod, if it has one.
pub fn sidecar(pod: &Value) -> Option<&Value> {
    pod["spec"]["initContainers"].as_array()?.iter().find(|container| container["name"] == "leasehold")
}

#[track_caller]
pub fn args(pod: &Value) -> Vec<&str> {
    let args = sidecar(pod).expect("the sidecar")["args"].as_array().expect("arguments");
    args.iter().map(|arg| arg.as_str().expect("a string")).collect()
}

pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let containers = pod["spec"]["containers"].as_array().expect("containers");
    containers.iter().find(|container| container["name"] == name).expect("the container")
}

/// A pod as its controller creates it; labelled, with one container.
pub fn pod(owner: Option<(&str, &str, &str)>) -> Value {
    let owners: Vec<_> = owner
        .map(|(api_version, kind, name)| {
            json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": "1", "controller": true})
        })
        .into_iter()
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "pod-",
            "labels": {"leasehold.dev/inject": "true"},
            "annotations": {"team": "a"},
            "ownerReferences": owners,
        },
        "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}]},
    })
}

/// A pod of a Deployment's ReplicaSet.
pub fn pod_of_deployment(name: &str) -> Value {
    pod_of_template(name, "5d8f7c9b4", "pod-template-hash")
}

pub fn pod_of_template(name: &str, hash: &str, label: &str) -> Value {
    let mut pod = pod(Some(("apps/v1", "ReplicaSet", &format!("{name}-{hash}"))));
    pod["metadata"]["labels"][label] = hash.into();
    pod
}

pub fn annotated(mut pod: Value, annotation: &str, value: &str) -> Value {
    pod["metadata"]["annotations"][format!("leasehold.dev/{annotation}")] = value.into();
    pod
}

/// The same pod with a merge patch (RFC 7386, without deletion) applied.
pub fn with(mut pod: Value, patch: Value) -> Value {
    merge(&mut pod, patch);
    pod
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            patch.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, patch) => *into = patch,
    }
}
