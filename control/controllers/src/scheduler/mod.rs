//! The scheduler: a node for every pod that has none.
//!
//! One task owns the picture of the cluster and the queue. It takes a pod, asks the filters which nodes can take it and
//! the scores which of them suits best, assumes the pod there and goes on to the next while the binding is written; so a
//! hundred pods are placed at once, each knowing of those before it.

mod affinity;
mod cluster;
mod demand;
mod filter;
mod queue;
mod score;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::cluster::{Cluster, NodeState};
use self::demand::Demand;
use self::filter::filter;
use self::queue::{Queue, Waiting};
use crate::error::{Error, gone_is_fine, is_conflict, is_not_found, message};
use crate::object::{condition, deleting, name, pod, time, uid};
use crate::runtime::events::Recorder;
use crate::runtime::queue::Queue as Changes;
use crate::runtime::store::{Change, Key};
use crate::runtime::{Context, writing};

const OWN_NAME: &str = "default-scheduler";
/// Bindings being written at once.
const AT_ONCE: usize = 16;

/// The scheduler.
pub(crate) struct Controller {
    context: Context,
    recorder: Recorder,
    changes: Changes<Item>,
}

/// Something that has changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Item {
    Node(Key),
    Pod(Key),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(key) => write!(f, "node {key}"),
            Self::Pod(key) => write!(f, "pod {key}"),
        }
    }
}

/// How an attempt ended.
struct Finished {
    key: Key,
    uid: String,
    outcome: Result<(), Error>,
}

impl Controller {
    /// Registers with the informers.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let changes = Changes::default();
        context.informers.pods.on_change({
            let changes = changes.clone();
            move |change| changes.add(Item::Pod(Key::of(&**change.object())))
        });
        context.informers.nodes.on_change({
            let changes = changes.clone();
            move |change| {
                if matters(change) {
                    changes.add(Item::Node(Key::of(&**change.object())));
                }
            }
        });
        let recorder = context.recorder.named(OWN_NAME);
        Arc::new(Self {
            context,
            recorder,
            changes,
        })
    }

    /// Works until `shutdown`. Bindings being written then are dropped; the next start finds them done or not.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        self.changes.recover();
        let mut state = State::default();
        for node in self.context.informers.nodes.all() {
            self.observe(&mut state, Item::Node(Key::of(&*node)));
        }
        for pod in self.context.informers.pods.all() {
            self.observe(&mut state, Item::Pod(Key::of(&*pod)));
        }
        let mut running: FuturesUnordered<BoxFuture<'_, Finished>> = FuturesUnordered::new();
        loop {
            while running.len() < AT_ONCE
                && let Some((key, pod)) = state.queue.pop(Instant::now())
            {
                running.push(self.attempt(&mut state, key, pod));
            }
            let due = state.queue.next_due().map(tokio::time::Instant::from_std);
            tokio::select! {
                () = shutdown.cancelled() => return,
                item = self.changes.next() => {
                    self.changes.done(&item, false);
                    self.observe(&mut state, item);
                }
                Some(finished) = running.next() => state.finish(finished),
                () = sleep_until(due) => {}
            }
        }
    }

    /// Brings the picture up to what the cache now holds.
    fn observe(&self, state: &mut State, item: Item) {
        match item {
            Item::Node(key) => match self.context.informers.nodes.get(&key) {
                Some(node) => state.node(node),
                None => state.cluster.remove_node(&key.name),
            },
            Item::Pod(key) => match self.context.informers.pods.get(&key) {
                Some(pod) => state.pod(&key, &pod),
                None => state.pod_gone(&key),
            },
        }
    }

    /// Decides about a pod and starts to write the decision down.
    fn attempt(&self, state: &mut State, key: Key, pod: Waiting) -> BoxFuture<'_, Finished> {
        let uid = pod.uid.clone();
        match state.decide(&pod.demand) {
            Ok(node) => {
                state.cluster.assume(&key, &uid, &node, pod.demand);
                Box::pin(async move {
                    Finished {
                        outcome: self.bind(&key, &uid, &node).await,
                        key,
                        uid,
                    }
                })
            }
            Err(message) => {
                state.queue.unschedulable(&key, Instant::now());
                Box::pin(async move {
                    if let Err(error) = self.report(&key, message).await {
                        tracing::debug!(pod = %key, %error, "cannot say why it is not scheduled");
                    }
                    Finished {
                        key,
                        uid,
                        outcome: Ok(()),
                    }
                })
            }
        }
    }

    async fn bind(&self, key: &Key, uid: &str, node: &str) -> Result<(), Error> {
        let target = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        let metadata = ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        };
        let binding = Binding { metadata, target };
        let api = self.context.api::<Pod>(&key.namespace);
        let outcome: Result<Value, _> = api
            .create_subresource("binding", &key.name, &writing(), &binding)
            .await;
        let pod = self.context.informers.pods.get(key);
        match &outcome {
            Ok(_) => {
                tracing::debug!(pod = %key, node, "bound");
                let text = format!("Successfully assigned {key} to {node}");
                pod.inspect(|pod| self.recorder.normal(&**pod, "Scheduled", text));
            }
            Err(error) if is_not_found(error) || is_conflict(error) => {}
            Err(error) => {
                let text = format!("binding rejected: {}", message(error));
                pod.inspect(|pod| self.recorder.warning(&**pod, "FailedScheduling", text));
            }
        }
        Ok(outcome.map(|_| ())?)
    }

    /// Shows at the pod why no node can take it.
    async fn report(&self, key: &Key, message: String) -> Result<(), Error> {
        let Some(pod) = self.context.informers.pods.get(key) else {
            return Ok(());
        };
        self.recorder
            .warning(&*pod, "FailedScheduling", message.clone());
        let conditions = pod
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        let shown = condition::find(conditions, "PodScheduled");
        if shown.is_some_and(|shown| {
            shown.message.as_ref() == Some(&message) && shown.status == "False"
        }) {
            return Ok(());
        }
        let since = shown
            .filter(|shown| shown.status == "False")
            .and_then(|shown| shown.last_transition_time.clone());
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": since.unwrap_or_else(|| time(Timestamp::now()))
        });
        let patch = json!({"metadata": {"uid": uid(&*pod)}, "status": {"conditions": [condition]}});
        let api: Api<Pod> = self.context.api(&key.namespace);
        Ok(gone_is_fine(
            api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
                .await,
        )?)
    }
}

/// Whether a node's change can matter for placing pods; heartbeats in its status do not.
fn matters(change: &Change<Node>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else {
        return true;
    };
    let ready = |node: &Node| {
        let conditions = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        condition::find(conditions, "Ready").map(|ready| ready.status.clone())
    };
    let allocatable = |node: &Node| {
        node.status
            .as_ref()
            .and_then(|status| status.allocatable.clone())
    };
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || ready(old) != ready(new)
        || allocatable(old) != allocatable(new)
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What the scheduling task knows.
#[derive(Default)]
struct State {
    cluster: Cluster,
    queue: Queue,
    turn: usize,
}

impl State {
    fn node(&mut self, node: Arc<Node>) {
        let name = name(&*node).to_owned();
        self.cluster.set_node(node);
        self.helped(&name);
    }

    fn pod(&mut self, key: &Key, pod: &Pod) {
        if pod::finished(pod) {
            self.pod_gone(key);
        } else if let Some(node) = pod::node(pod) {
            self.queue.remove(key);
            self.cluster.place(key, uid(pod), node, || Demand::of(pod));
        } else if deleting(pod) || !is_ours(pod) {
            self.queue.remove(key);
        } else if !self.cluster.is_assumed(key, uid(pod)) {
            self.cluster.remove(key);
            let priority = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.priority)
                .unwrap_or(0);
            self.queue
                .set(key, uid(pod), priority, Demand::of(pod), Instant::now());
        }
    }

    fn pod_gone(&mut self, key: &Key) {
        self.queue.remove(key);
        if let Some(node) = self.cluster.remove(key) {
            self.helped(&node);
        }
    }

    /// A node has more room, or is otherwise different.
    fn helped(&mut self, node: &str) {
        if let Some(node) = self.cluster.node(node) {
            self.queue
                .helped(|demand| filter(demand, node).is_ok(), Instant::now());
        }
    }

    /// The node for the pod, or the message why there is none.
    fn decide(&mut self, demand: &Demand) -> Result<String, String> {
        let mut candidates = Vec::new();
        let mut refusals = Vec::new();
        for node in self.cluster.nodes() {
            match filter(demand, node) {
                Ok(()) => candidates.push(node),
                Err(reasons) => refusals.push(reasons),
            }
        }
        self.turn = self.turn.wrapping_add(1);
        let best = score::best(demand, &candidates, self.turn).map(NodeState::name);
        best.map(str::to_owned)
            .ok_or_else(|| filter::message(&refusals))
    }

    /// Takes back the assumption if the binding failed. A pod that is bound or gone by now leaves the queue by its event.
    fn finish(&mut self, finished: Finished) {
        let Err(error) = finished.outcome else { return };
        tracing::debug!(pod = %finished.key, %error, "binding failed");
        if self.cluster.is_assumed(&finished.key, &finished.uid) {
            let node = self.cluster.remove(&finished.key);
            self.queue.failed(&finished.key, Instant::now());
            node.iter().for_each(|node| self.helped(node));
        }
    }
}

/// Whether the pod is for this scheduler and free to be scheduled.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let gated = spec
        .scheduling_gates
        .as_ref()
        .is_some_and(|gates| !gates.is_empty());
    !gated
        && spec
            .scheduler_name
            .as_deref()
            .is_none_or(|scheduler| scheduler == OWN_NAME)
}

#[cfg(test)]
mod tests;
