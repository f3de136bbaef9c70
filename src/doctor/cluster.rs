//! The way to the API server: configuration, connection, its version and its clock.

use std::sync::Arc;
use std::time::Duration;

use hyper::{HeaderMap, Method, header};
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};
use kube::config::AuthInfo;
use serde_json::{Value, json};

use super::{Beside, Findings, Status, Task, span};
use crate::kubernetes::{Api, Connection, Failure, Origin, advice, request};
use crate::names::dns_label;
use crate::time::{Clock, Moment, Now, SystemClock};

/// One request may take so long,
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// and all of them together this.
const ALL_ATTEMPTS: Duration = Duration::from_secs(10);
/// The first version in which a container of a pod can be a native sidecar without a feature gate.
const NATIVE_SIDECARS: (u32, u32) = (1, 29);

pub struct Cluster {
    connection: Arc<Connection>,
    pub namespace: String,
    /// That of the sidecar's pod, which may be another than the Lease's.
    pub pod_namespace: String,
    pub auth: AuthInfo,
    deadline: Moment,
    /// What the API server's clock said, and when here.
    clock: Option<(Timestamp, Now)>,
}

impl Cluster {
    /// Finds the configuration and the API server. `None`: it is not reached, which is told.
    pub async fn reach(task: &Task, findings: &mut Findings) -> Option<Self> {
        let source = &task.settings.source;
        let (config, origin) = match source.find().await {
            Ok(found) => found,
            Err(error) => {
                // What to do stands there as well.
                findings.note(Status::Failed, "configuration", error.to_string(), None);
                return None;
            }
        };
        let namespace = task.settings.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        if let Err(fault) = dns_label(&namespace) {
            let message = format!("the namespace {namespace:?} of the kubeconfig's context is no namespace: {fault}");
            findings.failed("configuration", message, "give --namespace");
            return None;
        }
        let connection = match Connection::new(source.clone(), &config, Box::new(|_, _, _| {})) {
            Ok(connection) => Arc::new(connection),
            Err(error) => {
                findings.failed(
                    "configuration",
                    error.to_string(),
                    "check the user and the cluster of the kubeconfig's context",
                );
                return None;
            }
        };
        let url = config.cluster_url.to_string();
        let url = url.trim_end_matches('/');
        let origin = match (origin, &source.kubeconfig) {
            (Origin::Pod, _) => "the pod's service account".to_owned(),
            (Origin::Kubeconfig, Some(path)) => format!("the kubeconfig {}", path.display()),
            (Origin::Kubeconfig, None) => "kubectl's kubeconfig".to_owned(),
        };
        findings.ok("configuration", format!("{origin}: {url}, namespace {namespace}"));
        let deadline = SystemClock.boot() + ALL_ATTEMPTS;
        let pod_namespace = match (&task.settings.pod_namespace, task.beside) {
            (Some(namespace), _) => namespace.clone(),
            (None, Beside::Nothing) => namespace.clone(),
            (None, _) => config.default_namespace,
        };
        let auth = config.auth_info;
        let mut cluster = Cluster { connection, namespace, pod_namespace, auth, deadline, clock: None };
        cluster.greet(url, findings).await.then_some(cluster)
    }

    async fn greet(&mut self, url: &str, findings: &mut Findings) -> bool {
        let name = "api-server";
        match self.send("get", Method::GET, "/version", None).await {
            Ok(version) => {
                let text = version["gitVersion"].as_str().unwrap_or("of an unknown version");
                let message = format!("{url} answers: {text}");
                match release(&version) {
                    Some(release) if release < NATIVE_SIDECARS => {
                        findings.warning(name, message, "native sidecars need 1.29: in an older cluster the sidecar is an ordinary container, with --on-sigterm wait-for-app");
                    }
                    _ => findings.ok(name, message),
                }
                true
            }
            // Whoever refuses has been reached. What it refuses is another question.
            Err(Failure::Status { code, .. }) if code < 500 => {
                findings.ok(name, format!("{url} answers"));
                true
            }
            Err(failure) => {
                let fix = "check the address, the network and its policies, and that the API server runs";
                findings.failed(name, self.advice(&failure), fix);
                false
            }
        }
    }

    /// One request, and its JSON. The first answer says what time it is there.
    async fn send(
        &mut self,
        verb: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let request = request(method, path.to_owned(), body);
        let (headers, json) = self.connection.json_and_headers(verb, request, self.patience()).await?;
        if self.clock.is_none() {
            self.clock = date(&headers).map(|there| (there, SystemClock.now()));
        }
        Ok(json)
    }

    /// Reads an object or a list.
    pub async fn get(&mut self, path: &str) -> Result<Value, Failure> {
        self.send("get", Method::GET, path, None).await
    }

    /// Asks the API server about who asks: a `Self...Review`.
    pub async fn review(&mut self, group: &str, kind: &str, spec: Value) -> Result<Value, Failure> {
        let body = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec});
        let path = format!("/apis/{group}/v1/{}s", kind.to_ascii_lowercase());
        self.send("create", Method::POST, &path, Some(&body)).await
    }

    pub fn api(&self, lease: &str) -> Api {
        Api::new(Arc::clone(&self.connection), self.namespace.clone(), lease.to_owned())
    }

    /// For one request of what `examine` asks. Nothing is left when the time of all is over.
    pub fn patience(&self) -> Duration {
        self.deadline.since(SystemClock.boot()).min(ATTEMPT_TIMEOUT)
    }

    /// What follows has so much time of its own.
    pub fn extend(&mut self, time: Duration) {
        self.deadline = SystemClock.boot() + time + ATTEMPT_TIMEOUT;
    }

    /// What to do about a failure.
    pub fn advice(&self, failure: &Failure) -> String {
        advice(failure, &self.api(""))
    }

    /// What time it is there, to a second or so.
    pub fn now(&self) -> Option<Timestamp> {
        let (there, here) = &self.clock?;
        there.checked_add(SystemClock.boot().since(here.boot)).ok()
    }

    /// It informs, for nothing is decided by it.
    pub fn tell_wall_clock(&self, findings: &mut Findings) {
        let name = "wall-clock";
        let Some((there, here)) = self.clock else {
            return findings.skipped(name, "the API server did not say what time it is");
        };
        let ahead: SignedDuration = here.wall.duration_since(there);
        // The header has whole seconds, rounded down, and was some time on the way.
        let message = match ahead.as_secs() {
            -2..=2 => "within 2 s of the API server's".to_owned(),
            seconds => {
                let direction = if seconds > 0 { "ahead of" } else { "behind" };
                format!("{} {direction} the API server's", span(ahead.unsigned_abs()))
            }
        };
        findings.ok(name, message + " (it decides nothing: terms are counted by the boot clock)");
    }
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(headers.get(header::DATE)?.to_str().ok()?).ok()
}

/// Major and minor; a minor may be `33+`.
fn release(version: &Value) -> Option<(u32, u32)> {
    let number = |key: &str| version[key].as_str()?.trim_end_matches('+').parse().ok();
    Some((number("major")?, number("minor")?))
}
