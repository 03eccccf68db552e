//! When each node last gave a sign of life, by our own clock: the nodes' clocks may be wrong, but a sign that differs
//! from the one before is a sign made since. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;

use crate::object::condition;

/// The last sign of life of every node.
#[derive(Debug, Default)]
pub(super) struct Heartbeats(HashMap<String, Heartbeat>);

#[derive(Debug)]
struct Heartbeat {
    sign: String,
    seen: Instant,
}

impl Heartbeats {
    /// How long the node has been silent, given its present signs.
    pub(super) fn silence(
        &mut self,
        name: &str,
        node: &Node,
        lease: Option<&Lease>,
        now: Instant,
    ) -> Duration {
        let sign = sign(node, lease);
        let known = self.0.entry(name.to_owned()).or_insert_with(|| Heartbeat {
            sign: sign.clone(),
            seen: now,
        });
        if known.sign != sign {
            *known = Heartbeat { sign, seen: now };
        }
        now.saturating_duration_since(known.seen)
    }

    /// The node is gone.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}

/// The times the node last wrote: the renewal of its lease, and the heartbeat in its status.
fn sign(node: &Node, lease: Option<&Lease>) -> String {
    let renewed = lease
        .and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref())
        .map(|time| time.0);
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let ready = condition::find(conditions, "Ready").filter(|ready| ready.status != "Unknown");
    let posted = ready
        .and_then(|ready| ready.last_heartbeat_time.as_ref())
        .map(|time| time.0);
    format!("{renewed:?} {posted:?} {}", ready.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::parse;

    #[test]
    fn silence_is_counted_from_the_last_new_sign() {
        let lease = |second: u32| -> Lease {
            parse(json!({"spec": {"renewTime": format!("2001-01-01T00:00:{second:02}.000000Z")}}))
        };
        let (mut heartbeats, start) = (Heartbeats::default(), Instant::now());
        let node = Node::default();
        let mut at = |seconds: u64, lease: &Lease| {
            heartbeats
                .silence(
                    "n",
                    &node,
                    Some(lease),
                    start + Duration::from_secs(seconds),
                )
                .as_secs()
        };
        assert_eq!(at(0, &lease(1)), 0);
        assert_eq!(at(9, &lease(1)), 9);
        assert_eq!(at(10, &lease(2)), 0);
        assert_eq!(at(30, &lease(2)), 20);
    }

    #[test]
    fn our_own_verdict_is_no_sign_of_life() {
        let node = |status: &str| -> Node {
            parse(json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}))
        };
        let (mut heartbeats, start) = (Heartbeats::default(), Instant::now());
        heartbeats.silence("n", &Node::default(), None, start);
        let later = start + Duration::from_secs(60);
        assert_eq!(
            heartbeats
                .silence("n", &node("Unknown"), None, later)
                .as_secs(),
            60
        );
        assert_eq!(
            heartbeats
                .silence("n", &node("True"), None, later)
                .as_secs(),
            0
        );
    }
}
