//! Which pods to delete first when there are too many.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::object::{annotation, created, pod, uid};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods whose loss hurts least, in the order in which to delete them. `related` are the pods that serve the
/// same purpose, also under sibling ReplicaSets: a node that carries more of them gives one up earlier.
pub(crate) fn choose(
    mut pods: Vec<Arc<Pod>>,
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if count < pods.len() {
        let mut crowd: HashMap<&str, usize> = HashMap::new();
        for node in related.iter().filter_map(|related| pod::node(related)) {
            *crowd.entry(node).or_default() += 1;
        }
        let crowd_of = |candidate: &Pod| {
            pod::node(candidate)
                .and_then(|node| crowd.get(node))
                .copied()
                .unwrap_or(0)
        };
        pods.sort_by(|a, b| compare(a, crowd_of(a), b, crowd_of(b), now));
        pods.truncate(count);
    }
    pods
}

/// The first difference decides; `Less` is deleted first.
fn compare(a: &Pod, crowd_a: usize, b: &Pod, crowd_b: usize, now: Timestamp) -> Ordering {
    pod::node(a)
        .is_some()
        .cmp(&pod::node(b).is_some())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| pod::ready(a).cmp(&pod::ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| crowd_b.cmp(&crowd_a))
        .then_with(|| compare_age(pod::ready_since(a), pod::ready_since(b), now))
        .then_with(|| pod::restarts(b).cmp(&pod::restarts(a)))
        .then_with(|| compare_age(Some(created(a)), Some(created(b)), now))
        .then_with(|| uid(a).cmp(uid(b)))
}

fn phase_rank(candidate: &Pod) -> u8 {
    match pod::phase(candidate) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

fn deletion_cost(candidate: &Pod) -> i32 {
    annotation(candidate, DELETION_COST)
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

/// The younger first, where ages within a factor of two are the same: otherwise the newest pods would always die, and
/// with them whatever zone was scaled up last.
fn compare_age(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |since: Option<Timestamp>| {
        let age = now.duration_since(since?).as_nanos();
        Some(u128::try_from(age).ok().and_then(u128::checked_ilog2))
    };
    magnitude(a).cmp(&magnitude(b))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::object::parse;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().expect("a timestamp")
    }

    fn pod(
        name: &str,
        node: &str,
        phase: &str,
        ready: Option<&str>,
        restarts: i32,
        annotations: Value,
    ) -> Arc<Pod> {
        let status = if ready.is_some() { "True" } else { "False" };
        Arc::new(parse(json!({
            "metadata": {
                "name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations
            },
            "spec": {"nodeName": node, "containers": []},
            "status": {
                "phase": phase,
                "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": ready}],
                "containerStatuses": [{
                    "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts
                }]
            }
        })))
    }

    fn check(first: Arc<Pod>, second: Arc<Pod>, related: &[Arc<Pod>]) {
        let name = first.metadata.name.clone();
        for pods in [vec![first.clone(), second.clone()], vec![second, first]] {
            assert_eq!(choose(pods, related, 1, now())[0].metadata.name, name);
        }
    }

    #[test]
    fn the_first_difference_decides() {
        let old = Some("2026-01-01T00:01:00Z");
        let young = Some("2026-01-01T00:59:00Z");
        let none = || json!({});
        check(
            pod("z", "", "Pending", None, 0, none()),
            pod("a", "n", "Pending", None, 0, none()),
            &[],
        );
        check(
            pod("z", "n", "Pending", None, 0, none()),
            pod("a", "n", "Unknown", None, 0, none()),
            &[],
        );
        check(
            pod("z", "n", "Unknown", None, 0, none()),
            pod("a", "n", "Running", None, 0, none()),
            &[],
        );
        check(
            pod("z", "n", "Running", None, 0, none()),
            pod("a", "n", "Running", old, 9, none()),
            &[],
        );
        check(
            pod("z", "n", "Running", old, 0, json!({DELETION_COST: "-5"})),
            pod("a", "n", "Running", young, 9, none()),
            &[],
        );
        let crowded = [
            pod("x", "m", "Running", old, 0, none()),
            pod("y", "m", "Running", old, 0, none()),
        ];
        check(
            pod("z", "m", "Running", old, 0, none()),
            pod("a", "n", "Running", young, 9, none()),
            &crowded,
        );
        check(
            pod("z", "n", "Running", young, 0, none()),
            pod("a", "n", "Running", old, 9, none()),
            &[],
        );
        check(
            pod("z", "n", "Running", old, 5, none()),
            pod("a", "n", "Running", old, 1, none()),
            &[],
        );
        check(
            pod("a", "n", "Running", old, 1, none()),
            pod("z", "n", "Running", old, 1, none()),
            &[],
        );
    }

    #[test]
    fn similar_ages_do_not_differ() {
        let (a, b) = (Some("2026-01-01T00:10:00Z"), Some("2026-01-01T00:11:00Z"));
        check(
            pod("z", "n", "Running", a, 5, json!({})),
            pod("a", "n", "Running", b, 0, json!({})),
            &[],
        );
    }

    #[test]
    fn all_are_chosen_when_all_must_go() {
        let pods = vec![pod("a", "n", "Running", None, 0, json!({}))];
        assert_eq!(choose(pods, &[], 5, now()).len(), 1);
        assert!(choose(Vec::new(), &[], 5, now()).is_empty());
    }
}
