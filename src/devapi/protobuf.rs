//! Bodies in Kubernetes' protobuf form, which client-go's typed clients send by default.
//!
//! Only reading is needed: a client that sends protobuf accepts JSON as well. A message is read
//! by the field numbers in `schema` into the same JSON that a JSON body gives, so that every rule
//! about a Lease exists once. Format: the four bytes `k8s\0`, then a `runtime.Unknown` whose
//! `typeMeta` says the kind and whose `raw` is the message.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::schema::{Field, Shape};

const MAGIC: &[u8] = b"k8s\0";

enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// Reads an enveloped message whose fields are `fields`.
pub fn read(body: &[u8], fields: &[Field]) -> Result<Value, String> {
    let envelope = body
        .strip_prefix(MAGIC)
        .ok_or("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")?;
    let mut type_meta: &[u8] = &[];
    let mut raw: &[u8] = &[];
    each_field(envelope, |number, wire| {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => type_meta = bytes,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
        Ok(())
    })?;
    let mut object = message(raw, fields)?;
    each_field(type_meta, |number, wire| {
        let name = match number {
            1 => "apiVersion",
            2 => "kind",
            _ => return Ok(()),
        };
        object.insert(name.to_owned(), text(wire)?.into());
        Ok(())
    })?;
    Ok(Value::Object(object))
}

fn message(bytes: &[u8], fields: &[Field]) -> Result<Map<String, Value>, String> {
    let mut object = Map::new();
    each_field(bytes, |number, wire| {
        // Unknown numbers are what protobuf says to skip: a newer client's fields.
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            return Ok(());
        };
        let slot = object.entry(field.name).or_insert(Value::Null);
        read_field(slot, wire, &field.shape)
    })?;
    Ok(object)
}

fn read_field(slot: &mut Value, wire: Wire<'_>, shape: &Shape) -> Result<(), String> {
    match shape {
        Shape::Ignored => {}
        Shape::Text | Shape::TextPointer => *slot = text(wire)?.into(),
        // Negative numbers are sign-extended to 64 bits on the wire.
        Shape::Int32 | Shape::Int64 | Shape::Count => *slot = number(wire)?.cast_signed().into(),
        Shape::Bool => *slot = (number(wire)? != 0).into(),
        Shape::Time | Shape::MicroTime => *slot = time(bytes(wire)?, shape)?,
        Shape::TextMap => {
            let (key, value) = map_entry(bytes(wire)?)?;
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            if let Value::Object(map) = slot {
                map.insert(key, value.into());
            }
        }
        Shape::TextList => push(slot, text(wire)?.into()),
        Shape::Object(_, fields) => *slot = Value::Object(message(bytes(wire)?, fields)?),
        Shape::ObjectList(fields) => push(slot, Value::Object(message(bytes(wire)?, fields)?)),
    }
    Ok(())
}

fn push(slot: &mut Value, item: Value) {
    match slot {
        Value::Array(items) => items.push(item),
        _ => *slot = Value::Array(vec![item]),
    }
}

fn map_entry(entry: &[u8]) -> Result<(String, String), String> {
    let (mut key, mut value) = (String::new(), String::new());
    each_field(entry, |number, wire| {
        match number {
            1 => key = text(wire)?,
            2 => value = text(wire)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((key, value))
}

/// A `Timestamp` of seconds and nanoseconds; the zero one is Go's "not set".
fn time(bytes: &[u8], shape: &Shape) -> Result<Value, String> {
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    each_field(bytes, |field, wire| {
        match field {
            1 => seconds = number(wire)?.cast_signed(),
            2 => nanos = number(wire)?.cast_signed(),
            _ => {}
        }
        Ok(())
    })?;
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| "nanoseconds out of range")?;
    let time = Timestamp::new(seconds, nanos).map_err(|error| error.to_string())?;
    Ok(match shape {
        Shape::MicroTime => format!("{time:.6}"),
        _ => format!("{time:.0}"),
    }
    .into())
}

fn each_field<'a>(
    mut bytes: &'a [u8],
    mut visit: impl FnMut(u32, Wire<'a>) -> Result<(), String>,
) -> Result<(), String> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let number = u32::try_from(tag >> 3).map_err(|_| "illegal field number")?;
        let wire = match tag & 7 {
            0 => Wire::Varint(varint(&mut bytes)?),
            1 => Wire::Bytes(take(&mut bytes, 8)?),
            2 => {
                let length = varint(&mut bytes)?;
                Wire::Bytes(take(&mut bytes, usize::try_from(length).map_err(|_| EOF)?)?)
            }
            5 => Wire::Bytes(take(&mut bytes, 4)?),
            other => return Err(format!("illegal wireType {other}")),
        };
        visit(number, wire)?;
    }
    Ok(())
}

const EOF: &str = "unexpected EOF";

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(EOF)?;
    *bytes = rest;
    Ok(taken)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("integer overflow".to_owned())
}

fn bytes(wire: Wire<'_>) -> Result<&[u8], String> {
    match wire {
        Wire::Bytes(bytes) => Ok(bytes),
        Wire::Varint(_) => Err("wrong wireType".to_owned()),
    }
}

fn number(wire: Wire<'_>) -> Result<u64, String> {
    match wire {
        Wire::Varint(number) => Ok(number),
        Wire::Bytes(_) => Err("wrong wireType".to_owned()),
    }
}

fn text(wire: Wire<'_>) -> Result<String, String> {
    String::from_utf8(bytes(wire)?.to_vec()).map_err(|_| "invalid UTF-8".to_owned())
}
