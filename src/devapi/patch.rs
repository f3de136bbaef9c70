//! The patches a Lease takes: JSON merge patch (RFC 7386), strategic merge patch, which for a
//! Lease differs only in its two lists, and JSON patch (RFC 6902).

use serde_json::{Map, Value};

use super::status::Status;

/// What the copies and moves of one JSON patch may come to: each may double what the one before it made, and looks at
/// all that it places.
const COPIED_BYTES: usize = 3 * 1024 * 1024;
/// As deep as serde_json reads. A patch may place a value deep within another, and all that prints one or drops it
/// goes as deep on the stack.
const DEEPEST: usize = 127;

pub enum Patch {
    Merge(Map<String, Value>),
    Strategic(Map<String, Value>),
    Json(Vec<Operation>),
}

pub enum Operation {
    Add(String, Value),
    Remove(String),
    Replace(String, Value),
    Move { from: String, to: String },
    Copy { from: String, to: String },
    Test(String, Value),
}

impl Patch {
    pub fn parse(media_type: &str, body: &[u8]) -> Result<Patch, Status> {
        let parse = |body| {
            serde_json::from_slice(body).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
        };
        let object = |value| match value {
            Value::Object(object) => Ok(object),
            _ => Err(Status::bad_request("error decoding patch: it must be a JSON object")),
        };
        match media_type {
            "application/merge-patch+json" => Ok(Patch::Merge(object(parse(body)?)?)),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic(object(parse(body)?)?)),
            "application/json-patch+json" => match parse(body)? {
                Value::Array(items) => Ok(Patch::Json(items.iter().map(operation).collect::<Result<_, _>>()?)),
                _ => Err(Status::bad_request("error decoding patch: it must be a JSON array")),
            },
            _ => Err(Status::unsupported_patch()),
        }
    }

    pub fn apply(self, target: &mut Value) -> Result<(), Status> {
        match self {
            Patch::Merge(patch) => merge(target, patch, &merge_value),
            Patch::Strategic(patch) => merge(target, patch, &strategic_value),
            Patch::Json(operations) => {
                let mut copied_bytes = COPIED_BYTES;
                for operation in operations {
                    operation.apply(target, &mut copied_bytes).ok_or_else(Status::patch_rejected)?;
                }
            }
        }
        Ok(())
    }
}

type MergeOne = dyn Fn(&str, &mut Value, Value);

fn merge(target: &mut Value, patch: Map<String, Value>, one: &MergeOne) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            one(&key, target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn merge_value(_key: &str, target: &mut Value, value: Value) {
    match value {
        Value::Object(patch) => merge(target, patch, &merge_value),
        value => *target = value,
    }
}

/// Owner references merge by uid and finalizers as a set; order directives change nothing that
/// a Lease's reader looks at.
fn strategic_value(key: &str, target: &mut Value, value: Value) {
    match (key, value) {
        ("ownerReferences", Value::Array(items)) => merge_owners(target, items),
        ("finalizers", Value::Array(items)) => {
            let old = std::mem::take(target).as_array().cloned().unwrap_or_default();
            *target = Value::Array(in_order(&old, items, Value::clone));
        }
        (_, Value::Object(mut patch)) => {
            patch.retain(|key, _| !key.starts_with("$setElementOrder/"));
            let gone = patch.remove("$deleteFromPrimitiveList/finalizers");
            match patch.remove("$patch").as_ref().and_then(Value::as_str) {
                Some("delete") => *target = Value::Null,
                Some("replace") => *target = Value::Object(patch),
                _ => merge(target, patch, &strategic_value),
            }
            let finalizers = target.get_mut("finalizers").and_then(Value::as_array_mut);
            if let (Some(Value::Array(gone)), Some(finalizers)) = (gone, finalizers) {
                finalizers.retain(|finalizer| !gone.contains(finalizer));
            }
        }
        (_, value) => *target = value,
    }
}

fn merge_owners(target: &mut Value, items: Vec<Value>) {
    let mut owners = std::mem::take(target).as_array().cloned().unwrap_or_default();
    if items.iter().any(|item| item["$patch"] == "replace") {
        owners.clear();
    }
    let mut patched = Vec::new();
    for item in items {
        let existing = owners.iter().find(|owner| owner["uid"] == item["uid"]);
        match (item["$patch"].as_str(), existing) {
            (Some("replace"), _) => {}
            (Some("delete"), _) => owners.retain(|owner| owner["uid"] != item["uid"]),
            (_, existing) => {
                let mut owner = existing.cloned().unwrap_or(Value::Null);
                merge_value("", &mut owner, item);
                patched.push(owner);
            }
        }
    }
    *target = Value::Array(in_order(&owners, patched, |owner| owner["uid"].clone()));
}

/// The patch's items in its order and the others in theirs, each of the others before those of
/// the patch that it stood before.
fn in_order(old: &[Value], patched: Vec<Value>, key: impl Fn(&Value) -> Value) -> Vec<Value> {
    let position = |item: &Value| old.iter().position(|other| key(other) == key(item));
    let mut others = old.iter().filter(|other| !patched.iter().any(|item| key(item) == key(other))).peekable();
    let mut merged = Vec::new();
    for item in &patched {
        if let Some(before) = position(item) {
            while let Some(other) = others.next_if(|other| position(other) < Some(before)) {
                merged.push(other.clone());
            }
        }
        merged.push(item.clone());
    }
    merged.extend(others.cloned());
    merged
}

fn operation(item: &Value) -> Result<Operation, Status> {
    let malformed = || Status::bad_request("error decoding patch: not a JSON patch operation");
    let text = |name: &str| item[name].as_str().map(str::to_owned).ok_or_else(malformed);
    let value = || item.get("value").cloned().unwrap_or(Value::Null);
    let path = text("path")?;
    match text("op")?.as_str() {
        "add" => Ok(Operation::Add(path, value())),
        "remove" => Ok(Operation::Remove(path)),
        "replace" => Ok(Operation::Replace(path, value())),
        "move" => Ok(Operation::Move { from: text("from")?, to: path }),
        "copy" => Ok(Operation::Copy { from: text("from")?, to: path }),
        "test" => Ok(Operation::Test(path, value())),
        _ => Err(malformed()),
    }
}

impl Operation {
    /// `None`: it does not apply.
    fn apply(self, target: &mut Value, copied_bytes: &mut usize) -> Option<()> {
        match self {
            Operation::Add(path, value) => add(target, &path, value),
            Operation::Remove(path) => remove(target, &path).map(drop),
            Operation::Replace(path, value) => {
                let place = target.pointer_mut(&path)?;
                fits(&path, &value).then(|| *place = value)
            }
            Operation::Move { from, to } => {
                let value = remove(target, &from)?;
                *copied_bytes = copied_bytes.checked_sub(value.to_string().len())?;
                add(target, &to, value)
            }
            Operation::Copy { from, to } => {
                let value = target.pointer(&from)?.clone();
                *copied_bytes = copied_bytes.checked_sub(value.to_string().len())?;
                add(target, &to, value)
            }
            // An absent field is null to a test.
            Operation::Test(path, value) => (*target.pointer(&path).unwrap_or(&Value::Null) == value).then_some(()),
        }
    }
}

/// The place that holds `path`'s last part, and that part.
fn parent<'a>(target: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((target.pointer_mut(parent)?, last.replace("~1", "/").replace("~0", "~")))
}

/// Whether `value` is not too deep at `path`.
fn fits(path: &str, value: &Value) -> bool {
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
            Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or_default(),
            _ => 0,
        }
    }
    path.matches('/').count() + depth(value) <= DEEPEST
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if !fits(path, &value) {
        return None;
    }
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    match parent(target, path)? {
        (Value::Object(object), key) => {
            object.insert(key, value);
        }
        (Value::Array(items), index) => {
            let index = if index == "-" { items.len() } else { index.parse().ok()? };
            (index <= items.len()).then(|| items.insert(index, value))?;
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    match parent(target, path)? {
        (Value::Object(object), key) => object.remove(&key),
        (Value::Array(items), index) => {
            let index: usize = index.parse().ok()?;
            (index < items.len()).then(|| items.remove(index))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_of_copies_goes_no_deeper_than_a_reader() {
        let doubled = |count| {
            let copy = |power| json!({ "op": "copy", "from": "", "path": "/a".repeat(1_usize << power) });
            let patch = json!((0..count).map(copy).collect::<Vec<_>>()).to_string();
            let mut target = json!({ "a": {} });
            let patch = Patch::parse("application/json-patch+json", patch.as_bytes()).expect("it is a patch");
            patch.apply(&mut target).map(|()| target.to_string())
        };
        let deep = doubled(5).expect("it is not too much");
        assert!(serde_json::from_str::<Value>(&deep).is_ok());
        assert_eq!(doubled(18).expect_err("it is too much").code, 422);
    }

    #[test]
    fn a_patch_of_copies_cannot_grow_without_bound() {
        let operations: Vec<Value> =
            (0..60).map(|count| json!({ "op": "copy", "from": "", "path": format!("/{count}") })).collect();
        let patch = Patch::parse("application/json-patch+json", json!(operations).to_string().as_bytes());
        let mut target = json!({ "text": "x".repeat(100) });
        let refused = patch.expect("it is a patch").apply(&mut target).expect_err("it is too much");
        assert_eq!(refused.code, 422);
    }
}
