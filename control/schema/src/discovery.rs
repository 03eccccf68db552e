//! Discovery documents: aggregated (v2 and v2beta1) and classic.

use serde_json::{Value, json};

/// Which half of the API an aggregated document describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `/api`: the core group only.
    Core,
    /// `/apis`: all named groups.
    Named,
}

/// `apidiscovery.k8s.io/v2` `APIGroupDiscoveryList`.
pub fn api_v2(scope: Scope) -> Value {
    let _ = scope;
    json!({})
}

/// `apidiscovery.k8s.io/v2beta1` `APIGroupDiscoveryList`.
pub fn api_v2beta1(scope: Scope) -> Value {
    let _ = scope;
    json!({})
}

/// Classic `/api`: `APIVersions`; `server_address` is `host:port` as clients reach it.
pub fn versions(server_address: &str) -> Value {
    let _ = server_address;
    json!({})
}

/// Classic `/apis`: `APIGroupList`.
pub fn groups() -> Value {
    json!({})
}

/// Classic `/apis/<group>`: `APIGroup`.
pub fn group(name: &str) -> Option<Value> {
    let _ = name;
    None
}

/// Classic `/api/v1` or `/apis/<group>/<version>`: `APIResourceList`.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let _ = (group, version);
    None
}
