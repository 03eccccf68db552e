//! How well a node suits a pod, among those that can take it. Every part counts from 0 to 100 and has a weight, both as
//! upstream's default profile has them. Pure.

use super::affinity;
use super::cluster::NodeState;
use super::demand::Demand;
use crate::object::taint::tolerates;

const FULL: i64 = 100;

/// The best node. Of equals, `turn` picks one, so that they take turns.
pub(super) fn best<'a>(
    demand: &Demand,
    candidates: &[&'a NodeState],
    turn: usize,
) -> Option<&'a NodeState> {
    let scores = scores(demand, candidates);
    let top = scores.iter().max()?;
    let best: Vec<_> = candidates
        .iter()
        .zip(&scores)
        .filter(|(_, score)| *score == top)
        .map(|(node, _)| *node)
        .collect();
    best.get(turn % best.len()).copied()
}

fn scores(demand: &Demand, candidates: &[&NodeState]) -> Vec<i64> {
    let each = |part: &dyn Fn(&NodeState) -> i64| {
        candidates.iter().map(|node| part(node)).collect::<Vec<_>>()
    };
    let parts = [
        (1, each(&|node| least_allocated(demand, node))),
        (1, each(&|node| balanced(demand, node))),
        (2, fewest(each(&|node| siblings(demand, node)))),
        (3, fewest(each(&|node| unwelcome(demand, node)))),
        (2, most(each(&|node| preference(demand, node)))),
        (1, images(demand, candidates)),
    ];
    (0..candidates.len())
        .map(|index| {
            parts
                .iter()
                .map(|(weight, part)| weight * part[index])
                .sum()
        })
        .collect()
}

/// What would be used of CPU and memory, and what there is.
fn use_of(demand: &Demand, node: &NodeState) -> [(i64, i64); 2] {
    let (cpu, memory) = node.load.usual;
    [
        (cpu + demand.usual.0, node.allocatable.get("cpu")),
        (memory + demand.usual.1, node.allocatable.get("memory")),
    ]
}

/// The more is left over, the better.
fn least_allocated(demand: &Demand, node: &NodeState) -> i64 {
    let left = |(used, all): (i64, i64)| {
        if all <= 0 || used > all {
            0
        } else {
            (all - used) * FULL / all
        }
    };
    use_of(demand, node).map(left).iter().sum::<i64>() / 2
}

/// The more alike the used shares of CPU and memory are, the better.
fn balanced(demand: &Demand, node: &NodeState) -> i64 {
    let permille = |(used, all): (i64, i64)| {
        if all <= 0 {
            1000
        } else {
            (used.saturating_mul(1000) / all).min(1000)
        }
    };
    let [cpu, memory] = use_of(demand, node).map(permille);
    (1000 - (cpu - memory).abs() / 2) * FULL / 1000
}

/// How many pods of the same owner the node has.
fn siblings(demand: &Demand, node: &NodeState) -> i64 {
    let Some(owner) = &demand.owner else { return 0 };
    let count = node
        .load
        .pods
        .values()
        .filter(|other| other.owner.as_ref() == Some(owner))
        .count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// How many soft taints the pod does not tolerate.
fn unwelcome(demand: &Demand, node: &NodeState) -> i64 {
    let soft = node
        .taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule");
    let count = soft
        .filter(|taint| {
            !demand
                .tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
        })
        .count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The sum of the weights of the preferences the node satisfies.
fn preference(demand: &Demand, node: &NodeState) -> i64 {
    let satisfied = demand
        .preferred
        .iter()
        .filter(|term| affinity::matches(&term.preference, &node.node));
    satisfied.map(|term| i64::from(term.weight)).sum()
}

/// How much of the pod's images the nodes hold already. An image counts the more the more nodes hold it, lest all pods
/// of an image gather where it was pulled first.
fn images(demand: &Demand, candidates: &[&NodeState]) -> Vec<i64> {
    const LEAST: i64 = 23 * 1024 * 1024;
    const MOST: i64 = 1000 * 1024 * 1024;
    let mut held = vec![0; candidates.len()];
    for image in &demand.images {
        let sizes: Vec<_> = candidates
            .iter()
            .map(|node| node.image_size(image))
            .collect();
        let holders = sizes.iter().flatten().count();
        for (held, size) in held.iter_mut().zip(sizes) {
            let share = i64::try_from(holders).unwrap_or(i64::MAX);
            let nodes = i64::try_from(candidates.len()).unwrap_or(i64::MAX).max(1);
            *held += size.unwrap_or(0).saturating_mul(share) / nodes;
        }
    }
    let count = i64::try_from(demand.images.len())
        .unwrap_or(i64::MAX)
        .max(1);
    let most = MOST.saturating_mul(count);
    held.into_iter()
        .map(|held: i64| (held.clamp(LEAST, most) - LEAST) * FULL / (most - LEAST))
        .collect()
}

/// Nothing is full marks, the largest value none.
fn fewest(values: Vec<i64>) -> Vec<i64> {
    most(values).into_iter().map(|score| FULL - score).collect()
}

/// The largest value is full marks.
fn most(values: Vec<i64>) -> Vec<i64> {
    let largest = values.iter().copied().max().unwrap_or(0);
    if largest <= 0 {
        return vec![0; values.len()];
    }
    values
        .into_iter()
        .map(|value| value * FULL / largest)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::super::cluster::Cluster;
    use super::*;
    use crate::object::parse;
    use crate::runtime::store::Key;

    fn cluster(nodes: &[(&str, Value)]) -> Cluster {
        let mut cluster = Cluster::default();
        for (name, extra) in nodes {
            let mut node = json!({
                "metadata": {"name": name},
                "status": {
                    "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                    "conditions": [{"type": "Ready", "status": "True"}]
                }
            });
            json_patch::merge(&mut node, extra);
            cluster.set_node(Arc::new(parse(node)));
        }
        cluster
    }

    fn pod(owner: &str, extra: Value) -> Demand {
        let mut pod = json!({
            "metadata": {"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": owner, "controller": true}
            ]},
            "spec": {"containers": [{"name": "c"}]}
        });
        json_patch::merge(&mut pod, &extra);
        Demand::of(&parse::<Pod>(pod))
    }

    fn choose<'a>(cluster: &'a Cluster, demand: &Demand) -> &'a str {
        best(demand, &cluster.nodes().collect::<Vec<_>>(), 0)
            .map(NodeState::name)
            .unwrap_or_default()
    }

    #[test]
    fn the_emptier_node_wins() {
        let mut cluster = cluster(&[("a", json!({})), ("b", json!({}))]);
        let busy = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "4Gi"}}}]}});
        cluster.place(&Key::new("x", "p"), "u", "a", || pod("other", busy));
        assert_eq!(choose(&cluster, &pod("mine", json!({}))), "b");
    }

    #[test]
    fn pods_of_one_owner_spread() {
        let mut cluster = cluster(&[("a", json!({})), ("b", json!({})), ("c", json!({}))]);
        for index in 0..9 {
            let demand = pod("mine", json!({}));
            let node = choose(&cluster, &demand).to_owned();
            cluster.assume(
                &Key::new("x", &index.to_string()),
                "u",
                &node,
                Arc::new(demand),
            );
        }
        assert!(cluster.nodes().all(|node| node.load.pods.len() == 3));
    }

    #[test]
    fn soft_taints_and_preferences_count() {
        let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
        let tainted = cluster(&[("a", soft), ("b", json!({}))]);
        assert_eq!(choose(&tainted, &pod("mine", json!({}))), "b");
        let labelled = cluster(&[
            ("a", json!({})),
            ("b", json!({"metadata": {"labels": {"disk": "ssd"}}})),
        ]);
        let term =
            json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]});
        let preferred = json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": term}]});
        assert_eq!(
            choose(
                &labelled,
                &pod(
                    "mine",
                    json!({"spec": {"affinity": {"nodeAffinity": preferred}}})
                )
            ),
            "b"
        );
    }

    #[test]
    fn a_node_that_holds_the_image_is_preferred_among_equals() {
        let image =
            json!({"status": {"images": [{"names": ["big:1"], "sizeBytes": 1_000_000_000}]}});
        let cluster = cluster(&[("a", json!({})), ("b", image)]);
        let wants = json!({"spec": {"containers": [{"name": "c", "image": "big:1"}]}});
        assert_eq!(choose(&cluster, &pod("mine", wants)), "b");
    }

    #[test]
    fn equals_take_turns() {
        let cluster = cluster(&[("a", json!({})), ("b", json!({}))]);
        let nodes: Vec<_> = cluster.nodes().collect();
        let names: Vec<_> = (0..4)
            .filter_map(|turn| best(&pod("o", json!({})), &nodes, turn))
            .map(NodeState::name)
            .collect();
        assert_eq!(names, ["a", "b", "a", "b"]);
        assert!(best(&pod("o", json!({})), &[], 0).is_none());
    }
}
