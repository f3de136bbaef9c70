//! The rules that a Lease keeps: what the real server checks before it writes, in its order.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::names;
use super::status::Cause;

const ANNOTATIONS_BYTES: usize = 256 * 1024;

pub fn validate_new(lease: &Lease) -> Vec<Cause> {
    let meta = &lease.metadata;
    let mut causes = Vec::new();
    if let Some(prefix) = &meta.generate_name {
        let broken = names::subdomain(&mask_trailing_dash(prefix));
        causes.extend(invalid_text("metadata.generateName", prefix, broken));
    }
    match &meta.name {
        None => causes.push(Cause::required("metadata.name", "name or generateName is required")),
        Some(name) => causes.extend(invalid_text("metadata.name", name, names::subdomain(name))),
    }
    causes.extend(validate_metadata(meta));
    causes.extend(validate_spec(lease.spec.as_ref()));
    causes
}

pub fn validate_update(new: &Lease, old: &Lease) -> Vec<Cause> {
    let mut causes = validate_metadata(&new.metadata);
    // The generic code and the Lease's own both check this; clients see each cause twice.
    causes.extend(validate_metadata_update(&new.metadata, &old.metadata));
    causes.extend(validate_metadata_update(&new.metadata, &old.metadata));
    causes.extend(validate_spec(new.spec.as_ref()));
    causes
}

/// A prefix may end in a dash, for something follows it.
fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let kept: String = rest.chars().take(rest.chars().count() - 1).collect();
            format!("{kept}a")
        }
        _ => prefix.to_owned(),
    }
}

fn validate_metadata(meta: &ObjectMeta) -> Vec<Cause> {
    let mut causes = Vec::new();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    causes.extend(invalid_text("metadata.namespace", namespace, names::dns_label(namespace)));
    if let Some(generation) = meta.generation.filter(|generation| *generation < 0) {
        let rule = "must be greater than or equal to 0";
        causes.push(Cause::invalid("metadata.generation", &json!(generation), rule));
    }
    causes.extend(validate_labels(meta.labels.as_ref()));
    causes.extend(validate_annotations(meta.annotations.as_ref()));
    causes.extend(validate_owners(meta.owner_references.as_deref().unwrap_or_default()));
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    for finalizer in finalizers {
        causes.extend(invalid_text("metadata.finalizers", finalizer, names::label_key(finalizer)));
    }
    let both = ["orphan", "foregroundDeletion"].iter().all(|name| finalizers.iter().any(|finalizer| finalizer == name));
    if both {
        let rule = "finalizer orphan and foregroundDeletion cannot be both set";
        causes.push(Cause::invalid("metadata.finalizers", &json!(finalizers), rule));
    }
    causes
}

fn validate_metadata_update(new: &ObjectMeta, old: &ObjectMeta) -> Vec<Cause> {
    let mut causes = Vec::new();
    if old.deletion_timestamp.is_some() {
        causes.extend(no_new_finalizers(new, old));
    }
    let unchanged = [
        ("metadata.name", json!(new.name), json!(old.name)),
        ("metadata.namespace", json!(new.namespace), json!(old.namespace)),
        ("metadata.uid", json!(new.uid), json!(old.uid)),
        ("metadata.deletionTimestamp", json!(new.deletion_timestamp), json!(old.deletion_timestamp)),
        (
            "metadata.deletionGracePeriodSeconds",
            json!(new.deletion_grace_period_seconds),
            json!(old.deletion_grace_period_seconds),
        ),
    ];
    for (field, new, old) in unchanged {
        if new != old {
            causes.push(Cause::invalid(field, &new, "field is immutable"));
        }
    }
    causes.extend(validate_labels(new.labels.as_ref()));
    causes.extend(validate_annotations(new.annotations.as_ref()));
    causes.extend(validate_owners(new.owner_references.as_deref().unwrap_or_default()));
    causes
}

fn no_new_finalizers(new: &ObjectMeta, old: &ObjectMeta) -> Option<Cause> {
    let old = old.finalizers.as_deref().unwrap_or_default();
    let new = new.finalizers.as_deref().unwrap_or_default();
    let added: Vec<String> =
        new.iter().filter(|finalizer| !old.contains(finalizer)).map(|finalizer| format!("\"{finalizer}\"")).collect();
    let rule = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        added.join(", ")
    );
    (!added.is_empty()).then(|| Cause::forbidden("metadata.finalizers", &rule))
}

fn validate_labels(labels: Option<&BTreeMap<String, String>>) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        causes.extend(invalid_text("metadata.labels", key, names::label_key(key)));
        causes.extend(invalid_text("metadata.labels", value, names::label_value(value)));
    }
    causes
}

fn validate_annotations(annotations: Option<&BTreeMap<String, String>>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut total_bytes = 0;
    for (key, value) in annotations.into_iter().flatten() {
        let broken = names::label_key(&key.to_lowercase());
        causes.extend(invalid_text("metadata.annotations", key, broken));
        total_bytes += key.len() + value.len();
    }
    if total_bytes > ANNOTATIONS_BYTES {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATIONS_BYTES));
    }
    causes
}

fn validate_owners(owners: &[OwnerReference]) -> Vec<Cause> {
    let mut causes = Vec::new();
    for owner in owners {
        let version = owner.api_version.rsplit('/').next().unwrap_or_default();
        let required = [
            ("apiVersion", version, owner.api_version.as_str(), "version must not be empty"),
            ("kind", owner.kind.as_str(), owner.kind.as_str(), "must not be empty"),
            ("name", owner.name.as_str(), owner.name.as_str(), "must not be empty"),
            ("uid", owner.uid.as_str(), owner.uid.as_str(), "must not be empty"),
        ];
        for (field, needed, shown, rule) in required {
            if needed.is_empty() {
                let field = format!("metadata.ownerReferences.{field}");
                causes.push(Cause::invalid(&field, &json!(shown), rule));
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            let rule = "/v1, Kind=Event is disallowed from being an owner";
            causes.push(Cause::invalid("metadata.ownerReferences", &json!(owner), rule));
        }
    }
    let mut controllers = owners.iter().filter(|owner| owner.controller == Some(true));
    if let Some(first) = controllers.next() {
        for other in controllers {
            let rule = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
                first.kind, first.name, other.kind, other.name
            );
            causes.push(Cause::invalid("metadata.ownerReferences", &json!(owners), &rule));
        }
    }
    causes
}

/// `strategy` and `preferredHolder` have rules too, but a server without the feature gate
/// CoordinatedLeaderElection, which is off by default, drops both before it checks anything.
fn validate_spec(spec: Option<&LeaseSpec>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let Some(spec) = spec else { return causes };
    if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
        let field = "spec.leaseDurationSeconds";
        causes.push(Cause::invalid(field, &json!(seconds), "must be greater than 0"));
    }
    if let Some(count) = spec.lease_transitions.filter(|count| *count < 0) {
        let rule = "must be greater than or equal to 0";
        causes.push(Cause::invalid("spec.leaseTransitions", &json!(count), rule));
    }
    causes
}

fn invalid_text(field: &str, value: &str, broken: Vec<String>) -> Vec<Cause> {
    let value = Value::from(value);
    broken.iter().map(|rule| Cause::invalid(field, &value, rule)).collect()
}
