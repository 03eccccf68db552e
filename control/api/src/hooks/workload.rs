//! Deployments.

use serde_json::Value;

use crate::object::metadata;

/// A change of a Deployment's annotations counts as a new generation too, for rollbacks are spelled in them.
pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    let annotations = |object: &Value| object.pointer("/metadata/annotations").cloned();
    let same_spec = new.get("spec") == old.get("spec");
    if same_spec && annotations(new) != annotations(old) {
        let generation = old
            .pointer("/metadata/generation")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        metadata(new).insert("generation".into(), (generation + 1).into());
    }
}
