//! Whether an object may be stored, in upstream's words.

use serde_json::Value;

use crate::Resource;

pub(crate) mod names;

/// One thing that is wrong, as `details.causes` of a 422 names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, ...
    pub reason: &'static str,
    /// What is wrong, without the field: `Required value`.
    pub message: String,
    /// Path of the field: `spec.containers[0].name`.
    pub field: String,
}

/// Checks an object to be created.
pub fn create(res: &Resource, object: &Value) -> Vec<Cause> {
    let _ = (res, object);
    Vec::new()
}

/// Checks an object to replace `old`.
pub fn update(res: &Resource, object: &Value, old: &Value) -> Vec<Cause> {
    let _ = (res, object, old);
    Vec::new()
}

/// Checks an object whose status is to replace that of `old`.
pub fn status_update(res: &Resource, object: &Value, old: &Value) -> Vec<Cause> {
    let _ = (res, object, old);
    Vec::new()
}

/// The message of a 422: `Service "web" is invalid: spec.ports: Required value`.
pub fn message(res: &Resource, name: &str, causes: &[Cause]) -> String {
    let _ = causes;
    format!("{} {name:?} is invalid", res.qualified_kind())
}
