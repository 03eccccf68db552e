//! The shapes of answers: the object itself, a table row, or its metadata only.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use control_schema::{Resource, table};
use control_store::Entry;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::accept::{Accept, Shape};
use crate::object;
use crate::query::Params;

/// What the rows of a table carry besides their cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Include {
    pub(super) fn parse(params: &Params) -> Self {
        match params.text("includeObject") {
            "None" => Self::Nothing,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// The metadata of a list.
#[derive(Debug, Clone, Default)]
pub(super) struct ListMeta {
    pub(super) revision: u64,
    pub(super) resume: Option<String>,
    pub(super) remaining: Option<usize>,
}

impl ListMeta {
    fn value(&self) -> Value {
        let mut value = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.resume {
            value["continue"] = token.clone().into();
        }
        if let Some(remaining) = self.remaining {
            value["remainingItemCount"] = remaining.into();
        }
        value
    }
}

/// One object in the shape asked for.
pub(crate) fn one(res: &Resource, accept: Accept, params: &Params, bytes: Bytes) -> Bytes {
    shaped(res, accept.shape, Include::parse(params), bytes)
}

/// One object in a shape.
pub(super) fn shaped(res: &Resource, shape: Shape, include: Include, bytes: Bytes) -> Bytes {
    match shape {
        Shape::Plain | Shape::Discovery(_) => bytes,
        Shape::Metadata(version) => to_bytes(&partial(&object::decode(&bytes), version)),
        Shape::Table(version) => {
            let object = object::decode(&bytes);
            let revision = object::text(&object, "/metadata/resourceVersion");
            let meta = ListMeta {
                revision: revision.parse().unwrap_or(0),
                ..ListMeta::default()
            };
            let rows = vec![row(res, &object, version, include)];
            to_bytes(&table_of(res, version, &meta, rows))
        }
    }
}

/// A list in the shape asked for, its items given as stored.
pub(super) fn list(
    res: &Resource,
    shape: Shape,
    include: Include,
    meta: &ListMeta,
    entries: &[Arc<Entry>],
) -> Bytes {
    let objects = entries.iter().map(|entry| object::decode(&entry.value));
    match shape {
        Shape::Plain | Shape::Discovery(_) => plain_list(res, meta, entries),
        Shape::Metadata(version) => {
            let items: Vec<Value> = objects.map(|object| partial(&object, version)).collect();
            to_bytes(&json!({
                "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": meta.value(), "items": items,
            }))
        }
        Shape::Table(version) => {
            let rows = objects
                .map(|object| row(res, &object, version, include))
                .collect();
            to_bytes(&table_of(res, version, meta, rows))
        }
    }
}

/// Splices stored bytes, without the type each begins with.
fn plain_list(res: &Resource, meta: &ListMeta, entries: &[Arc<Entry>]) -> Bytes {
    let skipped = object::type_prefix(res).len();
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{},"items":["#,
        res.kind,
        res.api_version(),
        meta.value()
    );
    let items: usize = entries.iter().map(|entry| entry.value.len() + 2).sum();
    let mut out = BytesMut::with_capacity(head.len() + items + 2);
    out.put_slice(head.as_bytes());
    for (position, entry) in entries.iter().enumerate() {
        out.put_slice(if position == 0 { b"{" } else { b",{" });
        out.put_slice(&entry.value[skipped..]);
    }
    out.put_slice(b"]}");
    out.freeze()
}

fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

fn row(res: &Resource, object: &Value, version: &str, include: Include) -> Value {
    let mut row = Map::new();
    row.insert(
        "cells".into(),
        table::cells(res, object, Timestamp::now()).into(),
    );
    match include {
        Include::Nothing => None,
        Include::Metadata => Some(partial(object, version)),
        Include::Object => Some(object.clone()),
    }
    .and_then(|carried| row.insert("object".into(), carried));
    Value::Object(row)
}

fn table_of(res: &Resource, version: &str, meta: &ListMeta, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta.value(),
        "columnDefinitions": table::column_definitions(res), "rows": rows,
    })
}

/// A bookmark's object: nothing but a revision and perhaps the mark of the end of the initial events.
pub(super) fn bookmark(res: &Resource, shape: Shape, revision: u64, initial_end: bool) -> Value {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if initial_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let (kind, version) = match shape {
        Shape::Plain | Shape::Discovery(_) => (res.kind, res.api_version()),
        Shape::Metadata(version) => ("PartialObjectMetadata", format!("meta.k8s.io/{version}")),
        Shape::Table(version) => ("Table", format!("meta.k8s.io/{version}")),
    };
    json!({"kind": kind, "apiVersion": version, "metadata": metadata})
}

pub(super) fn to_bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value)
        .expect("a value is serialised into memory")
        .into()
}
