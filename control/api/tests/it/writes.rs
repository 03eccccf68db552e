//! Creating, changing and deleting.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Server, Wire, furnish};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn furnished() -> (Server, Wire) {
    let server = Server::start().await;
    let wire = server.wire().await;
    furnish(&wire, "default").await;
    (server, wire)
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    })
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

async fn bound_pod(wire: &Wire, name: &str) -> Value {
    assert_eq!(wire.post(PODS, pod(name)).await.code, 201);
    let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "node-1"}});
    let bound = wire.post(&format!("{PODS}/{name}/binding"), binding).await;
    assert_eq!(bound.code, 201, "{}", bound.text);
    wire.get(&format!("{PODS}/{name}")).await.json()
}

#[tokio::test]
async fn the_server_fills_in_what_is_its_own() {
    let (_server, wire) = furnished().await;
    let mut given = deployment("web");
    given["metadata"] = json!({"generateName": "web-", "uid": "mine", "generation": 9, "deletionTimestamp": "2020-01-01T00:00:00Z"});
    given["status"] = json!({"replicas": 3});
    let made = wire.post(DEPLOYMENTS, given).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let made = made.json();
    let metadata = &made["metadata"];
    let name = metadata["name"].as_str().unwrap();
    assert_eq!((name.len(), name.starts_with("web-")), (9, true), "{name}");
    assert_eq!(metadata["generation"], 1);
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(
        metadata["creationTimestamp"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    assert!(metadata.get("deletionTimestamp").is_none());
    assert!(made["status"].get("replicas").is_none());
    assert_eq!(made["spec"]["replicas"], 1);
}

#[tokio::test]
async fn a_stale_write_is_refused_and_an_equal_one_changes_nothing() {
    let (_server, wire) = furnished().await;
    let path = format!("{MAPS}/a");
    let first = wire
        .post(MAPS, json!({"metadata": {"name": "a"}, "data": {"a": "1"}}))
        .await
        .json();
    let mut second = first.clone();
    second["data"]["a"] = "2".into();
    let second = wire.put(&path, second).await.json();
    assert_eq!(
        wire.put(&path, first.clone()).await.refusal(),
        "409 Conflict: Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    let same = wire.put(&path, second.clone()).await.json();
    assert_eq!(
        same["metadata"]["resourceVersion"],
        second["metadata"]["resourceVersion"]
    );
    // Without a revision the last one wins.
    let mut careless = first;
    careless["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    assert_eq!(wire.put(&path, careless).await.code, 200);
    let renamed = wire.put(&path, json!({"metadata": {"name": "b"}})).await;
    assert_eq!(
        renamed.refusal(),
        "400 BadRequest: the name of the object (b) does not match the name on the URL (a)"
    );
}

#[tokio::test]
async fn only_some_kinds_are_created_by_an_update() {
    let (_server, wire) = furnished().await;
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    assert_eq!(wire.put(path, lease.clone()).await.code, 201);
    assert_eq!(
        wire.put(path, lease).await.code,
        422,
        "a Lease wants a revision"
    );
    let refused = wire
        .put(&format!("{MAPS}/m"), json!({"metadata": {"name": "m"}}))
        .await;
    assert_eq!(
        refused.refusal(),
        "404 NotFound: configmaps \"m\" not found"
    );
}

#[tokio::test]
async fn spec_and_status_are_written_apart_and_only_the_spec_makes_generations() {
    let (_server, wire) = furnished().await;
    let path = format!("{DEPLOYMENTS}/web");
    wire.post(DEPLOYMENTS, deployment("web")).await;
    let status =
        json!({"spec": {"replicas": 7}, "status": {"replicas": 1, "observedGeneration": 1}});
    let changed = wire.merge(&format!("{path}/status"), status).await.json();
    assert_eq!(
        (&changed["spec"]["replicas"], &changed["status"]["replicas"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(changed["metadata"]["generation"], 1);
    let spec = json!({"spec": {"replicas": 7}, "status": {"replicas": 5}});
    let changed = wire.merge(&path, spec).await.json();
    assert_eq!(
        (&changed["spec"]["replicas"], &changed["status"]["replicas"]),
        (&json!(7), &json!(1))
    );
    assert_eq!(changed["metadata"]["generation"], 2);
    let labelled = wire
        .merge(&path, json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .json();
    assert_eq!(labelled["metadata"]["generation"], 2);
}

#[tokio::test]
async fn every_kind_of_patch_changes_what_it_should() {
    let (_server, wire) = furnished().await;
    let path = format!("{DEPLOYMENTS}/web");
    wire.post(DEPLOYMENTS, deployment("web")).await;
    for (kind, patch, pointer, expected) in [
        (
            "application/strategic-merge-patch+json",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "j"}]}}}}),
            "/spec/template/spec/containers/1/name",
            json!("c"),
        ),
        (
            "application/merge-patch+json",
            json!({"spec": {"replicas": 3}}),
            "/spec/replicas",
            json!(3),
        ),
        (
            "application/json-patch+json",
            json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]),
            "/spec/replicas",
            json!(4),
        ),
    ] {
        let headers = [("content-type", kind)];
        let answer = wire
            .send(Method::PATCH, &path, &headers, patch.to_string())
            .await;
        assert_eq!(answer.code, 200, "{}", answer.text);
        assert_eq!(answer.json().pointer(pointer), Some(&expected), "{kind}");
    }
    let headers = [("content-type", "application/json")];
    let answer = wire.send(Method::PATCH, &path, &headers, "{}").await;
    assert_eq!(answer.code, 415);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 5}});
    assert_eq!(wire.merge(&path, stale).await.code, 409);
}

#[tokio::test]
async fn apply_creates_owns_and_conflicts() {
    let (_server, wire) = furnished().await;
    let path = format!("{MAPS}/a");
    let config = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": value}});
    assert_eq!(wire.apply(&path, "one", config("1")).await.code, 201);
    assert_eq!(wire.apply(&path, "one", config("2")).await.code, 200);
    let refused = wire.apply(&path, "two", config("3")).await;
    assert_eq!(refused.code, 409, "{}", refused.text);
    let status = refused.json();
    assert_eq!(
        status["details"]["causes"][0]["reason"], "FieldManagerConflict",
        "{status}"
    );
    assert_eq!(status["details"]["causes"][0]["field"], ".data.k");
    let forced = wire
        .apply(&format!("{path}?force=true"), "two", config("3"))
        .await
        .json();
    assert_eq!(forced["data"]["k"], "3");
    let nobody = wire.send(
        Method::PATCH,
        &path,
        &[("content-type", "application/apply-patch+yaml")],
        config("1").to_string(),
    );
    assert_eq!(
        nobody.await.refusal(),
        "422 Invalid: PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
}

#[tokio::test]
async fn a_dry_run_answers_and_writes_nothing() {
    let (_server, wire) = furnished().await;
    let made = wire
        .post(
            &format!("{MAPS}?dryRun=All"),
            json!({"metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(
        (made.code, made.json()["metadata"]["uid"].is_string()),
        (201, true)
    );
    assert_eq!(wire.get(&format!("{MAPS}/a")).await.code, 404);
    wire.post(MAPS, json!({"metadata": {"name": "a"}})).await;
    assert_eq!(
        wire.post(
            &format!("{MAPS}?dryRun=All"),
            json!({"metadata": {"name": "a"}})
        )
        .await
        .code,
        409
    );
    let changed = wire
        .merge(&format!("{MAPS}/a?dryRun=All"), json!({"data": {"a": "b"}}))
        .await
        .json();
    assert_eq!(changed["data"]["a"], "b");
    assert_eq!(
        wire.delete(&format!("{MAPS}/a?dryRun=All"), json!({}))
            .await
            .code,
        200
    );
    assert!(
        wire.get(&format!("{MAPS}/a"))
            .await
            .json()
            .get("data")
            .is_none()
    );
}

#[tokio::test]
async fn deleting_answers_a_status_with_the_uid() {
    let (_server, wire) = furnished().await;
    let made = wire
        .post(MAPS, json!({"metadata": {"name": "a"}}))
        .await
        .json();
    let path = format!("{MAPS}/a");
    let wrong = wire
        .delete(&path, json!({"preconditions": {"uid": "other"}}))
        .await;
    assert_eq!(wrong.code, 409, "{}", wrong.text);
    let gone = wire
        .delete(&path, json!({"propagationPolicy": "Background"}))
        .await
        .json();
    assert_eq!(
        (&gone["status"], &gone["details"]["uid"]),
        (&json!("Success"), &made["metadata"]["uid"])
    );
    assert_eq!(wire.delete(&path, json!({})).await.code, 404);
}

#[tokio::test]
async fn finalizers_keep_an_object_until_the_last_is_gone() {
    let (_server, wire) = furnished().await;
    let path = format!("{MAPS}/a");
    wire.post(
        MAPS,
        json!({"metadata": {"name": "a", "finalizers": ["example.org/one"]}}),
    )
    .await;
    let marked = wire
        .delete(&path, json!({"propagationPolicy": "Foreground"}))
        .await
        .json();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(
        marked["metadata"]["finalizers"],
        json!(["example.org/one", "foregroundDeletion"])
    );
    let fewer = wire
        .merge(
            &path,
            json!({"metadata": {"finalizers": ["foregroundDeletion"]}}),
        )
        .await;
    assert_eq!(fewer.code, 200, "{}", fewer.text);
    assert_eq!(wire.get(&path).await.code, 200);
    assert_eq!(
        wire.merge(&path, json!({"metadata": {"finalizers": null}}))
            .await
            .code,
        200
    );
    assert_eq!(wire.get(&path).await.code, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let (_server, wire) = furnished().await;
    for (name, label) in [("a", "1"), ("b", "1"), ("c", "2")] {
        wire.post(
            MAPS,
            json!({"metadata": {"name": name, "labels": {"l": label}}}),
        )
        .await;
    }
    let gone = wire
        .delete(&format!("{MAPS}?labelSelector=l%3D1"), json!({}))
        .await
        .json();
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    assert_eq!(
        wire.get(MAPS).await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_pod_that_runs_is_given_time_and_another_is_gone_at_once() {
    let (_server, wire) = furnished().await;
    bound_pod(&wire, "runs").await;
    let path = format!("{PODS}/runs");
    let marked = wire
        .delete(&path, json!({"gracePeriodSeconds": 5}))
        .await
        .json();
    assert_eq!(
        (
            &marked["kind"],
            &marked["metadata"]["deletionGracePeriodSeconds"]
        ),
        (&json!("Pod"), &json!(5))
    );
    assert_eq!(wire.get(&path).await.code, 200);
    // The node agent is done with it.
    assert_eq!(
        wire.delete(&path, json!({"gracePeriodSeconds": 0}))
            .await
            .code,
        200
    );
    assert_eq!(wire.get(&path).await.code, 404);

    wire.post(PODS, pod("waits")).await;
    assert_eq!(
        wire.delete(&format!("{PODS}/waits"), json!({}))
            .await
            .json()["kind"],
        "Pod"
    );
    assert_eq!(wire.get(&format!("{PODS}/waits")).await.code, 404);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let (_server, wire) = furnished().await;
    let pod = bound_pod(&wire, "a").await;
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "node-2"}});
    let refused = wire.post(&format!("{PODS}/a/binding"), binding).await;
    assert_eq!(
        refused.refusal(),
        "409 Conflict: Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"node-1\""
    );
    let on_node = wire
        .get("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1")
        .await
        .json();
    assert_eq!(on_node["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_pod_is_completed_by_admission() {
    let (_server, wire) = furnished().await;
    let made = wire.post(PODS, pod("a")).await.json();
    let spec = &made["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"));
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&made["status"]["phase"], &made["status"]["qosClass"]),
        (&json!("Pending"), &json!("BestEffort"))
    );

    let mut given = pod("b");
    given["spec"]["serviceAccountName"] = "ghost".into();
    assert_eq!(
        wire.post(PODS, given).await.refusal(),
        "403 Forbidden: pods \"b\" is forbidden: error looking up service account default/ghost: serviceaccount \"ghost\" not \
         found"
    );
}

#[tokio::test]
async fn scale_is_read_and_written() {
    let (_server, wire) = furnished().await;
    wire.post(DEPLOYMENTS, deployment("web")).await;
    let path = format!("{DEPLOYMENTS}/web/scale");
    let scale = wire.get(&path).await.json();
    assert_eq!(
        (&scale["kind"], &scale["apiVersion"]),
        (&json!("Scale"), &json!("autoscaling/v1"))
    );
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!(1), &json!("app=web"))
    );
    for kind in [
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ] {
        let answer = wire
            .send(
                Method::PATCH,
                &path,
                &[("content-type", kind)],
                r#"{"spec":{"replicas":3}}"#,
            )
            .await;
        assert_eq!(answer.json()["spec"]["replicas"], 3);
    }
    let mut scale = wire.get(&path).await.json();
    scale["spec"]["replicas"] = 0.into();
    assert_eq!(wire.put(&path, scale.clone()).await.code, 200);
    assert_eq!(
        wire.get(&format!("{DEPLOYMENTS}/web")).await.json()["spec"]["replicas"],
        0
    );
    assert_eq!(
        wire.put(&path, scale).await.code,
        409,
        "the scale carries a stale revision"
    );
}

#[tokio::test]
async fn a_namespace_goes_when_its_finalizers_have_gone() {
    let (_server, wire) = furnished().await;
    furnish(&wire, "team").await;
    let path = "/api/v1/namespaces/team";
    let marked = wire.delete(path, json!({})).await.json();
    assert_eq!(
        (&marked["kind"], &marked["status"]["phase"]),
        (&json!("Namespace"), &json!("Terminating"))
    );
    let refused = wire
        .post(
            &format!("{path}/configmaps"),
            json!({"metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(
        refused.refusal(),
        "403 Forbidden: configmaps \"a\" is forbidden: unable to create new content in namespace team because it is being \
         terminated"
    );
    let mut namespace = wire.get(path).await.json();
    namespace["spec"]["finalizers"] = json!([]);
    assert_eq!(
        wire.put(path, namespace.clone()).await.json()["spec"]["finalizers"],
        json!(["kubernetes"])
    );
    let namespace = wire.put(&format!("{path}/finalize"), namespace).await;
    assert_eq!(namespace.code, 200, "{}", namespace.text);
    assert_eq!(wire.get(path).await.code, 404);
    assert_eq!(
        wire.delete("/api/v1/namespaces/default", json!({}))
            .await
            .refusal(),
        "403 Forbidden: namespaces \"default\" is forbidden: this namespace may not be deleted"
    );
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let (server, wire) = furnished().await;
    let made = wire
        .post(MAPS, json!({"metadata": {"name": "a"}, "data": {"a": "b"}}))
        .await
        .json();
    let server = Server::start_on(server.stop().await, &[]).await;
    let wire = server.wire().await;
    assert_eq!(wire.get(&format!("{MAPS}/a")).await.json(), made);
}
