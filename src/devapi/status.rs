//! Refusals, in the words and the shape of `metav1.Status`.
//!
//! Clients branch on `code` and `reason`, and people read `message`; all three follow
//! k8s.io/apimachinery `pkg/api/errors`.

use serde_json::{Value, json};

pub const GROUP: &str = "coordination.k8s.io";

/// One refused request. It becomes the body of the answer, or of an `ERROR` event on a watch.
#[derive(Debug)]
pub struct Status {
    pub code: u16,
    reason: &'static str,
    message: String,
    details: Value,
}

/// One broken rule about one field, as validation reports it.
#[derive(Debug)]
pub struct Cause {
    reason: &'static str,
    field: String,
    message: String,
}

impl Cause {
    /// `value` is shown as Go's `%q` would for a string and as it is for a number.
    pub fn invalid(field: &str, value: &Value, rule: &str) -> Cause {
        Cause {
            reason: "FieldValueInvalid",
            field: field.to_owned(),
            message: format!("Invalid value: {value}: {rule}"),
        }
    }

    pub fn required(field: &str, rule: &str) -> Cause {
        let message = match rule {
            "" => "Required value".to_owned(),
            rule => format!("Required value: {rule}"),
        };
        Cause { reason: "FieldValueRequired", field: field.to_owned(), message }
    }

    pub fn forbidden(field: &str, rule: &str) -> Cause {
        Cause { reason: "FieldValueForbidden", field: field.to_owned(), message: format!("Forbidden: {rule}") }
    }

    pub fn too_long(field: &str, limit_bytes: usize) -> Cause {
        Cause {
            reason: "FieldValueTooLong",
            field: field.to_owned(),
            message: format!("Too long: may not be more than {limit_bytes} bytes"),
        }
    }

    pub fn not_supported(field: &str, value: &Value, supported: &[&str]) -> Cause {
        let supported: Vec<String> = supported.iter().map(|name| format!("\"{name}\"")).collect();
        Cause {
            reason: "FieldValueNotSupported",
            field: field.to_owned(),
            message: format!("Unsupported value: {value}: supported values: {}", supported.join(", ")),
        }
    }

    fn to_json(&self) -> Value {
        json!({ "reason": self.reason, "message": self.message, "field": self.field })
    }
}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: Value::Null }
    }

    fn about_lease(mut self, name: &str) -> Status {
        self.details = json!({ "name": name, "group": GROUP, "kind": "leases" });
        self
    }

    pub fn not_found(name: &str) -> Status {
        let message = format!("leases.{GROUP} \"{name}\" not found");
        Status::new(404, "NotFound", message).about_lease(name)
    }

    pub fn already_exists(name: &str, being_deleted: bool) -> Status {
        let prefix = if being_deleted { "object is being deleted: " } else { "" };
        let message = format!("{prefix}leases.{GROUP} \"{name}\" already exists");
        Status::new(409, "AlreadyExists", message).about_lease(name)
    }

    pub fn conflict(name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on leases.{GROUP} \"{name}\": {why}");
        Status::new(409, "Conflict", message).about_lease(name)
    }

    /// A precondition of a delete that does not hold; the real server names the kind here.
    pub fn precondition_failed(name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on Lease.{GROUP} \"{name}\": {why}");
        let mut status = Status::new(409, "Conflict", message);
        status.details = json!({ "name": name, "group": GROUP, "kind": "Lease" });
        status
    }

    /// `kind` and `group` name what was malformed: a Lease, or the options of a request.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Status {
        let mut rules: Vec<String> = Vec::new();
        for cause in &causes {
            let rule = format!("{}: {}", cause.field, cause.message);
            // The real server checks metadata twice at an update: each cause is listed as often
            // as it was found, and told once.
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        let rules = match rules.as_slice() {
            [only] => only.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let qualified = match group {
            "" => kind.to_owned(),
            group => format!("{kind}.{group}"),
        };
        let mut status = Status::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {rules}"));
        let mut details = serde_json::Map::new();
        for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                details.insert(key.to_owned(), value.into());
            }
        }
        details.insert("causes".to_owned(), causes.iter().map(Cause::to_json).collect());
        status.details = Value::Object(details);
        status
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    /// A version whose history is gone: list again, then watch from the list's version.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message)
    }

    /// A version that has not been reached yet. The real server waits three seconds for its
    /// cache to catch up before it says so; there is no cache here that could be behind.
    pub fn too_large_version(asked: u64, current: u64) -> Status {
        let mut status =
            Status::new(504, "Timeout", format!("Timeout: Too large resource version: {asked}, current: {current}"));
        status.details = json!({
            "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
            "retryAfterSeconds": 1,
        });
        status
    }

    pub fn method_not_allowed() -> Status {
        let message = "the server does not allow this method on the requested resource";
        let mut status = Status::new(405, "MethodNotAllowed", message);
        status.details = json!({});
        status
    }

    /// A path that this API group does not have.
    pub fn no_such_resource() -> Status {
        let mut status = Status::new(404, "NotFound", "the server could not find the requested resource");
        status.details = json!({});
        status
    }

    pub fn no_such_namespace(name: &str) -> Status {
        let mut status = Status::new(404, "NotFound", format!("namespaces \"{name}\" not found"));
        status.details = json!({ "name": name, "kind": "namespaces" });
        status
    }

    pub fn not_acceptable() -> Status {
        let message = "406: Not Acceptable\n\nAvailable representations: application/json";
        let mut status = Status::new(406, "NotAcceptable", message);
        status.details = json!({});
        status
    }

    pub fn unsupported_body() -> Status {
        let message = "the body of the request was in an unknown format - accepted media types include: \
                       application/json, application/vnd.kubernetes.protobuf";
        Status::new(415, "UnsupportedMediaType", message)
    }

    pub fn unsupported_patch() -> Status {
        let mut status = Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
        status.details = json!({});
        status
    }

    pub fn body_too_large(limit_bytes: usize) -> Status {
        Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit_bytes}"))
    }

    /// A patch after which the object is no Lease; `shown` is what it would have been.
    pub fn invalid_patch(shown: &str, why: &str) -> Status {
        let cause = Cause::invalid("patch", &Value::from(shown), why);
        Status::invalid("", "", "", vec![cause])
    }

    /// A JSON patch that does not apply.
    pub fn patch_rejected() -> Status {
        let message = "the server rejected our request due to an error in our request";
        let mut status = Status::new(422, "Invalid", message);
        status.details = json!({});
        status
    }

    /// What the real server did not expect a client to send; such a Status has no reason.
    pub fn unexpected(message: impl Into<String>) -> Status {
        Status::new(500, "", message)
    }

    pub fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}
