//! A Lease as the API server sends it, and what is written back.
//!
//! What a write does not change stays as it came, fields of the future too. What was written is read back as it was
//! meant: the spec, the version and uid that it replaces, the token of a take-over, the proof of a release. Whoever
//! reads an object twice reads the same.

use std::time::Duration;

use jiff::Timestamp;
use leasehold::election::{Base, Kind, LARGEST_TOKEN, Record, Spec, StepDown, Token, Write};
use leasehold::kubernetes::{RELEASED, STEP_DOWN, TOKEN, object_for, of_list, record_of};
use serde_json::{Value, json};

const OWN_SPEC: [&str; 5] = ["holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaseTransitions"];

pub fn run(data: &[u8]) {
    let Ok(object) = serde_json::from_slice::<Value>(data) else { return };
    check_list(&object);
    let Ok(record) = record_of(&object) else { return };
    assert_eq!(record_of(&object), Ok(record.clone()));
    assert!(record.duration().is_none_or(|duration| duration > Duration::ZERO));
    assert!(!record.is_proved_release() || record.holder().is_none());
    // What is kept in the state directory comes back from there.
    let kept = serde_json::to_string(&record).expect("a record is JSON");
    assert_eq!(serde_json::from_str::<Record>(&kept).expect("what was kept is read"), record, "{kept}");

    for kind in [Kind::Acquire { token: LARGEST_TOKEN }, Kind::Renew, Kind::Release] {
        check_write(&object, &record, kind);
    }
}

/// The same bytes as a list, and as the last of one.
fn check_list(object: &Value) {
    let _ = of_list(object.clone());
    let list = of_list(json!({"metadata": {"resourceVersion": "7"}, "items": [{}, object]}));
    assert_eq!(list.is_ok(), object.is_object());
    if let Ok((item, version)) = list {
        let item = item.expect("there is one");
        assert_eq!((version, item["kind"].as_str()), (7, Some("Lease")));
        assert_eq!(record_of(&item), record_of(object));
    }
}

fn check_write(object: &Value, record: &Record, kind: Kind) {
    let released = kind == Kind::Release;
    let step_down = released.then(|| StepDown { token: 7, to: Some("web-1".into()) });
    let renew_time = Some(Timestamp::UNIX_EPOCH + Duration::from_micros(1_234_567));
    let spec = Spec {
        holder: (!released).then(|| "web-0_0f".into()),
        duration_seconds: Some(15),
        renew_time,
        transitions: record.spec.transitions.saturating_add(1),
        ..record.spec.clone()
    };
    let base = Some(Base { uid: record.uid.clone(), version: record.version });
    let timeout = Duration::from_secs(2);
    let write = Write { attempt: 1, kind, base, spec, step_down: step_down.clone(), timeout };
    let written = object_for(&write, Some(object), "shop", "web");
    let read = record_of(&written).expect("what is written is a Lease");

    assert_eq!((&read.uid, read.version), (&record.uid, record.version));
    assert_eq!(read.spec, write.spec);
    match kind {
        Kind::Acquire { token } => {
            assert_eq!((read.token, read.released, read.step_down), (Token::Value(token), None, None));
            assert!(!read.pod_owned);
        }
        Kind::Release => {
            assert!(read.is_proved_release());
            assert_eq!((read.token, read.step_down), (record.token, step_down));
        }
        _ => assert_eq!((read.token, read.released, read.pod_owned), (record.token, record.released, record.pod_owned)),
    }
    assert_eq!(rest_of(&written), rest_of(object), "what is not ours stays");
}

/// An object without what a write may change.
fn rest_of(object: &Value) -> Value {
    let mut object = object.clone();
    let own_annotations = [TOKEN, RELEASED, STEP_DOWN];
    for (part, own) in [("spec", &OWN_SPEC[..]), ("metadata", &["managedFields", "uid", "resourceVersion"][..])] {
        let Some(map) = object.get_mut(part).and_then(Value::as_object_mut) else {
            object[part] = Value::Object(Default::default());
            continue;
        };
        own.iter().for_each(|key| drop(map.remove(*key)));
    }
    let metadata = &mut object["metadata"];
    match metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        Some(annotations) => own_annotations.iter().for_each(|key| drop(annotations.remove(*key))),
        None => metadata["annotations"] = Value::Object(Default::default()),
    }
    if let Some(owners) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) {
        owners.retain(|owner| owner["kind"] != "Pod");
    }
    object
}
