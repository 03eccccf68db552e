//! The scheduler's picture of the nodes and of the pods on them, those included that it has placed and the API does not
//! show yet. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::demand::{Amounts, Demand};
use crate::object::taint::{NOT_READY, UNREACHABLE, taint};
use crate::object::{condition, name};
use crate::runtime::store::Key;

/// A node and what its pods take of it.
#[derive(Debug)]
pub(super) struct NodeState {
    pub(super) node: Arc<Node>,
    /// The node's taints, and the one that its state implies should nobody have put it there yet.
    pub(super) taints: Vec<Taint>,
    pub(super) allocatable: Amounts,
    pub(super) load: Load,
}

/// The pods of a node, known or not.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) requested: Amounts,
    pub(super) usual: (i64, i64),
    pub(super) pods: HashMap<Key, Arc<Demand>>,
}

impl Load {
    fn add(&mut self, pod: Key, demand: Arc<Demand>) {
        self.requested.add(&demand.requests);
        self.usual = (self.usual.0 + demand.usual.0, self.usual.1 + demand.usual.1);
        self.pods.insert(pod, demand);
    }

    fn remove(&mut self, pod: &Key) {
        let Some(demand) = self.pods.remove(pod) else {
            return;
        };
        self.requested.subtract(&demand.requests);
        self.usual = (self.usual.0 - demand.usual.0, self.usual.1 - demand.usual.1);
    }
}

impl NodeState {
    pub(super) fn new(node: Arc<Node>, load: Load) -> Self {
        let allocatable = Amounts::of(
            node.status
                .as_ref()
                .and_then(|status| status.allocatable.as_ref()),
        );
        Self {
            taints: effective_taints(&node),
            allocatable,
            load,
            node,
        }
    }

    pub(super) fn name(&self) -> &str {
        name(&*self.node)
    }

    /// The size of an image that the node holds.
    pub(super) fn image_size(&self, image: &str) -> Option<i64> {
        let images = self.node.status.as_ref()?.images.as_deref()?;
        let held = images
            .iter()
            .find(|held| held.names.iter().flatten().any(|name| name == image))?;
        held.size_bytes
    }

    pub(super) fn unschedulable(&self) -> bool {
        self.node
            .spec
            .as_ref()
            .and_then(|spec| spec.unschedulable)
            .unwrap_or(false)
    }
}

fn effective_taints(node: &Node) -> Vec<Taint> {
    let mut taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let implied = match condition::find(conditions, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => return taints,
        Some("Unknown") => UNREACHABLE,
        _ => NOT_READY,
    };
    if !taints
        .iter()
        .any(|known| known.key == implied && known.effect == "NoSchedule")
    {
        taints.push(taint(implied, "NoSchedule"));
    }
    taints
}

/// Where a pod is.
#[derive(Debug, Clone)]
struct Place {
    node: String,
    uid: String,
    assumed: bool,
}

/// All nodes and placed pods.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    nodes: BTreeMap<String, NodeState>,
    /// Loads of nodes that are named by pods and not known (any more).
    unknown: HashMap<String, Load>,
    places: HashMap<Key, Place>,
}

impl Cluster {
    /// The known nodes by name.
    pub(super) fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeState> {
        self.nodes.values()
    }

    pub(super) fn node(&self, name: &str) -> Option<&NodeState> {
        self.nodes.get(name)
    }

    pub(super) fn set_node(&mut self, node: Arc<Node>) {
        let name = name(&*node).to_owned();
        let load = match self.nodes.remove(&name) {
            Some(known) => known.load,
            None => self.unknown.remove(&name).unwrap_or_default(),
        };
        self.nodes.insert(name, NodeState::new(node, load));
    }

    pub(super) fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name) {
            self.unknown.insert(name.to_owned(), node.load);
        }
    }

    /// The pod is on the node, as the API says.
    pub(super) fn place(
        &mut self,
        pod: &Key,
        uid: &str,
        node: &str,
        demand: impl FnOnce() -> Demand,
    ) {
        if let Some(place) = self.places.get_mut(pod)
            && place.node == node
            && place.uid == uid
        {
            place.assumed = false;
            return;
        }
        self.put(pod, uid, node, Arc::new(demand()), false);
    }

    /// The pod will be on the node, as we have decided.
    pub(super) fn assume(&mut self, pod: &Key, uid: &str, node: &str, demand: Arc<Demand>) {
        self.put(pod, uid, node, demand, true);
    }

    fn put(&mut self, pod: &Key, uid: &str, node: &str, demand: Arc<Demand>, assumed: bool) {
        self.remove(pod);
        self.load(node).add(pod.clone(), demand);
        self.places.insert(
            pod.clone(),
            Place {
                node: node.to_owned(),
                uid: uid.to_owned(),
                assumed,
            },
        );
    }

    /// Whether we have placed this pod and the API does not show it yet.
    pub(super) fn is_assumed(&self, pod: &Key, uid: &str) -> bool {
        self.places
            .get(pod)
            .is_some_and(|place| place.assumed && place.uid == uid)
    }

    /// The pod is gone, or will not come. Answers the node it was on.
    pub(super) fn remove(&mut self, pod: &Key) -> Option<String> {
        let place = self.places.remove(pod)?;
        self.load(&place.node).remove(pod);
        if self
            .unknown
            .get(&place.node)
            .is_some_and(|load| load.pods.is_empty())
        {
            self.unknown.remove(&place.node);
        }
        Some(place.node)
    }

    fn load(&mut self, node: &str) -> &mut Load {
        match self.nodes.get_mut(node) {
            Some(known) => &mut known.load,
            None => self.unknown.entry(node.to_owned()).or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::parse;

    fn demand(cpu: &str) -> Demand {
        Demand::of(&parse(
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}),
        ))
    }

    fn requested(cluster: &Cluster) -> i64 {
        cluster.node("n").expect("known").load.requested.get("cpu")
    }

    #[test]
    fn an_assumed_pod_counts_and_is_confirmed_or_forgotten() {
        let mut cluster = Cluster::default();
        cluster.set_node(Arc::new(parse(json!({"metadata": {"name": "n"}}))));
        let pod = Key::new("a", "p");
        cluster.assume(&pod, "u", "n", Arc::new(demand("1")));
        assert!(cluster.is_assumed(&pod, "u"));
        assert!(!cluster.is_assumed(&pod, "reborn"));
        assert_eq!(requested(&cluster), 1000);
        cluster.place(&pod, "u", "n", || demand("1"));
        assert!(!cluster.is_assumed(&pod, "u"));
        assert_eq!(requested(&cluster), 1000);
        assert_eq!(cluster.remove(&pod).as_deref(), Some("n"));
        assert_eq!(requested(&cluster), 0);
        assert_eq!(cluster.remove(&pod), None);
    }

    #[test]
    fn pods_may_be_known_before_and_after_their_node() {
        let mut cluster = Cluster::default();
        let pod = Key::new("a", "p");
        cluster.place(&pod, "u", "n", || demand("1"));
        let node = Arc::new(parse(json!({"metadata": {"name": "n"}})));
        cluster.set_node(Arc::clone(&node));
        assert_eq!(requested(&cluster), 1000);
        cluster.remove_node("n");
        assert_eq!(cluster.nodes().len(), 0);
        cluster.remove(&pod);
        assert!(cluster.unknown.is_empty());
        cluster.set_node(node);
        assert_eq!(requested(&cluster), 0);
    }

    #[test]
    fn a_node_that_is_not_ready_is_tainted_by_implication() {
        let taints = |conditions: serde_json::Value, taints: serde_json::Value| {
            let node: Node =
                parse(json!({"status": {"conditions": conditions}, "spec": {"taints": taints}}));
            effective_taints(&node)
                .into_iter()
                .map(|taint| taint.key)
                .collect::<Vec<_>>()
        };
        let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
        assert!(taints(ready("True"), json!([])).is_empty());
        assert_eq!(taints(ready("False"), json!([])), [NOT_READY]);
        assert_eq!(taints(ready("Unknown"), json!([])), [UNREACHABLE]);
        assert_eq!(taints(json!([]), json!([])), [NOT_READY]);
        assert_eq!(
            taints(
                ready("False"),
                json!([{"key": NOT_READY, "effect": "NoSchedule"}])
            )
            .len(),
            1
        );
    }
}
