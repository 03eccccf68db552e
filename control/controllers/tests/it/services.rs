//! Services, and the lists of their pods.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::cluster::{Cluster, deployment, eventually};

async fn slices(cluster: &Cluster) -> Vec<EndpointSlice> {
    let of_web = ListParams::default().labels("kubernetes.io/service-name=web");
    cluster
        .api::<EndpointSlice>("default")
        .list(&of_web)
        .await
        .unwrap()
        .items
}

/// Ready endpoints by address type.
async fn ready(cluster: &Cluster, family: &str) -> usize {
    let slices = slices(cluster)
        .await
        .into_iter()
        .filter(|slice| slice.address_type == family);
    let endpoints = slices.flat_map(|slice| slice.endpoints.unwrap_or_default());
    endpoints
        .filter(|endpoint| {
            endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                == Some(true)
        })
        .count()
}

/// How many ready pods the Service has by its slices, and by the older list.
pub(crate) async fn listed(cluster: &Cluster) -> (usize, usize) {
    let endpoints = cluster
        .api::<Endpoints>("default")
        .get_opt("web")
        .await
        .unwrap();
    let subsets = endpoints
        .and_then(|endpoints| endpoints.subsets)
        .unwrap_or_default();
    let addresses = subsets
        .into_iter()
        .flat_map(|subset| subset.addresses.unwrap_or_default());
    (ready(cluster, "IPv4").await, addresses.count())
}

#[tokio::test]
async fn slices_and_endpoints_follow_the_pods_of_a_dual_stack_service() {
    let cluster = Cluster::start(2).await;
    cluster
        .create::<Deployment>("default", deployment("web", 3))
        .await;
    let service = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ipFamilyPolicy": "RequireDualStack",
        "ports": [{"name": "http", "port": 80, "targetPort": "web"}]
    }});
    cluster.create::<Service>("default", service).await;
    cluster.rolled_out("web").await;
    eventually("three endpoints of each family", async || {
        ready(&cluster, "IPv4").await == 3 && ready(&cluster, "IPv6").await == 3
    })
    .await;
    let slice = slices(&cluster)
        .await
        .into_iter()
        .find(|slice| slice.address_type == "IPv4")
        .unwrap();
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    assert_eq!(
        slice.labels()["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    assert_eq!(slice.owner_references()[0].kind, "Service");
    let endpoint = &slice.endpoints.as_ref().unwrap()[0];
    assert!(endpoint.node_name.is_some() && endpoint.target_ref.is_some());
    eventually("the older list agrees", async || {
        listed(&cluster).await == (3, 3)
    })
    .await;

    cluster
        .change_deployment("web", json!({"replicas": 0}))
        .await;
    eventually("no endpoint is left", async || {
        ready(&cluster, "IPv4").await == 0 && ready(&cluster, "IPv6").await == 0
    })
    .await;
    eventually("one empty slice of each family stays", async || {
        slices(&cluster).await.len() == 2
    })
    .await;
    cluster
        .api::<Service>("default")
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    eventually("slices and endpoints are gone", async || {
        slices(&cluster).await.is_empty()
            && cluster
                .api::<Endpoints>("default")
                .get_opt("web")
                .await
                .unwrap()
                .is_none()
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_that_is_not_ready_leaves_the_rotation() {
    let cluster = Cluster::start(1).await;
    cluster
        .create::<Deployment>("default", deployment("web", 2))
        .await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.create::<Service>("default", service).await;
    eventually("two endpoints", async || ready(&cluster, "IPv4").await == 2).await;
    let name = cluster.pods("default").await[0].name_any();
    let readiness = |status: &str| {
        Patch::Strategic(json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}))
    };
    let pods = cluster.api::<Pod>("default");
    pods.patch_status(&name, &PatchParams::default(), &readiness("False"))
        .await
        .unwrap();
    eventually("one endpoint", async || ready(&cluster, "IPv4").await == 1).await;
    pods.patch_status(&name, &PatchParams::default(), &readiness("True"))
        .await
        .unwrap();
    eventually("two endpoints again", async || {
        ready(&cluster, "IPv4").await == 2
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn many_endpoints_take_several_slices() {
    let cluster = Cluster::start(2).await;
    cluster
        .create::<Deployment>("default", deployment("web", 130))
        .await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.create::<Service>("default", service).await;
    eventually("130 endpoints", async || {
        ready(&cluster, "IPv4").await == 130
    })
    .await;
    let sizes: Vec<_> = slices(&cluster)
        .await
        .iter()
        .map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len))
        .collect();
    assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
    cluster.stop().await;
}
