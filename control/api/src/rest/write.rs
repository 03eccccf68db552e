//! What all writes share: checking a body's fields, validating, and putting it into the store.

use std::sync::Arc;

use control_schema::{Resource, apply, strict, validation};
use control_store::{Entry, Expect, Write, WriteError};
use serde_json::Value;

use crate::api::Api;
use crate::error::ApiError;
use crate::object;
use crate::query::FieldValidation;

/// A body whose fields were looked at, and what the client is to be warned of.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

/// Checks types and field names of a body and leaves out what the kind does not have.
pub(crate) fn check_fields(
    res: &Resource,
    mut object: Value,
    duplicates: Vec<String>,
    mode: FieldValidation,
) -> Result<Checked, ApiError> {
    strict::check_types(res, &object).map_err(|what| cannot_be_handled(res, &what))?;
    let mut problems = duplicates;
    if mode != FieldValidation::Ignore {
        problems.extend(strict::unknown_fields(res, &object));
    }
    if mode == FieldValidation::Strict && !problems.is_empty() {
        return Err(cannot_be_handled(
            res,
            &format!("strict decoding error: {}", problems.join(", ")),
        ));
    }
    strict::prune(res, &mut object);
    let warnings = if mode == FieldValidation::Warn {
        problems
    } else {
        Vec::new()
    };
    Ok(Checked { object, warnings })
}

fn cannot_be_handled(res: &Resource, what: &str) -> ApiError {
    let (kind, version) = (res.kind, res.api_version());
    let version = version.rsplit('/').next().unwrap_or_default();
    ApiError::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {what}"
    ))
}

/// Refuses an object that is not valid.
pub(crate) fn refuse_causes(
    res: &Resource,
    object: &Value,
    causes: &[validation::Cause],
) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(res, object::name(object), causes))
}

/// Whether two objects differ in nothing but the times in their managedFields.
pub(crate) fn is_same(old: &Value, new: &Value) -> bool {
    fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| *key != "metadata")
    }
    fn metadata(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let skipped = ["managedFields", "resourceVersion"];
        let metadata = object.get("metadata").and_then(Value::as_object);
        metadata
            .into_iter()
            .flatten()
            .filter(move |(key, _)| !skipped.contains(&key.as_str()))
    }
    members(old).eq(members(new)) && metadata(old).eq(metadata(new)) && same_owners(old, new)
}

fn same_owners(old: &Value, new: &Value) -> bool {
    let entries = |object| object::items(object, "/metadata/managedFields");
    let (old, new) = (entries(old), entries(new));
    old.len() == new.len()
        && old.iter().zip(new).all(|(old, new)| {
            let keys = [
                "manager",
                "operation",
                "apiVersion",
                "subresource",
                "fieldsV1",
            ];
            keys.iter().all(|key| old.get(key) == new.get(key))
        })
}

/// Records the fields a writer set, unless it reset the records.
pub(crate) fn track(
    res: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    sub: Option<&str>,
) {
    apply::track(res, old, new, manager, sub, &super::now());
}

/// Puts an object into the store; a lost race is the inner error.
pub(crate) async fn store(
    api: &Api,
    res: &Resource,
    object: &Value,
    expect: Expect,
) -> Result<Result<Arc<Entry>, Option<Arc<Entry>>>, ApiError> {
    let key = object::key(
        res,
        object::text(object, "/metadata/namespace"),
        object::name(object),
    );
    let draft = object::draft(res, object);
    let index = Some(object::index(res, object));
    settle(
        api.store
            .write(Write {
                key,
                expect,
                draft,
                index,
            })
            .await,
    )
}

/// Removes an object whose last form is given.
pub(crate) async fn remove(
    api: &Api,
    res: &Resource,
    last: &Value,
    entry: &Entry,
) -> Result<Result<Arc<Entry>, Option<Arc<Entry>>>, ApiError> {
    let draft = object::draft(res, last);
    let write = Write {
        key: entry.key.clone(),
        expect: Expect::At(entry.revision),
        draft,
        index: None,
    };
    let settled = settle(api.store.write(write).await)?;
    if settled.is_ok() {
        crate::hooks::deleted(api, res, last);
    }
    Ok(settled)
}

fn settle(
    result: Result<Arc<Entry>, WriteError>,
) -> Result<Result<Arc<Entry>, Option<Arc<Entry>>>, ApiError> {
    match result {
        Ok(entry) => Ok(Ok(entry)),
        Err(WriteError::Conflict(there)) => Ok(Err(there)),
        Err(error) => Err(error.into()),
    }
}
