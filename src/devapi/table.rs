//! Leases as the forms a client may ask for in `Accept`: whole, as rows of the table that
//! `kubectl get` prints, or their metadata alone.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq)]
pub enum Form {
    Whole,
    Metadata,
    Table(Include),
}

/// What each row of a table carries besides its cells.
#[derive(Clone, Copy, PartialEq)]
pub enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Form {
    pub fn one(self, lease: &Lease, now: Timestamp) -> Value {
        match self {
            Form::Whole => whole(lease),
            Form::Metadata => metadata(lease),
            Form::Table(include) => {
                let version = json!({ "resourceVersion": lease.metadata.resource_version });
                table(version, columns(), vec![row(lease, include, now)])
            }
        }
    }

    pub fn list<'a>(self, leases: impl Iterator<Item = &'a Lease>, version: u64, now: Timestamp) -> Value {
        let list_metadata = json!({ "resourceVersion": version.to_string() });
        match self {
            Form::Whole => json!({
                "kind": "LeaseList",
                "apiVersion": "coordination.k8s.io/v1",
                "metadata": list_metadata,
                "items": leases.map(item).collect::<Vec<_>>(),
            }),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": list_metadata,
                "items": leases.map(metadata).collect::<Vec<_>>(),
            }),
            Form::Table(include) => {
                let rows = leases.map(|lease| row(lease, include, now)).collect();
                table(list_metadata, columns(), rows)
            }
        }
    }

    /// As `one`, inside a watch: a table names its columns in the first event only.
    pub fn event(self, lease: &Lease, first: bool, now: Timestamp) -> Value {
        match self {
            Form::Table(include) if !first => {
                let version = json!({ "resourceVersion": lease.metadata.resource_version });
                table(version, Value::Null, vec![row(lease, include, now)])
            }
            form => form.one(lease, now),
        }
    }
}

fn whole(lease: &Lease) -> Value {
    json!(lease)
}

/// Items of a list do not repeat the list's kind.
fn item(lease: &Lease) -> Value {
    let mut item = json!(lease);
    if let Some(item) = item.as_object_mut() {
        item.remove("kind");
        item.remove("apiVersion");
    }
    item
}

fn metadata(lease: &Lease) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": lease.metadata,
    })
}

fn table(list_metadata: Value, columns: Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn columns() -> Value {
    let column = |name: &str, format: &str, description: &str| {
        json!({
            "name": name,
            "type": "string",
            "format": format,
            "description": description,
            "priority": 0,
        })
    };
    json!([
        column("Name", "name", "Name must be unique within a namespace."),
        column("Holder", "", "holderIdentity contains the identity of the holder of a current lease."),
        column("Age", "", "Time since the Lease was created."),
    ])
}

fn row(lease: &Lease, include: Include, now: Timestamp) -> Value {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    let age = match &lease.metadata.creation_timestamp {
        Some(created) => human_duration(now.as_second() - created.0.as_second()),
        None => "<unknown>".to_owned(),
    };
    let name = lease.metadata.name.as_deref().unwrap_or_default();
    let mut row = json!({ "cells": [name, holder.unwrap_or_default(), age] });
    match include {
        Include::Nothing => row["object"] = Value::Null,
        Include::Metadata => row["object"] = metadata(lease),
        Include::Object => row["object"] = whole(lease),
    }
    row
}

/// Two significant units at most, as `kubectl` ages things (apimachinery `util/duration`).
fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let years = days / 365;
    let pair = |large: i64, unit: char, small: i64, small_unit: char| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => pair(days, 'd', hours % 24, 'h'),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => pair(years, 'y', days % 365, 'd'),
        _ => format!("{years}y"),
    }
}
