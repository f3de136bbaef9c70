//! A Lease object as JSON, to and from what the election reads and writes.
//!
//! Objects are kept as they came: a typed one would lose the fields that this version does not know, and a PUT
//! replaces all of them.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::election::{Base, Kind, Record, Spec, StepDown, Token, Write};

pub const TOKEN: &str = "leasehold.dev/token";
pub const RELEASED: &str = "leasehold.dev/released";
pub const STEP_DOWN: &str = "leasehold.dev/step-down";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Lease's {0} is missing or no number that can be compared: is that an API server?")]
pub struct NotARecord(&'static str);

/// What the election reads of an object.
pub fn record_of(object: &Value) -> Result<Record, NotARecord> {
    let metadata = &object["metadata"];
    let spec = &object["spec"];
    let annotation = |name: &str| metadata["annotations"][name].as_str();
    let text = |name: &str| spec[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    // jiff holds all of RFC 3339 but the last day of the year 9999, which is then as good as no time.
    let time = |name: &str| spec[name].as_str().and_then(parse_time);
    let number =
        |name: &str| spec[name].as_i64().map(|n| i32::try_from(n).unwrap_or(if n < 0 { i32::MIN } else { i32::MAX }));
    Ok(Record {
        uid: metadata["uid"].as_str().ok_or(NotARecord("uid"))?.to_owned(),
        version: version_of(object)?,
        spec: Spec {
            holder: text("holderIdentity"),
            duration_seconds: number("leaseDurationSeconds"),
            acquire_time: time("acquireTime"),
            renew_time: time("renewTime"),
            transitions: number("leaseTransitions").unwrap_or(0),
            strategy: text("strategy"),
            preferred_holder: text("preferredHolder"),
        },
        token: Token::parse(annotation(TOKEN)),
        released: annotation(RELEASED).and_then(parse_time),
        step_down: annotation(STEP_DOWN).and_then(StepDown::parse),
        pod_owned: metadata["ownerReferences"].as_array().is_some_and(|owners| owners.iter().any(is_pod)),
    })
}

/// The resourceVersion of an object or a list.
pub fn version_of(object: &Value) -> Result<u64, NotARecord> {
    object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|version| version.parse().ok())
        .ok_or(NotARecord("resourceVersion"))
}

/// The last Lease of a list, as an object of its own, and the version to watch from.
pub fn of_list(mut list: Value) -> Result<(Option<Value>, u64), NotARecord> {
    let version = version_of(&list)?;
    let item = list.get_mut("items").and_then(Value::as_array_mut).and_then(Vec::pop);
    let Some(mut item) = item else { return Ok((None, version)) };
    let object = item.as_object_mut().ok_or(NotARecord("metadata"))?;
    // Items of a list say neither.
    object.insert("apiVersion".into(), "coordination.k8s.io/v1".into());
    object.insert("kind".into(), "Lease".into());
    Ok((Some(item), version))
}

/// The object to send: `base` as it was, with what the write changes. Without a base, a new one.
pub fn object_for(write: &Write, base: Option<&Value>, namespace: &str, name: &str) -> Value {
    let mut object = base.cloned().unwrap_or_else(|| empty(namespace, name));
    set_base(&mut object, write.base.as_ref());
    let metadata = map(&mut object, "metadata");
    match write.kind {
        Kind::Create | Kind::Renew => {}
        Kind::Acquire { token } => {
            if let Some(owners) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) {
                owners.retain(|owner| !is_pod(owner));
            }
            let annotations = map_in(metadata, "annotations");
            annotations.insert(TOKEN.into(), json!(token.to_string()));
            annotations.remove(RELEASED);
            annotations.remove(STEP_DOWN);
        }
        Kind::Release => {
            let annotations = map_in(metadata, "annotations");
            match &write.step_down {
                Some(request) => annotations.insert(STEP_DOWN.into(), json!(request.to_string())),
                None => annotations.remove(STEP_DOWN),
            };
            if let Some(time) = write.spec.renew_time {
                annotations.insert(RELEASED.into(), json!(format_time(time)));
            }
        }
    }
    set_spec(&mut object, &write.spec);
    object
}

/// What the object replaces; without a base it creates.
pub fn set_base(object: &mut Value, base: Option<&Base>) {
    let metadata = map(object, "metadata");
    // Left out, the server keeps its own.
    metadata.remove("managedFields");
    if let Some(Base { uid, version }) = base {
        // S5: both, always. With the version alone, a PUT to a deleted Lease would create it.
        metadata.insert("uid".into(), json!(uid));
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
    }
}

/// Fields that are not ours stay.
pub fn set_spec(object: &mut Value, to: &Spec) {
    let spec = map(object, "spec");
    spec.insert("holderIdentity".into(), json!(to.holder.as_deref().unwrap_or_default()));
    set(spec, "leaseDurationSeconds", to.duration_seconds.map(Value::from));
    set(spec, "acquireTime", to.acquire_time.map(|time| format_time(time).into()));
    set(spec, "renewTime", to.renew_time.map(|time| format_time(time).into()));
    set(spec, "leaseTransitions", Some(to.transitions.into()));
}

/// A Lease that says nothing yet.
pub fn empty(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": namespace},
    })
}

fn set(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(key.into(), value),
        None => map.remove(key),
    };
}

pub fn map<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    // Just made an object, if it was none.
    map_in(object.as_object_mut().expect("an object"), key)
}

pub fn map_in<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = parent.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("an object")
}

pub fn is_pod(owner: &Value) -> bool {
    owner["kind"] == "Pod"
}

pub fn parse_time(text: &str) -> Option<Timestamp> {
    let time: Timestamp = text.parse().ok()?;
    Timestamp::from_microsecond(time.as_microsecond()).ok()
}

/// As Kubernetes writes a MicroTime.
pub fn format_time(time: Timestamp) -> String {
    format!("{time:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn lease() -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": "web", "namespace": "default", "uid": "u-1", "resourceVersion": "41",
                "labels": {"team": "a"}, "annotations": {"note": "kept", RELEASED: "2026-01-01T00:00:00.000000Z"},
                "ownerReferences": [{"kind": "Pod", "name": "p"}, {"kind": "Deployment", "name": "d"}],
                "managedFields": [{"manager": "x"}],
            },
            "spec": {"holderIdentity": "", "renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 1, "fromTheFuture": 7},
        })
    }

    #[test]
    fn taking_keeps_what_is_not_ours_and_sends_uid_and_version() {
        let record = record_of(&lease()).unwrap();
        assert!(record.is_proved_release() && record.pod_owned);
        let spec = Spec { holder: Some("p_1".into()), duration_seconds: Some(15), transitions: 1, ..Spec::default() };
        let write = Write {
            attempt: 1,
            kind: Kind::Acquire { token: 42 },
            base: Some(Base { uid: "u-1".into(), version: 41 }),
            spec,
            step_down: None,
            timeout: Duration::from_secs(1),
        };
        let object = object_for(&write, Some(&lease()), "default", "web");
        let metadata = &object["metadata"];
        assert_eq!(metadata["uid"], "u-1");
        assert_eq!(metadata["resourceVersion"], "41");
        assert_eq!(metadata["labels"], json!({"team": "a"}));
        assert_eq!(metadata["annotations"], json!({"note": "kept", TOKEN: "42"}));
        assert_eq!(metadata["ownerReferences"], json!([{"kind": "Deployment", "name": "d"}]));
        assert_eq!(metadata.get("managedFields"), None);
        assert_eq!(object["spec"]["fromTheFuture"], 7);
        assert_eq!(object["spec"].get("renewTime"), None);
    }

    #[test]
    fn a_release_proves_itself_by_its_own_renew_time() {
        let time = "2026-03-04T05:06:07.089Z".parse().unwrap();
        let spec = Spec { renew_time: Some(time), duration_seconds: Some(1), ..Spec::default() };
        let base = Some(Base { uid: "u-1".into(), version: 41 });
        let step_down = Some(StepDown { token: 42, to: Some("web-1".into()) });
        let mut write =
            Write { attempt: 1, kind: Kind::Release, base, spec, step_down, timeout: Duration::from_secs(1) };
        let mut object = object_for(&write, Some(&lease()), "default", "web");
        assert_eq!(object["metadata"]["annotations"][RELEASED], "2026-03-04T05:06:07.089000Z");
        // The named successor goes first, and no other request is kept.
        assert_eq!(object["metadata"]["annotations"][STEP_DOWN], "42/web-1");
        write.step_down = None;
        object = object_for(&write, Some(&object), "default", "web");
        assert_eq!(object["metadata"]["annotations"].get(STEP_DOWN), None);
        assert!(record_of(&object).unwrap().is_proved_release());
    }

    #[test]
    fn absurd_fields_are_read_without_a_panic() {
        let mut object = lease();
        object["spec"] = json!({
            "holderIdentity": "h".repeat(1 << 20), "leaseDurationSeconds": -5, "leaseTransitions": 99_999_999_999_i64,
            "renewTime": "9999-12-31T23:59:59.999999Z", "acquireTime": 5,
        });
        object["metadata"]["annotations"][TOKEN] = json!("999999999999999999999999999999");
        let record = record_of(&object).unwrap();
        assert_eq!(record.duration(), None);
        assert_eq!(record.spec.transitions, i32::MAX);
        assert_eq!(record.token, Token::Unreadable);
        object["metadata"]["resourceVersion"] = json!("v1-abc");
        assert_eq!(record_of(&object), Err(NotARecord("resourceVersion")));
    }

    #[test]
    fn a_list_of_no_leases_is_refused_and_an_empty_one_has_a_version() {
        let list = |items: Value| of_list(json!({"metadata": {"resourceVersion": "7"}, "items": items}));
        assert_eq!(list(json!([])), Ok((None, 7)));
        assert_eq!(list(json!(null)), Ok((None, 7)));
        let (item, version) = list(json!([lease()])).unwrap();
        assert_eq!((item, version), (Some(lease()), 7));
        for bad in [json!([5]), json!([{}, "x"]), json!([null])] {
            assert!(list(bad).is_err());
        }
        assert!(of_list(json!([])).is_err() && of_list(json!(5)).is_err());
    }
}
