//! Pod ranges: a part of each cluster CIDR for every node, written to its spec.

mod ranges;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::ranges::Ranges;
use crate::args::ControllersArgs;
use crate::error::{Error, gone_is_fine};
use crate::object::name;
use crate::runtime::events::Recorder;
use crate::runtime::queue::Queue;
use crate::runtime::store::Key;
use crate::runtime::{Context, lock, worker};

const WORKERS: usize = 4;

/// The pod range controller.
pub(crate) struct Controller {
    context: Context,
    recorder: Recorder,
    queue: Queue<Key>,
    plan: Mutex<Plan>,
}

impl Controller {
    /// Registers with the informers; nothing without a cluster CIDR.
    pub(crate) fn new(context: Context) -> Result<Option<Arc<Self>>, Error> {
        if context.args.cluster_cidr.is_empty() {
            return Ok(None);
        }
        let plan = Mutex::new(Plan::new(&context.args)?);
        let queue = Queue::default();
        context.informers.nodes.on_change({
            let queue = queue.clone();
            move |change| queue.add(Key::of(&**change.object()))
        });
        let recorder = context.recorder.named("node-ipam-controller");
        Ok(Some(Arc::new(Self {
            context,
            recorder,
            queue,
            plan,
        })))
    }

    /// Works until `shutdown`. Before anything is handed out, what all nodes have is noted.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        for node in self.context.informers.nodes.all() {
            lock(&self.plan).note(name(&*node), &assigned(&node));
        }
        worker::run(
            "nodeipam",
            &self.queue,
            WORKERS,
            |key| self.reconcile(key),
            shutdown,
        )
        .await;
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let Some(node) = self.context.informers.nodes.get(&key) else {
            lock(&self.plan).forget(&key.name);
            return Ok(());
        };
        let has = assigned(&node);
        if !has.is_empty() {
            lock(&self.plan).note(&key.name, &has);
            return Ok(());
        }
        let ranges = lock(&self.plan).ranges(&key.name).inspect_err(|_| {
            let text = format!("Node {key} status is now: CIDRNotAvailable");
            self.recorder.normal(&*node, "CIDRNotAvailable", text);
        })?;
        let texts: Vec<_> = ranges.iter().map(IpNetwork::to_string).collect();
        tracing::info!(node = %key, ranges = texts.join(","), "pod ranges assigned");
        let patch = json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
        let api: Api<Node> = Api::all(self.context.client.clone());
        Ok(gone_is_fine(
            api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
                .await,
        )?)
    }
}

/// The pod ranges in the node's spec.
fn assigned(node: &Node) -> Vec<IpNetwork> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let all = spec.pod_cidrs.as_deref().filter(|all| !all.is_empty());
    let all = all.unwrap_or(spec.pod_cidr.as_slice());
    all.iter().filter_map(|range| range.parse().ok()).collect()
}

/// Which node has, or is to get, which ranges. Pure.
#[derive(Debug)]
struct Plan {
    families: Vec<Ranges>,
    nodes: HashMap<String, Vec<IpNetwork>>,
}

impl Plan {
    fn new(args: &ControllersArgs) -> Result<Self, Error> {
        let mask = |cidr: &IpNetwork| {
            if cidr.is_ipv4() {
                args.node_cidr_mask_size_ipv4
            } else {
                args.node_cidr_mask_size_ipv6
            }
        };
        let families = args
            .cluster_cidr
            .iter()
            .map(|cidr| Ranges::new(*cidr, mask(cidr)));
        Ok(Self {
            families: families.collect::<Result<_, _>>()?,
            nodes: HashMap::new(),
        })
    }

    /// The node has these ranges.
    fn note(&mut self, node: &str, ranges: &[IpNetwork]) {
        if ranges.is_empty() || self.nodes.get(node).is_some_and(|known| known == ranges) {
            return;
        }
        self.forget(node);
        for range in ranges {
            self.families
                .iter_mut()
                .for_each(|family| family.occupy(range));
        }
        self.nodes.insert(node.to_owned(), ranges.to_vec());
    }

    /// The ranges for a node: those promised to it before, or new ones. A promise holds until the node is gone, since a
    /// write whose answer was lost may have happened.
    fn ranges(&mut self, node: &str) -> Result<Vec<IpNetwork>, Error> {
        if let Some(known) = self.nodes.get(node) {
            return Ok(known.clone());
        }
        let mut ranges = Vec::with_capacity(self.families.len());
        for index in 0..self.families.len() {
            match self.families[index].allocate() {
                Ok(range) => ranges.push(range),
                Err(error) => {
                    self.release(&ranges);
                    return Err(error);
                }
            }
        }
        self.nodes.insert(node.to_owned(), ranges.clone());
        Ok(ranges)
    }

    /// The node is gone.
    fn forget(&mut self, node: &str) {
        if let Some(ranges) = self.nodes.remove(node) {
            self.release(&ranges);
        }
    }

    fn release(&mut self, ranges: &[IpNetwork]) {
        for range in ranges {
            self.families
                .iter_mut()
                .for_each(|family| family.release(range));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::parse;

    fn plan(cidrs: &[&str]) -> Plan {
        let cluster_cidr = cidrs
            .iter()
            .map(|cidr| cidr.parse().expect("a CIDR"))
            .collect();
        Plan::new(&ControllersArgs {
            cluster_cidr,
            ..ControllersArgs::default()
        })
        .expect("it fits")
    }

    fn texts(ranges: &[IpNetwork]) -> Vec<String> {
        ranges.iter().map(IpNetwork::to_string).collect()
    }

    #[test]
    fn every_node_gets_a_range_of_each_family_and_keeps_it() {
        let mut plan = plan(&["10.244.0.0/16", "fd00:10:244::/48"]);
        let first = plan.ranges("n1").expect("free");
        assert_eq!(texts(&first), ["10.244.0.0/24", "fd00:10:244::/64"]);
        assert_eq!(plan.ranges("n1").expect("promised"), first);
        assert_eq!(
            texts(&plan.ranges("n2").expect("free")),
            ["10.244.1.0/24", "fd00:10:244:1::/64"]
        );
    }

    #[test]
    fn what_nodes_have_is_not_handed_out_and_comes_back_with_their_end() {
        let mut plan = plan(&["10.244.0.0/23"]);
        plan.note("old", &["10.244.0.0/24".parse().expect("a CIDR")]);
        assert_eq!(texts(&plan.ranges("n1").expect("free")), ["10.244.1.0/24"]);
        assert!(plan.ranges("n2").is_err());
        plan.forget("old");
        assert_eq!(texts(&plan.ranges("n2").expect("free")), ["10.244.0.0/24"]);
    }

    #[test]
    fn one_family_exhausted_takes_nothing_of_the_other() {
        let mut plan = plan(&["10.244.0.0/16", "fd00::/64"]);
        plan.ranges("n1").expect("free");
        assert!(plan.ranges("n2").is_err());
        plan.forget("n1");
        assert_eq!(
            texts(&plan.ranges("n2").expect("free")),
            ["10.244.2.0/24", "fd00::/64"]
        );
    }

    #[test]
    fn ranges_are_read_from_both_fields_once() {
        let node: Node = parse(
            json!({"spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]}}),
        );
        assert_eq!(assigned(&node).len(), 2);
        let old: Node = parse(json!({"spec": {"podCIDR": "10.0.0.0/24"}}));
        assert_eq!(assigned(&old).len(), 1);
    }
}
