//! Which endpoints a new connection may reach, and what happens when there are none.
//!
//! The order of the rules is kube-proxy's (`CategorizeEndpoints`, KEP-1669 for terminating endpoints, KEP-2433, KEP-3015
//! and KEP-4444 for hints). Among the endpoints of a set the choice is free: that is the dataplane's business.

use std::cmp::Reverse;

use crate::backend::{Backend, Endpoint};
use crate::node::Place;
use crate::service::{Service, TrafficPolicy};

/// The endpoints of one Service port in one family, as seen from one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection<'a> {
    /// For traffic that may go anywhere, ordered by address.
    pub cluster: Vec<Backend<'a>>,
    /// For traffic that has to stay on this node, ordered by address.
    pub local: Vec<Backend<'a>>,
    /// Whether any endpoint anywhere could serve, reachable by the rules or not.
    pub any: bool,
}

/// What happens to a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'s, 'a> {
    /// It goes to one of these, never an empty list.
    Forward(&'s [Backend<'a>]),
    /// It is refused: the service has no endpoint at all.
    Reject,
    /// It is dropped: the service has endpoints, though none that this traffic may reach. Another node may have one, and
    /// a refusal would tell the client otherwise.
    Drop,
}

/// What a connection is addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// A cluster address.
    ClusterIp,
    /// An external address, a load balancer's address, or a NodePort of this node.
    External,
    /// A NodePort at the address of another node.
    RemoteNodePort,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A pod or a process of this node.
    ThisNode,
    /// Anywhere else.
    Elsewhere,
}

/// The closeness that hints ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    SameNode,
    SameZone,
    Anywhere,
}

/// Selects among `backends`, which are all those of one Service port in one family and may contain duplicates.
pub fn select<'a>(
    place: Place<'_>,
    backends: impl IntoIterator<Item = Backend<'a>>,
) -> Selection<'a> {
    let backends = merge(place, backends);
    Selection {
        cluster: cluster_set(place, &backends),
        local: local_set(place, &backends),
        any: backends.iter().any(|b| is_any(b.endpoint)),
    }
}

/// The policy that holds for a connection, or nothing if this node has to leave it alone: a NodePort of another node is
/// that node's to judge, since only it knows whether the traffic is external to it.
pub fn policy(
    service: &Service,
    destination: Destination,
    origin: Origin,
) -> Option<TrafficPolicy> {
    match (destination, origin) {
        (Destination::ClusterIp, _) => Some(service.internal_policy),
        // As if it went out and came back by way of the load balancer, which would find an endpoint somewhere.
        (Destination::External, Origin::ThisNode) => Some(TrafficPolicy::Cluster),
        (Destination::External, Origin::Elsewhere) => Some(service.external_policy),
        (Destination::RemoteNodePort, _) => None,
    }
}

impl<'a> Selection<'a> {
    /// The endpoints for traffic under `policy`.
    pub fn set(&self, policy: TrafficPolicy) -> &[Backend<'a>] {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    /// What happens to a new connection under `policy`.
    pub fn outcome(&self, policy: TrafficPolicy) -> Outcome<'_, 'a> {
        match self.set(policy) {
            [] if self.any => Outcome::Drop,
            [] => Outcome::Reject,
            set => Outcome::Forward(set),
        }
    }
}

/// One backend an address, in order of addresses. Duplicates arise while an endpoint moves between slices; of those that
/// disagree a local one wins, then the one in the better state.
fn merge<'a>(
    place: Place<'_>,
    backends: impl IntoIterator<Item = Backend<'a>>,
) -> Vec<Backend<'a>> {
    let mut merged: Vec<Backend<'a>> = backends.into_iter().collect();
    merged.sort_by_key(|b| {
        let e = b.endpoint;
        let worth = (e.is_local(place), e.ready, e.is_last_resort(), e.serving);
        (b.address, Reverse(worth))
    });
    merged.dedup_by_key(|b| b.address);
    merged
}

/// The ready endpoints that topology lets through, else everything that is terminating and still serves.
fn cluster_set<'a>(place: Place<'_>, backends: &[Backend<'a>]) -> Vec<Backend<'a>> {
    let topology = topology(place, backends);
    or_last_resort(
        filter(backends, |e| e.ready && topology.admits(place, e)),
        || filter(backends, Endpoint::is_last_resort),
    )
}

/// The ready endpoints of this node, else those that are terminating and still serve. Topology does not matter: the
/// policy is closer than any hint.
fn local_set<'a>(place: Place<'_>, backends: &[Backend<'a>]) -> Vec<Backend<'a>> {
    or_last_resort(filter(backends, |e| e.is_local(place) && e.ready), || {
        filter(backends, |e| e.is_local(place) && e.is_last_resort())
    })
}

/// The topology that the hints of the ready endpoints agree on. It is decided for all of them at once: one endpoint
/// without a hint means that the control plane is between two states, and hints are then not to be followed at all.
fn topology(place: Place<'_>, backends: &[Backend<'_>]) -> Topology {
    let ready = || backends.iter().map(|b| b.endpoint).filter(|e| e.ready);
    if ready().all(|e| !e.hints().nodes.is_empty())
        && ready().any(|e| e.hints().name_node_of(place))
    {
        Topology::SameNode
    } else if ready().all(|e| !e.hints().zones.is_empty())
        && ready().any(|e| e.hints().name_zone_of(place))
    {
        Topology::SameZone
    } else {
        Topology::Anywhere
    }
}

impl Topology {
    fn admits(self, place: Place<'_>, endpoint: &Endpoint) -> bool {
        match self {
            Self::SameNode => endpoint.hints().name_node_of(place),
            Self::SameZone => endpoint.hints().name_zone_of(place),
            Self::Anywhere => true,
        }
    }
}

fn is_any(endpoint: &Endpoint) -> bool {
    endpoint.ready || endpoint.is_last_resort()
}

fn filter<'a>(backends: &[Backend<'a>], keep: impl Fn(&Endpoint) -> bool) -> Vec<Backend<'a>> {
    let kept = backends.iter().filter(|b| keep(b.endpoint));
    kept.copied().collect()
}

fn or_last_resort<'a>(
    set: Vec<Backend<'a>>,
    last_resort: impl FnOnce() -> Vec<Backend<'a>>,
) -> Vec<Backend<'a>> {
    if set.is_empty() { last_resort() } else { set }
}
