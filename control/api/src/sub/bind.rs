//! `/binding`: assigns a pod to a node, once.

use http::StatusCode;
use serde_json::{Value, json};

use crate::body;
use crate::error::ApiError;
use crate::object::{self, child, is_terminating, members, text};
use crate::query::WriteOptions;
use crate::respond::{self, Answer};
use crate::rest::{self, Call, Update};

/// Binds the pod of the path.
pub(crate) async fn bind(call: &Call<'_>) -> Result<Answer, ApiError> {
    let binding = body::object(call.headers, &call.body)?.object;
    bind_to(call, &call.target.name, &binding).await
}

/// Binds a pod of the path's namespace as a Binding says.
pub(crate) async fn bind_to(
    call: &Call<'_>,
    pod: &str,
    binding: &Value,
) -> Result<Answer, ApiError> {
    let node = text(binding, "/target/name").to_owned();
    let kind = text(binding, "/target/kind");
    if node.is_empty() || !matches!(kind, "" | "Node") {
        let what = if node.is_empty() {
            "target.name: Required value"
        } else {
            "target.kind: Unsupported value"
        };
        return Err(ApiError::new(
            422,
            "Invalid",
            format!("Binding {pod:?} is invalid: {what}"),
        ));
    }
    let uid = object::uid(binding).to_owned();
    let options = WriteOptions::parse(call.params, call.user_agent())?;
    let pods = control_schema::by_plural("", "v1", "pods").expect("the schema has pods");
    let mut update = Update::of(call, &options);
    (update.res, update.name, update.sub) = (pods, pod, Some("binding"));
    update
        .run(|old| {
            if !uid.is_empty() && uid != object::uid(old) {
                let what = format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    object::uid(old)
                );
                return Err(ApiError::conflict(pods, pod, what));
            }
            bound(old, binding, &node).map_err(|what| {
                let mut error = ApiError::conflict(pods, pod, what);
                error.message = error.message.replacen("pods \"", "pods/binding \"", 1);
                error
            })
        })
        .await?;
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::value(StatusCode::CREATED, call.accept, &done))
}

fn bound(old: &Value, binding: &Value, node: &str) -> Result<Value, String> {
    let name = object::name(old);
    if is_terminating(old) {
        return Err(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    let assigned = text(old, "/spec/nodeName");
    if !assigned.is_empty() {
        return Err(format!(
            "pod {name} is already assigned to node {assigned:?}"
        ));
    }
    let mut new = old.clone();
    child(&mut new, "spec").insert("nodeName".into(), node.into());
    if let Some(annotations) = binding
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
    {
        let own = object::metadata(&mut new)
            .entry("annotations")
            .or_insert_with(|| json!({}));
        members(own).extend(annotations.clone());
    }
    set_scheduled(&mut new);
    Ok(new)
}

fn set_scheduled(pod: &mut Value) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": rest::now()});
    let conditions = child(pod, "status")
        .entry("conditions")
        .or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    match conditions
        .iter_mut()
        .find(|condition| text(condition, "/type") == "PodScheduled")
    {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}
