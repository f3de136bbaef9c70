//! A Deployment as the README has it, in plain YAML, with a recorder as its app.

use serde_json::{Value, json};

use crate::cluster::Node;
use crate::stage::Stage;

/// What the app is written in.
#[derive(Clone, Copy)]
pub enum App {
    Python,
    Go,
}

/// What the app shows the sidecar, and what `--app-alive` says.
#[derive(Clone, Copy, PartialEq)]
pub enum Alive {
    Nothing,
    Lock,
    Session,
}

pub struct Workload {
    pub name: &'static str,
    pub replicas: u32,
    pub app: App,
    pub alive: Alive,
    /// More arguments of the sidecar's.
    pub sidecar: Vec<&'static str>,
    /// More variables of the app's.
    pub env: Vec<(&'static str, &'static str)>,
    /// A merge patch of the pod.
    pub pod: Value,
    /// Its pods are members of a group of the same name.
    pub members: bool,
    /// Without the Role, nobody may touch the Lease.
    pub role: bool,
    /// Where its pods may run, one on each: anywhere but on workers where it is empty.
    pub nodes: Vec<String>,
}

impl Workload {
    /// `web`, three replicas, Python, without evidence.
    pub fn new() -> Self {
        Self {
            name: "web",
            replicas: 3,
            app: App::Python,
            alive: Alive::Nothing,
            sidecar: vec![],
            env: vec![],
            pod: json!({}),
            members: false,
            role: true,
            nodes: vec![],
        }
    }

    pub fn alive(mut self, alive: Alive) -> Self {
        self.alive = alive;
        self
    }

    pub fn app(mut self, app: App) -> Self {
        self.app = app;
        self
    }

    /// A merge patch of the pod (RFC 7396: a list replaces a list).
    pub fn pod(mut self, patch: Value) -> Self {
        self.pod = patch;
        self
    }

    pub fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.env.push((name, value));
        self
    }

    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// One replica on each of these nodes.
    pub fn on_each(mut self, nodes: &[&Node]) -> Self {
        self.nodes = nodes.iter().map(|node| node.name.clone()).collect();
        self.replicas = nodes.len() as u32;
        self
    }

    /// All of it, as a List.
    pub fn manifest(&self, stage: &Stage) -> String {
        let mut items = self.rbac();
        items.push(json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.name},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": {"app": self.name}},
                "template": self.template(stage, "pod-template-hash"),
            },
        }));
        list(items)
    }

    /// The same as a StatefulSet.
    pub fn stateful_set(&self, stage: &Stage) -> String {
        let mut items = self.rbac();
        items.push(json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": self.name},
            "spec": {
                "replicas": self.replicas,
                "serviceName": self.name,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": {"app": self.name}},
                "template": self.template(stage, "controller-revision-hash"),
            },
        }));
        list(items)
    }

    /// What runs once, to its end.
    pub fn job(&self, stage: &Stage) -> String {
        let mut items = self.rbac();
        let mut template = self.template(stage, "");
        template["spec"]["restartPolicy"] = "Never".into();
        items.push(json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name},
            "spec": {"backoffLimit": 0, "template": template},
        }));
        list(items)
    }

    /// The service account, and what it may do.
    pub fn rbac(&self) -> Vec<Value> {
        let name = self.name;
        let role = format!("leasehold-{name}");
        let rbac = "rbac.authorization.k8s.io";
        let rule = json!({
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [name],
            "verbs": ["get", "list", "watch", "create", "update"],
        });
        let mut items = vec![json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": name}})];
        let mut rules = vec![rule];
        if self.members {
            rules.push(json!({
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": ["get", "list", "watch", "create", "update", "delete"],
            }));
        }
        if self.role {
            items.push(json!({
                "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": {"name": role}, "rules": rules,
            }));
            items.push(json!({
                "apiVersion": format!("{rbac}/v1"),
                "kind": "RoleBinding",
                "metadata": {"name": role},
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": name}],
            }));
        }
        items
    }

    /// Its revision is in the label of that name.
    fn template(&self, stage: &Stage, revision: &str) -> Value {
        let mut pod = self.pod_spec(stage, revision);
        merge(&mut pod, &self.pod);
        json!({"metadata": {"labels": {"app": self.name}}, "spec": pod})
    }

    fn pod_spec(&self, stage: &Stage, revision: &str) -> Value {
        json!({
            "affinity": self.affinity(),
            "tolerations": [{"key": "leasehold.dev/worker", "operator": "Exists"}],
            "serviceAccountName": self.name,
            "terminationGracePeriodSeconds": 30,
            "initContainers": [self.sidecar(revision)],
            "containers": [self.recorder()],
            "volumes": [
                {"name": "leasehold", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "leasehold-state", "emptyDir": {"sizeLimit": "16Mi"}},
                {"name": "records", "hostPath": {"path": stage.cluster.records(&stage.namespace), "type": "Directory"}},
            ],
        })
    }

    fn affinity(&self) -> Value {
        let hostname = "kubernetes.io/hostname";
        if self.nodes.is_empty() {
            let on_first = json!({"key": hostname, "operator": "In", "values": ["node1"]});
            return node_affinity(on_first);
        }
        let mut affinity = node_affinity(json!({"key": hostname, "operator": "In", "values": self.nodes}));
        affinity["podAntiAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": self.name}}, "topologyKey": hostname},
        ]});
        affinity
    }

    fn sidecar(&self, revision: &str) -> Value {
        let mut arguments = vec!["run".to_owned(), format!("--lease={}", self.name)];
        match self.alive {
            Alive::Nothing => {}
            Alive::Lock => arguments.push("--app-alive=lock".into()),
            Alive::Session => arguments.push("--app-alive=session".into()),
        }
        let mut env = about_the_pod();
        if self.members {
            arguments.push(format!("--member-of={}", self.name));
            let hash = json!({"fieldRef": {"fieldPath": format!("metadata.labels['{revision}']")}});
            let env = env.as_array_mut().expect("a list");
            env.push(json!({"name": "POD_TEMPLATE_HASH", "valueFrom": hash}));
        }
        arguments.extend(self.sidecar.iter().map(|argument| argument.to_string()));
        json!({
            "name": "leasehold",
            "image": "localhost/leasehold:e2e",
            "restartPolicy": "Always",
            "args": arguments,
            "env": env,
            "startupProbe": {"httpGet": {"path": "/livez", "port": 4041}, "periodSeconds": 1},
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": 4041}},
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [
                {"name": "leasehold", "mountPath": "/run"},
                {"name": "leasehold-state", "mountPath": "/var/lib/leasehold"},
            ],
        })
    }

    fn recorder(&self) -> Value {
        let image = match self.app {
            App::Python => "localhost/recorder:python",
            App::Go => "localhost/recorder:go",
        };
        let mut env = about_the_pod();
        let variables = env.as_array_mut().expect("a list");
        let alive = match self.alive {
            Alive::Nothing => "",
            Alive::Lock => "lock",
            Alive::Session => "session",
        };
        for (name, value) in [("RECORDER_FOLDER", "/records"), ("RECORDER_ALIVE", alive)].iter().chain(&self.env) {
            variables.push(json!({"name": name, "value": value}));
        }
        json!({
            "name": "app",
            "image": image,
            "env": env,
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "volumeMounts": [
                {"name": "leasehold", "mountPath": "/run/leasehold", "subPath": "leasehold", "readOnly": true},
                {"name": "records", "mountPath": "/records"},
            ],
        })
    }
}

fn node_affinity(expression: Value) -> Value {
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [expression]}],
    }}})
}

fn about_the_pod() -> Value {
    let variable = |name, field| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}});
    json!([
        variable("POD_NAME", "metadata.name"),
        variable("POD_NAMESPACE", "metadata.namespace"),
        variable("POD_UID", "metadata.uid"),
    ])
}

/// Many objects in one text.
pub fn list(items: Vec<Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        if value.is_object() && target[key].is_object() {
            merge(&mut target[key], value);
        } else {
            target[key] = value.clone();
        }
    }
}
