//! Whether an object may be stored, in upstream's words.
//!
//! Checks run on objects whose fields have the right types (see [`crate::strict`]) and which have their defaults. They cover
//! the mistakes people make, not every rule upstream has: what is not checked here is accepted.

use serde_json::Value;

use crate::Resource;
use causes::{At, Causes};

mod causes;
mod cluster;
mod config;
mod container;
mod endpoints;
mod ingress;
mod meta;
pub(crate) mod names;
mod pod;
mod pod_update;
mod probe;
mod service;
mod volume;
mod workload;

#[cfg(test)]
mod tests;

/// One thing that is wrong, as `details.causes` of a 422 names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, ...
    pub reason: &'static str,
    /// What is wrong, without the field: `Required value`.
    pub message: String,
    /// Path of the field: `spec.containers[0].name`.
    pub field: String,
}

/// Checks an object to be created.
pub fn create(res: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    if res.is_stored() {
        let object = At::root(object);
        meta::object(res, &object, &mut causes);
        content(res, &object, &mut causes);
        if res.kind == "Service" {
            service::create(&object.child("spec"), &mut causes);
        }
    }
    causes.into_vec()
}

/// Checks an object to replace `old`.
pub fn update(res: &Resource, object: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    let (object, old) = (At::root(object), At::root(old));
    meta::update(res, &object, &old, &mut causes);
    content(res, &object, &mut causes);
    match res.kind {
        "Pod" => pod_update::check(&object, &old, &mut causes),
        "Deployment" | "ReplicaSet" => workload::update(&object, &old, &mut causes),
        "Service" => service::update(&object, &old, &mut causes),
        "EndpointSlice" => endpoints::slice_update(&object, &old, &mut causes),
        "IngressClass" => ingress::class_update(&object, &old, &mut causes),
        "ServiceCIDR" => service::cidr_update(&object, &old, &mut causes),
        "Node" => cluster::node_update(&object, &old, &mut causes),
        "ConfigMap" | "Secret" => config::update(res, &object, &old, &mut causes),
        _ => {}
    }
    causes.into_vec()
}

/// Checks an object whose status is to replace that of `old`.
pub fn status_update(res: &Resource, object: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    let (object, old) = (At::root(object), At::root(old));
    meta::update(res, &object, &old, &mut causes);
    match res.kind {
        "Service" | "Ingress" => {
            service::load_balancer(&object.child("status").child("loadBalancer"), &mut causes)
        }
        "Deployment" | "ReplicaSet" => workload::status(&object.child("status"), &mut causes),
        "Pod" => pod::status(&object, &mut causes),
        _ => {}
    }
    causes.into_vec()
}

/// The message of a 422: `Service "web" is invalid: spec.ports: Required value`.
pub fn message(res: &Resource, name: &str, causes: &[Cause]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for cause in causes {
        let line = format!("{}: {}", cause.field, cause.message);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let all = match lines.as_slice() {
        [only] => only.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    format!("{} {name:?} is invalid: {all}", res.qualified_kind())
}

/// What is checked at every write but that of a status.
fn content(res: &Resource, object: &At<'_>, causes: &mut Causes) {
    let spec = object.child("spec");
    match res.kind {
        "Pod" => pod::spec(&spec, causes),
        "Deployment" => workload::deployment(&spec, causes),
        "ReplicaSet" => workload::replica_set(&spec, causes),
        "Service" => service::spec(&spec, causes),
        "Endpoints" => endpoints::endpoints(object, causes),
        "EndpointSlice" => endpoints::slice(object, causes),
        "Ingress" => ingress::spec(&spec, causes),
        "IngressClass" => ingress::class(&spec, causes),
        "ServiceCIDR" => service::cidrs(&spec, causes),
        "ConfigMap" => config::config_map(object, causes),
        "Secret" => config::secret(object, causes),
        "Node" => cluster::node(&spec, causes),
        "Lease" => cluster::lease(&spec, causes),
        "Event" => cluster::event(object, causes),
        _ => {}
    }
}
