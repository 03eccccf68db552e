//! The node a proxy serves, and where that is.

use std::net::IpAddr;

/// What the rules need of a Node object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The node's name.
    pub name: Box<str>,
    /// Its zone, from the label `topology.kubernetes.io/zone`.
    pub zone: Option<Box<str>>,
    /// Its addresses of type InternalIP, in the order of preference.
    pub internal_ips: Vec<IpAddr>,
    /// Whether it is about to go: it is being deleted, or the cluster autoscaler said so. Load balancers then stop
    /// choosing it, while it still serves.
    pub leaving: bool,
}

/// The place for which endpoints are selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The name of this node.
    pub node: &'a str,
    /// The zone of this node, when it is known.
    pub zone: Option<&'a str>,
}
