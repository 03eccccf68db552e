//! What namespaces are given, and how they are emptied.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, deployment, eventually};

async fn new_namespace(cluster: &Cluster, name: &str) -> Api<Namespace> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    namespaces
}

#[tokio::test]
async fn a_namespace_is_furnished_and_what_is_taken_away_comes_back() {
    let cluster = Cluster::start(0).await;
    new_namespace(&cluster, "team").await;
    let (accounts, maps) = (
        cluster.api::<ServiceAccount>("team"),
        cluster.api::<ConfigMap>("team"),
    );
    let furnished = async || {
        let map = maps.get_opt("kube-root-ca.crt").await.unwrap();
        let certificate = map.and_then(|map| map.data?.get("ca.crt").cloned());
        accounts.get_opt("default").await.unwrap().is_some()
            && certificate
                .is_some_and(|certificate| certificate.starts_with("-----BEGIN CERTIFICATE-----"))
    };
    eventually("it is furnished", furnished).await;
    accounts
        .delete("default", &DeleteParams::default())
        .await
        .unwrap();
    let spoil = Patch::Merge(json!({"data": {"ca.crt": "spoiled"}}));
    maps.patch("kube-root-ca.crt", &PatchParams::default(), &spoil)
        .await
        .unwrap();
    eventually("it is furnished again", furnished).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_deleted_namespace_goes_with_everything_in_it() {
    let cluster = Cluster::start(1).await;
    let namespaces = new_namespace(&cluster, "team").await;
    let accounts = cluster.api::<ServiceAccount>("team");
    eventually("it is furnished", async || {
        accounts.get_opt("default").await.unwrap().is_some()
    })
    .await;
    cluster
        .create::<Deployment>("team", deployment("web", 3))
        .await;
    cluster
        .create::<Secret>("team", json!({"metadata": {"name": "s"}}))
        .await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.create::<Service>("team", service).await;
    eventually("its pods run", async || {
        cluster.pods("team").await.len() == 3
    })
    .await;
    namespaces
        .delete("team", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the namespace is gone", async || {
        namespaces.get_opt("team").await.unwrap().is_none()
    })
    .await;
    assert!(cluster.pods("team").await.is_empty());
    assert!(
        cluster
            .api::<Secret>("team")
            .get_opt("s")
            .await
            .unwrap()
            .is_none()
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_namespace_waits_for_finalizers_and_says_so() {
    let cluster = Cluster::start(0).await;
    let namespaces = new_namespace(&cluster, "team").await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    cluster.create::<ConfigMap>("team", held).await;
    namespaces
        .delete("team", &DeleteParams::default())
        .await
        .unwrap();
    eventually("it says what it waits for", async || {
        let namespace = namespaces.get("team").await.unwrap();
        let conditions = namespace.status.unwrap().conditions.unwrap_or_default();
        conditions.iter().any(|condition| {
            condition.type_ == "NamespaceFinalizersRemaining"
                && condition
                    .message
                    .as_deref()
                    .is_some_and(|text| text.contains("example.com/hold in 1 resource instances"))
        })
    })
    .await;
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster
        .api::<ConfigMap>("team")
        .patch("held", &PatchParams::default(), &release)
        .await
        .unwrap();
    eventually("the namespace is gone", async || {
        namespaces.get_opt("team").await.unwrap().is_none()
    })
    .await;
    cluster.stop().await;
}
