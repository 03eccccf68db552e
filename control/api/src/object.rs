//! Objects as JSON values: reading their metadata, and the form in which they are stored.
//!
//! Stored bytes always begin `{"apiVersion":"…","kind":"…","metadata":{"resourceVersion":"`, so that a list can leave out the
//! type by slicing, and the store can write the revision at a known place.

use bytes::Bytes;
use control_schema::{Resource, selector};
use control_store::{Draft, Index, Key, Revision};
use serde_json::{Map, Value};

/// The text at a JSON pointer, empty if there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The elements of the array at a JSON pointer, none if there is none.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// `metadata.name`.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// `metadata.uid`.
pub(crate) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// Whether the object is being deleted.
pub(crate) fn is_terminating(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// The object's members, made an object if it is none.
pub(crate) fn members(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    object.as_object_mut().expect("it was just made an object")
}

/// A member that is an object, made so if it is missing or something else.
pub(crate) fn child<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let value = members(object)
        .entry(key)
        .or_insert_with(|| Value::Object(Map::new()));
    members(value)
}

/// `metadata`, to be changed.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// Copies a member of `from`, or removes it if `from` has none.
pub(crate) fn copy_member(to: &mut Map<String, Value>, from: Option<&Value>, key: &str) {
    match from.and_then(|from| from.get(key)) {
        Some(value) => to.insert(key.to_owned(), value.clone()),
        None => to.remove(key),
    };
}

/// `v1` or `apps/v1` and the kind, as the object states them; empty where it does not.
pub(crate) fn type_of(object: &Value) -> (&str, &str) {
    (text(object, "/apiVersion"), text(object, "/kind"))
}

/// Writes apiVersion and kind.
pub(crate) fn set_type(object: &mut Value, api_version: &str, kind: &str) {
    let members = members(object);
    members.insert("apiVersion".into(), api_version.into());
    members.insert("kind".into(), kind.into());
}

/// The table of the store that holds a resource.
pub(crate) fn table(res: &Resource) -> String {
    res.qualified_plural()
}

/// Where an object is stored.
pub(crate) fn key(res: &Resource, namespace: &str, name: &str) -> Key {
    let scope = if res.namespaced { namespace } else { "" };
    Key::new(table(res), scope, name)
}

/// What stands between the type and the revision of every stored object.
const REVISION_HEAD: &[u8] = br#""metadata":{"resourceVersion":""#;

/// What every stored object of a kind begins with.
pub(crate) fn type_prefix(res: &Resource) -> String {
    format!(
        r#"{{"apiVersion":"{}","kind":"{}","#,
        res.api_version(),
        res.kind
    )
}

/// An object's stored form, waiting for its revision.
pub(crate) fn draft(res: &Resource, object: &Value) -> Draft {
    let mut out = type_prefix(res).into_bytes();
    out.extend_from_slice(REVISION_HEAD);
    let gap = out.len();
    out.push(b'"');
    let none = Map::new();
    let metadata = object
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    write_members(&mut out, metadata, &["resourceVersion"]);
    out.push(b'}');
    write_members(
        &mut out,
        object.as_object().unwrap_or(&none),
        &["apiVersion", "kind", "metadata"],
    );
    out.push(b'}');
    Draft::with_gap(out, gap)
}

fn write_members(out: &mut Vec<u8>, members: &Map<String, Value>, except: &[&str]) {
    for (key, value) in members
        .iter()
        .filter(|(key, _)| !except.contains(&key.as_str()))
    {
        out.push(b',');
        serde_json::to_writer(&mut *out, key).expect("a string is serialised into memory");
        out.push(b':');
        serde_json::to_writer(&mut *out, value).expect("a value is serialised into memory");
    }
}

/// The form of an object that is answered but not stored.
pub(crate) fn encode_unstored(object: &Value) -> Bytes {
    serde_json::to_vec(object)
        .expect("a value is serialised into memory")
        .into()
}

/// Stored bytes with another revision written in.
pub(crate) fn restamp(res: &Resource, value: &[u8], revision: Revision) -> Bytes {
    let start = type_prefix(res).len() + REVISION_HEAD.len();
    let end = value[start..]
        .iter()
        .position(|byte| *byte == b'"')
        .map_or(start, |length| start + length);
    [
        &value[..start],
        revision.to_string().as_bytes(),
        &value[end..],
    ]
    .concat()
    .into()
}

/// Reads a stored object back.
pub(crate) fn decode(value: &[u8]) -> Value {
    serde_json::from_slice(value).expect("the store holds what was serialised into it")
}

/// What selectors see of an object. Names are in the key already, and empty fields need no place.
pub(crate) fn index(res: &Resource, object: &Value) -> Index {
    let labels = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    let labels = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())));
    let fields = selector::fields(res, object)
        .into_iter()
        .filter(|(field, value)| !value.is_empty() && !field.starts_with("metadata."))
        .map(|(field, value)| (field, value.into()));
    Index {
        labels: labels.collect(),
        fields: fields.collect(),
    }
}
