//! Clears away pods that nobody else will: those of nodes that are gone, those that were deleted before they had a node,
//! and the oldest finished ones when there are too many.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, gone_is_fine, is_not_found};
use crate::object::{created, deleting, name, namespace, pod, time, uid};
use crate::runtime::informers::Informers;
use crate::runtime::queue::Queue;
use crate::runtime::store::Key;
use crate::runtime::{Context, worker};

const WORKERS: usize = 4;
/// How long a node may be missing before its pods are taken for lost: it may just be registered anew.
const QUARANTINE: Duration = Duration::from_secs(40);
/// The key under which finished pods are counted; no pod can have it.
const FINISHED: &str = "";

/// The pod garbage collector. Its keys are pods, and one more for all finished pods together.
pub(crate) struct Controller {
    context: Context,
    queue: Queue<Key>,
}

impl Controller {
    /// Registers with the informers.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let queue = Queue::default();
        context.informers.pods.on_change({
            let (queue, nodes) = (queue.clone(), context.informers.nodes.clone());
            move |change| {
                let Some(pod) = &change.new else { return };
                match pod::node(pod) {
                    Some(node) if nodes.get(&Key::cluster(node)).is_none() => {
                        queue.add_after(Key::of(&**pod), QUARANTINE);
                    }
                    None if deleting(&**pod) => queue.add(Key::of(&**pod)),
                    _ if pod::finished(pod) => queue.add(Key::cluster(FINISHED)),
                    _ => {}
                }
            }
        });
        context.informers.nodes.on_change({
            let (queue, informers) = (queue.clone(), context.informers.clone());
            move |change| {
                if change.deleted() {
                    let pods = pods_on(&informers, name(&**change.object()));
                    pods.iter()
                        .for_each(|pod| queue.add_after(Key::of(&**pod), QUARANTINE));
                }
            }
        });
        Arc::new(Self { context, queue })
    }

    /// Works until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        worker::run(
            "podgc",
            &self.queue,
            WORKERS,
            |key| self.reconcile(key),
            shutdown,
        )
        .await;
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        if key.name == FINISHED {
            let pods = self.context.informers.pods.all();
            for surplus in surplus(pods, self.context.args.terminated_pod_gc_threshold) {
                self.remove(&surplus).await?;
            }
            return Ok(());
        }
        let Some(pod) = self.context.informers.pods.get(&key) else {
            return Ok(());
        };
        match pod::node(&pod) {
            None if deleting(&*pod) => self.remove(&pod).await,
            Some(node) if self.vanished(node).await? => {
                self.fail(&pod).await?;
                self.remove(&pod).await
            }
            _ => Ok(()),
        }
    }

    /// Whether the node exists neither in the cache nor in the API.
    async fn vanished(&self, node: &str) -> Result<bool, Error> {
        if self
            .context
            .informers
            .nodes
            .get(&Key::cluster(node))
            .is_some()
        {
            return Ok(false);
        }
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.context.client.clone());
        Ok(nodes.get_metadata_opt(node).await?.is_none())
    }

    /// Says of a running pod that it was lost.
    async fn fail(&self, pod: &Pod) -> Result<(), Error> {
        if pod::finished(pod) {
            return Ok(());
        }
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists", "lastTransitionTime": time(Timestamp::now())
        });
        let patch = json!({"metadata": {"uid": uid(pod)}, "status": {"phase": "Failed", "conditions": [condition]}});
        let api: Api<Pod> = self.context.api(namespace(pod));
        Ok(gone_is_fine(
            api.patch_status(name(pod), &PatchParams::default(), &Patch::Strategic(patch))
                .await,
        )?)
    }

    /// Removes the pod at once: there is nobody to wait for.
    async fn remove(&self, pod: &Pod) -> Result<(), Error> {
        let only_this = Preconditions {
            uid: Some(uid(pod).to_owned()),
            resource_version: None,
        };
        let how = DeleteParams::default()
            .grace_period(0)
            .preconditions(only_this);
        let api: Api<Pod> = self.context.api(namespace(pod));
        match api.delete(name(pod), &how).await {
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => {
                tracing::info!(pod = %Key::of(pod), "pod cleared away");
                Ok(())
            }
        }
    }
}

/// The pods bound to a node.
pub(crate) fn pods_on(informers: &Informers, node: &str) -> Vec<Arc<Pod>> {
    let mut pods = informers.pods.all();
    pods.retain(|pod| pod::node(pod) == Some(node));
    pods
}

/// The oldest finished pods beyond the threshold; none if the threshold is zero.
fn surplus(mut pods: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    pods.retain(|pod| pod::finished(pod) && !deleting(&**pod));
    if threshold == 0 || pods.len() <= threshold {
        return Vec::new();
    }
    pods.sort_by_key(|pod| (created(&**pod), name(&**pod).to_owned()));
    pods.truncate(pods.len() - threshold);
    pods
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::parse;

    #[test]
    fn the_oldest_finished_pods_are_surplus() {
        let pod = |name: &str, phase: &str, second: u32| -> Arc<Pod> {
            Arc::new(parse(json!({
                "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
                "status": {"phase": phase}
            })))
        };
        let pods = vec![
            pod("c", "Failed", 9),
            pod("run", "Running", 1),
            pod("a", "Succeeded", 3),
            pod("b", "Failed", 5),
        ];
        let names = |threshold: usize| {
            let surplus = surplus(pods.clone(), threshold);
            surplus
                .iter()
                .map(|pod| name(&**pod).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(1), ["a", "b"]);
        assert_eq!(names(2), ["a"]);
        assert!(names(3).is_empty());
        assert!(names(0).is_empty());
    }
}
