//! What kubectl makes of it: it reads revisions, conditions, generations and events, and waits for them.

use std::process::Stdio;

use crate::cluster::{Cluster, PATIENCE, eventually};

/// Runs a command that must succeed; answers what it printed.
async fn kubectl(cluster: &Cluster, command: &str) -> String {
    let home = cluster.data();
    let running = tokio::process::Command::new("kubectl")
        .args(command.split(' '))
        .env("KUBECONFIG", home.join("admin.kubeconfig"))
        .env("KUBECACHEDIR", home.join("kubectl"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(2 * PATIENCE, running)
        .await
        .unwrap()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr),
    );
    assert!(ended.status.success(), "kubectl {command}: {out}{err}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn rollouts_are_followed_listed_and_undone() {
    let cluster = Cluster::start(2).await;
    kubectl(&cluster, "create deployment web --image=one --replicas=3").await;
    let rolled_out = "deployment \"web\" successfully rolled out";
    let status = "rollout status deployment/web --timeout=60s";
    assert!(kubectl(&cluster, status).await.contains(rolled_out));
    kubectl(&cluster, "set image deployment/web one=two").await;
    assert!(kubectl(&cluster, status).await.contains(rolled_out));
    let history = kubectl(&cluster, "rollout history deployment/web").await;
    let revisions: Vec<_> = history
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(revisions.ends_with(&["1", "2"]), "{history}");

    kubectl(&cluster, "rollout undo deployment/web").await;
    assert!(kubectl(&cluster, status).await.contains(rolled_out));
    let image = "get deployment web -o jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(kubectl(&cluster, image).await, "one");
    let history = kubectl(&cluster, "rollout history deployment/web").await;
    let revisions: Vec<_> = history
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(revisions.ends_with(&["2", "3"]), "{history}");

    kubectl(&cluster, "rollout pause deployment/web").await;
    kubectl(&cluster, "set image deployment/web one=three").await;
    kubectl(&cluster, "scale deployment/web --replicas=4").await;
    eventually("the paused deployment scales", async || {
        kubectl(
            &cluster,
            "get deployment web -o jsonpath={.status.availableReplicas}",
        )
        .await
            == "4"
    })
    .await;
    let updated = "get deployment web -o jsonpath={.status.updatedReplicas}";
    assert!(matches!(
        kubectl(&cluster, updated).await.as_str(),
        "" | "0"
    ));
    kubectl(&cluster, "rollout resume deployment/web").await;
    assert!(kubectl(&cluster, status).await.contains(rolled_out));
    kubectl(
        &cluster,
        "wait deployment/web --for=condition=Available --timeout=60s",
    )
    .await;
    eventually("the events are shown", async || {
        kubectl(&cluster, "describe deployment web")
            .await
            .contains("ScalingReplicaSet")
    })
    .await;
    kubectl(
        &cluster,
        "delete deployment web --cascade=foreground --timeout=60s",
    )
    .await;
    assert!(cluster.pods("default").await.is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_deleted_while_kubectl_waits() {
    let cluster = Cluster::start(1).await;
    kubectl(&cluster, "create namespace team").await;
    eventually("the namespace is furnished", async || {
        kubectl(&cluster, "get serviceaccounts -n team -o name")
            .await
            .contains("serviceaccount/default")
    })
    .await;
    kubectl(
        &cluster,
        "create deployment web -n team --image=one --replicas=2",
    )
    .await;
    kubectl(&cluster, "expose deployment web -n team --port=80").await;
    kubectl(
        &cluster,
        "rollout status deployment/web -n team --timeout=60s",
    )
    .await;
    kubectl(&cluster, "delete namespace team --timeout=60s").await;
    assert!(
        !kubectl(&cluster, "get namespaces -o name")
            .await
            .contains("namespace/team")
    );
    cluster.stop().await;
}
