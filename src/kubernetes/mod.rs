//! The API server's side: one Lease, read, watched and written by compare-and-swap; and many, read and watched.
//!
//! [`Api`] is what the loop uses for one lease: it performs the election's [`Write`]s and reads, and [`watch`] feeds
//! it with what the watch sees. An object is kept as it came, because a write replaces the whole of it. [`Leases`] are
//! those that others write, and a [`Reader`] knows what they are now.
//!
//! Beside it, and never in its way, the cluster is told who leads: by [`events`] and by a label on the pod.

mod advice;
pub mod connection;
mod credentials;
pub mod events;
mod follow;
mod lease;
mod leases;
mod member;
mod patience;
pub mod pod_label;
mod reader;
mod watch;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use serde_json::{Value, json};

pub use advice::{FORBIDDEN, Role, advice, operator_advice, reader_advice};
#[doc(hidden)]
pub use connection::status_failure;
pub use connection::{ConfigError, Connection, Failure, OnRequest, Origin, Source};
#[doc(hidden)]
pub use follow::{Ended, hear};
pub use lease::{RELEASED, STEP_DOWN, TOKEN, format_time};
#[doc(hidden)]
pub use lease::{object_for, of_list, record_of};
pub use leases::{Leases, Told};
#[doc(hidden)]
pub use leases::{Many, Page, entry_of, page_of};
pub use member::Card;
pub use reader::{News, Reader};
#[doc(hidden)]
pub use watch::One;
pub use watch::{Watched, watch};

use crate::election::{Base, Outcome, Record, Write};

/// This pod, for what is said of it to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    /// `None` where nobody said it: it cannot be told from another pod of its name then.
    pub uid: Option<String>,
}

/// A base of a write may be a version or two behind what the watch brought meanwhile; such a write would conflict.
const OBJECTS_KEPT: usize = 3;

/// One Lease on an API server.
pub struct Api {
    connection: Arc<Connection>,
    pub namespace: String,
    pub name: String,
    /// What its requests need.
    role: Role,
    objects: Mutex<Vec<(u64, Value)>>,
}

/// The Lease, or its absence as of a version.
pub type Snapshot = (Option<Record>, u64);

impl Api {
    pub fn new(connection: Arc<Connection>, namespace: String, name: String) -> Self {
        let role = Role::lease(&namespace, &name);
        Api { connection, namespace, name, role, objects: Mutex::new(Vec::new()) }
    }

    /// A member's own Lease.
    pub fn of_member(connection: Arc<Connection>, namespace: String, name: String) -> Self {
        Api { role: Role::member(&namespace), ..Api::new(connection, namespace, name) }
    }

    pub fn reconnect(&self) {
        self.connection.reconnect();
    }

    /// Performs a write, and says what is known of its outcome.
    pub async fn write(&self, write: &Write) -> (Outcome, Option<Failure>) {
        let object = |base: Option<&Value>| lease::object_for(write, base, &self.namespace, &self.name);
        self.put(write.base.as_ref(), object, write.timeout).await
    }

    /// Replaces the version that `base` names by what `object` makes of it; creates without one.
    async fn put(
        &self,
        base: Option<&Base>,
        object: impl FnOnce(Option<&Value>) -> Value,
        timeout: Duration,
    ) -> (Outcome, Option<Failure>) {
        let known = base.and_then(|base| self.object(base.version));
        if base.is_some() && known.is_none() {
            // Newer versions have pushed it out: the server would say the same.
            return (Outcome::Conflict, None);
        }
        let object = object(known.as_ref());
        let verb = if base.is_none() { "create" } else { "update" };
        let request = request(Method::PUT, self.path(), Some(&object));
        match self.connection.json(verb, request, timeout).await.and_then(|object| self.keep(object)) {
            Ok(record) => (Outcome::Committed(Box::new(record)), None),
            Err(failure) => (self.outcome(base.is_none(), &failure), Some(failure)),
        }
    }

    fn outcome(&self, creates: bool, failure: &Failure) -> Outcome {
        match failure {
            Failure::Status { code: 409, .. } => Outcome::Conflict,
            // A creating PUT that finds the object there is taken for an update without a version.
            Failure::Status { code: 422, fields, .. }
                if creates && fields.iter().any(|field| field == "metadata.resourceVersion") =>
            {
                Outcome::Conflict
            }
            Failure::Status { code: 500..=599, .. }
            | Failure::Timeout(_)
            | Failure::Broken(_)
            | Failure::TooLarge(_)
            | Failure::NotUnderstood(_) => Outcome::Unknown,
            // Nothing was sent.
            Failure::Connect(_) | Failure::Credentials(_) => {
                Outcome::Refused { advice: advice(failure, self), retry_after: None }
            }
            Failure::Status { retry_after, .. } => {
                Outcome::Refused { advice: advice(failure, self), retry_after: *retry_after }
            }
        }
    }

    /// Reads the Lease consistently. Its absence has a version only in a list.
    pub async fn read(&self, timeout: Duration) -> Result<Snapshot, Failure> {
        match self.get(timeout).await? {
            Some(record) => {
                let version = record.version;
                Ok((Some(record), version))
            }
            None => self.list(timeout).await.map(|(snapshot, _)| snapshot),
        }
    }

    /// The same without a version of its absence, and so without the right to list.
    pub async fn get(&self, timeout: Duration) -> Result<Option<Record>, Failure> {
        match self.connection.json("get", request(Method::GET, self.path(), None), timeout).await {
            Ok(object) => self.keep(object).map(Some),
            Err(Failure::Status { code: 404, .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Sets an annotation by a JSON merge patch, whatever version the Lease is at, and leaves all else alone.
    pub async fn annotate(&self, annotation: &str, value: &str, timeout: Duration) -> Result<Record, Failure> {
        let patch = json!({"metadata": {"annotations": {annotation: value}}});
        let object = self.connection.json("patch", merge_patch(self.path(), &patch), timeout).await?;
        self.keep(object)
    }

    /// Has the API server judge a write of the Lease as it was at `version`, or without one its creation, and write
    /// nothing: a dry run, which admission takes part in.
    pub async fn rehearse(&self, version: Option<u64>, timeout: Duration) -> Result<(), Failure> {
        let known = version.and_then(|version| self.object(version));
        let verb = if known.is_some() { "update" } else { "create" };
        let object = known.unwrap_or_else(|| lease::empty(&self.namespace, &self.name));
        let request = request(Method::PUT, format!("{}?dryRun=All", self.path()), Some(&object));
        self.connection.json(verb, request, timeout).await.map(drop)
    }

    /// The Lease as a list shows it, and the version to watch from.
    async fn list(&self, timeout: Duration) -> Result<(Snapshot, u64), Failure> {
        let list = self.connection.json("list", request(Method::GET, self.collection_of_one(), None), timeout).await?;
        let (item, version) = lease::of_list(list).map_err(|_| Failure::NotUnderstood("list of Leases"))?;
        match item {
            Some(object) => {
                let record = self.keep(object)?;
                let own = record.version;
                Ok(((Some(record), own), version))
            }
            None => Ok(((None, version), version)),
        }
    }

    /// Remembers an object as the base of writes to come.
    fn keep(&self, object: Value) -> Result<Record, Failure> {
        let record = lease::record_of(&object).map_err(|_| Failure::NotUnderstood("Lease"))?;
        let mut objects = self.objects.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        objects.retain(|(version, _)| *version != record.version);
        if objects.len() == OBJECTS_KEPT {
            objects.remove(0);
        }
        objects.push((record.version, object));
        Ok(record)
    }

    fn object(&self, version: u64) -> Option<Value> {
        let objects = self.objects.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        objects.iter().find(|(known, _)| *known == version).map(|(_, object)| object.clone())
    }

    fn collection(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    /// The collection as far as it is this Lease, and the beginning of a query.
    fn collection_of_one(&self) -> String {
        format!("{}?fieldSelector=metadata.name%3D{}", self.collection(), self.name)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }
}

fn merge_patch(uri: String, patch: &Value) -> Request<Full<Bytes>> {
    let mut request = request(Method::PATCH, uri, Some(patch));
    let kind = header::HeaderValue::from_static("application/merge-patch+json");
    request.headers_mut().insert(header::CONTENT_TYPE, kind);
    request
}

/// A request with a JSON body, or none. The parts of `uri` are validated by who makes it.
pub(crate) fn request(method: Method, uri: String, body: Option<&Value>) -> Request<Full<Bytes>> {
    let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let mut request = Request::new(Full::new(bytes));
    *request.method_mut() = method;
    // The parts are a DNS label, a DNS subdomain and numbers, all validated, or escaped.
    *request.uri_mut() = uri.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
    headers
        .insert(header::USER_AGENT, header::HeaderValue::from_static(concat!("leasehold/", env!("CARGO_PKG_VERSION"))));
    if body.is_some() {
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    }
    request
}
