//! GET of one object.

use std::sync::Arc;

use control_schema::Resource;
use control_store::Entry;
use http::StatusCode;

use super::{Call, render};
use crate::api::Api;
use crate::error::ApiError;
use crate::object;
use crate::respond::{self, Answer};

/// Answers the object.
pub(crate) fn get(call: &Call<'_>) -> Result<Answer, ApiError> {
    let target = call.target;
    let entry = entry(call.api, target.res, &target.namespace, &target.name)?;
    let shaped = render::one(target.res, call.accept, call.params, entry.value.clone());
    Ok(respond::bytes(StatusCode::OK, call.accept, shaped))
}

/// The stored object, or 404.
pub(crate) fn entry(
    api: &Api,
    res: &Resource,
    namespace: &str,
    name: &str,
) -> Result<Arc<Entry>, ApiError> {
    api.store
        .get(&object::key(res, namespace, name))
        .ok_or_else(|| ApiError::not_found(res, name))
}
