//! A scenario's namespace: what it applies, the pods there, and what their recorders wrote.

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Cut, cluster, error_of, signal_all, text, wait_for};
use crate::records::{Records, Term};
use crate::support::clock::{self, BootTime};
use crate::support::http::Http;
use crate::workload::Workload;

/// How long anything that ought to be quick may take on a busy machine: pods start, images unpack.
pub const SOON: Duration = Duration::from_secs(120);

/// The default lease duration.
pub const LEASE: Duration = Duration::from_secs(15);

/// Who leads sooner than that after a fault has not waited for the lease to run out: the last renewal before the
/// fault may be 3 s old, the default renew interval.
pub const BEFORE_EXPIRY: Duration = Duration::from_secs(11);

/// Scenarios run side by side, but one that disturbs the whole cluster runs alone.
static DISTURBANCE: RwLock<()> = RwLock::new(());

enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

pub struct Stage {
    pub namespace: String,
    pub records: Records,
    pub cluster: &'static Cluster,
    began: BootTime,
    /// Of a namespace whose promises were checked already, or cannot be.
    unchecked: bool,
    _turn: Turn,
}

impl Stage {
    /// A new namespace whose name begins with `name`; other scenarios run at the same time.
    pub fn new(name: &str) -> Self {
        let guard = DISTURBANCE.read().unwrap_or_else(PoisonError::into_inner);
        Self::set_up(name, Turn::Shared { _guard: guard })
    }

    /// The same with nothing else running, for what disturbs the whole cluster.
    pub fn alone(name: &str) -> Self {
        let guard = DISTURBANCE.write().unwrap_or_else(PoisonError::into_inner);
        Self::set_up(name, Turn::Alone { _guard: guard })
    }

    fn set_up(name: &str, turn: Turn) -> Self {
        let cluster = cluster();
        // A second run on the same cluster may meet the first one's namespaces, which go slowly.
        let namespace = format!("{name}-{:x}", std::process::id());
        let folder = cluster.records(&namespace);
        fs::create_dir_all(&folder).expect("a folder for records");
        // For any user, as apps come with.
        fs::set_permissions(&folder, Permissions::from_mode(0o1777)).expect("the folder's mode");
        let stage = Self {
            records: Records::of(folder),
            namespace,
            cluster,
            began: clock::now(),
            unchecked: false,
            _turn: turn,
        };
        run(cluster.kubectl(["create", "namespace", &stage.namespace]));
        stage
    }

    /// Leaves out the check of all promises at the end, for a scenario in which nothing is promised.
    pub fn without_promises(mut self) -> Self {
        self.unchecked = true;
        self
    }

    // --- Objects ---

    /// `kubectl -n NAMESPACE ...`, which must succeed; gives what it printed.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        run(self.cluster.kubectl(["--namespace", &self.namespace].iter().chain(arguments)))
    }

    /// `helm -n NAMESPACE ...`, which must succeed; gives what it printed.
    #[track_caller]
    pub fn helm(&self, arguments: &[&str]) -> String {
        run(self.cluster.helm(["--namespace", &self.namespace].iter().chain(arguments)))
    }

    /// Applies YAML or JSON.
    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        let said = self.try_apply(manifest);
        assert!(said.status.success(), "kubectl apply: {}\n{manifest}", error_of(&said));
    }

    /// Applies a workload named `web`, and waits until its pods are ready.
    #[track_caller]
    pub fn deploy(&self, workload: &Workload) {
        self.apply(&workload.manifest(self));
        self.wait_rolled_out("deployments/web", SOON);
    }

    /// Applies YAML or JSON that may be refused.
    pub fn try_apply(&self, manifest: &str) -> Output {
        let mut kubectl = self.cluster.kubectl(["--namespace", &self.namespace, "apply", "-f", "-"]);
        kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = kubectl.spawn().expect("kubectl can be started");
        child.stdin.take().expect("a pipe").write_all(manifest.as_bytes()).expect("kubectl reads");
        child.wait_with_output().expect("kubectl ends")
    }

    /// An object of this namespace by `resource/name`, as `deployments/web`.
    #[track_caller]
    pub fn get(&self, object: &str) -> Option<Value> {
        self.cluster.get(&self.path(object))
    }

    /// A merge patch of an object by `resource/name`.
    #[track_caller]
    pub fn patch(&self, object: &str, patch: &Value) -> Value {
        self.cluster.patch(&self.path(object), patch)
    }

    fn path(&self, object: &str) -> String {
        let group = match object.split('/').next().unwrap_or_default() {
            "deployments" | "replicasets" | "statefulsets" | "daemonsets" => "apis/apps/v1",
            "jobs" | "cronjobs" => "apis/batch/v1",
            "leases" => "apis/coordination.k8s.io/v1",
            "endpointslices" => "apis/discovery.k8s.io/v1",
            "networkpolicies" => "apis/networking.k8s.io/v1",
            "poddisruptionbudgets" => "apis/policy/v1",
            "roles" | "rolebindings" => "apis/rbac.authorization.k8s.io/v1",
            _ => "api/v1",
        };
        format!("/{group}/namespaces/{}/{object}", self.namespace)
    }

    /// Waits until an object, as `deployments/web`, is there and `holds` of it.
    #[track_caller]
    pub fn wait(&self, what: &str, object: &str, within: Duration, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, within, || self.get(object).filter(&holds))
    }

    /// Waits until all replicas of a Deployment or StatefulSet are of its newest template and ready.
    #[track_caller]
    pub fn wait_rolled_out(&self, object: &str, within: Duration) -> Value {
        self.wait(&format!("{object} to be rolled out"), object, within, |found| {
            let (spec, status) = (&found["spec"], &found["status"]);
            let count = |key: &str| status[key].as_u64().unwrap_or(0);
            let wanted = spec["replicas"].as_u64().unwrap_or(1);
            status["observedGeneration"] == found["metadata"]["generation"]
                && count("updatedReplicas") == wanted
                && count("readyReplicas") == wanted
                && count("replicas") == wanted
        })
    }

    /// The pods that carry these labels, as `app=web`; all where it is empty.
    #[track_caller]
    pub fn pods(&self, labels: &str) -> Vec<Pod<'_>> {
        let labels = labels.replace('=', "%3D").replace(',', "%2C");
        let list = self.cluster.get(&format!("{}?labelSelector={labels}", self.path("pods"))).expect("a list");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().map(|object| Pod { stage: self, object }).collect()
    }

    /// A pod that is there.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Pod<'_> {
        let object = self.get(&format!("pods/{name}"));
        Pod { stage: self, object: object.unwrap_or_else(|| panic!("there is no pod {name}")) }
    }

    // --- Who leads ---

    /// Waits for a leader and gives its pod.
    #[track_caller]
    pub fn leader(&self) -> Pod<'_> {
        let term = self.records.wait_leader(clock::now(), SOON, |_| true);
        self.pod(term.pod_name())
    }

    /// Waits for a leader other than this pod, and gives its term.
    #[track_caller]
    pub fn wait_other_leader(&self, former: &str, since: BootTime, within: Duration) -> Term {
        self.records.wait_leader(since, within, |pod| pod != former)
    }

    /// Makes this pod the leader, by the annotation that a person would use.
    #[track_caller]
    pub fn make_leader(&self, lease: &str, pod: &str) {
        wait_for("a pod to lead that was asked to", SOON, || {
            let now = clock::now();
            let term = self.records.wait_leader(now, SOON, |_| true);
            if term.pod_name() == pod {
                return Some(());
            }
            let wish = format!("{}/{pod}", term.token);
            self.patch(
                &format!("leases/{lease}"),
                &json!({"metadata": {"annotations": {"leasehold.dev/step-down": wish}}}),
            );
            // Another may be quicker than the named one: then it is asked again.
            self.records.wait_leader(now, SOON, |leader| leader != term.pod_name());
            None
        });
    }

    /// Keeps what was measured, for `make e2e` to print at its end.
    pub fn report(&self, what: &str, took: Duration) {
        self.cluster.report(&format!("{:>9.0} ms  {what}", took.as_secs_f64() * 1000.0));
    }

    /// Takes the logs of this container, of all pods that are there, as records: where a namespace allows no
    /// `hostPath`, recorders write to their standard output. Says nothing of pods that have gone.
    #[track_caller]
    pub fn keep_logs(&self, container: &str) {
        for pod in self.pods("").iter().filter(|pod| pod.container(container)["containerID"].is_string()) {
            let log = self.kubectl(&["logs", pod.name(), "--container", container]);
            let id = pod.container(container)["containerID"].as_str().unwrap_or_default();
            self.records.keep_log(id.trim_start_matches("containerd://"), &log);
        }
    }

    /// What a person would look at first.
    fn print_state(&self) {
        eprintln!("terms in {}, by the boot clock:\n{}", self.namespace, self.records.timeline());
        for said in self.records.said().iter().rev().take(40).rev() {
            let at = said.answered.as_secs_f64();
            eprintln!("  {at:.3} {} by {}: {}", said.pod, said.via, said.reason.as_deref().unwrap_or("leads"));
        }
        let mut looks =
            vec![vec!["get", "pods,leases", "-o", "wide"], vec!["get", "events", "--sort-by=.lastTimestamp"]];
        looks.push(vec!["get", "leases", "-o", "yaml"]);
        let pods = self.pods("");
        for pod in &pods {
            looks.push(vec!["logs", "--tail=60", "--all-containers", "--prefix", pod.name()]);
        }
        for look in looks {
            let said = self.cluster.kubectl(["--namespace", &self.namespace].iter().chain(&look)).output();
            let said = said.expect("kubectl can be started");
            eprintln!("$ kubectl {}\n{}{}", look.join(" "), text(&said.stdout), error_of(&said));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let failed = thread::panicking();
        let fault = if failed || self.unchecked { None } else { self.records.fault() };
        if failed || fault.is_some() {
            self.print_state();
        }
        // The pods end meanwhile, and nobody waits for them.
        let mut delete = self.cluster.kubectl(["delete", "namespace", &self.namespace, "--wait=false"]);
        let _ = delete.output();
        self.report(&format!("the whole scenario {}", self.namespace), clock::now() - self.began);
        if let Some(fault) = fault {
            panic!("{fault}");
        }
    }
}

/// A pod, as it was when it was looked at.
pub struct Pod<'a> {
    stage: &'a Stage,
    pub object: Value,
}

impl Pod<'_> {
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().expect("a pod has a name")
    }

    pub fn uid(&self) -> &str {
        self.object["metadata"]["uid"].as_str().expect("a pod has a uid")
    }

    pub fn ip(&self) -> &str {
        self.object["status"]["podIP"].as_str().expect("a pod that runs has an address")
    }

    pub fn ready(&self) -> bool {
        let conditions = self.object["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    }

    /// Whether it is being deleted.
    pub fn ending(&self) -> bool {
        self.object["metadata"]["deletionTimestamp"].is_string()
    }

    /// The status of a container, which may be a sidecar.
    pub fn container(&self, name: &str) -> &Value {
        let status = &self.object["status"];
        let lists = ["containerStatuses", "initContainerStatuses"].into_iter().filter_map(|key| status[key].as_array());
        lists.flatten().find(|status| status["name"] == name).unwrap_or(&Value::Null)
    }

    /// How often a container was started again.
    pub fn restarts(&self, container: &str) -> u64 {
        self.container(container)["restartCount"].as_u64().unwrap_or(0)
    }

    /// The processes of a container of this pod, its first one first.
    #[track_caller]
    pub fn processes(&self, container: &str) -> Vec<Pid> {
        let id = self.container(container)["containerID"].as_str().unwrap_or_default();
        let processes = self.stage.cluster.processes(id);
        assert!(!processes.is_empty(), "container {container} of {} does not run", self.name());
        processes
    }

    /// Signals every process of a container: SIGKILL ends it as a crash would, SIGSTOP freezes it.
    #[track_caller]
    pub fn signal(&self, container: &str, signal: Signal) {
        signal_all(&self.processes(container), signal);
    }

    /// Freezes a container until the answer is dropped.
    #[track_caller]
    pub fn freeze(&self, container: &str) -> FrozenContainer {
        let processes = self.processes(container);
        signal_all(&processes, Signal::STOP);
        FrozenContainer { processes }
    }

    /// Cuts it off from the API server until the answer is dropped.
    #[track_caller]
    pub fn cut(&self) -> Cut {
        let node = self.object["spec"]["nodeName"].as_str().expect("a pod that runs is on a node");
        self.stage.cluster.node(node).cut(self.ip())
    }

    /// Runs a command in a container.
    #[track_caller]
    pub fn exec(&self, container: &str, command: &[&str]) -> String {
        let arguments = ["exec", self.name(), "--container", container, "--"];
        self.stage.kubectl(&arguments.iter().chain(command).copied().collect::<Vec<_>>())
    }

    /// A connection to one of its ports.
    #[track_caller]
    pub fn http(&self, port: u16) -> Http {
        let address = SocketAddr::new(self.ip().parse().expect("an address"), port);
        let http = Http::connect(address).and_then(|http| http.with_timeout(Duration::from_secs(10)));
        http.unwrap_or_else(|error| panic!("{} port {port}: {error}", self.name()))
    }

    /// Deletes it, with its grace period; does not wait.
    #[track_caller]
    pub fn delete(&self) {
        self.stage.kubectl(&["delete", "pod", self.name(), "--wait=false"]);
    }
}

/// Runs on when it is dropped.
pub struct FrozenContainer {
    processes: Vec<Pid>,
}

impl Drop for FrozenContainer {
    fn drop(&mut self) {
        signal_all(&self.processes, Signal::CONT);
    }
}

/// Must succeed; gives what it printed.
#[track_caller]
fn run(mut command: Command) -> String {
    let said = command.output().expect("the program can be started");
    assert!(said.status.success(), "{command:?}: {}{}", error_of(&said), text(&said.stdout));
    text(&said.stdout)
}
