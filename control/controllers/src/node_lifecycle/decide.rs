//! What a node's silence means: which conditions it loses, which taints it gets, how fast nodes may be emptied. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};

use crate::object::taint::{NOT_READY, UNREACHABLE, UNSCHEDULABLE, taint};
use crate::object::{condition, time};

/// The conditions that only the node itself can vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that keep pods away while they are true, and their taints.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Ready,
    /// It says itself that it is not.
    NotReady,
    /// It says nothing any more.
    Unreachable,
}

/// What the node's conditions say.
pub(super) fn health(node: &Node) -> Health {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    match condition::find(conditions, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => Health::Ready,
        Some("Unknown") => Health::Unreachable,
        _ => Health::NotReady,
    }
}

/// The times a silent node is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grace {
    pub(super) running: Duration,
    /// For a node that never said anything.
    pub(super) starting: Duration,
}

impl Grace {
    /// The time this node is given.
    pub(super) fn of(self, node: &Node) -> Duration {
        let conditions = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        if condition::find(conditions, "Ready").is_some() {
            self.running
        } else {
            self.starting
        }
    }
}

/// The conditions of a node that has been silent for too long, as far as they are not so already.
pub(super) fn silenced(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let silence = |kind: &&str| {
        let known = condition::find(conditions, kind);
        let (reason, message) = match known {
            Some(known) if known.status == "Unknown" => return None,
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => (
                "NodeStatusNeverUpdated",
                "Kubelet never posted node status.",
            ),
        };
        Some(NodeCondition {
            type_: (*kind).to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: known.and_then(|known| known.last_heartbeat_time.clone()),
            last_transition_time: Some(time(now)),
        })
    };
    VOUCHED.iter().filter_map(silence).collect()
}

/// The taints the node should have. Taints that are not ours are kept; `evict` tells whether pods may be driven out now,
/// which never takes back a taint that drives them out already.
pub(super) fn taints(node: &Node, evict: bool, now: Timestamp) -> Vec<Taint> {
    let spec = node.spec.as_ref();
    let known: &[Taint] = spec
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let mut wanted = Vec::new();
    let unwell = match health(node) {
        Health::Ready => None,
        Health::NotReady => Some(NOT_READY),
        Health::Unreachable => Some(UNREACHABLE),
    };
    if let Some(key) = unwell {
        wanted.push(taint(key, "NoSchedule"));
        if evict || known.iter().any(is_eviction) {
            wanted.push(Taint {
                time_added: Some(time(now)),
                ..taint(key, "NoExecute")
            });
        }
    }
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let pressed = PRESSURES
        .iter()
        .filter(|(kind, _)| condition::is_true(conditions, kind));
    wanted.extend(pressed.map(|(_, key)| taint(key, "NoSchedule")));
    if spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule"));
    }
    merge(known, wanted)
}

/// Whether the taint drives pods out of a node that is not well.
pub(super) fn is_eviction(taint: &Taint) -> bool {
    taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE)
}

fn is_ours(taint: &Taint) -> bool {
    let pressure = PRESSURES.iter().any(|(_, key)| *key == taint.key);
    let by_effect = taint.effect == "NoSchedule" && (pressure || taint.key == UNSCHEDULABLE);
    let unwell = taint.key == NOT_READY || taint.key == UNREACHABLE;
    by_effect || (unwell && matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
}

/// Known taints keep their place and the time they were added.
fn merge(known: &[Taint], mut wanted: Vec<Taint>) -> Vec<Taint> {
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    let mut merged: Vec<Taint> = known
        .iter()
        .filter(|taint| !is_ours(taint) || wanted.iter().any(|wanted| same(taint, wanted)))
        .cloned()
        .collect();
    wanted.retain(|taint| !merged.iter().any(|known| same(known, taint)));
    merged.extend(wanted);
    merged
}

/// How long to wait between driving pods out of one node and the next, given how many nodes of the zone are well. When
/// most of a small zone or all of the cluster looks dead, the fault is more likely on our side: then nobody is driven out.
pub(super) fn pace(ready: usize, unwell: usize) -> Option<Duration> {
    const SMALL_ZONE: usize = 50;
    const NORMAL: Duration = Duration::from_secs(10);
    const CAUTIOUS: Duration = Duration::from_secs(100);
    let disrupted = unwell > 2 && unwell * 100 >= (ready + unwell) * 55;
    match ready {
        0 => None,
        _ if !disrupted => Some(NORMAL),
        _ if ready + unwell <= SMALL_ZONE => None,
        _ => Some(CAUTIOUS),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::object::parse;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a timestamp")
    }

    fn node(ready: &str, spec: Value) -> Node {
        parse(
            json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": [
                {"type": "Ready", "status": ready}, {"type": "MemoryPressure", "status": "False"}
            ]}}),
        )
    }

    fn brief(taints: &[Taint]) -> Vec<String> {
        taints
            .iter()
            .map(|taint| {
                format!(
                    "{}:{}",
                    taint.key.trim_start_matches("node.kubernetes.io/"),
                    taint.effect
                )
            })
            .collect()
    }

    #[test]
    fn a_silent_node_loses_what_it_vouched_for_once() {
        let mut node = node("True", json!({}));
        let silenced_now = silenced(&node, now());
        let reasons: Vec<_> = silenced_now
            .iter()
            .map(|c| (c.type_.as_str(), c.reason.as_deref().unwrap_or("")))
            .collect();
        let never = "NodeStatusNeverUpdated";
        let expected = [
            ("Ready", "NodeStatusUnknown"),
            ("MemoryPressure", "NodeStatusUnknown"),
            ("DiskPressure", never),
            ("PIDPressure", never),
        ];
        assert_eq!(reasons, expected);
        node.status.as_mut().expect("given").conditions = Some(silenced_now);
        assert!(silenced(&node, now()).is_empty());
    }

    #[test]
    fn taints_follow_health() {
        let check = |ready: &str, spec: Value, evict: bool, expected: &[&str]| {
            assert_eq!(brief(&taints(&node(ready, spec), evict, now())), expected);
        };
        check("True", json!({}), true, &[]);
        check("False", json!({}), false, &["not-ready:NoSchedule"]);
        check(
            "False",
            json!({}),
            true,
            &["not-ready:NoSchedule", "not-ready:NoExecute"],
        );
        check(
            "Unknown",
            json!({}),
            true,
            &["unreachable:NoSchedule", "unreachable:NoExecute"],
        );
        check(
            "True",
            json!({"unschedulable": true}),
            true,
            &["unschedulable:NoSchedule"],
        );
        let mine = json!({"key": "mine", "effect": "NoExecute"});
        let before =
            json!({"key": NOT_READY, "effect": "NoExecute", "timeAdded": "2025-01-01T00:00:00Z"});
        check(
            "True",
            json!({"taints": [mine, before]}),
            true,
            &["mine:NoExecute"],
        );
        check(
            "Unknown",
            json!({"taints": [before]}),
            false,
            &["unreachable:NoSchedule", "unreachable:NoExecute"],
        );
        let kept = taints(&node("False", json!({"taints": [before]})), true, now());
        assert_eq!(
            kept[0].time_added,
            Some(time("2025-01-01T00:00:00Z".parse().expect("a timestamp")))
        );
    }

    #[test]
    fn pressure_keeps_pods_away() {
        let pressed: Node = parse(json!({"status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}
        ]}}));
        assert_eq!(
            brief(&taints(&pressed, true, now())),
            ["disk-pressure:NoSchedule"]
        );
    }

    #[test]
    fn a_widespread_outage_drives_nobody_out() {
        for (ready, unwell, expected) in [
            (1, 1, Some(10)),
            (9, 1, Some(10)),
            (0, 1, None),
            (0, 100, None),
            (2, 3, None),
            (4, 3, Some(10)),
            (40, 60, Some(100)),
            (60, 40, Some(10)),
        ] {
            assert_eq!(
                pace(ready, unwell).map(|pace| pace.as_secs()),
                expected,
                "{ready} {unwell}"
            );
        }
    }

    #[test]
    fn a_new_node_has_more_time() {
        let grace = Grace {
            running: Duration::from_secs(50),
            starting: Duration::from_secs(60),
        };
        assert_eq!(grace.of(&node("True", json!({}))), grace.running);
        assert_eq!(grace.of(&Node::default()), grace.starting);
    }
}
