//! What a Lease may contain, and how a body is read into one.
//!
//! A body is read in two steps: against the tables below, which find unknown fields and wrong
//! types as the real server does and know the fields' protobuf numbers, and then into the typed
//! `Lease`. What the real server leaves out when it writes (nulls, empty maps, empty strings
//! that are not pointers there) is dropped in the first step, so that two bodies which mean the
//! same compare as equal.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Map, Value};

/// One field: its JSON name, its number in the published `generated.proto`, its type.
pub struct Field {
    pub name: &'static str,
    pub number: u32,
    pub shape: Shape,
}

pub enum Shape {
    /// A string that is left out when empty.
    Text,
    /// A string for which empty and absent differ.
    TextPointer,
    Int32,
    Int64,
    /// An integer that is left out when zero.
    Count,
    Bool,
    /// RFC 3339; written with whole seconds.
    Time,
    /// RFC 3339 with exactly six digits of fraction.
    MicroTime,
    TextMap,
    TextList,
    /// The Go type's name, for messages, and the fields.
    Object(&'static str, &'static [Field]),
    ObjectList(&'static [Field]),
    /// Known, accepted and not kept.
    Ignored,
}

const fn field(name: &'static str, number: u32, shape: Shape) -> Field {
    Field { name, number, shape }
}

pub const LEASE: &[Field] = &[
    field("apiVersion", 0, Shape::Text),
    field("kind", 0, Shape::Text),
    field("metadata", 1, Shape::Object("v1.ObjectMeta", OBJECT_META)),
    field("spec", 2, Shape::Object("v1.LeaseSpec", LEASE_SPEC)),
];

const OBJECT_META: &[Field] = &[
    field("name", 1, Shape::Text),
    field("generateName", 2, Shape::Text),
    field("namespace", 3, Shape::Text),
    field("selfLink", 4, Shape::Text),
    field("uid", 5, Shape::Text),
    field("resourceVersion", 6, Shape::Text),
    field("generation", 7, Shape::Count),
    field("creationTimestamp", 8, Shape::Time),
    field("deletionTimestamp", 9, Shape::Time),
    field("deletionGracePeriodSeconds", 10, Shape::Int64),
    field("labels", 11, Shape::TextMap),
    field("annotations", 12, Shape::TextMap),
    field("ownerReferences", 13, Shape::ObjectList(OWNER_REFERENCE)),
    field("finalizers", 14, Shape::TextList),
    // Who wrote which field is of use to server-side apply only, which is not offered.
    field("managedFields", 17, Shape::Ignored),
];

const OWNER_REFERENCE: &[Field] = &[
    field("kind", 1, Shape::Text),
    field("name", 3, Shape::Text),
    field("uid", 4, Shape::Text),
    field("apiVersion", 5, Shape::Text),
    field("controller", 6, Shape::Bool),
    field("blockOwnerDeletion", 7, Shape::Bool),
];

const LEASE_SPEC: &[Field] = &[
    field("holderIdentity", 1, Shape::TextPointer),
    field("leaseDurationSeconds", 2, Shape::Int32),
    field("acquireTime", 3, Shape::MicroTime),
    field("renewTime", 4, Shape::MicroTime),
    field("leaseTransitions", 5, Shape::Int32),
    field("strategy", 6, Shape::TextPointer),
    field("preferredHolder", 7, Shape::TextPointer),
];

pub const DELETE_OPTIONS: &[Field] = &[
    field("apiVersion", 0, Shape::Text),
    field("kind", 0, Shape::Text),
    field("gracePeriodSeconds", 1, Shape::Int64),
    field("preconditions", 2, Shape::Object("v1.Preconditions", PRECONDITIONS)),
    field("orphanDependents", 3, Shape::Bool),
    field("propagationPolicy", 4, Shape::TextPointer),
    field("dryRun", 5, Shape::TextList),
    field("ignoreStoreReadErrorWithClusterBreakingPotential", 6, Shape::Bool),
];

const PRECONDITIONS: &[Field] = &[field("uid", 1, Shape::TextPointer), field("resourceVersion", 2, Shape::TextPointer)];

/// Reads a parsed body into a Lease. Also gives the paths of fields that a Lease does not have;
/// what becomes of them is the caller's choice (`fieldValidation`).
pub fn read_lease(body: Value) -> Result<(Lease, Vec<String>), String> {
    let mut unknown = Vec::new();
    let object = read_object(body, LEASE, "Lease", "", &mut unknown)?;
    let mut object = with_required_parts(object);
    object.remove("apiVersion");
    object.remove("kind");
    object.insert("apiVersion".to_owned(), "coordination.k8s.io/v1".into());
    object.insert("kind".to_owned(), "Lease".into());
    let lease = serde_json::from_value(Value::Object(object)).map_err(|error| error.to_string())?;
    Ok((lease, unknown))
}

/// The typed owner reference has no defaults for what Go reads as "", and validation must see it.
fn with_required_parts(mut lease: Map<String, Value>) -> Map<String, Value> {
    lease.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let owners = lease["metadata"].get_mut("ownerReferences").and_then(Value::as_array_mut);
    for owner in owners.into_iter().flatten().filter_map(Value::as_object_mut) {
        for name in ["apiVersion", "kind", "name", "uid"] {
            owner.entry(name).or_insert_with(|| "".into());
        }
    }
    lease
}

/// Reads an object against its table. `go_type` and `path` are for the message.
pub fn read_object(
    value: Value,
    fields: &[Field],
    go_type: &str,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<Map<String, Value>, String> {
    let object = match value {
        Value::Object(object) => object,
        Value::Null => Map::new(),
        other => return Err(wrong_type(&other, path, go_type)),
    };
    let mut kept = Map::new();
    for (name, value) in object {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match fields.iter().find(|field| field.name == name) {
            None => unknown.push(path),
            Some(field) => {
                if let Some(value) = read_field(value, &field.shape, &path, unknown)? {
                    kept.insert(name, value);
                }
            }
        }
    }
    Ok(kept)
}

fn read_field(value: Value, shape: &Shape, path: &str, unknown: &mut Vec<String>) -> Result<Option<Value>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let wrong = |value: &Value, go_type| Err(wrong_type(value, path, go_type));
    match shape {
        Shape::Ignored => Ok(None),
        Shape::Text | Shape::TextPointer => match value {
            Value::String(text) if text.is_empty() && matches!(shape, Shape::Text) => Ok(None),
            Value::String(_) => Ok(Some(value)),
            other => wrong(&other, "string"),
        },
        Shape::Int32 => match value.as_i64() {
            Some(number) if i32::try_from(number).is_ok() => Ok(Some(value)),
            _ => wrong(&value, "int32"),
        },
        Shape::Int64 | Shape::Count => match value.as_i64() {
            Some(0) if matches!(shape, Shape::Count) => Ok(None),
            Some(_) => Ok(Some(value)),
            None => wrong(&value, "int64"),
        },
        Shape::Bool => match value {
            Value::Bool(_) => Ok(Some(value)),
            other => wrong(&other, "bool"),
        },
        Shape::Time | Shape::MicroTime => match value.as_str() {
            Some(text) => read_time(text, shape).map(|()| Some(value)),
            None => wrong(&value, "string"),
        },
        Shape::TextMap => read_text_map(value, path),
        Shape::TextList => match value {
            Value::Array(items) if items.is_empty() => Ok(None),
            Value::Array(items) if items.iter().all(Value::is_string) => Ok(Some(Value::Array(items))),
            other => wrong(&other, "[]string"),
        },
        Shape::Object(go_type, fields) => {
            let object = read_object(value, fields, go_type, path, unknown)?;
            Ok(Some(Value::Object(object)))
        }
        Shape::ObjectList(fields) => match value {
            Value::Array(items) if items.is_empty() => Ok(None),
            Value::Array(items) => {
                let mut kept = Vec::new();
                for (index, item) in items.into_iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    let item = read_object(item, fields, "v1.OwnerReference", &path, unknown)?;
                    kept.push(Value::Object(item));
                }
                Ok(Some(Value::Array(kept)))
            }
            other => wrong(&other, "[]v1.OwnerReference"),
        },
    }
}

fn read_text_map(value: Value, path: &str) -> Result<Option<Value>, String> {
    let Value::Object(mut map) = value else {
        return Err(wrong_type(&value, path, "map[string]string"));
    };
    for entry in map.values_mut() {
        match entry {
            Value::String(_) => {}
            Value::Null => *entry = "".into(),
            other => return Err(wrong_type(other, path, "string")),
        }
    }
    Ok((!map.is_empty()).then_some(Value::Object(map)))
}

/// Go refuses a `MicroTime` that has not exactly six digits of fraction; a `Time` may have any.
fn read_time(text: &str, shape: &Shape) -> Result<(), String> {
    let fraction = text.split_once('.').map(|(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    let well_formed = match shape {
        Shape::MicroTime => fraction == Some(6),
        _ => true,
    };
    let separated = text.as_bytes().get(10) == Some(&b'T');
    if well_formed && separated && text.parse::<Timestamp>().is_ok() {
        return Ok(());
    }
    let layout = match shape {
        Shape::MicroTime => "2006-01-02T15:04:05.000000Z07:00",
        _ => "2006-01-02T15:04:05Z07:00",
    };
    Err(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?}"))
}

/// As Go says it: the innermost named type, then the whole path.
fn wrong_type(value: &Value, path: &str, go_type: &str) -> String {
    let what = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if go_type.starts_with("int") => format!("number {number}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    let owner = match path.split_once('.') {
        Some(("metadata", _)) => "ObjectMeta",
        Some(("spec", _)) => "LeaseSpec",
        _ => "Lease",
    };
    format!("json: cannot unmarshal {what} into Go struct field {owner}.{path} of type {go_type}")
}
