//! What a Service needs in this node's maps. Pure: the world in, exact entries out.
//!
//! A Service port has one set of entries in each family, because its IPv4 and IPv6 backends are different ones. Both of
//! its sets of backends are always given, whether its policies use them or not: then a change of policy is one change of
//! flags, and nobody ever meets a set that is not there yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use dataplane_ebpf::abi::{self, FrontendKey, Kind};
use dataplane_ebpf::addr::{
    Addr, Family as WireFamily, Port as WirePort, Protocol as WireProtocol,
};
use model::{
    Algorithm, Backend, Family, Forwarding, Outcome, Protocol, Selection, Service, ServiceName,
    ServicePort, ServicePortName, TrafficPolicy, World, select,
};

use crate::addresses::NodeAddresses;

/// What decides about the entries of a Service.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// All objects.
    pub world: &'a World,
    /// This node's addresses.
    pub addresses: &'a NodeAddresses,
    /// The algorithm for Services that ask for none.
    pub algorithm: Algorithm,
}

/// The identity of a Service port in one family. Ordered by Service first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// The Service port.
    pub name: ServicePortName,
    /// The family.
    pub family: Family,
}

/// What clients address: a key of one of the frontend maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// An address and port, or a whole address.
    Frontend(FrontendKey),
    /// A port on all of the node's addresses of one family that take NodePort traffic.
    NodePort(WirePort, WireProtocol, WireFamily),
}

/// A prefix of addresses, and how many bits count in their mapped form.
pub type Range = (Addr, u32);

/// Where a backend listens.
pub type Listener = (Addr, WirePort);

/// Everything one Service port needs in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Which.
    pub key: PortKey,
    /// What clients address to reach it.
    pub entries: BTreeMap<Entry, Kind>,
    /// Flags of [`abi::Service`].
    pub flags: u32,
    /// The clients that may use the load balancer's addresses, if the flags say that only some may.
    pub source_ranges: BTreeSet<Range>,
    /// Its session affinity in seconds, zero for none.
    pub affinity_seconds: u32,
    /// All its backends, selected or not, with the flags of [`abi::Backend`]. A connection may still use one that a new
    /// connection would not get.
    pub backends: BTreeMap<Listener, u8>,
    /// What new connections under no local policy get.
    pub cluster: Target,
    /// What new connections under a local policy get.
    pub local: Target,
}

/// What a new connection gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One of these backends, in order; never empty.
    Backends(Vec<Listener>),
    /// A refusal.
    Refuse,
    /// Silence.
    Drop,
}

/// The entries of the Service called `name`, empty if it has none: because it is gone, or is not for a service proxy.
pub fn desired(view: View<'_>, name: &ServiceName) -> Vec<Port> {
    let Some(service) = view
        .world
        .service(name)
        .filter(|service| service.is_proxied())
    else {
        return Vec::new();
    };
    let mut ports = Vec::new();
    for port in &service.ports {
        for family in Family::ALL {
            let entries = entries(service, port, family);
            if !entries.is_empty() {
                ports.push(desired_port(view, service, port, family, entries));
            }
        }
    }
    ports
}

/// The number of `family` in the maps.
fn wire_family(family: Family) -> WireFamily {
    match family {
        Family::V4 => WireFamily::V4,
        Family::V6 => WireFamily::V6,
    }
}

/// The number of `protocol` on the wire.
fn wire_protocol(protocol: Protocol) -> WireProtocol {
    match protocol {
        Protocol::Tcp => WireProtocol::TCP,
        Protocol::Udp => WireProtocol::UDP,
        Protocol::Sctp => WireProtocol::SCTP,
    }
}

impl PortKey {
    /// The least key that a port of the Service called `name` can have.
    pub(crate) fn first_of(name: &ServiceName) -> Self {
        let name = ServicePortName {
            service: name.clone(),
            port: "".into(),
            protocol: Protocol::Tcp,
        };
        Self {
            name,
            family: Family::V4,
        }
    }
}

impl Port {
    /// What new connections under `policy` get.
    pub fn target(&self, policy: TrafficPolicy) -> &Target {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    /// The protocol on the wire.
    pub fn protocol(&self) -> WireProtocol {
        wire_protocol(self.key.name.protocol)
    }
}

fn desired_port(
    view: View<'_>,
    service: &Service,
    port: &ServicePort,
    family: Family,
    entries: BTreeMap<Entry, Kind>,
) -> Port {
    let backends = view.world.backends(&service.name, port, family);
    let backends: Vec<Backend<'_>> = backends.collect();
    let selection = select(view.world.place(), backends.iter().copied());
    let source_ranges = source_ranges(service, view.addresses, family);
    Port {
        key: PortKey {
            name: service.port_name(port),
            family,
        },
        entries,
        flags: flags(service, port, view.algorithm, !source_ranges.is_empty()),
        source_ranges,
        affinity_seconds: affinity_seconds(service),
        backends: all_backends(view, &backends, &selection),
        cluster: target(&selection, TrafficPolicy::Cluster),
        local: target(&selection, TrafficPolicy::Local),
    }
}

/// A Service without a cluster address in `family` does not exist there.
fn entries(service: &Service, port: &ServicePort, family: Family) -> BTreeMap<Entry, Kind> {
    let mut entries = BTreeMap::new();
    let protocol = wire_protocol(port.protocol);
    let number = WirePort::new(port.port.get());
    let mut add = |addresses: &[IpAddr], kind| {
        for address in addresses.iter().filter(|address| family.has(**address)) {
            let key = FrontendKey::new((*address).into(), number, protocol);
            // An address given twice is what it is first: a cluster address before any other.
            entries.entry(Entry::Frontend(key)).or_insert(kind);
        }
    };
    let cluster_ips: Vec<IpAddr> = service
        .cluster_ips
        .iter()
        .copied()
        .filter(|ip| family.has(*ip))
        .collect();
    if cluster_ips.is_empty() {
        return entries;
    }
    add(&cluster_ips, Kind::CLUSTER_IP);
    add(&service.external_ips, Kind::EXTERNAL_IP);
    add(&service.load_balancer_ips, Kind::LOAD_BALANCER);
    for address in cluster_ips {
        let key = FrontendKey::whole_address(address.into());
        entries.insert(Entry::Frontend(key), Kind::ADDRESS);
    }
    if let Some(node_port) = port.node_port {
        let number = WirePort::new(node_port.get());
        let entry = Entry::NodePort(number, protocol, wire_family(family));
        entries.insert(entry, Kind::NODE_PORT);
    }
    entries
}

/// Who may use the load balancer's addresses of `family`; nobody in particular if the Service has no range there. A node
/// that may, talks to an address that is bound on it from that very address, so these are among the clients then.
fn source_ranges(service: &Service, addresses: &NodeAddresses, family: Family) -> BTreeSet<Range> {
    let ranges = service.source_ranges.iter();
    let ranges: Vec<_> = ranges.filter(|range| family.has(range.ip())).collect();
    let own = addresses.primary.iter().flatten();
    let mut own = own.filter(|ip| family.has(**ip));
    let bound: &[IpAddr] = if own.any(|ip| ranges.iter().any(|range| range.contains(*ip))) {
        &service.load_balancer_ips
    } else {
        &[]
    };
    let bound = bound.iter().filter(|ip| family.has(**ip));
    let named = ranges
        .iter()
        .map(|range| (range.ip().into(), mapped_bits(family, range.prefix())));
    let bound = bound.map(|ip| ((*ip).into(), mapped_bits(family, u8::MAX)));
    named.chain(bound).collect()
}

/// The length of a prefix in the mapped form of addresses, at most that of an address.
fn mapped_bits(family: Family, prefix: u8) -> u32 {
    let ahead = match family {
        Family::V4 => 96,
        Family::V6 => 0,
    };
    128.min(ahead + u32::from(prefix))
}

fn flags(service: &Service, port: &ServicePort, algorithm: Algorithm, is_restricted: bool) -> u32 {
    // A backend answers the client itself, so nodes have to agree on it without a connection's entry.
    let is_direct = service.forwarding == Some(Forwarding::Dsr) && port.protocol != Protocol::Sctp;
    let bits = [
        (
            service.internal_policy == TrafficPolicy::Local,
            abi::Service::INTERNAL_LOCAL,
        ),
        (
            service.external_policy == TrafficPolicy::Local,
            abi::Service::EXTERNAL_LOCAL,
        ),
        (is_restricted, abi::Service::SOURCE_RANGES),
        (
            is_direct || service.algorithm.unwrap_or(algorithm) == Algorithm::Maglev,
            abi::Service::MAGLEV,
        ),
        (is_direct, abi::Service::DSR),
    ];
    let set = bits.into_iter().filter(|(is_set, _)| *is_set);
    set.fold(0, |flags, (_, bit)| flags | bit)
}

fn affinity_seconds(service: &Service) -> u32 {
    let seconds = service.affinity.map_or(0, |timeout| timeout.as_secs());
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// Of duplicates the flags are united: one that serves or is here by any account does and is.
fn all_backends(
    view: View<'_>,
    backends: &[Backend<'_>],
    selection: &Selection<'_>,
) -> BTreeMap<Listener, u8> {
    let mut all: BTreeMap<Listener, u8> = BTreeMap::new();
    for backend in backends {
        let endpoint = backend.endpoint;
        let mut flags = 0;
        // A host-network endpoint may come without a node, as that of the API server does.
        if endpoint.is_local(view.world.place()) || view.addresses.own.contains(&endpoint.ip) {
            flags |= abi::Backend::LOCAL;
        }
        if endpoint.serving || endpoint.ready {
            flags |= abi::Backend::SERVING;
        }
        *all.entry(listener(backend.address)).or_default() |= flags;
    }
    for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        for backend in selection.set(policy) {
            *all.entry(listener(backend.address)).or_default() |= run_flag(policy);
        }
    }
    all
}

/// The flag of the backends in the run for traffic under `policy`.
pub(crate) fn run_flag(policy: TrafficPolicy) -> u8 {
    match policy {
        TrafficPolicy::Cluster => abi::Backend::IN_CLUSTER_RUN,
        TrafficPolicy::Local => abi::Backend::IN_LOCAL_RUN,
    }
}

fn target(selection: &Selection<'_>, policy: TrafficPolicy) -> Target {
    match selection.outcome(policy) {
        Outcome::Forward(set) => {
            Target::Backends(set.iter().map(|b| listener(b.address)).collect())
        }
        Outcome::Reject => Target::Refuse,
        Outcome::Drop => Target::Drop,
    }
}

fn listener(address: SocketAddr) -> Listener {
    (address.ip().into(), WirePort::new(address.port()))
}
