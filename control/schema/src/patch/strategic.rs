//! Strategic merge: a merge patch that knows which lists merge, and by which key.
//!
//! Directives: `$patch: replace|delete` in a map or list element, `$deleteFromPrimitiveList/<field>`,
//! `$setElementOrder/<field>`, `$retainKeys`. An explicit null removes a key; a null for an absent key means nothing.

use serde_json::{Map, Value};

use super::{PatchError, order};
use crate::types::{self, Field, Shape};

type Object = Map<String, Value>;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Merges `patch` into an object of that shape.
pub(super) fn merge_map(
    shape: Option<&Shape>,
    original: Object,
    patch: &Object,
) -> Result<Object, PatchError> {
    match patch.get(PATCH) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => {
            return Ok(without_directive(patch));
        }
        Some(Value::String(directive)) if directive == "delete" => return Ok(Object::new()),
        Some(other) => return Err(unknown_directive(other)),
    }
    let mut merged = original;
    retain_keys(&mut merged, patch)?;
    for (key, value) in patch {
        if key == RETAIN_KEYS || key.starts_with(SET_ORDER) {
            continue;
        }
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            delete_from(&mut merged, name, value)?;
        } else {
            merge_field(shape, &mut merged, key, value)?;
        }
    }
    for (key, wanted) in patch {
        if let Some(name) = key.strip_prefix(SET_ORDER) {
            set_order(shape, &mut merged, name, wanted)?;
        }
    }
    Ok(merged)
}

fn merge_field(
    shape: Option<&Shape>,
    merged: &mut Object,
    key: &str,
    value: &Value,
) -> Result<(), PatchError> {
    if value.is_null() {
        merged.remove(key);
        return Ok(());
    }
    let (field, inner) = child(shape, key);
    let new = match (merged.remove(key), value) {
        (Some(Value::Object(old)), Value::Object(patch)) => {
            Value::Object(merge_map(inner, old, patch)?)
        }
        (Some(Value::Array(old)), Value::Array(patch)) if field.is_some_and(|f| f.patch_merge) => {
            Value::Array(merge_list(field, old, patch)?)
        }
        _ => without_directives(value)?,
    };
    merged.insert(key.to_owned(), new);
    Ok(())
}

/// The field at `key` and the shape of its value; values of maps have a shape but no field.
fn child<'a>(shape: Option<&'a Shape>, key: &str) -> (Option<&'static Field>, Option<&'a Shape>) {
    match shape {
        Some(Shape::Object(id)) => {
            let field = types::get(*id).field(key);
            (field, field.map(|f| &f.shape))
        }
        Some(Shape::Map(element)) => (None, Some(element)),
        _ => (None, None),
    }
}

// ---- Lists ----

fn merge_list(
    field: Option<&Field>,
    old: Vec<Value>,
    patch: &[Value],
) -> Result<Vec<Value>, PatchError> {
    let key = field.and_then(|f| f.merge_key);
    let live_order = old.clone();
    let (merged, patch) = match key {
        _ if patch.is_empty() => return Ok(old),
        Some(key) => merge_objects(field, key, old, patch)?,
        None if patch.iter().any(Value::is_object) => {
            return Err(PatchError::Unprocessable(
                "cannot merge lists without merge key".to_owned(),
            ));
        }
        None => (merge_scalars(old, patch), patch.to_vec()),
    };
    Ok(order::arrange(merged, &patch, &live_order, key))
}

fn merge_scalars(old: Vec<Value>, patch: &[Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::with_capacity(old.len() + patch.len());
    for item in old.into_iter().chain(patch.iter().cloned()) {
        if !merged.contains(&item) {
            merged.push(item);
        }
    }
    merged
}

/// The merged list, and the patch without the elements that were directives.
fn merge_objects(
    field: Option<&Field>,
    key: &str,
    mut merged: Vec<Value>,
    patch: &[Value],
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let element = field.and_then(|f| f.shape.element());
    let mut plain = Vec::new();
    let mut replace = false;
    for item in patch {
        match item.get(PATCH).map(|d| (d, d.as_str())) {
            None => plain.push(item.clone()),
            Some((_, Some("delete"))) => {
                let wanted = key_of(item, key)?;
                merged.retain(|old| old.get(key) != Some(wanted));
            }
            Some((_, Some("replace"))) => replace = true,
            Some((_, Some("merge"))) => {
                let message = "merging lists cannot yet be specified in the patch";
                return Err(PatchError::Unprocessable(message.to_owned()));
            }
            Some((other, _)) => return Err(unknown_directive(other)),
        }
    }
    if replace {
        return Ok((plain.clone(), plain));
    }
    for item in &plain {
        let wanted = key_of(item, key)?;
        match (
            merged.iter_mut().find(|old| old.get(key) == Some(wanted)),
            item,
        ) {
            (Some(Value::Object(old)), Value::Object(item)) => {
                *old = merge_map(element, std::mem::take(old), item)?
            }
            _ => merged.push(without_directives(item)?),
        }
    }
    Ok((merged, plain))
}

fn key_of<'a>(item: &'a Value, key: &str) -> Result<&'a Value, PatchError> {
    item.get(key).ok_or_else(|| {
        PatchError::Unprocessable(format!(
            "map: {item} does not contain declared merge key: {key}"
        ))
    })
}

// ---- Directives ----

/// Drops what `$retainKeys` does not name.
fn retain_keys(merged: &mut Object, patch: &Object) -> Result<(), PatchError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else {
        return Ok(());
    };
    let invalid = || PatchError::Invalid("invalid patch format of retainKeys".to_owned());
    let keys = keys.as_array().ok_or_else(invalid)?;
    let retained = |name: &String| keys.iter().any(|k| k == name);
    let is_plain = |name: &&String| !name.starts_with('$');
    if !patch
        .iter()
        .filter(|(_, v)| !v.is_null())
        .map(|(k, _)| k)
        .filter(is_plain)
        .all(retained)
    {
        return Err(invalid());
    }
    merged.retain(|name, _| retained(name));
    Ok(())
}

fn delete_from(merged: &mut Object, name: &str, gone: &Value) -> Result<(), PatchError> {
    let gone = gone
        .as_array()
        .ok_or_else(|| PatchError::Invalid("invalid patch format of primitive list".to_owned()))?;
    if let Some(Value::Array(items)) = merged.get_mut(name) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn set_order(
    shape: Option<&Shape>,
    merged: &mut Object,
    name: &str,
    wanted: &Value,
) -> Result<(), PatchError> {
    let wanted = wanted.as_array().ok_or_else(|| {
        PatchError::Invalid("invalid patch format of setElementOrder list".to_owned())
    })?;
    let key = child(shape, name).0.and_then(|f| f.merge_key);
    if let Some(Value::Array(items)) = merged.get_mut(name) {
        let items_now = std::mem::take(items);
        let live_order = items_now.clone();
        *items = order::arrange(items_now, wanted, &live_order, key);
    }
    Ok(())
}

/// A value of the patch as it stands when there is nothing to merge it with.
fn without_directives(value: &Value) -> Result<Value, PatchError> {
    Ok(match value {
        Value::Object(map) if map.get(PATCH).is_some_and(|d| d == "delete") => {
            Value::Object(Object::new())
        }
        Value::Object(map) => {
            let kept = map.iter().filter(|(k, v)| !is_directive(k) && !v.is_null());
            let kept: Result<Object, PatchError> = kept
                .map(|(k, v)| Ok((k.clone(), without_directives(v)?)))
                .collect();
            Value::Object(kept?)
        }
        Value::Array(items) => {
            // An element that only carries a directive has no content of its own.
            let kept = items.iter().filter(|item| item.get(PATCH).is_none());
            Value::Array(kept.map(without_directives).collect::<Result<_, _>>()?)
        }
        other => other.clone(),
    })
}

fn without_directive(patch: &Object) -> Object {
    patch
        .iter()
        .filter(|(k, _)| *k != PATCH)
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER)
}

fn unknown_directive(directive: &Value) -> PatchError {
    let name = directive
        .as_str()
        .map_or_else(|| directive.to_string(), str::to_owned);
    PatchError::Unprocessable(format!("unknown patch type: {name}"))
}
