//! Values the server fills in, as upstream does for each kind.
//!
//! A default that is missing shows as an endless difference between what a client applies and what it reads back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::Resource;

mod pod;
mod service;

type Object = Map<String, Value>;

/// Fills in the defaults of an object.
pub fn apply(res: &Resource, object: &mut Value) {
    let Value::Object(object) = object else {
        return;
    };
    match res.kind {
        "Namespace" => namespace(object),
        "Node" => node(object),
        "Pod" => pod(object),
        "Secret" => secret(object),
        "Service" => service::service(object),
        "Endpoints" => endpoints(object),
        "EndpointSlice" => endpoint_slice(object),
        "Deployment" => deployment(object),
        "ReplicaSet" => replica_set(object),
        "Ingress" => ingress(object),
        "IngressClass" => ingress_class(object),
        _ => {}
    }
}

/// Drops from a changed object what only its old type called for, unless the change sets it anew; before [`apply`].
///
/// A Service that is no longer reached from outside loses its traffic policy, its node ports and the like.
pub fn drop_dependent(res: &Resource, object: &mut Value, old: &Value) {
    if res.kind == "Service"
        && let Some(Value::Object(spec)) = object.get_mut("spec")
    {
        service::drop_dependent(spec, &old["spec"]);
    }
}

fn namespace(object: &mut Object) {
    let name = object
        .get("metadata")
        .and_then(|m| m["name"].as_str())
        .unwrap_or_default()
        .to_owned();
    if !name.is_empty() {
        with(object, "metadata", |metadata| {
            with(metadata, "labels", |labels| {
                labels.insert(
                    "kubernetes.io/metadata.name".to_owned(),
                    Value::String(name),
                );
            });
        });
    }
    // One that is being deleted loses its finalizers for good.
    if object
        .get("metadata")
        .is_none_or(|m| m["deletionTimestamp"].is_null())
    {
        with(object, "spec", |spec| {
            default(spec, "finalizers", json!(["kubernetes"]))
        });
    }
    with(object, "status", |status| {
        default(status, "phase", json!("Active"))
    });
}

fn pod(object: &mut Object) {
    let mut class = "BestEffort";
    with(object, "spec", |spec| {
        pod::spec(spec);
        pod::bare(spec);
        class = pod::qos_class(spec);
    });
    with(object, "status", |status| {
        default(status, "phase", json!("Pending"));
        default(status, "qosClass", json!(class));
    });
}

/// `stringData` is only ever written: it becomes part of `data`.
fn secret(object: &mut Object) {
    default(object, "type", json!("Opaque"));
    if let Some(Value::Object(texts)) = object.remove("stringData") {
        with(object, "data", |data| {
            for (key, text) in texts {
                let text = text.as_str().unwrap_or_default();
                data.insert(key, Value::String(STANDARD.encode(text)));
            }
        });
    }
}

fn node(object: &mut Object) {
    within(object, "status", |status| {
        if let Some(capacity) = status.get("capacity").cloned() {
            default(status, "allocatable", capacity);
        }
    });
}

fn endpoints(object: &mut Object) {
    each(object, "subsets", |subset| {
        each(subset, "ports", |port| {
            default(port, "protocol", json!("TCP"))
        });
    });
}

fn endpoint_slice(object: &mut Object) {
    each(object, "ports", |port| {
        default(port, "name", json!(""));
        default(port, "protocol", json!("TCP"));
    });
}

fn deployment(object: &mut Object) {
    with(object, "spec", |spec| {
        default(spec, "replicas", json!(1));
        default(spec, "revisionHistoryLimit", json!(10));
        default(spec, "progressDeadlineSeconds", json!(600));
        with(spec, "strategy", |strategy| {
            default(strategy, "type", json!("RollingUpdate"));
            if strategy["type"] == "RollingUpdate" {
                with(strategy, "rollingUpdate", |rolling| {
                    default(rolling, "maxUnavailable", json!("25%"));
                    default(rolling, "maxSurge", json!("25%"));
                });
            }
        });
        template(spec);
    });
}

fn replica_set(object: &mut Object) {
    with(object, "spec", |spec| {
        default(spec, "replicas", json!(1));
        template(spec);
    });
    with(object, "status", |status| {
        default(status, "replicas", json!(0))
    });
}

fn template(spec: &mut Object) {
    with(spec, "template", |template| {
        with(template, "spec", pod::spec)
    });
}

fn ingress(object: &mut Object) {
    within(object, "spec", |spec| {
        each(spec, "rules", |rule| {
            within(rule, "http", |http| {
                each(http, "paths", |path| {
                    default(path, "pathType", json!("ImplementationSpecific"))
                });
            });
        });
    });
    with(object, "status", |status| {
        with(status, "loadBalancer", |_| {})
    });
}

fn ingress_class(object: &mut Object) {
    within(object, "spec", |spec| {
        within(spec, "parameters", |parameters| {
            default(parameters, "scope", json!("Cluster"))
        });
    });
}

// ---- Steps ----

/// Sets a field that is absent, null or the empty string.
fn default(object: &mut Object, key: &str, value: Value) {
    match object.get(key) {
        Some(Value::Null) | None => {}
        Some(Value::String(text)) if text.is_empty() && value != "" => {}
        Some(_) => return,
    }
    object.insert(key.to_owned(), value);
}

/// Sets a number that is absent or zero.
fn default_zero(object: &mut Object, key: &str, value: i64) {
    if matches!(object.get(key), None | Some(Value::Null)) || object[key] == 0 {
        object.insert(key.to_owned(), json!(value));
    }
}

/// Changes the object at `key`, making it if there is none.
fn with(object: &mut Object, key: &str, change: impl FnOnce(&mut Object)) {
    let slot = object.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = json!({});
    }
    if let Value::Object(inner) = slot {
        change(inner);
    }
}

/// Changes the object at `key`, if there is one.
fn within(object: &mut Object, key: &str, change: impl FnOnce(&mut Object)) {
    if let Some(Value::Object(inner)) = object.get_mut(key) {
        change(inner);
    }
}

/// Changes each object of a list.
fn each(object: &mut Object, key: &str, change: impl Fn(&mut Object)) {
    if let Some(Value::Array(items)) = object.get_mut(key) {
        items
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .for_each(change);
    }
}

#[cfg(test)]
mod tests;
