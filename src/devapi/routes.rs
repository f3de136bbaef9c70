//! Requests: which resource and verb a path and method mean, and what is done for each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use hyper::{Method, Request};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};

use super::patch::Patch;
use super::query::{self, Query, UnknownFields, WriteOptions, percent_decode};
use super::reply::{self, Reply};
use super::selector::Selector;
use super::status::{GROUP, Status};
use super::store::{DeleteOptions, Deleted, Key, Store, Updated};
use super::table::Form;
use super::{discovery, protobuf, schema, watch};

const BODY_BYTES: usize = 3 * 1024 * 1024;
/// The real server gives a request that is not a watch this long.
const BODY_TIMEOUT: Duration = Duration::from_secs(34);

const API_VERSION: &str = "coordination.k8s.io/v1";

/// One request with what every handler needs of it.
struct Call {
    parts: Parts,
    query: Query,
    body: Bytes,
    store: Arc<Mutex<Store>>,
}

/// What a path means to this server.
enum Target {
    Document(Reply),
    AccessReview,
    AllLeases,
    Leases { namespace: String },
    Lease(Key),
}

pub async fn answer(store: Arc<Mutex<Store>>, request: Request<Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let pretty = reply::wants_pretty(&parts.headers, &query);
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(status) => return reply::json(status.code, &status.to_json(), pretty),
    };
    let call = Call { parts, query, body, store };
    call.answer(pretty).unwrap_or_else(|status| reply::json(status.code, &status.to_json(), pretty))
}

async fn read_body(body: Incoming) -> Result<Bytes, Status> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES).collect());
    match collected.await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Status::body_too_large(BODY_BYTES)),
        Ok(Err(error)) => Err(Status::bad_request(error.to_string())),
        Err(_) => Err(Status::bad_request("the request's body did not arrive in time")),
    }
}

impl Call {
    fn answer(&self, pretty: bool) -> Result<Reply, Status> {
        let method = &self.parts.method;
        match self.target(pretty)? {
            Target::Document(document) if method == Method::GET => Ok(document),
            Target::AccessReview if method == Method::POST => Ok(self.access_review(pretty)),
            Target::AllLeases if method == Method::GET => self.list_or_watch(None, pretty),
            Target::Leases { namespace } => match *method {
                Method::GET => self.list_or_watch(Some(namespace), pretty),
                Method::POST => self.create(&namespace, pretty),
                Method::DELETE => self.delete_collection(namespace, pretty),
                _ => Err(Status::method_not_allowed()),
            },
            Target::Lease(key) => match *method {
                Method::GET => self.get(&key, pretty),
                Method::PUT => self.put(&key, pretty),
                Method::PATCH => self.patch(&key, pretty),
                Method::DELETE => self.delete(&key, pretty),
                _ => Err(Status::method_not_allowed()),
            },
            _ => Err(Status::method_not_allowed()),
        }
    }

    fn target(&self, pretty: bool) -> Result<Target, Status> {
        let path = self.parts.uri.path().trim_end_matches('/');
        let segments: Vec<String> = path.split('/').skip(1).map(|segment| percent_decode(segment, false)).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let document = |value: Value| Ok(Target::Document(reply::json(200, &value, pretty)));
        match segments.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Ok(Target::Document(reply::text(200, "ok"))),
            ["apis", GROUP, "v1", "leases"] => Ok(Target::AllLeases),
            ["apis", GROUP, "v1", "namespaces", namespace, "leases"] => {
                Ok(Target::Leases { namespace: (*namespace).to_owned() })
            }
            ["apis", GROUP, "v1", "namespaces", namespace, "leases", name] => {
                Ok(Target::Lease(((*namespace).to_owned(), (*name).to_owned())))
            }
            ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] => Ok(Target::AccessReview),
            ["api", "v1", "namespaces"] => {
                let store = self.store();
                document(discovery::namespaces(store.namespaces(), store.started()))
            }
            ["api", "v1", "namespaces", name] => match super::names::dns_label(name).is_empty() {
                true => document(discovery::namespace(name, self.store().started())),
                false => Err(Status::no_such_namespace(name)),
            },
            ["version"] => Ok(Target::Document(reply::json(200, &discovery::version(), true))),
            segments => match discovery::document(segments) {
                Some(value) => document(value),
                None if matches!(segments, ["api" | "apis", "v1" | GROUP, ..]) => Err(Status::no_such_resource()),
                None => Ok(Target::Document(reply::text(404, "404 page not found\n"))),
            },
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // A panic under the lock would be a bug; the records themselves are replaced whole.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn form(&self) -> Result<Form, Status> {
        reply::wanted_form(&self.parts.headers, &self.query)
    }

    fn one(&self, code: u16, lease: &Lease, form: Form, pretty: bool) -> Reply {
        let now = self.store().now();
        reply::json(code, &form.one(lease, now), pretty)
    }

    fn get(&self, key: &Key, pretty: bool) -> Result<Reply, Status> {
        let form = self.form()?;
        self.check_version_reached()?;
        let lease = self.store().get(key)?;
        Ok(self.one(200, &lease, form, pretty))
    }

    fn list_or_watch(&self, namespace: Option<String>, pretty: bool) -> Result<Reply, Status> {
        let form = self.form()?;
        let watch = self.query.flag("watch") == Some(true);
        let timeout = self.query.seconds("timeoutSeconds")?;
        self.query.seconds("limit")?;
        query::check_list_options(&self.query, watch)?;
        let selector = self.selector(namespace)?;
        if watch {
            return self.watch(selector, form, timeout);
        }
        let asked = self.check_version_reached()?;
        let store = self.store();
        if self.query.text("resourceVersionMatch") == "Exact" && asked != store.version() {
            return Err(Status::expired("The resourceVersion for the provided list is too old."));
        }
        let leases = store.list(&selector);
        let leases = leases.iter().map(AsRef::as_ref);
        Ok(reply::json(200, &form.list(leases, store.version(), store.now()), pretty))
    }

    fn selector(&self, namespace: Option<String>) -> Result<Selector, Status> {
        let fields = self.query.text("fieldSelector");
        let labels = self.query.text("labelSelector");
        Selector::new(namespace, fields, labels).map_err(Status::bad_request)
    }

    fn watch(&self, selector: Selector, form: Form, timeout: Option<u64>) -> Result<Reply, Status> {
        let text = self.query.text("resourceVersion");
        let version = match text {
            "" => 0,
            text => text.parse().map_err(|_| {
                Status::unexpected(format!(
                    "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
                ))
            })?,
        };
        let options = watch::Options {
            selector,
            form,
            version,
            initial_events: self.query.flag("sendInitialEvents").unwrap_or(version == 0),
            bookmarks: self.query.flag("allowWatchBookmarks") == Some(true),
            timeout: timeout.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        };
        Ok(reply::events(watch::start(&self.store, options)))
    }

    /// The `resourceVersion` of a read is the oldest state that its client takes.
    fn check_version_reached(&self) -> Result<u64, Status> {
        let text = self.query.text("resourceVersion");
        if text.is_empty() {
            return Ok(0);
        }
        let asked = text.parse().map_err(|_| {
            Status::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
            ))
        })?;
        let current = self.store().version();
        if asked > current {
            return Err(Status::too_large_version(asked, current));
        }
        Ok(asked)
    }

    fn create(&self, namespace: &str, pretty: bool) -> Result<Reply, Status> {
        let form = self.form()?;
        let body = self.parse_body(schema::LEASE)?;
        let options = WriteOptions::parse(&self.query, "CreateOptions")?;
        let (lease, unknown) = read_lease(body, options.unknown_fields)?;
        check_namespace(&lease, namespace)?;
        let lease = self.store().create(namespace, lease, options.dry_run)?;
        let mut reply = self.one(201, &lease, form, pretty);
        reply::add_warnings(&mut reply, &unknown);
        Ok(reply)
    }

    fn put(&self, key: &Key, pretty: bool) -> Result<Reply, Status> {
        let form = self.form()?;
        let options = WriteOptions::parse(&self.query, "UpdateOptions")?;
        let body = self.parse_body(schema::LEASE)?;
        let (lease, unknown) = read_lease(body, options.unknown_fields)?;
        check_namespace(&lease, &key.0)?;
        check_name(&lease, &key.1)?;
        let expected_uid = lease.metadata.uid.clone();
        let updated = self.store().update(key, lease, expected_uid.as_deref(), options.dry_run)?;
        Ok(self.updated(&updated, &unknown, form, pretty))
    }

    fn patch(&self, key: &Key, pretty: bool) -> Result<Reply, Status> {
        let form = self.form()?;
        let media_type = self.media_type();
        let patch = Patch::parse(&media_type, &self.body)?;
        let options = WriteOptions::parse(&self.query, "PatchOptions")?;
        // Read, patched and written under one lock: unlike a PUT, a patch without a version
        // never conflicts.
        let mut store = self.store();
        let existing = store.get(key)?;
        let mut patched = json!(*existing);
        patch.apply(&mut patched)?;
        let shown = patched.to_string();
        let (lease, unknown) = schema::read_lease(patched)
            .and_then(|read| refuse_unknown(read, options.unknown_fields))
            .map_err(|why| Status::invalid_patch(&shown, &why))?;
        check_namespace(&lease, &key.0)?;
        check_name(&lease, &key.1)?;
        let updated = store.update(key, lease, None, options.dry_run)?;
        drop(store);
        Ok(self.updated(&updated, &unknown, form, pretty))
    }

    fn updated(&self, updated: &Updated, unknown: &[String], form: Form, pretty: bool) -> Reply {
        let mut reply = match updated {
            Updated::Created(lease) => self.one(201, lease, form, pretty),
            Updated::Changed(lease) => self.one(200, lease, form, pretty),
        };
        reply::add_warnings(&mut reply, unknown);
        reply
    }

    fn delete(&self, key: &Key, pretty: bool) -> Result<Reply, Status> {
        let form = self.form()?;
        let options = self.delete_options()?;
        let deleted = self.store().delete(key, &options)?;
        Ok(match deleted {
            Deleted::Marked(lease) => self.one(200, &lease, form, pretty),
            Deleted::Gone(lease) => {
                let status = json!({
                    "kind": "Status",
                    "apiVersion": "v1",
                    "metadata": {},
                    "status": "Success",
                    "details": {
                        "name": key.1,
                        "group": GROUP,
                        "kind": "leases",
                        "uid": lease.metadata.uid,
                    },
                });
                reply::json(200, &status, pretty)
            }
        })
    }

    fn delete_collection(&self, namespace: String, pretty: bool) -> Result<Reply, Status> {
        let form = self.form()?;
        query::check_list_options(&self.query, false)?;
        let selector = self.selector(Some(namespace))?;
        let options = self.delete_options()?;
        let mut store = self.store();
        let version = store.version();
        let leases = store.list(&selector);
        for lease in &leases {
            let meta = &lease.metadata;
            let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
            store.delete(&key, &options)?;
        }
        let leases = leases.iter().map(AsRef::as_ref);
        Ok(reply::json(200, &form.list(leases, version, store.now()), pretty))
    }

    /// Cascading is accepted and does nothing: nothing here is owned by a Lease.
    fn delete_options(&self) -> Result<DeleteOptions, Status> {
        let body = if self.body.is_empty() {
            query::delete_options(&self.query)
        } else {
            self.parse_body(schema::DELETE_OPTIONS)?
        };
        let mut unknown = Vec::new();
        let options = schema::read_object(body, schema::DELETE_OPTIONS, "DeleteOptions", "", &mut unknown)
            .map_err(Status::bad_request)?;
        let options = Value::Object(options);
        query::check_propagation(options["propagationPolicy"].as_str())?;
        let dry_run: Vec<&str> = options["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let precondition = |name| options["preconditions"][name].as_str().map(str::to_owned);
        Ok(DeleteOptions {
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            dry_run: query::dry_run(&dry_run, "DeleteOptions")?,
        })
    }

    /// Whoever reaches this server may do everything.
    fn access_review(&self, pretty: bool) -> Reply {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let review = json!({
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {},
            "spec": body.get("spec").cloned().unwrap_or_else(|| json!({})),
            "status": { "allowed": true },
        });
        reply::json(201, &review, pretty)
    }

    fn media_type(&self) -> String {
        let header = self.parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = header.unwrap_or_default().split(';').next().unwrap_or_default();
        media_type.trim().to_ascii_lowercase()
    }

    fn parse_body(&self, fields: &[schema::Field]) -> Result<Value, Status> {
        let unrecognised = |why: String| {
            Status::bad_request(format!(
                "the object provided is unrecognized (must be of type Lease): couldn't get version/kind; {why}"
            ))
        };
        let value = match self.media_type().as_str() {
            "" | "application/json" => serde_json::from_slice(&self.body)
                .map_err(|error| unrecognised(format!("json parse error: {error}")))?,
            "application/vnd.kubernetes.protobuf" => protobuf::read(&self.body, fields).map_err(unrecognised)?,
            _ => return Err(Status::unsupported_body()),
        };
        match value {
            Value::Object(_) => Ok(value),
            Value::Null => Ok(json!({})),
            _ => Err(unrecognised("json parse error: the body is not an object".to_owned())),
        }
    }
}

fn read_lease(body: Value, unknown_fields: UnknownFields) -> Result<(Lease, Vec<String>), Status> {
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let (kind, api_version) = (text("kind"), text("apiVersion"));
    let version = api_version.rsplit('/').next().filter(|version| !version.is_empty());
    let shown_kind = if kind.is_empty() { "Lease" } else { &kind };
    let unhandled = |why: String| {
        let version = version.unwrap_or("v1");
        Status::bad_request(format!("{shown_kind} in version \"{version}\" cannot be handled as a Lease: {why}"))
    };
    let expected = matches!(api_version.as_str(), "" | API_VERSION);
    if shown_kind != "Lease" || !expected {
        let version = if api_version.is_empty() { API_VERSION } else { &api_version };
        return Err(unhandled(format!("no kind \"{shown_kind}\" is registered for version \"{version}\"")));
    }
    schema::read_lease(body).and_then(|read| refuse_unknown(read, unknown_fields)).map_err(unhandled)
}

fn refuse_unknown(
    (lease, unknown): (Lease, Vec<String>),
    unknown_fields: UnknownFields,
) -> Result<(Lease, Vec<String>), String> {
    match unknown_fields {
        UnknownFields::Refuse if !unknown.is_empty() => {
            let fields: Vec<String> = unknown.iter().map(|field| format!("unknown field \"{field}\"")).collect();
            Err(format!("strict decoding error: {}", fields.join(", ")))
        }
        UnknownFields::Ignore => Ok((lease, Vec::new())),
        _ => Ok((lease, unknown)),
    }
}

fn check_namespace(lease: &Lease, namespace: &str) -> Result<(), Status> {
    match lease.metadata.namespace.as_deref() {
        Some(given) if given != namespace => Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
        _ => Ok(()),
    }
}

fn check_name(lease: &Lease, name: &str) -> Result<(), Status> {
    match lease.metadata.name.as_deref() {
        None => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        Some(given) if given != name => Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
        Some(_) => Ok(()),
    }
}
