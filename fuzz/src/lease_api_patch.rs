//! Patches that the embedded Lease API takes.
//!
//! A merge patch does what RFC 7386 writes down; so does a strategic one that names no list and no directive. What a
//! JSON patch makes is as deep and as large as a reader can take, and is read back as it was printed.
//!
//! Input: a byte for the kind of patch, the object up to a zero byte, and the patch.

use leasehold::devapi::patch::Patch;
use serde_json::{Map, Value, json};

/// As deep as serde_json reads.
const DEEPEST: usize = 127;
/// What came in, and what copies may come to.
const LARGEST: usize = 3 * 1024 * 1024;

pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let split = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let (object, patch) = (&rest[..split], rest.get(split + 1..).unwrap_or_default());
    let Ok(target) = serde_json::from_slice::<Value>(object) else { return };
    let parsed = serde_json::from_slice::<Value>(patch).ok();
    match kind % 3 {
        0 => merge("application/merge-patch+json", target, patch, parsed),
        1 => merge("application/strategic-merge-patch+json", target, patch, parsed.filter(is_plain)),
        _ => operations(target, patch),
    }
}

fn merge(media_type: &str, mut target: Value, patch: &[u8], parsed: Option<Value>) {
    let Ok(patch) = Patch::parse(media_type, patch) else {
        assert!(!parsed.is_some_and(|parsed| parsed.is_object()), "an object is a patch");
        return;
    };
    let expected = parsed.map(|parsed| merge_patch(target.clone(), parsed));
    let applied = patch.apply(&mut target);
    assert!(applied.is_ok());
    if let Some(expected) = expected {
        assert_eq!(target, expected);
    }
    assert_eq!(serde_json::from_str::<Value>(&target.to_string()).ok(), Some(target));
}

/// RFC 7386, section 2, line by line.
fn merge_patch(target: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut target = match target {
        Value::Object(target) => target,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            let old = target.remove(&name).unwrap_or(Value::Null);
            target.insert(name, merge_patch(old, value));
        }
    }
    Value::Object(target)
}

/// No lists that merge, no directives.
fn is_plain(patch: &Value) -> bool {
    match patch {
        Value::Object(map) => map.iter().all(|(name, value)| {
            !name.starts_with('$') && name != "ownerReferences" && name != "finalizers" && is_plain(value)
        }),
        _ => true,
    }
}

fn operations(mut target: Value, patch: &[u8]) {
    let before = target.to_string().len();
    let Ok(parsed) = Patch::parse("application/json-patch+json", patch) else { return };
    if parsed.apply(&mut target).is_err() {
        return;
    }
    assert!(depth(&target) <= DEEPEST, "{} deep", depth(&target));
    let printed = target.to_string();
    // An escape takes six characters where the patch may have had one.
    assert!(printed.len() <= before + 6 * patch.len() + LARGEST, "{} bytes", printed.len());
    assert_eq!(serde_json::from_str::<Value>(&printed).expect("what was printed is read"), target);
    let again = json!([{"op": "test", "path": "", "value": target}]);
    let same = Patch::parse("application/json-patch+json", again.to_string().as_bytes());
    if let Ok(same) = same {
        assert!(same.apply(&mut target).is_ok(), "a value equals itself");
    }
}

/// Without recursion: this is what is looked for.
fn depth(value: &Value) -> usize {
    let mut deepest = 0;
    let mut open = vec![(value, 0)];
    while let Some((value, depth)) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => open.extend(map.values().map(|item| (item, depth + 1))),
            _ => continue,
        }
        deepest = deepest.max(depth + 1);
    }
    deepest
}
