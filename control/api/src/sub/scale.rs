//! `/scale`: the number of replicas of a Deployment or ReplicaSet as an `autoscaling/v1` Scale.

use control_schema::patch;
use http::StatusCode;
use serde_json::{Value, json};

use crate::body::{self, PatchType};
use crate::error::ApiError;
use crate::object::{self, child, text};
use crate::query::WriteOptions;
use crate::respond::{self, Answer};
use crate::rest::{self, Call, Update};

/// Answers or changes the scale.
pub(crate) async fn scale(call: &Call<'_>, verb: &str) -> Result<Answer, ApiError> {
    let target = call.target;
    if verb == "get" {
        let entry = rest::entry(call.api, target.res, &target.namespace, &target.name)?;
        return Ok(respond::value(
            StatusCode::OK,
            call.accept,
            &scale_of(&object::decode(&entry.value)),
        ));
    }
    let options = WriteOptions::parse(call.params, call.user_agent())?;
    let change = Change::read(call, verb)?;
    let update = Update::of(call, &options);
    let bytes = update
        .run(|object| scaled(object, &change.applied(&scale_of(object))?))
        .await?;
    Ok(respond::value(
        StatusCode::OK,
        call.accept,
        &scale_of(&object::decode(&bytes)),
    ))
}

/// What is asked of a Scale.
enum Change {
    Replace(Value),
    Patch(PatchType, Value),
}

impl Change {
    fn read(call: &Call<'_>, verb: &str) -> Result<Self, ApiError> {
        if verb == "update" {
            return Ok(Self::Replace(
                body::object(call.headers, &call.body)?.object,
            ));
        }
        let (kind, patch) = body::patch(call.headers, &call.body)?;
        Ok(Self::Patch(kind, patch.object))
    }

    /// The changed Scale. It has no lists, so a strategic patch of it is a merge patch.
    fn applied(&self, scale: &Value) -> Result<Value, ApiError> {
        match self {
            Self::Replace(given) => Ok(given.clone()),
            Self::Patch(PatchType::Json, patch) => {
                patch::json(scale, patch).map_err(|error| ApiError::bad_request(error.to_string()))
            }
            Self::Patch(_, patch) => Ok(patch::merge(scale, patch)),
        }
    }
}

/// The object with the replicas of a Scale.
fn scaled(object: &Value, scale: &Value) -> Result<Value, ApiError> {
    let replicas = match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(replicas) => replicas.as_i64().ok_or_else(|| {
            ApiError::bad_request("Scale in version \"v1\" cannot be handled as a Scale: spec.replicas is not a number")
        })?,
    };
    if replicas < 0 {
        let name = object::name(object);
        let message = format!("Invalid value: {replicas}: must be greater than or equal to 0");
        let mut error = ApiError::new(
            422,
            "Invalid",
            format!("Scale.autoscaling {name:?} is invalid: spec.replicas: {message}"),
        );
        error.details.insert("name".into(), name.into());
        return Err(error);
    }
    let mut new = object.clone();
    child(&mut new, "spec").insert("replicas".into(), replicas.into());
    let revision = text(scale, "/metadata/resourceVersion");
    object::metadata(&mut new).insert("resourceVersion".into(), revision.into());
    Ok(new)
}

fn scale_of(object: &Value) -> Value {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = json!({});
    for key in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        object::copy_member(object::members(&mut metadata), object.get("metadata"), key);
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": number("/spec/replicas")},
        "status": {
            "replicas": number("/status/replicas"),
            "selector": selector_text(object.pointer("/spec/selector").unwrap_or(&Value::Null)),
        },
    })
}

/// A label selector in the form of a query.
fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let equal = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let expressions = object::items(selector, "/matchExpressions")
        .iter()
        .map(expression_text);
    equal.chain(expressions).collect::<Vec<_>>().join(",")
}

fn expression_text(expression: &Value) -> String {
    let key = text(expression, "/key");
    let values: Vec<&str> = object::items(expression, "/values")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let values = values.join(",");
    match text(expression, "/operator") {
        "In" => format!("{key} in ({values})"),
        "NotIn" => format!("{key} notin ({values})"),
        "DoesNotExist" => format!("!{key}"),
        _ => key.to_owned(),
    }
}
