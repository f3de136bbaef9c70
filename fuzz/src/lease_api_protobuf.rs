//! Lease bodies in Kubernetes' protobuf form.
//!
//! A Lease that is written as the published `generated.proto` says is read as the same JSON. What is read of anything
//! else is not much larger than what came in, is JSON that can be printed and read, and is a Lease or is refused.
//!
//! Input: an even byte and any bytes, or an odd one and what a Lease is made of.

use leasehold::devapi::{protobuf, schema};
use serde_json::{Map, Value, json};

use super::bytes::Bytes;

pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    if input.bit() {
        let lease = lease(&mut input);
        assert_eq!(protobuf::read(&written(&lease), schema::LEASE).as_ref(), Ok(&lease));
        return;
    }
    let body = input.rest();
    for fields in [schema::LEASE, schema::DELETE_OPTIONS] {
        let Ok(object) = protobuf::read(body, fields) else { continue };
        let printed = object.to_string();
        // A field of two bytes may print its name, and an escape takes six characters.
        assert!(printed.len() <= 100 * body.len() + 100, "{} bytes of {}", printed.len(), body.len());
        assert_eq!(serde_json::from_str::<Value>(&printed).expect("what was printed is read"), object);
        let _ = schema::read_lease(object);
    }
}

fn lease(input: &mut Bytes) -> Value {
    let mut metadata = Map::new();
    let mut spec = Map::new();
    for name in ["name", "generateName", "namespace", "uid", "resourceVersion"] {
        if input.bit() {
            metadata.insert(name.into(), input.text().into());
        }
    }
    if input.bit() {
        metadata.insert("generation".into(), input.u64().cast_signed().into());
    }
    for name in ["labels", "annotations"] {
        let mut map = Map::new();
        for _ in 0..input.byte() % 4 {
            map.insert(input.text(), input.text().into());
        }
        if !map.is_empty() {
            metadata.insert(name.into(), map.into());
        }
    }
    let finalizers: Vec<Value> = (0..input.byte() % 4).map(|_| input.text().into()).collect();
    if !finalizers.is_empty() {
        metadata.insert("finalizers".into(), finalizers.into());
    }
    let owners: Vec<Value> = (0..input.byte() % 3)
        .map(|_| json!({"kind": input.text(), "name": input.text(), "uid": input.text(), "controller": input.bit()}))
        .collect();
    if !owners.is_empty() {
        metadata.insert("ownerReferences".into(), owners.into());
    }
    for name in ["holderIdentity", "strategy", "preferredHolder"] {
        if input.bit() {
            spec.insert(name.into(), input.text().into());
        }
    }
    for name in ["leaseDurationSeconds", "leaseTransitions"] {
        if input.bit() {
            spec.insert(name.into(), (input.u64() as i32).into());
        }
    }
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})
}

/// Field numbers by `k8s.io/api/coordination/v1/generated.proto` and `meta/v1`.
fn written(lease: &Value) -> Vec<u8> {
    let metadata = &lease["metadata"];
    let mut meta = Vec::new();
    let texts = [("name", 1), ("generateName", 2), ("namespace", 3), ("uid", 5), ("resourceVersion", 6)];
    for (name, number) in texts {
        put_text(&mut meta, number, &metadata[name]);
    }
    put_number(&mut meta, 7, &metadata["generation"]);
    for (name, number) in [("labels", 11), ("annotations", 12)] {
        for (key, value) in metadata[name].as_object().into_iter().flatten() {
            let mut entry = Vec::new();
            put_text(&mut entry, 1, &json!(key));
            put_text(&mut entry, 2, value);
            put_bytes(&mut meta, number, &entry);
        }
    }
    for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
        let mut message = Vec::new();
        for (name, number) in [("kind", 1), ("name", 3), ("uid", 4)] {
            put_text(&mut message, number, &owner[name]);
        }
        put_number(&mut message, 6, &json!(i64::from(owner["controller"] == true)));
        put_bytes(&mut meta, 13, &message);
    }
    for finalizer in metadata["finalizers"].as_array().into_iter().flatten() {
        put_text(&mut meta, 14, finalizer);
    }
    let mut spec = Vec::new();
    for (name, number) in [("holderIdentity", 1), ("strategy", 6), ("preferredHolder", 7)] {
        put_text(&mut spec, number, &lease["spec"][name]);
    }
    for (name, number) in [("leaseDurationSeconds", 2), ("leaseTransitions", 5)] {
        put_number(&mut spec, number, &lease["spec"][name]);
    }
    let mut message = Vec::new();
    put_bytes(&mut message, 1, &meta);
    put_bytes(&mut message, 2, &spec);
    let mut type_meta = Vec::new();
    put_text(&mut type_meta, 1, &lease["apiVersion"]);
    put_text(&mut type_meta, 2, &lease["kind"]);
    let mut body = b"k8s\0".to_vec();
    put_bytes(&mut body, 1, &type_meta);
    put_bytes(&mut body, 2, &message);
    body
}

fn put_text(message: &mut Vec<u8>, number: u8, value: &Value) {
    if let Some(text) = value.as_str() {
        put_bytes(message, number, text.as_bytes());
    }
}

fn put_bytes(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn put_number(message: &mut Vec<u8>, number: u8, value: &Value) {
    if let Some(value) = value.as_i64() {
        message.push(number << 3);
        put_varint(message, value.cast_unsigned());
    }
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}
