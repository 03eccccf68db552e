//! Discovery documents: aggregated (v2 and v2beta1) and classic.

use serde_json::{Value, json};

use crate::resource::{Resource, Subresource, api_version, resources};

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
    aggregated(scope, "v2")
}

/// `apidiscovery.k8s.io/v2beta1` `APIGroupDiscoveryList`.
pub fn api_v2beta1(scope: Scope) -> Value {
    aggregated(scope, "v2beta1")
}

/// Classic `/api`: `APIVersions`; `server_address` is `host:port` as clients reach it.
pub fn versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// Classic `/apis`: `APIGroupList`.
pub fn groups() -> Value {
    let groups: Vec<Value> = group_names()
        .into_iter()
        .filter(|g| !g.is_empty())
        .map(describe_group)
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// Classic `/apis/<group>`: `APIGroup`.
pub fn group(name: &str) -> Option<Value> {
    let known = group_names()
        .into_iter()
        .find(|g| !g.is_empty() && *g == name)?;
    let mut group = describe_group(known);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Some(group)
}

/// Classic `/api/v1` or `/apis/<group>/<version>`: `APIResourceList`.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let rows: Vec<Value> = in_version(group, version).flat_map(classic_rows).collect();
    (!rows.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": api_version(group, version),
            "resources": rows,
        })
    })
}

fn in_version<'a>(
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'static Resource> + 'a {
    resources()
        .iter()
        .filter(move |r| r.group == group && r.version == version)
}

/// In the order of the table, each once.
fn group_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = resources().iter().map(|r| r.group).collect();
    names.dedup();
    names
}

fn versions_of(group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&str> = resources()
        .iter()
        .filter(|r| r.group == group)
        .map(|r| r.version)
        .collect();
    versions.dedup();
    versions
}

// ---- Aggregated ----

fn aggregated(scope: Scope, version: &str) -> Value {
    let in_scope = |group: &&str| group.is_empty() == (scope == Scope::Core);
    let items: Vec<Value> = group_names()
        .into_iter()
        .filter(in_scope)
        .map(aggregated_group)
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_group(group: &str) -> Value {
    let versions: Vec<Value> = versions_of(group)
        .into_iter()
        .map(|version| {
            let rows: Vec<Value> = in_version(group, version).map(aggregated_row).collect();
            json!({"version": version, "freshness": "Current", "resources": rows})
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({})
    } else {
        json!({"name": group})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_row(res: &'static Resource) -> Value {
    let mut row = json!({
        "resource": res.plural,
        "responseKind": {"group": res.group, "version": res.version, "kind": res.kind},
        "scope": if res.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": res.singular,
        "verbs": res.verbs,
    });
    add_names(&mut row, res);
    let subresources: Vec<Value> = res
        .subresources
        .iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        row["subresources"] = json!(subresources);
    }
    row
}

fn add_names(row: &mut Value, res: &Resource) {
    if !res.short_names.is_empty() {
        row["shortNames"] = json!(res.short_names);
    }
    if !res.categories.is_empty() {
        row["categories"] = json!(res.categories);
    }
}

// ---- Classic ----

fn describe_group(name: &str) -> Value {
    let versions: Vec<Value> = versions_of(name)
        .into_iter()
        .map(|version| json!({"groupVersion": api_version(name, version), "version": version}))
        .collect();
    json!({"name": name, "preferredVersion": versions[0], "versions": versions})
}

fn classic_rows(res: &'static Resource) -> impl Iterator<Item = Value> {
    let mut row = json!({
        "name": res.plural,
        "singularName": res.singular,
        "namespaced": res.namespaced,
        "kind": res.kind,
        "verbs": res.verbs,
    });
    add_names(&mut row, res);
    std::iter::once(row).chain(
        res.subresources
            .iter()
            .map(move |sub| classic_subresource(res, sub)),
    )
}

fn classic_subresource(res: &Resource, sub: &Subresource) -> Value {
    let mut row = json!({
        "name": format!("{}/{}", res.plural, sub.name),
        "singularName": "",
        "namespaced": res.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    // Only where it differs from the list's own group and version.
    if (sub.group, sub.version) != (res.group, res.version) {
        row["group"] = json!(sub.group);
        row["version"] = json!(sub.version);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_group_is_alone_in_its_document() {
        let core = api_v2(Scope::Core);
        assert_eq!(core["items"].as_array().map(Vec::len), Some(1));
        assert_eq!(core["items"][0]["metadata"], json!({}));
        let named = api_v2beta1(Scope::Named);
        assert_eq!(named["apiVersion"], "apidiscovery.k8s.io/v2beta1");
        let names: Vec<_> = named["items"]
            .as_array()
            .expect("groups")
            .iter()
            .map(|g| &g["metadata"]["name"])
            .collect();
        assert_eq!(
            names,
            [
                "apps",
                "authentication.k8s.io",
                "authorization.k8s.io",
                "networking.k8s.io",
                "discovery.k8s.io",
                "coordination.k8s.io"
            ]
        );
    }

    #[test]
    fn pods_are_described_with_their_subresources() {
        let core = api_v2(Scope::Core);
        let rows = core["items"][0]["versions"][0]["resources"]
            .as_array()
            .expect("resources");
        let pods = rows.iter().find(|r| r["resource"] == "pods").expect("pods");
        assert_eq!(pods["shortNames"], json!(["po"]));
        assert_eq!(pods["categories"], json!(["all"]));
        let eviction = &pods["subresources"].as_array().expect("subresources")[1];
        assert_eq!(
            eviction["responseKind"],
            json!({"group": "policy", "version": "v1", "kind": "Eviction"})
        );
    }

    #[test]
    fn classic_lists_name_the_eviction_as_drain_reads_it() {
        let list = resource_list("", "v1").expect("the core group");
        let rows = list["resources"].as_array().expect("rows");
        let eviction = rows
            .iter()
            .find(|r| r["name"] == "pods/eviction")
            .expect("evictions");
        assert_eq!(
            (&eviction["group"], &eviction["version"]),
            (&json!("policy"), &json!("v1"))
        );
        assert!(
            rows.iter()
                .any(|r| r["name"] == "namespaces" && r["namespaced"] == false)
        );
        assert_eq!(
            resource_list("apps", "v1").map(|l| l["groupVersion"].clone()),
            Some(json!("apps/v1"))
        );
        assert_eq!(resource_list("apps", "v2"), None);
    }

    #[test]
    fn groups_are_listed_once() {
        assert_eq!(groups()["groups"].as_array().map(Vec::len), Some(6));
        assert_eq!(
            group("apps"),
            Some(json!({
                "kind": "APIGroup", "apiVersion": "v1", "name": "apps",
                "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
                "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"},
            }))
        );
        assert_eq!(group("none"), None);
    }
}
