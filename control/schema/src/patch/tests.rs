//! Known cases of each kind of patch.

use serde_json::{Value, json};

use super::*;

fn pod_patch(object: Value, patch: Value) -> Result<Value, PatchError> {
    let pods = crate::by_plural("", "v1", "pods").expect("pods are served");
    strategic(pods, &object, &patch)
}

/// Patches a pod's spec.
#[track_caller]
fn check(spec: Value, patch: Value, expected: Value) {
    let patched = pod_patch(json!({"spec": spec}), json!({"spec": patch}));
    assert_eq!(patched, Ok(json!({"spec": expected})));
}

#[test]
fn containers_merge_by_name_and_keep_the_rest() {
    check(
        json!({"containers": [{"name": "a", "image": "a:1", "args": ["x"]}, {"name": "b", "image": "b:1"}]}),
        json!({"containers": [{"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1"}]}),
        json!({"containers": [{"name": "a", "image": "a:1", "args": ["x"]}, {"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1"}]}),
    );
}

#[test]
fn atomic_lists_and_scalars_are_replaced() {
    check(
        json!({"containers": [{"name": "a", "args": ["x", "y"], "tty": true}]}),
        json!({"containers": [{"name": "a", "args": ["z"], "tty": null}]}),
        json!({"containers": [{"name": "a", "args": ["z"]}]}),
    );
}

#[test]
fn elements_are_deleted_by_key() {
    check(
        json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}]}),
    );
}

#[test]
fn lists_and_maps_are_replaced_on_request() {
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1"}}),
        json!({"containers": [{"name": "c"}, {"$patch": "replace"}], "nodeSelector": {"y": "2", "$patch": "replace"}}),
        json!({"containers": [{"name": "c"}], "nodeSelector": {"y": "2"}}),
    );
    check(
        json!({"securityContext": {"runAsUser": 1}}),
        json!({"securityContext": {"$patch": "delete"}}),
        json!({"securityContext": {}}),
    );
}

#[test]
fn element_order_follows_the_patch_around_the_servers_own() {
    check(
        json!({"containers": [{"name": "injected"}, {"name": "a"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "2"}]}),
        json!({"containers": [{"name": "injected"}, {"name": "b"}, {"name": "a", "image": "2"}]}),
    );
}

#[test]
fn retained_keys_push_out_the_others() {
    check(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
    );
    let deployments =
        crate::by_plural("apps", "v1", "deployments").expect("deployments are served");
    let object =
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(
        strategic(deployments, &object, &patch),
        Ok(json!({"spec": {"strategy": {"type": "Recreate"}}}))
    );
    let bad = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
    assert_eq!(
        strategic(deployments, &object, &bad),
        Err(PatchError::Invalid(
            "invalid patch format of retainKeys".to_owned()
        ))
    );
}

#[test]
fn primitive_lists_merge_and_lose_elements_by_value() {
    let object = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    let patch =
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d"]}});
    assert_eq!(
        pod_patch(object, patch),
        Ok(json!({"metadata": {"finalizers": ["d", "a", "c"]}}))
    );
    let object = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patch =
        json!({"metadata": {"$setElementOrder/finalizers": ["d", "a"], "finalizers": ["d"]}});
    assert_eq!(
        pod_patch(object, patch),
        Ok(json!({"metadata": {"finalizers": ["d", "a", "b"]}}))
    );
}

#[test]
fn directives_never_reach_the_object() {
    check(
        json!({}),
        json!({"$setElementOrder/containers": [{"name": "a"}], "$retainKeys": ["containers"], "containers": [{"name": "a", "tty": null, "$setElementOrder/env": []}, {"name": "b", "$patch": "delete"}]}),
        json!({"containers": [{"name": "a"}]}),
    );
}

#[test]
fn malformed_patches_are_refused() {
    let bad = |patch: Value| {
        pod_patch(json!({"spec": {"containers": [{"name": "a"}]}}), patch).expect_err("malformed")
    };
    assert_eq!(
        bad(json!({"spec": {"containers": [{"image": "x"}]}})).to_string(),
        "map: {\"image\":\"x\"} does not contain declared merge key: name"
    );
    assert_eq!(
        bad(json!({"spec": {"$patch": "frobnicate"}})).to_string(),
        "unknown patch type: frobnicate"
    );
    assert_eq!(
        bad(json!([])),
        PatchError::Invalid("invalid JSON document".to_owned())
    );
}

#[test]
fn labels_are_a_plain_map() {
    let patched = pod_patch(
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
    );
    assert_eq!(
        patched,
        Ok(json!({"metadata": {"labels": {"b": "2", "c": "3"}}}))
    );
}

#[test]
fn json_and_merge_patches() {
    let object = json!({"spec": {"replicas": 1, "paused": true}});
    assert_eq!(
        merge(&object, &json!({"spec": {"replicas": 3, "paused": null}})),
        json!({"spec": {"replicas": 3}})
    );
    assert_eq!(
        json(
            &object,
            &json!([{"op": "test", "path": "/spec/replicas", "value": 1}, {"op": "replace", "path": "/spec/replicas", "value": 2}])
        ),
        Ok(json!({"spec": {"replicas": 2, "paused": true}}))
    );
    assert!(matches!(
        json(&object, &json!([{"op": "remove", "path": "/spec/none"}])),
        Err(PatchError::Unprocessable(_))
    ));
    assert!(matches!(
        json(&object, &json!({"op": "remove"})),
        Err(PatchError::Invalid(_))
    ));
}

#[test]
fn copies_of_copies_are_bounded() {
    let double = |n: usize| json!({"op": "copy", "from": "/a", "path": format!("/a/{n}")});
    let object = json!({"a": {"text": "x".repeat(1000)}});
    let few: Vec<Value> = (0..3).map(double).collect();
    assert!(super::json(&object, &Value::Array(few)).is_ok());
    let many: Vec<Value> = (0..40).map(double).collect();
    assert_eq!(
        super::json(&object, &Value::Array(many)),
        Err(PatchError::CopiesTooMuch)
    );
}
