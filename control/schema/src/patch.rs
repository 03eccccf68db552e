//! The three kinds of patches: JSON (RFC 6902), merge (RFC 7386) and strategic merge.

use json_patch::PatchOperation;
use serde_json::Value;

use crate::Resource;

mod order;
mod strategic;

/// More operations than this in one JSON patch are refused.
const MAX_OPERATIONS: usize = 10_000;

/// How many bytes of JSON the `copy` operations of one patch may add: copying doubles what is there each time.
const MAX_COPIED: usize = 3 << 20;

/// Why a patch could not be applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatchError {
    /// The patch itself is malformed; 400.
    #[error("{0}")]
    Invalid(String),
    /// A JSON patch has too many operations; 413.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooLarge(usize),
    /// A JSON patch copies parts of the object, and copies of copies, beyond any use; 413.
    #[error("The copies in a JSON patch may add up to {MAX_COPIED} bytes")]
    CopiesTooMuch,
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
    let (mut patched, mut copied) = (object.clone(), 0);
    for operation in patch.0 {
        if let PatchOperation::Copy(copy) = &operation {
            let source = patched.pointer(copy.from.as_str());
            copied += source.map_or(0, |value| value.to_string().len());
            if copied > MAX_COPIED {
                return Err(PatchError::CopiesTooMuch);
            }
        }
        json_patch::patch(&mut patched, &[operation])
            .map_err(|e| PatchError::Unprocessable(e.to_string()))?;
    }
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
