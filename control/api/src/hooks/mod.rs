//! What differs between kinds: admission, what the server fills in, what it allocates, and when an object may vanish. The
//! engine in [`crate::rest`] asks here and knows no kind by name.

mod namespace;
mod pod;
mod service;
mod workload;

use control_schema::Resource;
use serde_json::Value;

pub(crate) use crate::allocate::Claim;
use crate::api::Api;
use crate::error::ApiError;
use crate::identity::User;
use crate::object;
pub(crate) use service::SERVICE_CIDR;

/// Whether `res` is the core resource of that name.
pub(crate) fn is_core(res: &Resource, plural: &str) -> bool {
    res.group.is_empty() && res.plural == plural
}

/// Refuses objects in namespaces that are missing or going away.
pub(crate) fn namespace_allows_creation(
    api: &Api,
    res: &Resource,
    object: &Value,
) -> Result<(), ApiError> {
    if !res.namespaced {
        return Ok(());
    }
    namespace::allows_creation(api, res, object)
}

/// Admission of a new object: refuses it, or completes it from what is in the cluster.
pub(crate) fn admit(
    api: &Api,
    res: &Resource,
    object: &mut Value,
    user: &User,
) -> Result<(), ApiError> {
    match (res.group, res.plural) {
        ("", "pods") => pod::admit(api, res, object, user),
        ("networking.k8s.io", "servicecidrs") => service::admit_cidr(res, object),
        _ => Ok(()),
    }
}

/// Brings a changed object into its next state. `sub` is the subresource written to.
pub(crate) fn prepare_update(res: &Resource, sub: Option<&str>, new: &mut Value, old: &Value) {
    match (res.group, res.plural) {
        ("", "namespaces") => namespace::prepare_update(sub, new, old),
        ("apps", "deployments") if sub.is_none() => workload::prepare_update(new, old),
        _ => {}
    }
}

/// Takes what the new object needs and does not have yet from the pools.
pub(crate) fn allocate<'a>(
    api: &'a Api,
    res: &Resource,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<Claim<'a>, ApiError> {
    if is_core(res, "services") {
        return service::allocate(&api.allocators, res, new, old);
    }
    Ok(Claim::none())
}

/// After an object has been removed: gives back what it held.
pub(crate) fn deleted(api: &Api, res: &Resource, last: &Value) {
    if is_core(res, "services") {
        service::release(&api.allocators, last);
    }
}

/// Takes from the pools what the stored objects hold, at start.
pub(crate) fn recover(api: &Api, res: &Resource, stored: &Value) {
    if is_core(res, "services") {
        service::recover(&api.allocators, stored);
    }
}

/// Refuses to delete what must stay.
pub(crate) fn check_deletion(res: &Resource, name: &str) -> Result<(), ApiError> {
    if is_core(res, "namespaces") {
        return namespace::check_deletion(res, name);
    }
    Ok(())
}

/// How many seconds an object is to be given before it is removed.
pub(crate) fn grace_period(res: &Resource, object: &Value, asked: Option<i64>) -> i64 {
    if is_core(res, "pods") {
        pod::grace_period(object, asked)
    } else {
        0
    }
}

/// Notes in an object that its deletion has begun.
pub(crate) fn prepare_termination(res: &Resource, object: &mut Value) {
    if is_core(res, "namespaces") {
        namespace::prepare_termination(object);
    }
}

/// Whether nothing keeps an object that is being deleted.
pub(crate) fn may_vanish(res: &Resource, object: &Value) -> bool {
    let grace = object
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    object::is_terminating(object)
        && grace.unwrap_or(0) <= 0
        && object::items(object, "/metadata/finalizers").is_empty()
        && (!is_core(res, "namespaces") || object::items(object, "/spec/finalizers").is_empty())
}
