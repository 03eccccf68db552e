//! Namespaces: what may be created in them, and their finalizers.

use control_schema::{Resource, by_plural};
use serde_json::{Value, json};

use crate::api::Api;
use crate::error::ApiError;
use crate::object::{self, child, text};

/// Namespaces that cannot be deleted.
const KEPT: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn allows_creation(api: &Api, res: &Resource, object: &Value) -> Result<(), ApiError> {
    let namespaces = by_plural("", "v1", "namespaces").expect("the schema has namespaces");
    let name = text(object, "/metadata/namespace");
    let entry = api.store.get(&object::key(namespaces, "", name));
    let entry = entry.ok_or_else(|| ApiError::not_found(namespaces, name))?;
    // Most requests meet a namespace that stays; look closer only at one that goes.
    if !contains(&entry.value, b"\"deletionTimestamp\"")
        || !object::is_terminating(&object::decode(&entry.value))
    {
        return Ok(());
    }
    let what =
        format!("unable to create new content in namespace {name} because it is being terminated");
    let mut error = ApiError::forbidden(res, object::name(object), what);
    let cause = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
        "message": format!("namespace {name} is being terminated")}]);
    error.details.insert("causes".into(), cause);
    Err(error)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

/// Only `/finalize` changes the finalizers of the spec.
pub(super) fn prepare_update(sub: Option<&str>, new: &mut Value, old: &Value) {
    if sub != Some("finalize") {
        let kept = old.get("spec");
        object::copy_member(child(new, "spec"), kept, "finalizers");
    }
}

pub(super) fn prepare_termination(object: &mut Value) {
    child(object, "status").insert("phase".into(), "Terminating".into());
}

pub(super) fn check_deletion(res: &Resource, name: &str) -> Result<(), ApiError> {
    if KEPT.contains(&name) {
        return Err(ApiError::forbidden(
            res,
            name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}
