//! A node that pretends: a pod bound to it is Running and Ready at once, a pod told to stop is gone at once.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

static ADDRESSES: AtomicU32 = AtomicU32::new(1);

/// A pod with this image never becomes Ready.
pub(crate) const BROKEN: &str = "broken";

/// Makes the Node, Ready and roomy, and its Lease.
pub(crate) async fn register(client: &Client, name: &str) {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    post_ready(client, name).await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name, "renewTime": renewal()}});
    leases
        .create(
            &PostParams::default(),
            &serde_json::from_value(lease).unwrap(),
        )
        .await
        .unwrap();
}

/// Says that the node is Ready.
pub(crate) async fn post_ready(client: &Client, name: &str) {
    let nodes: Api<Node> = Api::all(client.clone());
    let status = json!({"status": {
        "allocatable": {"cpu": "64", "memory": "256Gi", "pods": "1000"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": Timestamp::now()}]
    }});
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
        .await
        .unwrap();
}

/// Gives a sign of life.
pub(crate) async fn renew(client: &Client, name: &str) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let patch = Patch::Merge(json!({"spec": {"renewTime": renewal()}}));
    leases
        .patch(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

fn renewal() -> String {
    Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string()
}

/// Runs the pods of the node until it is stopped.
pub(crate) async fn run(client: Client, name: String, stop: CancellationToken) {
    let pods: Api<Pod> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={name}"));
    let mut events = pin!(watcher(pods, config).applied_objects());
    while let Some(Some(pod)) = stop.run_until_cancelled(events.next()).await {
        if let Ok(pod) = pod {
            stop.run_until_cancelled(sync(&client, &pod)).await;
        }
    }
}

async fn sync(client: &Client, pod: &Pod) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    if pod.metadata.deletion_timestamp.is_some() {
        // Whoever else removed it was welcome to.
        drop(
            api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
                .await,
        );
        return;
    }
    let status = pod.status.as_ref();
    if status.and_then(|status| status.phase.as_deref()) == Some("Running") {
        return;
    }
    let image = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers[0].image.as_deref());
    let ready = if image == Some(BROKEN) {
        "False"
    } else {
        "True"
    };
    let number = ADDRESSES.fetch_add(1, Ordering::Relaxed);
    let (v4, v6) = (
        format!("10.244.{}.{}", number / 250, number % 250),
        format!("fd00:10:244::{number:x}"),
    );
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let patch = json!({"status": {
        "phase": "Running", "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}]
    }});
    // It may have been deleted meanwhile.
    drop(
        api.patch_status(
            &pod.name_any(),
            &PatchParams::default(),
            &Patch::Strategic(patch),
        )
        .await,
    );
}
