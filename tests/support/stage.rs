//! A Lease in a namespace of its own, and the pods that contend for it.
//!
//! Pods come with the rights that the Role in the documentation gives, and no more. Their times are the shortest that
//! leave a busy machine some slack; a test about anything but expiry takes [`SLOW`] ones, so that no wait for a lease
//! to run out can pass for what it tests.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::control_plane::{ControlPlane, SIDECAR};
use super::recorder::Recorder;
use super::sidecar::{Builder, Sidecar};

/// The name of every stage's Lease.
pub const LEASE: &str = "it";
/// [`Stage::pod`]'s times: lease duration, renew deadline, renew interval, retry period.
pub const QUICK: [&str; 4] = ["5s", "4s", "1s", "300ms"];
/// D of [`QUICK`].
pub const DURATION: Duration = Duration::from_secs(5);
/// Times in which no test waits for an expiry.
pub const SLOW: [&str; 4] = ["60s", "50s", "2s", "500ms"];
/// How long what ought to happen at once may take on a busy machine: far below [`SLOW`]'s lease duration.
pub const SOON: Duration = Duration::from_secs(15);

/// The scene of one test.
pub struct Stage<'a> {
    pub control_plane: &'a ControlPlane,
    pub namespace: String,
}

impl<'a> Stage<'a> {
    /// A new namespace, in which the pods may contend.
    pub fn new(control_plane: &'a ControlPlane, name: &str) -> Self {
        let namespace = control_plane.namespace(name);
        control_plane.allow_lease(&namespace, SIDECAR, LEASE);
        Self { control_plane, namespace }
    }

    /// The same with a Lease that its last holder has released, so that the first pod leads at once.
    pub fn released(control_plane: &'a ControlPlane, name: &str) -> Self {
        let stage = Self::new(control_plane, name);
        stage.create_released();
        stage
    }

    /// Creates the Lease as if its last holder had released it.
    pub fn create_released(&self) {
        let time = "2026-01-02T03:04:05.000000Z";
        self.create(
            json!({"annotations": {"leasehold.dev/released": time}}),
            json!({"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": time, "leaseTransitions": 1}),
        );
    }

    /// A pod with [`QUICK`] times, directly at the API server.
    pub fn pod(&self, name: &str) -> Builder {
        self.pod_over(name, None)
    }

    /// The same over a link.
    pub fn pod_over(&self, name: &str, link: Option<SocketAddr>) -> Builder {
        let kubeconfig = self.control_plane.kubeconfig_for(SIDECAR, link);
        let [lease, deadline, interval, retry] = QUICK;
        Sidecar::of(LEASE, &self.namespace, &kubeconfig, name)
            .times(lease, deadline, interval, retry)
            .env("POD_UID", &format!("uid-of-{name}"))
    }

    /// A pod with [`SLOW`] times.
    pub fn slow_pod(&self, name: &str) -> Builder {
        let [lease, deadline, interval, retry] = SLOW;
        self.pod(name).times(lease, deadline, interval, retry)
    }

    /// Creates the Pod of this name, an object that nothing runs; gives its uid.
    #[track_caller]
    pub fn create_pod(&self, name: &str) -> String {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "registry.example/web:1"}]},
        });
        let path = format!("/api/v1/namespaces/{}/pods", self.namespace);
        let answer = self.control_plane.api("POST", &path, Some(&pod)).expect("the API server answers");
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["metadata"]["uid"].as_str().expect("a uid").to_owned()
    }

    /// Two pods, of which the first leads, and who records them.
    #[track_caller]
    pub fn leader_and_standby(&self, first: Builder, second: Builder) -> (Sidecar, Sidecar, Recorder) {
        let first = first.start();
        first.wait_leader(SOON);
        let second = second.start();
        let pod = first.pod().to_owned();
        second.wait_status("a standby", SOON, |status| status["holder"] == pod.as_str());
        let recorder = Recorder::start([&first, &second]);
        recorder.wait_leader(Duration::ZERO, SOON, |leader| leader == pod);
        (first, second, recorder)
    }

    /// The Lease as it is now.
    #[track_caller]
    pub fn lease(&self) -> Option<Value> {
        self.control_plane.lease(&self.namespace, LEASE)
    }

    /// The record of the Lease: its `spec`, or null.
    #[track_caller]
    pub fn spec(&self) -> Value {
        self.lease().map_or(Value::Null, |mut lease| lease["spec"].take())
    }

    /// An annotation of the Lease.
    #[track_caller]
    pub fn annotation(&self, name: &str) -> Option<String> {
        Some(self.lease()?["metadata"]["annotations"][name].as_str()?.to_owned())
    }

    /// Who holds it: the pod's name, or nothing.
    #[track_caller]
    pub fn holder(&self) -> Option<String> {
        let spec = self.spec();
        let holder = spec["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
        Some(holder.split('_').next().unwrap_or(holder).to_owned())
    }

    /// Edits it by a merge patch.
    #[track_caller]
    pub fn patch(&self, patch: Value) -> Value {
        self.control_plane.patch_lease(&self.namespace, LEASE, &patch)
    }

    /// Edits its spec.
    #[track_caller]
    pub fn patch_spec(&self, spec: Value) -> Value {
        self.patch(json!({ "spec": spec }))
    }

    /// Creates it as an admin would.
    #[track_caller]
    pub fn create(&self, metadata: Value, spec: Value) -> Value {
        let mut lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        });
        lease["metadata"]["name"] = LEASE.into();
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace);
        let answer = self.control_plane.api("POST", &path, Some(&lease)).expect("the API server answers");
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    }

    /// Deletes it.
    #[track_caller]
    pub fn delete(&self) {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/{LEASE}", self.namespace);
        let answer = self.control_plane.api("DELETE", &path, None).expect("the API server answers");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// The fencing token of an answer that says leader.
#[track_caller]
pub fn token(status: &Value) -> u64 {
    status["fencing_token"].as_u64().unwrap_or_else(|| panic!("no token in {status}"))
}
