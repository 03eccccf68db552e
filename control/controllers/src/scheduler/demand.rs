//! What a pod asks of a node, taken out of its spec once. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, NodeSelector, Pod, PreferredSchedulingTerm, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::object::{controller_of, pod, quantity};

/// Amounts of resources by name: CPU in thousandths, everything else in whole units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Amounts(BTreeMap<String, i64>);

impl Amounts {
    /// Amounts as the API writes them.
    pub(super) fn of(quantities: Option<&BTreeMap<String, Quantity>>) -> Self {
        let amount = |name: &str, quantity: &Quantity| {
            if name == "cpu" {
                quantity::milli(quantity)
            } else {
                quantity::units(quantity)
            }
        };
        Self(
            quantities
                .into_iter()
                .flatten()
                .map(|(name, quantity)| (name.clone(), amount(name, quantity)))
                .collect(),
        )
    }

    pub(super) fn get(&self, resource: &str) -> i64 {
        self.0.get(resource).copied().unwrap_or(0)
    }

    /// What is not zero.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0
            .iter()
            .filter(|(_, amount)| **amount != 0)
            .map(|(name, amount)| (name.as_str(), *amount))
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let rest = self.0.entry(name.clone()).or_default();
            *rest = rest.saturating_sub(*amount);
        }
    }

    fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let most = self.0.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
    }
}

/// A port of the node that a container wants for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) port: i32,
    pub(super) protocol: String,
    /// Empty: every address.
    pub(super) address: String,
}

impl HostPort {
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        let everywhere =
            self.address.is_empty() || other.address.is_empty() || self.address == other.address;
        self.port == other.port && self.protocol == other.protocol && everywhere
    }
}

/// What a pod asks of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Demand {
    pub(super) requests: Amounts,
    /// CPU (thousandths) and memory for scoring: a container that asks for nothing still uses something.
    pub(super) usual: (i64, i64),
    pub(super) host_ports: Vec<HostPort>,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) node_selector: BTreeMap<String, String>,
    pub(super) required: Option<NodeSelector>,
    pub(super) preferred: Vec<PreferredSchedulingTerm>,
    /// The uid of the controller whose pods are to be spread.
    pub(super) owner: Option<String>,
    pub(super) images: Vec<String>,
}

const USUAL_CPU: i64 = 100;
const USUAL_MEMORY: i64 = 200 * 1024 * 1024;

impl Demand {
    pub(super) fn of(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let affinity = spec
            .affinity
            .and_then(|affinity| affinity.node_affinity)
            .unwrap_or_default();
        Self {
            requests: requests(pod),
            usual: usual(pod),
            host_ports: host_ports(pod),
            tolerations: spec.tolerations.unwrap_or_default(),
            node_selector: spec.node_selector.unwrap_or_default(),
            required: affinity.required_during_scheduling_ignored_during_execution,
            preferred: affinity
                .preferred_during_scheduling_ignored_during_execution
                .unwrap_or_default(),
            owner: controller_of(pod).map(|owner| owner.uid.clone()),
            images: spec
                .containers
                .iter()
                .filter_map(|container| container.image.clone())
                .collect(),
        }
    }
}

/// The most the pod uses at any time: all lasting containers together, or one init container beside the sidecars started
/// before it; and the runtime's overhead.
fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else {
        return Amounts::default();
    };
    let mut lasting = Amounts::default();
    spec.containers
        .iter()
        .for_each(|container| lasting.add(&asked(container)));
    let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
    for init in spec.init_containers.iter().flatten() {
        let mut now = asked(init);
        if pod::is_sidecar(init) {
            sidecars.add(&now);
            now = sidecars.clone();
        } else {
            now.add(&sidecars);
        }
        peak.raise_to(&now);
    }
    lasting.add(&sidecars);
    lasting.raise_to(&peak);
    lasting.add(&Amounts::of(spec.overhead.as_ref()));
    lasting
}

fn asked(container: &Container) -> Amounts {
    Amounts::of(
        container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref()),
    )
}

fn usual(pod: &Pod) -> (i64, i64) {
    let of = |container: &Container| {
        let requests = container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        let amount = |name: &str| requests.and_then(|requests| requests.get(name));
        (
            amount("cpu").map_or(USUAL_CPU, quantity::milli),
            amount("memory").map_or(USUAL_MEMORY, quantity::units),
        )
    };
    pod::long_running(pod)
        .map(of)
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let ports = pod::long_running(pod).flat_map(|container| container.ports.iter().flatten());
    let wanted = ports.filter_map(|port| {
        Some(HostPort {
            port: port.host_port.filter(|port| *port > 0)?,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            address: port
                .host_ip
                .clone()
                .filter(|address| address != "0.0.0.0" && address != "::")
                .unwrap_or_default(),
        })
    });
    wanted.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::object::parse;

    fn container(cpu: &str, sidecar: bool) -> Value {
        let restart = sidecar.then_some("Always");
        json!({"name": "c", "restartPolicy": restart, "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}})
    }

    #[test]
    fn requests_are_the_peak_of_the_pods_life() {
        for (containers, init, expected) in [
            (
                json!([container("100m", false), container("200m", false)]),
                json!([]),
                300,
            ),
            (
                json!([container("100m", false)]),
                json!([container("1", false), container("2", false)]),
                2000,
            ),
            (
                json!([container("1", false)]),
                json!([container("500m", true), container("700m", false)]),
                1500,
            ),
            (
                json!([container("100m", false)]),
                json!([container("500m", true), container("700m", false)]),
                1200,
            ),
            (json!([{"name": "c"}]), json!([]), 0),
        ] {
            let pod: Pod =
                parse(json!({"spec": {"containers": containers, "initContainers": init}}));
            assert_eq!(requests(&pod).get("cpu"), expected, "{containers} {init}");
        }
        let overhead: Pod = parse(
            json!({"spec": {"containers": [container("1", false)], "overhead": {"cpu": "10m"}}}),
        );
        assert_eq!(requests(&overhead).get("cpu"), 1010);
    }

    #[test]
    fn a_modest_pod_counts_as_usual() {
        let pod: Pod =
            parse(json!({"spec": {"containers": [{"name": "a"}, container("1", false)]}}));
        assert_eq!(usual(&pod), (1100, USUAL_MEMORY + 1024 * 1024));
    }

    #[test]
    fn host_ports_conflict_on_shared_addresses() {
        let port = |port: i32, protocol: &str, address: &str| HostPort {
            port,
            protocol: protocol.to_owned(),
            address: address.to_owned(),
        };
        for (a, b, expected) in [
            (port(80, "TCP", ""), port(80, "TCP", ""), true),
            (port(80, "TCP", ""), port(80, "TCP", "10.0.0.1"), true),
            (
                port(80, "TCP", "10.0.0.2"),
                port(80, "TCP", "10.0.0.1"),
                false,
            ),
            (port(80, "UDP", ""), port(80, "TCP", ""), false),
            (port(81, "TCP", ""), port(80, "TCP", ""), false),
        ] {
            assert_eq!(a.conflicts(&b), expected, "{a:?} {b:?}");
        }
    }
}
