//! How long it takes from creating a Deployment until all its pods are bound. The bounds are loose, for busy machines; the
//! figures are printed.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};

use crate::cluster::{Cluster, deployment};

/// From the create request to the last pod seen bound, and seen Ready.
async fn measure(cluster: &Cluster, name: &str, replicas: usize) -> (Duration, Duration) {
    let pods = cluster.api::<Pod>("default");
    let config = watcher::Config::default().labels(&format!("app={name}"));
    let mut events = watcher(pods, config).boxed();
    while !matches!(events.next().await, Some(Ok(watcher::Event::InitDone))) {}
    let start = Instant::now();
    cluster
        .create::<Deployment>(
            "default",
            deployment(name, i32::try_from(replicas).unwrap()),
        )
        .await;
    let (mut bound, mut ready) = (HashSet::new(), HashSet::new());
    let mut all_bound = None;
    let mut applied = events.applied_objects();
    while ready.len() < replicas {
        let pod = tokio::time::timeout(crate::cluster::PATIENCE, applied.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let uid = pod.metadata.uid.unwrap();
        if pod.spec.is_some_and(|spec| spec.node_name.is_some()) {
            bound.insert(uid.clone());
        }
        if bound.len() == replicas {
            all_bound.get_or_insert_with(|| start.elapsed());
        }
        let conditions = pod
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        if conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        {
            ready.insert(uid);
        }
    }
    (all_bound.unwrap(), start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_bound_within_moments() {
    let cluster = Cluster::start(2).await;
    measure(&cluster, "warm", 1).await;
    for (name, replicas, bound) in [("three", 3, 2), ("hundred", 100, 10)] {
        let (all_bound, all_ready) = measure(&cluster, name, replicas).await;
        println!("{replicas} pods: all bound after {all_bound:?}, all ready after {all_ready:?}");
        assert!(all_bound < Duration::from_secs(bound), "{all_bound:?}");
    }
    cluster.stop().await;
}
