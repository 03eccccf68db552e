//! Deployments and their ReplicaSets and pods, from creation to the last trace.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, Service, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, deployment, eventually};
use crate::kubelet::BROKEN;

async fn sets(cluster: &Cluster) -> Vec<ReplicaSet> {
    cluster
        .api::<ReplicaSet>("default")
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
}

async fn reasons(cluster: &Cluster, kind: &str) -> Vec<(String, String)> {
    let events = cluster
        .api::<Event>("default")
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    let about = events
        .into_iter()
        .filter(|event| event.involved_object.kind.as_deref() == Some(kind));
    about
        .map(|event| {
            (
                event.reason.unwrap_or_default(),
                event.message.unwrap_or_default(),
            )
        })
        .collect()
}

#[tokio::test]
async fn a_deployment_is_rolled_out_scaled_updated_and_undone() {
    let cluster = Cluster::start(2).await;
    cluster
        .create::<Deployment>("default", deployment("web", 3))
        .await;
    let first = cluster.rolled_out("web").await;
    assert_eq!(
        first.annotations()["deployment.kubernetes.io/revision"],
        "1"
    );
    assert_eq!(cluster.pods("default").await.len(), 3);
    let conditions = first.status.unwrap().conditions.unwrap();
    let brief = |kind: &str| {
        let found = conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .unwrap();
        (found.status.clone(), found.reason.clone().unwrap())
    };
    assert_eq!(
        brief("Available"),
        ("True".into(), "MinimumReplicasAvailable".into())
    );
    assert_eq!(
        brief("Progressing"),
        ("True".into(), "NewReplicaSetAvailable".into())
    );

    cluster
        .change_deployment("web", json!({"replicas": 5}))
        .await;
    cluster.rolled_out("web").await;
    assert_eq!(cluster.pods("default").await.len(), 5);

    let image = |image: &str| json!({"template": {"spec": {"containers": [{"name": "c", "image": image}]}}});
    cluster.change_deployment("web", image("two")).await;
    let second = cluster.rolled_out("web").await;
    assert_eq!(
        second.annotations()["deployment.kubernetes.io/revision"],
        "2"
    );
    eventually("only new pods are left", async || {
        let pods = cluster.pods("default").await;
        pods.len() == 5
            && pods
                .iter()
                .all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("two"))
    })
    .await;
    assert_eq!(sets(&cluster).await.len(), 2);

    let old = sets(&cluster)
        .await
        .into_iter()
        .find(|set| set.annotations()["deployment.kubernetes.io/revision"] == "1");
    let template = old.unwrap().spec.unwrap().template.unwrap();
    cluster
        .change_deployment("web", json!({"template": {"spec": template.spec}}))
        .await;
    let third = cluster.rolled_out("web").await;
    assert_eq!(
        third.annotations()["deployment.kubernetes.io/revision"],
        "3"
    );
    assert_eq!(sets(&cluster).await.len(), 2, "the first set is used again");

    eventually("events in upstream's words", async || {
        let told = reasons(&cluster, "Deployment").await;
        told.iter().any(|(reason, text)| {
            reason == "ScalingReplicaSet"
                && text.starts_with("Scaled up replica set web-")
                && text.ends_with(" from 0 to 3")
        })
    })
    .await;
    cluster
        .change_deployment("web", json!({"replicas": 0}))
        .await;
    cluster.rolled_out("web").await;
    eventually("no pod is left", async || {
        cluster.pods("default").await.is_empty()
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_broken_update_stops_and_the_old_pods_stay() {
    let cluster = Cluster::start(1).await;
    cluster
        .create::<Deployment>("default", deployment("web", 4))
        .await;
    cluster.rolled_out("web").await;
    let broken = json!({
        "progressDeadlineSeconds": 1, "template": {"spec": {"containers": [{"name": "c", "image": BROKEN}]}}
    });
    cluster.change_deployment("web", broken).await;
    eventually("the deadline is exceeded", async || {
        let deployment = cluster
            .api::<Deployment>("default")
            .get("web")
            .await
            .unwrap();
        let conditions = deployment.status.unwrap().conditions.unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition.reason.as_deref() == Some("ProgressDeadlineExceeded"))
    })
    .await;
    eventually("it stops with three old pods", async || {
        let deployment = cluster
            .api::<Deployment>("default")
            .get("web")
            .await
            .unwrap();
        let status = deployment.status.unwrap();
        (
            status.replicas,
            status.updated_replicas,
            status.available_replicas,
        ) == (Some(5), Some(2), Some(3))
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn recreate_never_mixes_versions() {
    let cluster = Cluster::start(1).await;
    let mut web = deployment("web", 2);
    web["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create::<Deployment>("default", web).await;
    cluster.rolled_out("web").await;
    let change = json!({"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}});
    cluster.change_deployment("web", change).await;
    cluster.rolled_out("web").await;
    assert_eq!(cluster.pods("default").await.len(), 2);
    cluster.stop().await;
}

#[tokio::test]
async fn lost_pods_are_replaced_and_orphans_adopted() {
    let cluster = Cluster::start(1).await;
    cluster
        .create::<Deployment>("default", deployment("web", 2))
        .await;
    cluster.rolled_out("web").await;
    let pods = cluster.api::<Pod>("default");
    let lost = cluster.pods("default").await[0].name_any();
    pods.delete(&lost, &DeleteParams::default()).await.unwrap();
    eventually("a replacement", async || {
        let names: Vec<_> = cluster
            .pods("default")
            .await
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        names.len() == 2 && !names.contains(&lost)
    })
    .await;

    let released = cluster.pods("default").await[0].name_any();
    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "debug"}}}));
    pods.patch(&released, &PatchParams::default(), &relabel)
        .await
        .unwrap();
    eventually("the relabelled pod is released and replaced", async || {
        let pod = pods.get(&released).await.unwrap();
        pod.owner_references().is_empty() && cluster.pods("default").await.len() == 3
    })
    .await;
    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "web"}}}));
    pods.patch(&released, &PatchParams::default(), &relabel)
        .await
        .unwrap();
    eventually("it is adopted again and one too many goes", async || {
        let pods = cluster.pods("default").await;
        pods.len() == 2 && pods.iter().all(|pod| pod.owner_references().len() == 1)
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn deletion_cascades_in_the_background() {
    let cluster = Cluster::start(1).await;
    cluster
        .create::<Deployment>("default", deployment("web", 3))
        .await;
    cluster.rolled_out("web").await;
    cluster
        .api::<Deployment>("default")
        .delete("web", &DeleteParams::background())
        .await
        .unwrap();
    eventually("nothing is left", async || {
        sets(&cluster).await.is_empty() && cluster.pods("default").await.is_empty()
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn deletion_in_the_foreground_goes_from_the_leaves_up() {
    let cluster = Cluster::start(1).await;
    cluster
        .create::<Deployment>("default", deployment("web", 3))
        .await;
    cluster.rolled_out("web").await;
    let deployments = cluster.api::<Deployment>("default");
    deployments
        .delete("web", &DeleteParams::foreground())
        .await
        .unwrap();
    eventually("the deployment is gone", async || {
        deployments.get_opt("web").await.unwrap().is_none()
    })
    .await;
    assert!(sets(&cluster).await.is_empty());
    assert!(cluster.pods("default").await.is_empty());
    cluster.stop().await;
}

#[tokio::test]
async fn orphaned_sets_stay_and_are_adopted_by_a_new_deployment() {
    let cluster = Cluster::start(1).await;
    cluster
        .create::<Deployment>("default", deployment("web", 2))
        .await;
    cluster.rolled_out("web").await;
    let deployments = cluster.api::<Deployment>("default");
    deployments
        .delete("web", &DeleteParams::orphan())
        .await
        .unwrap();
    eventually("the deployment is gone", async || {
        deployments.get_opt("web").await.unwrap().is_none()
    })
    .await;
    let before: Vec<_> = cluster
        .pods("default")
        .await
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    assert_eq!(before.len(), 2);
    assert!(sets(&cluster).await[0].owner_references().is_empty());
    cluster
        .create::<Deployment>("default", deployment("web", 2))
        .await;
    cluster.rolled_out("web").await;
    let after: Vec<_> = cluster
        .pods("default")
        .await
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    assert_eq!(before, after);
    assert_eq!(sets(&cluster).await[0].owner_references().len(), 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_restart_in_the_middle_changes_nothing_and_forgets_nothing() {
    let mut cluster = Cluster::start(2).await;
    cluster
        .create::<Deployment>("default", deployment("web", 20))
        .await;
    cluster.restart_controllers();
    cluster.rolled_out("web").await;
    assert_eq!(cluster.pods("default").await.len(), 20);
    cluster.restart_controllers();
    cluster
        .change_deployment("web", json!({"replicas": 10}))
        .await;
    cluster.rolled_out("web").await;
    eventually("ten pods are left", async || {
        cluster.pods("default").await.len() == 10
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_without_a_place_says_why_and_is_placed_once_there_is_one() {
    let mut cluster = Cluster::start(1).await;
    let pod = json!({"metadata": {"name": "picky"}, "spec": {
        "nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "i"}]
    }});
    cluster.create::<Pod>("default", pod).await;
    let expected = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    eventually("the reason is shown", async || {
        let pod = cluster.api::<Pod>("default").get("picky").await.unwrap();
        let conditions = pod
            .status
            .unwrap_or_default()
            .conditions
            .unwrap_or_default();
        conditions.iter().any(|condition| {
            condition.reason.as_deref() == Some("Unschedulable")
                && condition.message.as_deref() == Some(expected)
        })
    })
    .await;
    eventually("the event is written", async || {
        reasons(&cluster, "Pod")
            .await
            .contains(&("FailedScheduling".to_owned(), expected.to_owned()))
    })
    .await;
    cluster.add_node("n1").await;
    let label = Patch::Merge(json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(cluster.client.clone());
    nodes
        .patch("n1", &PatchParams::default(), &label)
        .await
        .unwrap();
    eventually("it runs", async || {
        let pod = cluster.api::<Pod>("default").get("picky").await.unwrap();
        pod.spec.unwrap().node_name.as_deref() == Some("n1")
    })
    .await;
    cluster.stop().await;
}

/// Names and versions of everything the controllers write.
async fn versions(cluster: &Cluster) -> Vec<(String, String)> {
    let mut versions = Vec::new();
    for path in [
        "/apis/apps/v1/deployments",
        "/apis/apps/v1/replicasets",
        "/apis/discovery.k8s.io/v1/endpointslices",
        "/api/v1/endpoints",
        "/api/v1/nodes",
        "/api/v1/pods",
    ] {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        let list: Value = cluster.client.request(request).await.unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let version = |item: &Value| {
            (
                text(&item["metadata"]["name"]),
                text(&item["metadata"]["resourceVersion"]),
            )
        };
        versions.extend(list["items"].as_array().unwrap().iter().map(version));
    }
    versions
}

#[tokio::test]
async fn a_settled_cluster_is_quiet_even_after_a_restart() {
    let mut cluster = Cluster::start(2).await;
    cluster
        .create::<Deployment>("default", deployment("web", 2))
        .await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.create::<Service>("default", service).await;
    cluster.rolled_out("web").await;
    eventually("both lists of the pods are written", async || {
        crate::services::listed(&cluster).await == (2, 2)
    })
    .await;
    let mut settled = versions(&cluster).await;
    // What else there is to write, if anything, nothing tells.
    eventually("it settles", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = versions(&cluster).await;
        std::mem::replace(&mut settled, now.clone()) == now
    })
    .await;
    cluster.restart_controllers();
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let marker = serde_json::from_value(json!({"metadata": {"name": "marker"}})).unwrap();
    namespaces
        .create(&PostParams::default(), &marker)
        .await
        .unwrap();
    let accounts = cluster.api::<ServiceAccount>("marker");
    eventually("the new controllers work", async || {
        accounts.get_opt("default").await.unwrap().is_some()
    })
    .await;
    assert_eq!(versions(&cluster).await, settled);
    cluster.stop().await;
}
