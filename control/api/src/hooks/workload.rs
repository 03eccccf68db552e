//! Deployments and ReplicaSets.

use control_schema::Resource;
use serde_json::{Value, json};

use crate::object::{members, metadata};

/// ReplicaSets begin with a count of none, as upstream's encoder writes it.
pub(super) fn prepare_create(res: &Resource, object: &mut Value) {
    let status = if res.plural == "replicasets" {
        json!({"replicas": 0})
    } else {
        json!({})
    };
    members(object).insert("status".into(), status);
}

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
