//! What a body holds that its kind does not: unknown and duplicate fields, values of the wrong type.

use serde_json::Value;

use crate::Resource;

/// Checks that every known field has a value of its type; the error is upstream's text for a 400.
pub fn check_types(res: &Resource, object: &Value) -> Result<(), String> {
    let _ = (res, object);
    Ok(())
}

/// Names fields the kind does not have, each as `unknown field "spec.foo"`.
pub fn unknown_fields(res: &Resource, object: &Value) -> Vec<String> {
    let _ = (res, object);
    Vec::new()
}

/// Names keys that occur twice in an object of the raw JSON text, each as `duplicate field "spec.foo"`.
pub fn duplicate_fields(json: &[u8]) -> Vec<String> {
    let _ = json;
    Vec::new()
}

/// Drops unknown fields, nulls and the empty values that upstream's encoder leaves out.
pub fn prune(res: &Resource, object: &mut Value) {
    let _ = (res, object);
}
