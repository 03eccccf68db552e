//! A Service as the rules see it: addresses, ports and policies, all of them legal.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

/// The namespace and name of an object. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

/// The name of a Service.
pub type ServiceName = ObjectName;

/// The name of an EndpointSlice.
pub type SliceName = ObjectName;

/// The identity of one port of a Service, as kube-proxy draws it: a port that changes its number keeps its identity, one
/// that changes its protocol does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The Service.
    pub service: ServiceName,
    /// The port's name; empty when the Service has a single nameless port.
    pub port: Arc<str>,
    /// The port's protocol.
    pub protocol: Protocol,
}

/// A transport protocol that a Service port can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which endpoints traffic of one kind may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// All of them, subject to topology.
    Cluster,
    /// Only those on this node.
    Local,
}

/// How a backend is chosen for a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// All are equally likely, whatever was chosen before.
    #[default]
    Random,
    /// By a table that is the same on all nodes and changes little when a backend comes or goes.
    Maglev,
}

/// How a connection from outside reaches a backend on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarding {
    /// With this node's address as its source, so that the answers come back this way.
    #[default]
    Snat,
    /// With the client's address; the backend's node answers the client itself (direct server return).
    Dsr,
}

/// How a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// By virtual addresses: types ClusterIP, NodePort and LoadBalancer.
    Virtual,
    /// By its endpoints' own addresses (`clusterIP: None`).
    Headless,
    /// By another DNS name.
    ExternalName(Box<str>),
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// What tells it from one of the same name before or after it.
    pub uid: Option<Box<str>>,
    /// How it is reached.
    pub kind: Kind,
    /// Its cluster addresses, at most one a family. Empty unless it is [`Kind::Virtual`].
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// The load balancer's addresses that nodes capture (`ipMode` VIP).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may talk to the load balancer's addresses, as far as a family has any entry; of both families.
    pub source_ranges: Vec<IpNetwork>,
    /// The policy of cluster addresses.
    pub internal_policy: TrafficPolicy,
    /// The policy of every other address.
    pub external_policy: TrafficPolicy,
    /// How long a client is held to a backend after its last new connection, when it is at all.
    pub affinity: Option<Duration>,
    /// The algorithm that it asks for.
    pub algorithm: Option<Algorithm>,
    /// The forwarding that it asks for.
    pub forwarding: Option<Forwarding>,
    /// The port where load balancers ask whether this node has an endpoint of it: of type LoadBalancer with
    /// `externalTrafficPolicy: Local` only.
    pub health_check_node_port: Option<NonZeroU16>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A ServiceCIDR: ranges that cluster addresses are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name, in no namespace.
    pub name: ObjectName,
    /// The ranges, at most one a family.
    pub ranges: Vec<IpNetwork>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty when it has none.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the Service's addresses.
    pub port: NonZeroU16,
    /// The port on the node's addresses.
    pub node_port: Option<NonZeroU16>,
    /// What is spoken on it (`appProtocol`), as far as its owner said.
    pub app_protocol: Option<Arc<str>>,
}

// Names.

impl ObjectName {
    /// The name `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.port {
            "" => write!(f, "{} {}", self.service, self.protocol),
            port => write!(f, "{}:{port} {}", self.service, self.protocol),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

// Families.

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of `address`.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Whether `address` belongs to this family.
    pub fn has(self, address: IpAddr) -> bool {
        Self::of(address) == self
    }
}

// Services.

impl Service {
    /// A Service that has a name and nothing else.
    pub fn new(name: ServiceName) -> Self {
        Self {
            name,
            uid: None,
            kind: Kind::Virtual,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            algorithm: None,
            forwarding: None,
            health_check_node_port: None,
            ports: Vec::new(),
        }
    }

    /// Whether a service proxy has anything to do for it.
    pub fn is_proxied(&self) -> bool {
        self.kind == Kind::Virtual && !self.cluster_ips.is_empty()
    }

    /// The identity of `port`, which is one of this Service's.
    pub fn port_name(&self, port: &ServicePort) -> ServicePortName {
        ServicePortName {
            service: self.name.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
        }
    }

    /// Whether `port` can be reached by anything but a cluster address.
    pub fn is_externally_accessible(&self, port: &ServicePort) -> bool {
        port.node_port.is_some()
            || !self.load_balancer_ips.is_empty()
            || !self.external_ips.is_empty()
    }

    /// Whether any traffic to `port` may reach endpoints on other nodes. Even with `externalTrafficPolicy: Local` some
    /// does: traffic that starts on this node.
    pub fn uses_cluster(&self, port: &ServicePort) -> bool {
        self.internal_policy == TrafficPolicy::Cluster || self.is_externally_accessible(port)
    }

    /// Whether any traffic to `port` is held to endpoints on this node.
    pub fn uses_local(&self, port: &ServicePort) -> bool {
        self.internal_policy == TrafficPolicy::Local
            || (self.external_policy == TrafficPolicy::Local && self.is_externally_accessible(port))
    }
}
