//! Questions about Kubernetes objects that several controllers ask. Pure.

pub(crate) mod adoption;
pub(crate) mod condition;
pub(crate) mod pod;
pub(crate) mod quantity;
pub(crate) mod taint;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference, Time};
use kube::Resource;
use kube::core::Selector;

use crate::error::Error;

/// The uid, which every object from the API has.
pub(crate) fn uid(object: &impl Resource) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// The namespace; empty for cluster-scoped kinds.
pub(crate) fn namespace(object: &impl Resource) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

/// The name, which every object from the API has.
pub(crate) fn name(object: &impl Resource) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// Whether deletion has been asked for.
pub(crate) fn deleting(object: &impl Resource) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// When the object was made.
pub(crate) fn created(object: &impl Resource) -> Timestamp {
    object
        .meta()
        .creation_timestamp
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// An annotation's value.
pub(crate) fn annotation<'a>(object: &'a impl Resource, key: &str) -> Option<&'a str> {
    object
        .meta()
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

/// A label's value.
pub(crate) fn label<'a>(object: &'a impl Resource, key: &str) -> Option<&'a str> {
    object.meta().labels.as_ref()?.get(key).map(String::as_str)
}

/// The owner that controls this object.
pub(crate) fn controller_of(object: &impl Resource) -> Option<&OwnerReference> {
    object
        .meta()
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// The reference by which `owner` controls its dependents; they block its foreground deletion.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: name(owner).to_owned(),
        uid: uid(owner).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A label selector ready to be matched.
pub(crate) fn selector(selector: &LabelSelector) -> Result<Selector, Error> {
    Selector::try_from(selector.clone()).map_err(|error| Error::Selector(error.to_string()))
}

/// Whether every pair of `wanted` is among `labels`.
pub(crate) fn has_labels(
    labels: Option<&BTreeMap<String, String>>,
    wanted: &BTreeMap<String, String>,
) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// A count as the API keeps it: nothing for zero. Written otherwise it would seem to differ for ever.
pub(crate) fn unless_zero(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

/// A point in time as API fields hold it: whole seconds.
pub(crate) fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// An object out of JSON that a test wrote.
#[cfg(test)]
pub(crate) fn parse<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
    serde_json::from_value(value).expect("tests write valid objects")
}
