//! The three kinds of patches: JSON (RFC 6902), merge (RFC 7386) and strategic merge.

use serde_json::Value;

use crate::Resource;

mod order;
mod strategic;

/// More operations than this in one JSON patch are refused.
const MAX_OPERATIONS: usize = 10_000;

/// Why a patch could not be applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatchError {
    /// The patch itself is malformed; 400.
    #[error("{0}")]
    Invalid(String),
    /// A JSON patch has too many operations; 413.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooLarge(usize),
    /// A well-formed patch that does not fit this object (a failed `test`, a missing path); 422.
    #[error("{0}")]
    Unprocessable(String),
}

/// Applies a JSON patch.
pub fn json(object: &Value, operations: &Value) -> Result<Value, PatchError> {
    let count = operations.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(count));
    }
    let patch: json_patch::Patch = serde_json::from_value(operations.clone())
        .map_err(|e| PatchError::Invalid(format!("error decoding patch: {e}")))?;
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &patch)
        .map_err(|e| PatchError::Unprocessable(e.to_string()))?;
    Ok(patched)
}

/// Applies a merge patch.
pub fn merge(object: &Value, patch: &Value) -> Value {
    let mut merged = object.clone();
    json_patch::merge(&mut merged, patch);
    merged
}

/// Applies a strategic merge patch by the patch keys of the kind's schema.
pub fn strategic(res: &Resource, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(PatchError::Invalid("invalid JSON document".to_owned()));
    };
    let shape = crate::types::of(res).map(crate::types::Type::shape);
    strategic::merge_map(shape.as_ref(), object.clone(), patch).map(Value::Object)
}

#[cfg(test)]
mod tests;
