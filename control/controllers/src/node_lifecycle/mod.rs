//! Nodes that fall silent: said to be unreachable, kept free of new pods, their pods taken out of service and, when their
//! patience is over, deleted.

mod decide;
mod heartbeats;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::decide::{Grace, Health, health, is_eviction, pace};
use self::heartbeats::Heartbeats;
use crate::error::{Error, gone_is_fine, unless_gone};
use crate::object::taint::leave_at;
use crate::object::{deleting, label, name, namespace, pod, time, uid};
use crate::pod_gc::pods_on;
use crate::runtime::events::Recorder;
use crate::runtime::informers::LEASE_NAMESPACE;
use crate::runtime::queue::Queue;
use crate::runtime::store::{Change, Key};
use crate::runtime::{Context, lock, worker};
use crate::service::ZONE_LABEL;

const WORKERS: usize = 8;

/// The node lifecycle controller. Its keys are nodes.
pub(crate) struct Controller {
    context: Context,
    recorder: Recorder,
    queue: Queue<Key>,
    grace: Grace,
    heartbeats: Mutex<Heartbeats>,
    /// When the next node of a zone may be emptied.
    next_eviction: Mutex<HashMap<String, Instant>>,
}

impl Controller {
    /// Registers with the informers.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let queue = Queue::default();
        let recorder = context.recorder.named("node-controller");
        context.informers.nodes.on_change({
            let (queue, nodes, recorder) = (
                queue.clone(),
                context.informers.nodes.clone(),
                recorder.clone(),
            );
            move |change| {
                queue.add(Key::of(&**change.object()));
                announce(change, &recorder);
                if recovered(change) {
                    nodes
                        .all()
                        .iter()
                        .for_each(|node| queue.add(Key::of(&**node)));
                }
            }
        });
        context.informers.leases.on_change({
            let queue = queue.clone();
            move |change| queue.add(Key::cluster(name(&**change.object())))
        });
        context.informers.pods.on_change({
            let queue = queue.clone();
            move |change| {
                let before = change.old.as_ref().and_then(|pod| pod::node(pod));
                if let Some(node) = change
                    .new
                    .as_ref()
                    .and_then(|pod| pod::node(pod))
                    .filter(|node| before != Some(node))
                {
                    queue.add(Key::cluster(node));
                }
            }
        });
        let grace = Grace {
            running: Duration::from_secs(context.args.node_monitor_grace_period),
            starting: Duration::from_secs(context.args.node_startup_grace_period),
        };
        let (heartbeats, next_eviction) = (Mutex::default(), Mutex::default());
        Arc::new(Self {
            context,
            recorder,
            queue,
            grace,
            heartbeats,
            next_eviction,
        })
    }

    /// Works until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        worker::run(
            "nodelifecycle",
            &self.queue,
            WORKERS,
            |key| self.reconcile(key),
            shutdown,
        )
        .await;
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let Some(node) = self.context.informers.nodes.get(&key) else {
            lock(&self.heartbeats).forget(&key.name);
            return Ok(());
        };
        let lease = self
            .context
            .informers
            .leases
            .get(&Key::new(LEASE_NAMESPACE, &key.name));
        let silence =
            lock(&self.heartbeats).silence(&key.name, &node, lease.as_deref(), Instant::now());
        let grace = self.grace.of(&node);
        if silence < grace {
            self.queue.add_after(key.clone(), grace - silence);
        } else if self.silence(&node).await? {
            return Ok(());
        }
        self.taint(&key, &node).await?;
        if health(&node) == Health::Unreachable {
            self.mark_pods(&node).await?;
        }
        self.evict(&key, &node).await
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.context.client.clone())
    }

    /// Says that the node is unreachable. Answers whether that was news: then the watch brings the node back here.
    async fn silence(&self, node: &Node) -> Result<bool, Error> {
        let conditions = decide::silenced(node, Timestamp::now());
        if conditions.is_empty() {
            return Ok(false);
        }
        tracing::warn!(node = name(node), "node fell silent");
        let patch = json!({"status": {"conditions": conditions}});
        let how = PatchParams::default();
        let written = self
            .api()
            .patch_status(name(node), &how, &Patch::Strategic(patch))
            .await;
        self.absorb(unless_gone(written)?);
        Ok(true)
    }

    async fn taint(&self, key: &Key, node: &Node) -> Result<(), Error> {
        let known = node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.clone())
            .unwrap_or_default();
        let evicting = known.iter().any(is_eviction);
        let evict = health(node) != Health::Ready && !evicting && self.may_evict(key, node);
        let wanted = decide::taints(node, evict, Timestamp::now());
        if wanted == known {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": wanted}
        });
        let how = PatchParams::default();
        let written = self
            .api()
            .patch(name(node), &how, &Patch::Merge(patch))
            .await;
        self.absorb(unless_gone(written)?);
        Ok(())
    }

    fn absorb(&self, written: Option<Node>) {
        written
            .into_iter()
            .for_each(|node| self.context.informers.nodes.absorb(node));
    }

    /// Whether it is this node's turn to be emptied; if it is not yet, it comes back then. A node without pods takes no
    /// turn.
    fn may_evict(&self, key: &Key, node: &Node) -> bool {
        let zone = |node: &Node| label(node, ZONE_LABEL).unwrap_or_default().to_owned();
        let here = zone(node);
        let nodes = self.context.informers.nodes.all();
        let (ready, unwell): (Vec<_>, Vec<_>) = nodes
            .iter()
            .filter(|node| zone(node) == here)
            .partition(|node| health(node) == Health::Ready);
        let Some(pace) = pace(ready.len(), unwell.len()) else {
            return false;
        };
        if pods_on(&self.context.informers, name(node)).is_empty() {
            return true;
        }
        let mut turns = lock(&self.next_eviction);
        let (turn, now) = (
            turns.entry(here).or_insert_with(Instant::now),
            Instant::now(),
        );
        if *turn > now {
            self.queue.add_after(key.clone(), *turn - now);
            return false;
        }
        *turn = now + pace;
        true
    }

    /// Takes the pods of an unreachable node out of service.
    async fn mark_pods(&self, node: &Node) -> Result<(), Error> {
        for pod in pods_on(&self.context.informers, name(node))
            .iter()
            .filter(|pod| pod::ready(pod))
        {
            let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": time(Timestamp::now())});
            self.patch_pod(pod, json!([condition])).await?;
            self.recorder
                .warning(&**pod, "NodeNotReady", "Node is not ready".to_owned());
        }
        Ok(())
    }

    /// Deletes the pods whose patience with the node's taints is over, and comes back for the next.
    async fn evict(&self, key: &Key, node: &Node) -> Result<(), Error> {
        let taints = node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.as_deref())
            .unwrap_or_default();
        if !taints.iter().any(|taint| taint.effect == "NoExecute") {
            return Ok(());
        }
        let now = Timestamp::now();
        for pod in pods_on(&self.context.informers, name(node)) {
            let tolerations = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.tolerations.as_deref())
                .unwrap_or_default();
            let leaving = leave_at(taints, tolerations, now)
                .filter(|_| !deleting(&*pod) && !pod::finished(&pod));
            match leaving
                .map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
            {
                None => {}
                Some(Duration::ZERO) => self.delete_pod(&pod).await?,
                Some(left) => self.queue.add_after(key.clone(), left),
            }
        }
        Ok(())
    }

    async fn delete_pod(&self, pod: &Pod) -> Result<(), Error> {
        let text = format!("Marking for deletion Pod {}", Key::of(pod));
        self.recorder.normal(pod, "TaintManagerEviction", text);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": time(Timestamp::now())
        });
        self.patch_pod(pod, json!([condition])).await?;
        let only_this = Preconditions {
            uid: Some(uid(pod).to_owned()),
            resource_version: None,
        };
        let how = DeleteParams::default().preconditions(only_this);
        let api: Api<Pod> = self.context.api(namespace(pod));
        Ok(gone_is_fine(api.delete(name(pod), &how).await)?)
    }

    async fn patch_pod(&self, pod: &Pod, conditions: Value) -> Result<(), Error> {
        let patch = json!({"metadata": {"uid": uid(pod)}, "status": {"conditions": conditions}});
        let api: Api<Pod> = self.context.api(namespace(pod));
        Ok(gone_is_fine(
            api.patch_status(name(pod), &PatchParams::default(), &Patch::Strategic(patch))
                .await,
        )?)
    }
}

/// Tells of nodes that come, go, or are not well any more.
fn announce(change: &Change<Node>, recorder: &Recorder) {
    let node = change.object();
    let name = name(&**node);
    match (&change.old, &change.new) {
        (None, Some(_)) => {
            let text = format!("Node {name} event: Registered Node {name} in Controller");
            recorder.normal(&**node, "RegisteredNode", text);
        }
        (Some(_), None) => {
            let text = format!("Node {name} event: Removing Node {name} from Controller");
            recorder.normal(&**node, "RemovingNode", text);
        }
        (Some(old), Some(new)) if health(old) == Health::Ready && health(new) != Health::Ready => {
            recorder.normal(
                &**node,
                "NodeNotReady",
                format!("Node {name} status is now: NodeNotReady"),
            );
        }
        _ => {}
    }
}

/// Whether a node has become well: others that were spared while all looked dead are looked at again.
fn recovered(change: &Change<Node>) -> bool {
    let was = change
        .old
        .as_ref()
        .is_some_and(|node| health(node) == Health::Ready);
    !was && change
        .new
        .as_ref()
        .is_some_and(|node| health(node) == Health::Ready)
}
