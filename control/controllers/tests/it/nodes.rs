//! Nodes that come, fall silent and return.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{Cluster, deployment, eventually};
use crate::kubelet;

fn nodes(cluster: &Cluster) -> Api<Node> {
    Api::all(cluster.client.clone())
}

async fn taints(cluster: &Cluster, name: &str) -> Vec<(String, String)> {
    let node = nodes(cluster).get(name).await.unwrap();
    let taints: Vec<Taint> = node.spec.unwrap_or_default().taints.unwrap_or_default();
    taints
        .into_iter()
        .map(|taint| (taint.key, taint.effect))
        .collect()
}

#[tokio::test]
async fn every_node_gets_its_pod_ranges() {
    let cluster =
        Cluster::start_with(2, &["--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48"]).await;
    let mut ranges = Vec::new();
    eventually("both nodes have ranges", async || {
        let all = nodes(&cluster)
            .list(&Default::default())
            .await
            .unwrap()
            .items;
        ranges = all
            .into_iter()
            .flat_map(|node| node.spec.unwrap_or_default().pod_cidrs.unwrap_or_default())
            .collect();
        ranges.len() == 4
    })
    .await;
    ranges.sort();
    assert_eq!(
        ranges,
        [
            "10.244.0.0/24",
            "10.244.1.0/24",
            "fd00:10:244:1::/64",
            "fd00:10:244::/64"
        ]
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_silent_node_is_tainted_its_pods_move_and_it_may_return() {
    let mut cluster = Cluster::start_with(0, &["--node-monitor-grace-period", "2"]).await;
    let steady = cluster.add_node("steady").await;
    let silent = cluster.add_node("silent").await;
    let mut web = deployment("web", 4);
    web["spec"]["template"]["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
    ]);
    cluster.create::<Deployment>("default", web).await;
    cluster.rolled_out("web").await;
    let (client, stop) = (cluster.client.clone(), steady.clone());
    let heart = tokio::spawn(async move {
        while stop
            .run_until_cancelled(tokio::time::sleep(std::time::Duration::from_millis(300)))
            .await
            .is_some()
        {
            // Should it have been taken for dead on a busy machine, it says that it is not.
            kubelet::renew(&client, "steady").await;
            kubelet::post_ready(&client, "steady").await;
        }
    });
    silent.cancel();
    eventually("it is tainted", async || {
        let taints = taints(&cluster, "silent").await;
        taints.contains(&("node.kubernetes.io/unreachable".into(), "NoSchedule".into()))
            && taints.contains(&("node.kubernetes.io/unreachable".into(), "NoExecute".into()))
    })
    .await;
    eventually("all pods run elsewhere", async || {
        let pods = cluster.pods("default").await;
        let steady = pods
            .iter()
            .filter(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("steady"));
        pods.len() == 4 && steady.count() == 4
    })
    .await;
    // On a busy machine the other may have been taken for dead for a moment.
    eventually("the other has none", async || {
        taints(&cluster, "steady").await.is_empty()
    })
    .await;
    eventually("its taints are gone", async || {
        kubelet::renew(&cluster.client, "silent").await;
        kubelet::post_ready(&cluster.client, "silent").await;
        taints(&cluster, "silent").await.is_empty()
    })
    .await;
    steady.cancel();
    heart.await.unwrap();
    cluster.stop().await;
}

#[tokio::test]
async fn a_deleted_node_is_forgotten() {
    let cluster = Cluster::start(1).await;
    nodes(&cluster)
        .delete("n0", &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .create::<Deployment>("default", deployment("web", 1))
        .await;
    eventually("the pod finds no node", async || {
        let pods = cluster.pods("default").await;
        let conditions = pods
            .first()
            .and_then(|pod| pod.status.clone()?.conditions)
            .unwrap_or_default();
        conditions.iter().any(|condition| {
            condition.message.as_deref() == Some("no nodes available to schedule pods")
        })
    })
    .await;
    assert!(
        nodes(&cluster)
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .iter()
            .all(|node| node.name_any() != "n0")
    );
    cluster.stop().await;
}
