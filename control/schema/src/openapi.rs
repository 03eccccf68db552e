//! OpenAPI v3, as little as clients need: which kinds can be patched, and that the server validates fields.
//!
//! With it kubectl leaves validation of manifests to the server. `kubectl explain`, which wants the schemas too, does not
//! work with it. For a kind that the v3 documents do not know, kubectl goes on to the v2 document and then says that
//! there is no such kind; so that document exists, and is empty.

use serde_json::{Map, Value, json};

use crate::resource::{Resource, resources};

/// `/openapi/v3`: the documents there are, each with its hash in the URL.
pub fn index() -> Value {
    let paths: Map<String, Value> = paths()
        .into_iter()
        .filter_map(|path| {
            let url = format!("/openapi/v3/{path}?hash={}", hash(&path)?);
            Some((path, json!({"serverRelativeURL": url})))
        })
        .collect();
    json!({"paths": paths})
}

/// `/openapi/v3/<path>`, where `path` is `api/v1` or `apis/<group>/<version>`.
pub fn document(path: &str) -> Option<Value> {
    let mut operations = Map::new();
    let mut schemas = Map::new();
    for res in resources().iter().filter(|r| path_of(r) == path) {
        schemas.insert(
            schema_name(res),
            json!({"type": "object", "x-kubernetes-group-version-kind": [kind(res)]}),
        );
        if res.serves("patch") {
            operations.insert(object_path(res), patch_operation(res));
        }
    }
    (!schemas.is_empty()).then(|| {
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "v1.36.0"},
            "paths": operations,
            "components": {"schemas": schemas},
        })
    })
}

/// `/openapi/v2` as protobuf, the only form kubectl asks for: a gnostic `Document` with `swagger` (field 1), `info`
/// (field 2: `title`, `version`) and empty `paths` (field 8).
pub const V2_PROTOBUF: &[u8] = b"\x0a\x032.0\x12\x15\x0a\x0aKubernetes\x12\x07v1.36.0\x42\x00";

/// The media type by which clients ask for [`V2_PROTOBUF`].
pub const V2_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The media type it is answered with: an `@` is no legal character in one, and Go's parser refuses it.
pub const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The hash of a document: its `hash` query parameter and its ETag.
pub fn hash(path: &str) -> Option<String> {
    let text = document(path)?.to_string();
    // FNV-1a, twice with different starts: it names a version of a document, nothing more.
    let fnv = |start: u64| {
        text.bytes().fold(start, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    Some(format!(
        "{:016X}{:016X}",
        fnv(0xcbf2_9ce4_8422_2325),
        fnv(0x8422_2325_cbf2_9ce4)
    ))
}

/// In order of the resource table, each once.
fn paths() -> Vec<String> {
    let mut paths: Vec<String> = resources().iter().map(path_of).collect();
    paths.dedup();
    paths
}

fn path_of(res: &Resource) -> String {
    let prefix = if res.group.is_empty() { "api" } else { "apis" };
    format!("{prefix}/{}", res.api_version())
}

fn object_path(res: &Resource) -> String {
    let namespace = if res.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    format!("/{}{namespace}/{}/{{name}}", path_of(res), res.plural)
}

/// As upstream names it: `io.k8s.api.apps.v1.Deployment`.
fn schema_name(res: &Resource) -> String {
    let group = match res.group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    };
    format!("io.k8s.api.{group}.{}.{}", res.version, res.kind)
}

fn kind(res: &Resource) -> Value {
    json!({"group": res.group, "version": res.version, "kind": res.kind})
}

fn patch_operation(res: &Resource) -> Value {
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"]
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    json!({
        "patch": {
            "parameters": parameters,
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": kind(res),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_of_the_index_exists() {
        let index = index();
        let paths = index["paths"].as_object().expect("paths");
        assert!(paths.contains_key("api/v1") && paths.contains_key("apis/networking.k8s.io/v1"));
        for (path, entry) in paths {
            assert!(document(path).is_some());
            assert!(
                entry["serverRelativeURL"]
                    .as_str()
                    .expect("a URL")
                    .starts_with(&format!("/openapi/v3/{path}?hash="))
            );
        }
        assert_eq!(document("apis/none/v1"), None);
    }

    #[test]
    fn patches_offer_field_validation() {
        let apps = document("apis/apps/v1").expect("apps");
        let patch =
            &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"]["kind"],
            "Deployment"
        );
        assert_eq!(patch["parameters"][2]["name"], "fieldValidation");
    }
}
