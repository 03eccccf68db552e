//! Whether a pod can run on a node, and in upstream's words why not. Pure.

use std::collections::BTreeMap;

use super::affinity;
use super::cluster::NodeState;
use super::demand::Demand;
use crate::object::has_labels;
use crate::object::taint::{UNSCHEDULABLE, taint, tolerates, untolerated};

/// Why a node cannot take a pod. Several resources can be short at once.
pub(super) type Reasons = Vec<String>;

/// Goes through the conditions in order; the first that fails gives the reasons.
pub(super) fn filter(demand: &Demand, node: &NodeState) -> Result<(), Reasons> {
    schedulable(demand, node)?;
    taints(demand, node)?;
    affinity(demand, node)?;
    ports(demand, node)?;
    resources(demand, node)
}

fn schedulable(demand: &Demand, node: &NodeState) -> Result<(), Reasons> {
    let cordon = taint(UNSCHEDULABLE, "NoSchedule");
    if node.unschedulable()
        && !demand
            .tolerations
            .iter()
            .any(|toleration| tolerates(toleration, &cordon))
    {
        return Err(vec!["node(s) were unschedulable".to_owned()]);
    }
    Ok(())
}

fn taints(demand: &Demand, node: &NodeState) -> Result<(), Reasons> {
    match untolerated(
        &node.taints,
        &demand.tolerations,
        &["NoSchedule", "NoExecute"],
    ) {
        None => Ok(()),
        Some(taint) => {
            let value = taint.value.as_deref().unwrap_or_default();
            Err(vec![format!(
                "node(s) had untolerated taint {{{}: {value}}}",
                taint.key
            )])
        }
    }
}

fn affinity(demand: &Demand, node: &NodeState) -> Result<(), Reasons> {
    let labels = node.node.metadata.labels.as_ref();
    let required = demand
        .required
        .as_ref()
        .map(|required| required.node_selector_terms.as_slice());
    let wanted =
        required.is_none_or(|terms| terms.iter().any(|term| affinity::matches(term, &node.node)));
    if wanted && has_labels(labels, &demand.node_selector) {
        return Ok(());
    }
    Err(vec![
        "node(s) didn't match Pod's node affinity/selector".to_owned(),
    ])
}

fn ports(demand: &Demand, node: &NodeState) -> Result<(), Reasons> {
    let mut taken = node.load.pods.values().flat_map(|other| &other.host_ports);
    if !demand.host_ports.is_empty()
        && taken.any(|taken| demand.host_ports.iter().any(|port| port.conflicts(taken)))
    {
        return Err(vec![
            "node(s) didn't have free ports for the requested pod ports".to_owned(),
        ]);
    }
    Ok(())
}

fn resources(demand: &Demand, node: &NodeState) -> Result<(), Reasons> {
    let mut reasons = Vec::new();
    let most = node.allocatable.get("pods");
    if i64::try_from(node.load.pods.len()).unwrap_or(i64::MAX) >= most {
        reasons.push("Too many pods".to_owned());
    }
    for (resource, amount) in demand.requests.iter() {
        if amount > node.allocatable.get(resource) - node.load.requested.get(resource) {
            reasons.push(format!("Insufficient {resource}"));
        }
    }
    if reasons.is_empty() {
        Ok(())
    } else {
        Err(reasons)
    }
}

/// The message about a pod that no node can take, from each node's reasons.
pub(super) fn message(reasons: &[Reasons]) -> String {
    if reasons.is_empty() {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons.iter().flatten() {
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<_> = counts
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort();
    format!(
        "0/{} nodes are available: {}.",
        reasons.len(),
        parts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    use super::super::cluster::Cluster;
    use super::*;
    use crate::object::parse;
    use crate::runtime::store::Key;

    fn node(extra: Value) -> Arc<Node> {
        let mut node = json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "status": {
                "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"},
                "conditions": [{"type": "Ready", "status": "True"}]
            }
        });
        json_patch::merge(&mut node, &extra);
        Arc::new(parse(node))
    }

    fn pod(spec: Value) -> Demand {
        let mut whole = json!({"containers": [{"name": "c"}]});
        json_patch::merge(&mut whole, &spec);
        Demand::of(&parse::<Pod>(json!({"spec": whole})))
    }

    fn asking(cpu: &str, memory: &str) -> Demand {
        pod(
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}),
        )
    }

    fn with(extra: Value, others: &[Demand]) -> Cluster {
        let mut cluster = Cluster::default();
        cluster.set_node(node(extra));
        for (index, other) in others.iter().enumerate() {
            cluster.place(&Key::new("a", &index.to_string()), "u", "n", || {
                other.clone()
            });
        }
        cluster
    }

    fn check(cluster: &Cluster, demand: &Demand, expected: &[&str]) {
        let got = filter(demand, cluster.node("n").expect("known"))
            .err()
            .unwrap_or_default();
        assert_eq!(got, expected);
    }

    #[test]
    fn every_condition_has_its_words() {
        let free = with(json!({}), &[]);
        check(&free, &pod(json!({})), &[]);
        check(
            &with(json!({"spec": {"unschedulable": true}}), &[]),
            &pod(json!({})),
            &["node(s) were unschedulable"],
        );
        let tolerant = pod(json!({"tolerations": [{"operator": "Exists"}]}));
        check(
            &with(json!({"spec": {"unschedulable": true}}), &[]),
            &tolerant,
            &[],
        );
        let tainted = with(
            json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}),
            &[],
        );
        check(
            &tainted,
            &pod(json!({})),
            &["node(s) had untolerated taint {gpu: yes}"],
        );
        check(&tainted, &tolerant, &[]);
        let soft = with(
            json!({"spec": {"taints": [{"key": "gpu", "effect": "PreferNoSchedule"}]}}),
            &[],
        );
        check(&soft, &pod(json!({})), &[]);
        let elsewhere = "node(s) didn't match Pod's node affinity/selector";
        check(
            &free,
            &pod(json!({"nodeSelector": {"disk": "hdd"}})),
            &[elsewhere],
        );
        check(&free, &pod(json!({"nodeSelector": {"disk": "ssd"}})), &[]);
        let required = |value: &str| {
            let terms = json!([{"matchExpressions": [{"key": "disk", "operator": "In", "values": [value]}]}]);
            let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
            pod(json!({"affinity": {"nodeAffinity": required}}))
        };
        check(&free, &required("hdd"), &[elsewhere]);
        check(&free, &required("ssd"), &[]);
    }

    #[test]
    fn host_ports_and_resources_are_not_shared() {
        let port = pod(
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}),
        );
        let taken = with(json!({}), std::slice::from_ref(&port));
        check(
            &taken,
            &port,
            &["node(s) didn't have free ports for the requested pod ports"],
        );
        let used = with(json!({}), &[asking("1500m", "1Mi")]);
        check(&used, &asking("500m", "1Mi"), &[]);
        check(
            &used,
            &asking("501m", "1Gi"),
            &["Insufficient cpu", "Insufficient memory"],
        );
        let full = with(json!({}), &[pod(json!({})), pod(json!({})), pod(json!({}))]);
        check(&full, &pod(json!({})), &["Too many pods"]);
        let other = pod(
            json!({"containers": [{"name": "c", "resources": {"requests": {"acme.com/gpu": "1"}}}]}),
        );
        check(&used, &other, &["Insufficient acme.com/gpu"]);
    }

    #[test]
    fn a_node_that_is_not_ready_takes_nothing() {
        let down = with(
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
            &[],
        );
        check(
            &down,
            &pod(json!({})),
            &["node(s) had untolerated taint {node.kubernetes.io/unreachable: }"],
        );
    }

    #[test]
    fn the_message_counts_reasons() {
        assert_eq!(message(&[]), "no nodes available to schedule pods");
        let reasons: Vec<Reasons> = vec![
            vec!["Insufficient memory".into(), "Insufficient cpu".into()],
            vec!["Insufficient cpu".into()],
            vec!["node(s) were unschedulable".into()],
        ];
        let expected = "0/3 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, 2 Insufficient cpu.";
        assert_eq!(message(&reasons), expected);
    }
}
