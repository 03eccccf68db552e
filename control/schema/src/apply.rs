//! Server-side apply and the tracking of field owners in `metadata.managedFields`.

use serde_json::Value;

use crate::Resource;

/// One field that another manager owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The owner, as upstream describes it: `"kubectl" using apps/v1`.
    pub manager: String,
    /// The field's path, as `.spec.replicas`.
    pub field: String,
}

/// Why a configuration could not be applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Fields are owned by others; 409 with a cause `FieldManagerConflict` each.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration makes no sense as one; 400.
    #[error("{0}")]
    Invalid(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    format!("Apply failed with {} conflicts", conflicts.len())
}

/// Applies `config` as `manager` onto `live` and returns the merged object with its new managedFields.
///
/// `now` is the entry's time, in RFC 3339 with whole seconds. `live` is absent when the object is to be created.
pub fn apply(
    res: &Resource,
    live: Option<&Value>,
    config: &Value,
    manager: &str,
    force: bool,
    subresource: Option<&str>,
    now: &str,
) -> Result<Value, Error> {
    let _ = (res, live, manager, force, subresource, now);
    Ok(config.clone())
}

/// Records in `new` which fields `manager` set or changed by a create, update or patch of `old`.
pub fn track(
    res: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: Option<&str>,
    now: &str,
) {
    let _ = (res, old, new, manager, subresource, now);
}
