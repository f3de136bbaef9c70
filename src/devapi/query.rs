//! What the query string of a request asks for.

use serde_json::{Value, json};

use super::status::{Cause, Status};

const META_GROUP: &str = "meta.k8s.io";

pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(name, true), percent_decode(value, true))
                })
                .collect(),
        )
    }

    /// The first value; "" where the name is not given.
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// As Go's clients of this API mean it: `?watch` and `?watch=1` are yes.
    pub fn flag(&self, name: &str) -> Option<bool> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        Some(!matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    pub fn seconds(&self, name: &str) -> Result<Option<u64>, Status> {
        match self.text(name) {
            "" => Ok(None),
            text => text
                .parse::<i64>()
                .map(|seconds| u64::try_from(seconds).ok())
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))),
        }
    }

    fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// `plus_is_space` in a query string, not in a path.
pub fn percent_decode(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[2..];
            }
            None => {
                bytes.push(if byte == b'+' && plus_is_space { b' ' } else { byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What becomes of fields that a Lease does not have.
#[derive(Clone, Copy, PartialEq)]
pub enum UnknownFields {
    Ignore,
    /// Dropped, and named in a `Warning` header. The default.
    Warn,
    Refuse,
}

pub struct WriteOptions {
    pub dry_run: bool,
    pub unknown_fields: UnknownFields,
}

impl WriteOptions {
    /// `kind` is the options' own: CreateOptions, UpdateOptions, PatchOptions.
    pub fn parse(query: &Query, kind: &str) -> Result<WriteOptions, Status> {
        let dry_run = dry_run(&query.all("dryRun"), kind)?;
        let unknown_fields = match query.text("fieldValidation") {
            "Ignore" => UnknownFields::Ignore,
            "" | "Warn" => UnknownFields::Warn,
            "Strict" => UnknownFields::Refuse,
            other => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                let cause = Cause::not_supported("fieldValidation", &json!(other), &supported);
                return Err(Status::invalid(META_GROUP, kind, "", vec![cause]));
            }
        };
        Ok(WriteOptions { dry_run, unknown_fields })
    }
}

pub fn dry_run(values: &[&str], kind: &str) -> Result<bool, Status> {
    if values.iter().any(|value| *value != "All") {
        let cause = Cause::not_supported("dryRun", &json!(values), &["All"]);
        return Err(Status::invalid(META_GROUP, kind, "", vec![cause]));
    }
    Ok(!values.is_empty())
}

/// The delete options in a query string, where there is no body.
pub fn delete_options(query: &Query) -> Value {
    let mut options = json!({ "dryRun": query.all("dryRun") });
    if !query.text("propagationPolicy").is_empty() {
        options["propagationPolicy"] = query.text("propagationPolicy").into();
    }
    options
}

/// Checks of a delete's options that do not need the Lease.
pub fn check_propagation(policy: Option<&str>) -> Result<(), Status> {
    match policy {
        None | Some("Foreground" | "Background" | "Orphan") => Ok(()),
        Some(other) => {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            let cause = Cause::not_supported("propagationPolicy", &json!(other), &supported);
            Err(Status::invalid(META_GROUP, "DeleteOptions", "", vec![cause]))
        }
    }
}

/// The rules about combinations of list and watch parameters.
pub fn check_list_options(query: &Query, watch: bool) -> Result<(), Status> {
    let mut causes = Vec::new();
    let version_match = query.text("resourceVersionMatch");
    let sends_initial = query.flag("sendInitialEvents").is_some();
    let forbid = |field, rule: &str| Cause::forbidden(field, rule);
    let field = "resourceVersionMatch";
    if watch && sends_initial && version_match != "NotOlderThan" {
        let rule = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        causes.push(forbid(field, rule));
    }
    if !version_match.is_empty() && watch {
        if !sends_initial {
            let rule = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            causes.push(forbid(field, rule));
        }
        if version_match != "NotOlderThan" {
            causes.push(Cause::not_supported(field, &json!(version_match), &["NotOlderThan"]));
        }
    }
    if !version_match.is_empty() && !watch {
        if query.text("resourceVersion").is_empty() {
            let rule = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            causes.push(forbid(field, rule));
        }
        if !matches!(version_match, "Exact" | "NotOlderThan") {
            let supported = ["Exact", "NotOlderThan", ""];
            causes.push(Cause::not_supported(field, &json!(version_match), &supported));
        }
        if version_match == "Exact" && query.text("resourceVersion") == "0" {
            let rule = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            causes.push(forbid(field, rule));
        }
    }
    if sends_initial && !watch {
        let rule = "sendInitialEvents is forbidden for list";
        causes.push(forbid("sendInitialEvents", rule));
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(META_GROUP, "ListOptions", "", causes))
}
