//! The endpoints of one Service port, and the choice among them.
//!
//! Endpoints are kept apart from routes: when a pod comes or goes its [`Upstream`] gets a new list and nothing else
//! changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use model::{Family, Service, ServicePort, ServicePortName, World, select};

/// The backends of one Service port.
#[derive(Debug)]
pub struct Upstream {
    name: ServicePortName,
    endpoints: ArcSwap<Vec<SocketAddr>>,
    next: AtomicUsize,
}

impl Upstream {
    /// The Service port `name`, without endpoints yet.
    pub fn new(name: ServicePortName) -> Self {
        Self {
            name,
            endpoints: ArcSwap::default(),
            next: AtomicUsize::new(0),
        }
    }

    /// Which Service port this is.
    pub fn name(&self) -> &ServicePortName {
        &self.name
    }

    /// Replaces the endpoints.
    pub fn set(&self, endpoints: Vec<SocketAddr>) {
        if **self.endpoints.load() != endpoints {
            self.endpoints.store(Arc::new(endpoints));
        }
    }

    /// The next endpoint in turn that is not among `tried`.
    pub fn pick(&self, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let endpoints = self.endpoints.load();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let start = turn.checked_rem(endpoints.len())?;
        let (before, after) = endpoints.split_at(start);
        let mut in_turn = after.iter().chain(before);
        in_turn.find(|endpoint| !tried.contains(endpoint)).copied()
    }
}

/// The addresses that requests for the Service port `name` may go to: the ready endpoints, else those that are on their
/// way out but still serve. Pods of a dual-stack Service are reached by its first family as long as that has any.
pub fn endpoints(world: &World, name: &ServicePortName) -> Vec<SocketAddr> {
    let Some(service) = world.service(&name.service) else {
        return Vec::new();
    };
    let is_port = |port: &&ServicePort| port.name == name.port && port.protocol == name.protocol;
    let Some(port) = service.ports.iter().find(is_port) else {
        return Vec::new();
    };
    let in_family = |family| {
        let backends = world.backends(&name.service, port, family);
        let selection = select(world.place(), backends);
        let addresses = selection.cluster.iter().map(|backend| backend.address);
        addresses.collect::<Vec<_>>()
    };
    let found = families(service).map(in_family);
    found
        .into_iter()
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// The families in the order that `service` prefers.
fn families(service: &Service) -> [Family; 2] {
    let mut families = Family::ALL;
    if service.cluster_ips.first().is_some_and(|ip| ip.is_ipv6()) {
        families.reverse();
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{ObjectName, Protocol};

    fn upstream(ports: &[u16]) -> Upstream {
        let name = ServicePortName {
            service: ObjectName::new("ns", "s"),
            port: "".into(),
            protocol: Protocol::Tcp,
        };
        let upstream = Upstream::new(name);
        upstream.set(ports.iter().map(|port| address(*port)).collect());
        upstream
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn endpoints_take_turns_and_those_tried_are_passed_over() {
        let upstream = upstream(&[1, 2, 3]);
        let turns: Vec<_> = (0..4).filter_map(|_| upstream.pick(&[])).collect();
        assert_eq!(turns, [1, 2, 3, 1].map(address));
        assert_eq!(upstream.pick(&[address(2)]), Some(address(3)));
        assert_eq!(upstream.pick(&[1, 2, 3].map(address)), None);
        upstream.set(Vec::new());
        assert_eq!(upstream.pick(&[]), None);
    }
}
