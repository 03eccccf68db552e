//! The Rust client, as controllers and daemons use it.

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::support::{PATIENCE, Server};

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"a": "b"}})).unwrap()
}

#[tokio::test]
async fn objects_go_round() {
    let server = Server::start().await;
    let client = server.client().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let made = maps
        .create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap();
    assert_eq!(maps.get("a").await.unwrap(), made);
    let mut changed = made.clone();
    changed
        .data
        .as_mut()
        .unwrap()
        .insert("c".into(), "d".into());
    let changed = maps
        .replace("a", &PostParams::default(), &changed)
        .await
        .unwrap();
    assert_eq!(changed.data.as_ref().unwrap().len(), 2);
    let stale = maps.replace("a", &PostParams::default(), &made).await;
    assert!(
        matches!(&stale, Err(kube::Error::Api(status)) if status.code == 409),
        "{stale:?}"
    );
    let patched = maps
        .patch(
            "a",
            &PatchParams::default(),
            &Patch::Merge(json!({"data": {"a": null}})),
        )
        .await
        .unwrap();
    assert_eq!(patched.data.unwrap().len(), 1);
    assert_eq!(
        maps.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn scale_status_and_apply_work_typed() {
    let server = Server::start().await;
    let client = server.client().await;
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let config = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    let params = PatchParams::apply("tester");
    let made = deployments
        .patch("web", &params, &Patch::Apply(&config))
        .await
        .unwrap();
    assert_eq!(made.spec.as_ref().unwrap().replicas, Some(1));
    let scale = deployments
        .patch_scale(
            "web",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"replicas": 2}})),
        )
        .await;
    assert_eq!(scale.unwrap().spec.unwrap().replicas, Some(2));
    let status = json!({"status": {"replicas": 2, "observedGeneration": 2}});
    let changed = deployments
        .patch_status("web", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    assert_eq!(changed.status.unwrap().replicas, Some(2));
}

/// Follows a reflector until it holds `names`.
async fn reflect(config: watcher::Config) {
    let server = Server::start().await;
    let client = server.client().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap();
    let (reader, writer) = reflector::store();
    let mut stream = reflector::reflector(writer, watcher(maps.clone(), config))
        .applied_objects()
        .boxed();
    let mut next = async || {
        tokio::time::timeout(PATIENCE, stream.try_next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .name_any()
    };
    assert_eq!(next().await, "a");
    maps.create(&PostParams::default(), &config_map("b"))
        .await
        .unwrap();
    assert_eq!(next().await, "b");
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    maps.create(&PostParams::default(), &config_map("c"))
        .await
        .unwrap();
    assert_eq!(next().await, "c");
    assert!(reader.get(&ObjectRef::new("a").within("default")).is_none());
    assert_eq!(reader.len(), 2);
}

#[tokio::test]
async fn a_reflector_follows_by_list_and_watch() {
    reflect(watcher::Config::default()).await;
}

#[tokio::test]
async fn a_reflector_follows_by_watch_list() {
    reflect(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn pods_are_evicted() {
    let server = Server::start().await;
    let client = server.client().await;
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    Api::<ServiceAccount>::default_namespaced(client.clone())
        .create(&PostParams::default(), &account)
        .await
        .unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod =
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    pods.create(
        &PostParams::default(),
        &serde_json::from_value(pod).unwrap(),
    )
    .await
    .unwrap();
    pods.evict("a", &kube::api::EvictParams::default())
        .await
        .unwrap();
    assert!(pods.get_opt("a").await.unwrap().is_none());
}
