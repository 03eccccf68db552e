//! ConfigMaps and Secrets.

use serde_json::Value;

use super::causes::{At, Causes};
use super::names;
use crate::Resource;

/// All values of an object together.
const MAX_SIZE: usize = 1 << 20;

/// Keys a type of secret must have.
const NEEDED: &[(&str, &[&str])] = &[
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
];

pub(super) fn config_map(object: &At<'_>, causes: &mut Causes) {
    let (data, binary) = (object.child("data"), object.child("binaryData"));
    for map in [&data, &binary] {
        for (key, value) in map.entries() {
            for problem in names::config_key(key) {
                causes.invalid_value(&value, &Value::from(key), &problem);
            }
        }
    }
    for (key, value) in binary.entries() {
        if data.value.get(key).is_some() {
            causes.invalid_value(
                &value,
                &Value::from(key),
                "duplicate of key present in data",
            );
        }
    }
    let size = |map: &At<'_>| map.entries().map(|(_, v)| v.text().len()).sum::<usize>();
    if size(&data) + size(&binary) / 4 * 3 > MAX_SIZE {
        causes.too_long(&At::root(object.value), MAX_SIZE);
    }
}

pub(super) fn secret(object: &At<'_>, causes: &mut Causes) {
    let data = object.child("data");
    let mut size = 0;
    for (key, value) in data.entries() {
        size += value.text().len() / 4 * 3;
        for problem in names::config_key(key) {
            causes.invalid_value(&value, &Value::from(key), &problem);
        }
    }
    if size > MAX_SIZE {
        causes.too_long(&data, MAX_SIZE);
    }
    let kind = object.child("type");
    for (_, keys) in NEEDED.iter().filter(|(name, _)| *name == kind.text()) {
        for key in keys.iter().filter(|key| data.value.get(**key).is_none()) {
            causes.required(
                &At {
                    path: format!("data[{key}]"),
                    value: &Value::Null,
                },
                "",
            );
        }
    }
    if kind.text() == "kubernetes.io/service-account-token" {
        let account = &object.child("metadata").child("annotations");
        if account.value["kubernetes.io/service-account.name"]
            .as_str()
            .unwrap_or_default()
            .is_empty()
        {
            let path = "metadata.annotations[kubernetes.io/service-account.name]".to_owned();
            causes.required(
                &At {
                    path,
                    value: &Value::Null,
                },
                "",
            );
        }
    }
}

/// The type of a secret, and what is immutable, stays.
pub(super) fn update(res: &Resource, new: &At<'_>, old: &At<'_>, causes: &mut Causes) {
    if res.kind == "Secret" {
        causes.immutable(&new.child("type"), &old.child("type"));
    }
    if !old.child("immutable").is_true() {
        return;
    }
    if !new.child("immutable").is_true() {
        causes.forbidden(
            &new.child("immutable"),
            "field is immutable when `immutable` is set",
        );
    }
    for key in ["data", "binaryData"] {
        if new.child(key).value != old.child(key).value {
            causes.forbidden(
                &new.child(key),
                "field is immutable when `immutable` is set",
            );
        }
    }
}
