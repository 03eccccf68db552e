//! `/eviction`: deletes a pod. There are no disruption budgets yet, so nothing blocks it.

use http::StatusCode;
use serde_json::{Value, json};

use crate::body;
use crate::error::ApiError;
use crate::respond::{self, Answer};
use crate::rest::{self, Call, DeleteOptions};

/// Evicts the pod of the path.
pub(crate) async fn evict(call: &Call<'_>) -> Result<Answer, ApiError> {
    let target = call.target;
    let eviction = body::object(call.headers, &call.body)?.object;
    let options = eviction.get("deleteOptions").unwrap_or(&Value::Null);
    let options = DeleteOptions::parse(call.params, options)?;
    rest::remove(
        call.api,
        target.res,
        &target.namespace,
        &target.name,
        &options,
    )
    .await?;
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::value(StatusCode::CREATED, call.accept, &done))
}
