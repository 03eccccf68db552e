//! Stories of several managers and one object.

use serde_json::{Value, json};

use super::*;

const T1: &str = "2026-11-21T05:00:00Z";
const T2: &str = "2026-11-21T05:01:00Z";

fn deployments() -> &'static Resource {
    crate::by_plural("apps", "v1", "deployments").expect("deployments are served")
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn apply_as(manager: &str, live: Option<&Value>, spec: Value) -> Result<Value, Error> {
    apply(deployments(), live, &object(spec), manager, false, None, T1)
}

fn created(manager: &str, spec: Value) -> Value {
    apply_as(manager, None, spec).expect("nothing to conflict with")
}

/// The fields each manager owns.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten();
    entries
        .map(|e| {
            (
                format!(
                    "{} {}",
                    e["manager"].as_str().unwrap_or("?"),
                    e["operation"].as_str().unwrap_or("?")
                ),
                e["fieldsV1"].clone(),
            )
        })
        .collect()
}

#[test]
fn applying_creates_with_one_owner() {
    let made = created(
        "kubectl",
        json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "a", "image": "a:1"}]}}}),
    );
    assert_eq!(made["spec"]["replicas"], 3);
    assert_eq!(
        made["metadata"]["managedFields"],
        json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "apps/v1", "time": T1, "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
                "k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}}}])
    );
}

#[test]
fn fields_no_longer_applied_go_unless_someone_else_has_them() {
    let live = created(
        "one",
        json!({"replicas": 3, "paused": true, "minReadySeconds": 5}),
    );
    let live = apply_as("two", Some(&live), json!({"paused": true}))
        .expect("the same value is no conflict");
    let live = apply_as("one", Some(&live), json!({"replicas": 3})).expect("no conflict");
    assert_eq!(live["spec"], json!({"replicas": 3, "paused": true}));
    assert_eq!(
        owners(&live),
        [
            (
                "one Apply".to_owned(),
                json!({"f:spec": {"f:replicas": {}}})
            ),
            ("two Apply".to_owned(), json!({"f:spec": {"f:paused": {}}}))
        ]
    );
}

#[test]
fn elements_of_keyed_lists_are_owned_one_by_one() {
    let containers = |list: Value| json!({"template": {"spec": {"containers": list}}});
    let live = created(
        "one",
        containers(json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}])),
    );
    let live = apply_as(
        "two",
        Some(&live),
        containers(json!([{"name": "c", "image": "c:1"}, {"name": "b", "tty": true}])),
    )
    .expect("no conflict");
    let names = |o: &Value| -> Vec<String> {
        o["spec"]["template"]["spec"]["containers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|c| c["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names(&live), ["a", "c", "b"]);
    let live = apply_as(
        "one",
        Some(&live),
        containers(json!([{"name": "a", "image": "a:2"}])),
    )
    .expect("no conflict");
    assert_eq!(
        live["spec"]["template"]["spec"]["containers"],
        json!([{"name": "a", "image": "a:2"}, {"name": "c", "image": "c:1"}, {"name": "b", "tty": true}])
    );
    let live =
        apply_as("two", Some(&live), containers(json!([{"name": "c"}]))).expect("no conflict");
    assert_eq!(names(&live), ["a", "c"]);
}

#[test]
fn other_values_of_owned_fields_conflict_in_upstreams_words() {
    let live = created("one", json!({"replicas": 3, "paused": true}));
    let error = apply_as("two", Some(&live), json!({"replicas": 4})).expect_err("owned by one");
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
    );

    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(5);
    track(
        deployments(),
        Some(&live),
        &mut scaled,
        "hpa",
        Some("scale"),
        T2,
    );
    let error = apply_as(
        "two",
        Some(&scaled),
        json!({"replicas": 4, "paused": false}),
    )
    .expect_err("owned by both");
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"hpa\" with subresource \"scale\" using apps/v1 at \
         2026-11-21T05:01:00Z:\n- .spec.replicas\nconflicts with \"one\":\n- .spec.paused"
    );
    let forced = apply(
        deployments(),
        Some(&scaled),
        &object(json!({"replicas": 4})),
        "two",
        true,
        None,
        T2,
    )
    .expect("forced");
    assert_eq!(forced["spec"], json!({"replicas": 4, "paused": true}));
    assert_eq!(
        owners(&forced),
        [
            ("one Apply".to_owned(), json!({"f:spec": {"f:paused": {}}})),
            (
                "two Apply".to_owned(),
                json!({"f:spec": {"f:replicas": {}}})
            )
        ]
    );
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let spec = || json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}});
    let live = created("kubectl", spec());
    assert_eq!(
        apply(
            deployments(),
            Some(&live),
            &object(spec()),
            "kubectl",
            false,
            None,
            T2
        ),
        Ok(live)
    );
}

#[test]
fn objects_without_owners_belong_to_before_first_apply() {
    let live = object(json!({"replicas": 3}));
    let error =
        apply_as("kubectl", Some(&live), json!({"replicas": 4})).expect_err("it was there before");
    assert!(
        error
            .to_string()
            .contains("\"before-first-apply\" using apps/v1"),
        "{error}"
    );
    let same = apply_as("kubectl", Some(&live), json!({"replicas": 3})).expect("the same value");
    assert_eq!(owners(&same).len(), 2);
}

#[test]
fn lists_whose_elements_cannot_be_told_apart_are_refused() {
    let with = |containers: Value| {
        let refused = apply_as(
            "kubectl",
            None,
            json!({"template": {"spec": {"containers": containers}}}),
        );
        refused.expect_err("a bad list").to_string()
    };
    assert_eq!(
        with(json!([{"image": "a"}])),
        ".spec.template.spec.containers: element 0: associative list with keys has an element that omits key field \
         \"name\" (and doesn't have default value)"
    );
    assert_eq!(
        with(json!([{"name": "a"}, {"name": "a"}])),
        ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]"
    );
}

#[test]
fn creating_gives_the_manager_what_upstream_gives_it() {
    let mut new = object(json!({
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"securityContext": {}, "containers": [
            {"name": "nginx", "image": "nginx", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}},
    }));
    new["metadata"]["labels"] = json!({"app": "web"});
    track(deployments(), None, &mut new, "kubectl-create", None, T1);
    assert_eq!(
        owners(&new),
        [(
            "kubectl-create Update".to_owned(),
            json!({
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:replicas": {}, "f:selector": {},
                    "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}},
                    "f:template": {
                        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                        "f:spec": {"f:securityContext": {}, "f:containers": {"k:{\"name\":\"nginx\"}": {
                            ".": {}, "f:name": {}, "f:image": {}, "f:resources": {},
                            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                                ".": {}, "f:containerPort": {}, "f:protocol": {}}}}}}}},
            })
        )]
    );
}

#[test]
fn updates_move_ownership_and_keep_it_when_nothing_changes() {
    let live = created("one", json!({"replicas": 3, "paused": true}));
    let mut same = live.clone();
    track(deployments(), Some(&live), &mut same, "two", None, T2);
    assert_eq!(same, live);

    let mut blind = live.clone();
    blind["metadata"]["managedFields"] = Value::Null;
    blind["spec"] = json!({"replicas": 4});
    track(deployments(), Some(&live), &mut blind, "two", None, T2);
    assert_eq!(
        owners(&blind),
        [(
            "two Update".to_owned(),
            json!({"f:spec": {"f:replicas": {}}})
        )]
    );
}

#[test]
fn a_list_with_a_repeated_key_is_not_changed_by_leaving_it_alone() {
    let mut live = object(json!({"replicas": 3}));
    live["status"] =
        json!({"conditions": [{"type": "A", "status": "True"}, {"type": "A", "status": "False"}]});
    track(deployments(), None, &mut live, "one", None, T1);
    let mut new = live.clone();
    new["spec"]["replicas"] = json!(4);
    track(deployments(), Some(&live), &mut new, "two", None, T2);
    assert_eq!(
        owners(&new)[1],
        (
            "two Update".to_owned(),
            json!({"f:spec": {"f:replicas": {}}})
        )
    );
}

#[test]
fn owners_are_forgotten_on_request() {
    let live = created("one", json!({"replicas": 3}));
    let mut reset = live.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    track(deployments(), Some(&live), &mut reset, "two", None, T2);
    assert_eq!(reset["metadata"].get("managedFields"), None);
}

#[test]
fn old_updates_are_merged() {
    let mut live = object(json!({}));
    for i in 0..14 {
        let mut new = live.clone();
        new["metadata"]["annotations"][format!("a{i:02}")] = json!("x");
        track(
            deployments(),
            Some(&live),
            &mut new,
            &format!("m{i:02}"),
            None,
            &format!("2026-11-21T05:00:{i:02}Z"),
        );
        live = new;
    }
    let owners = owners(&live);
    assert_eq!(owners.len(), 10);
    assert_eq!(owners[0].0, "ancient-changes Update");
    assert_eq!(
        owners[0].1["f:metadata"]["f:annotations"]
            .as_object()
            .map(serde_json::Map::len),
        Some(6)
    );
}

#[test]
fn the_status_is_applied_through_its_subresource_only() {
    let mut config = object(json!({"replicas": 1}));
    config["status"] = json!({"replicas": 9});
    let made = apply(deployments(), None, &config, "one", false, None, T1).expect("no conflict");
    assert_eq!(made.get("status"), None);
    let status = apply(
        deployments(),
        Some(&made),
        &config,
        "ctl",
        false,
        Some("status"),
        T1,
    )
    .expect("no conflict");
    assert_eq!(
        (&status["status"]["replicas"], &status["spec"]["replicas"]),
        (&json!(9), &json!(1))
    );
    let entry = &status["metadata"]["managedFields"][0];
    assert_eq!(
        (&entry["subresource"], &entry["fieldsV1"]),
        (&json!("status"), &json!({"f:status": {"f:replicas": {}}}))
    );
}
