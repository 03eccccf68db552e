//! The maps: their names, sizes, keys and values, and the rules by which the daemon writes what the kernel reads.
//!
//! A reader in the kernel takes three steps: `FRONTENDS` (or `NODEPORTS`) names a service, the service's [`Run`] names a
//! stretch of `SLOTS`, a slot names a backend. Each step reads only what the step before it published, so the daemon
//! keeps to this order:
//!
//! 1. write the [`Backend`] of every new id, `generation` last;
//! 2. write the backend ids of a new run into `SLOTS` where no published run lies;
//! 3. publish the run by **one aligned 8-byte store** into the [`Service`] (release ordering);
//! 4. insert the frontends.
//!
//! Taking away goes the other way: delete the frontends, publish an empty run, and give slots, backend ids and service
//! ids back to use only after [`QUARANTINE_SECONDS`]. A backend that is gone gets a `generation` it never had before
//! (ids are reused, generations are not: count up, skip zero), which is what tells connections that still name it.

use crate::addr::{Addr, Family, Port, Protocol};
use crate::flow::{self, Flow};

/// Changes whenever a map's meaning or layout does; part of the name of the directory the maps are pinned in.
pub const LAYOUT_VERSION: u32 = 3;

/// How long a slot, backend id or service id stays unused after nothing names it any more. Programs that read the old
/// name ended microseconds ago; a second is what the design promises.
pub const QUARANTINE_SECONDS: u64 = 1;

/// Names of the maps, and how many entries each has unless the loader says otherwise.
pub mod maps {
    /// Hash [`FrontendKey`](super::FrontendKey) → [`Frontend`](super::Frontend); the daemon writes.
    pub const FRONTENDS: &str = "FRONTENDS";
    /// Hash [`NodePortKey`](super::NodePortKey) → [`Frontend`](super::Frontend); the daemon writes.
    pub const NODEPORTS: &str = "NODEPORTS";
    /// Hash [`Addr`](crate::addr::Addr) → [`NodeAddress`](super::NodeAddress); the daemon writes.
    pub const NODE_ADDRESSES: &str = "NODE_ADDRESSES";
    /// Mappable array of [`Service`](super::Service) by service id; the daemon writes.
    pub const SERVICES: &str = "SERVICES";
    /// Mappable array of `u32` backend ids by slot; the daemon writes.
    pub const SLOTS: &str = "SLOTS";
    /// Mappable array of [`Backend`](super::Backend) by backend id; the daemon writes.
    pub const BACKENDS: &str = "BACKENDS";
    /// Array of one [`Node`](super::Node); the daemon writes.
    pub const NODE: &str = "NODE";
    /// LRU hash [`Flow`](crate::flow::Flow) → [`Connection`](super::Connection); the kernel writes, the daemon sweeps.
    pub const CONNTRACK: &str = "CONNTRACK";
    /// LRU hash [`SocketKey`](super::SocketKey) → [`Peer`](super::Peer); the kernel writes, the daemon reads.
    pub const SOCKETS: &str = "SOCKETS";
    /// Socket storage of [`Peer`](super::Peer), dies with the socket; the kernel writes.
    pub const CONNECTED: &str = "CONNECTED";
    /// Per-CPU array of [`Stats`](super::Stats) by service id; the kernel writes.
    pub const STATS: &str = "STATS";
    /// Per-CPU array of `u64` counts by [`Drop`](crate::drop::Drop); the kernel writes.
    pub const DROPS: &str = "DROPS";
    /// Per-CPU array of [`DropRecord`](super::DropRecord), written in a circle; the kernel writes.
    pub const RECENT_DROPS: &str = "RECENT_DROPS";
    /// Longest-prefix trie [`SourceRange`](super::SourceRange) → `u32`, whose value means nothing; the daemon writes.
    pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
    /// LRU hash [`AffinityKey`](super::AffinityKey) → [`Affinity`](super::Affinity); the kernel writes.
    pub const AFFINITY: &str = "AFFINITY";
    /// LRU hash [`FragmentKey`](super::FragmentKey) → [`FragmentPorts`](super::FragmentPorts); the kernel writes.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Mappable array of `u32` by backend id: not zero once a connected UDP socket got that backend. The kernel sets it,
    /// the daemon clears it before the id is given out.
    pub const UDP_CONNECTED: &str = "UDP_CONNECTED";
    /// Hash [`BackendKey`](super::BackendKey) → `u32` backend id: the backends on this node whose services have
    /// [`Service::DSR`](super::Service::DSR). The daemon writes: after the backend's line and before the frontends, and
    /// takes away before the backend's id is quarantined.
    pub const LOCAL_BACKENDS: &str = "LOCAL_BACKENDS";
    /// Hash device index → [`Mac`](super::Mac): the devices on which the program for drivers runs, with their addresses.
    /// The daemon writes: after it has attached the program to a device, and before it detaches it.
    pub const XDP_DEVICES: &str = "XDP_DEVICES";
    /// Mappable array of eight bytes by [`FilterPlace`](super::FilterPlace), one for each slot: not zero if packets from or
    /// to an address with this slot may be ours. The daemon sets those of services and of the node, the kernel those of
    /// the backends it chose; nobody clears them, since connections outlive what they were made by.
    pub const ADDRESS_FILTER: &str = "ADDRESS_FILTER";
    /// Hash service id → [`Name`](super::Name); the daemon writes, tools read. The kernel does not.
    pub const NAMES: &str = "NAMES";

    /// Entries of `FRONTENDS`.
    pub const FRONTENDS_SIZE: u32 = 1 << 16;
    /// Entries of `NODEPORTS`: the default range of 2768 ports in two protocols and two families fits.
    pub const NODEPORTS_SIZE: u32 = 1 << 14;
    /// Entries of `NODE_ADDRESSES`.
    pub const NODE_ADDRESSES_SIZE: u32 = 1 << 8;
    /// Entries of `SERVICES`, `STATS` and `NAMES`.
    pub const SERVICES_SIZE: u32 = 1 << 16;
    /// Entries of `SLOTS`.
    pub const SLOTS_SIZE: u32 = 1 << 19;
    /// Entries of `BACKENDS` and `UDP_CONNECTED`.
    pub const BACKENDS_SIZE: u32 = 1 << 16;
    /// Entries of `CONNTRACK`: two for each connection.
    pub const CONNTRACK_SIZE: u32 = 1 << 17;
    /// Entries of `SOCKETS`: two for each UDP socket and service address.
    pub const SOCKETS_SIZE: u32 = 1 << 15;
    /// Entries of `RECENT_DROPS`, on each CPU.
    pub const RECENT_DROPS_SIZE: u32 = 64;
    /// Entries of `LOCAL_BACKENDS`.
    pub const LOCAL_BACKENDS_SIZE: u32 = 1 << 12;
    /// Entries of `XDP_DEVICES`.
    pub const XDP_DEVICES_SIZE: u32 = 1 << 6;
    /// Entries of `SOURCE_RANGES`.
    pub const SOURCE_RANGES_SIZE: u32 = 1 << 14;
    /// Entries of `AFFINITY`: one for each client and service with affinity.
    pub const AFFINITY_SIZE: u32 = 1 << 15;
    /// Entries of `ADDRESS_FILTER`, eight slots each: with 50,000 addresses, one stranger in twenty shares a slot.
    pub const ADDRESS_FILTER_SIZE: u32 = 1 << 17;
    /// Entries of `FRAGMENTS`: one for each fragmented packet under way.
    pub const FRAGMENTS_SIZE: u32 = 1 << 13;
}

/// Key of `FRONTENDS`.
///
/// With [`Port::NONE`] and [`Protocol::NONE`] it names a whole address that belongs to services, such as a cluster IP;
/// its entry has [`Kind::ADDRESS`], and what no other entry matches is refused there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The address clients use.
    pub address: Addr,
    /// The port clients use.
    pub port: Port,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    padding: u8,
}

impl FrontendKey {
    /// The key of one service port.
    #[inline(always)]
    pub const fn new(address: Addr, port: Port, protocol: Protocol) -> Self {
        Self {
            address,
            port,
            protocol,
            padding: 0,
        }
    }

    /// The key of a whole address.
    #[inline(always)]
    pub const fn whole_address(address: Addr) -> Self {
        Self::new(address, Port::NONE, Protocol::NONE)
    }
}

/// Key of `NODEPORTS`.
///
/// A service has backends of its own in each family, or is in one family only, so its node port is one of a family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePortKey {
    /// The node port.
    pub port: Port,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The family of the node's address that clients use.
    pub family: Family,
}

impl NodePortKey {
    /// The key of a node port at addresses of `family`.
    #[inline(always)]
    pub const fn new(port: Port, protocol: Protocol, family: Family) -> Self {
        Self {
            port,
            protocol,
            family,
        }
    }
}

/// Value of `FRONTENDS` and `NODEPORTS`: which service, and how it was addressed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Index into `SERVICES`.
    pub service: u32,
    /// How the service was addressed.
    pub kind: Kind,
    /// No bit has a meaning yet: zero.
    pub flags: u8,
    padding: u16,
}

impl Frontend {
    /// A frontend of `service`.
    pub const fn new(service: u32, kind: Kind) -> Self {
        Self {
            service,
            kind,
            flags: 0,
            padding: 0,
        }
    }
}

/// How a service was addressed, which decides the traffic policy that holds.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    /// A whole address, see [`FrontendKey::whole_address`]; its service id means nothing.
    pub const ADDRESS: Self = Self(0);
    /// A cluster IP: the internal traffic policy holds.
    pub const CLUSTER_IP: Self = Self(1);
    /// A node port: like the two below, the external traffic policy holds for clients outside.
    pub const NODE_PORT: Self = Self(2);
    /// An external IP.
    pub const EXTERNAL_IP: Self = Self(3);
    /// A load balancer's address.
    pub const LOAD_BALANCER: Self = Self(4);
}

/// Value of `NODE_ADDRESSES`: an address at which this node's node ports answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Bits of this type.
    pub flags: u32,
}

impl NodeAddress {
    /// A loopback address: node ports answer there for sockets in the node's own network namespace only, because
    /// every pod has a loopback of its own.
    pub const LOOPBACK: u32 = 1;
}

/// Where a client is, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process of this node or of one of its pods.
    Node,
    /// Anywhere else.
    Outside,
}

/// A service's backends at one moment: a stretch of `SLOTS`. Always read and written as one word.
///
/// An empty run says what becomes of a client: [`Run::REFUSE`] if the service has no usable backend anywhere,
/// [`Run::DROP`] if it has, but the traffic policy allows none here. That way one store changes both the backends and
/// the verdict.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Run(u64);

impl Run {
    /// No backend anywhere: clients are refused. What a zeroed service holds.
    pub const REFUSE: Self = Self(0);
    /// No backend that the policy allows: clients get no answer.
    pub const DROP: Self = Self(1);

    /// The `count` slots from `base` on; `count` is not zero.
    #[inline(always)]
    pub const fn new(base: u32, count: u32) -> Self {
        Self((count as u64) << 32 | base as u64)
    }

    /// The run from its word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Its word, to be stored at once.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The first slot.
    #[inline(always)]
    pub const fn base(self) -> u32 {
        self.0 as u32
    }

    /// How many slots there are.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The slot that `hash` chooses; all are equally likely. The run is not empty.
    #[inline(always)]
    pub const fn slot(self, hash: u32) -> u32 {
        self.base().wrapping_add(flow::index(hash, self.count()))
    }
}

/// Value of `SERVICES`: one service port, one cache line. All its frontends share it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Service {
    /// The backends for clients without a local policy.
    pub cluster: Run,
    /// The backends on this node, for clients under a local policy.
    pub local: Run,
    /// Changes whenever the id is given to another service port; never zero in use.
    pub generation: u32,
    /// Bits of this type.
    pub flags: u32,
    /// Seconds after a client's last new connection during which it keeps its backend; zero for no affinity.
    pub affinity_seconds: u32,
    /// Changes whenever affinity is switched on, and when the id is given to another service port: what an earlier
    /// affinity remembered is void then. Not [`Self::generation`], by which flows tell that the service is another one.
    pub affinity_generation: u32,
    /// Zero.
    pub reserved: [u32; 8],
}

impl Service {
    /// `internalTrafficPolicy: Local`.
    pub const INTERNAL_LOCAL: u32 = 1;
    /// `externalTrafficPolicy: Local`.
    pub const EXTERNAL_LOCAL: u32 = 2;
    /// `SOURCE_RANGES` says which clients may use the service's load balancer addresses; all others are dropped.
    pub const SOURCE_RANGES: u32 = 4;
    /// The runs are Maglev tables: a packet's slot is chosen by a hash that is equal on all nodes, see
    /// [`crate::maglev`].
    pub const MAGLEV: u32 = 8;
    /// A backend on another node answers the client itself (direct server return).
    pub const DSR: u32 = 16;

    /// Whether a client at `origin` that addressed the service by `kind` may use only the backends on this node.
    ///
    /// A client on this node is never bound by the external policy: for it, an external address is a short cut to the
    /// whole cluster (kube-proxy's "local short-circuit").
    #[inline(always)]
    pub const fn is_local_only(flags: u32, kind: Kind, origin: Origin) -> bool {
        match (kind, origin) {
            (Kind::CLUSTER_IP, _) => flags & Self::INTERNAL_LOCAL != 0,
            (_, Origin::Node) => false,
            (_, Origin::Outside) => flags & Self::EXTERNAL_LOCAL != 0,
        }
    }
}

/// Value of `BACKENDS`: one address and port that serves.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Backend {
    /// Where it listens.
    pub address: Addr,
    /// Where it listens.
    pub port: Port,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Bits of this type.
    pub flags: u8,
    /// Counts how often the id was given out or taken back; zero before the first time.
    pub generation: u32,
    /// The id of the service that owns it. A backend belongs to one service, so that connections move when a pod leaves
    /// that service, though it may stay in another. The kernel does not read it; a daemon recovers by it.
    pub service: u32,
    /// Zero.
    pub reserved: u32,
}

impl Backend {
    /// It runs on this node: packets reach it through the node's stack and their source is kept.
    pub const LOCAL: u8 = 1;
    /// Its endpoint is serving (ready, or terminating but still able to answer). Without it, UDP flows move to
    /// another backend if there is one; TCP connections stay.
    pub const SERVING: u8 = 2;
    /// It is in its service's [`Service::cluster`] run: a client that is held to it by affinity may go on using it.
    pub const IN_CLUSTER_RUN: u8 = 4;
    /// The same for [`Service::local`].
    pub const IN_LOCAL_RUN: u8 = 8;
}

/// Value of `NODE`: what the programs must know about where they run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Node {
    /// The IPv4 address that packets to backends on other nodes get as their source, or unspecified.
    pub source_v4: Addr,
    /// The same for IPv6.
    pub source_v6: Addr,
    /// The node's network namespace, as `SO_NETNS_COOKIE` tells it.
    pub netns_cookie: u64,
    /// Seed of every hash: set once at random and kept, also across restarts.
    pub seed: u32,
    /// The lowest port that source translation may use; below it, no client's port is kept either.
    pub first_port: u16,
    /// The highest port that source translation may use.
    pub last_port: u16,
    /// Until this [`moment`], a TCP packet in the middle of a connection that nobody knows belongs to the proxy that was
    /// here before: it is left alone, and remembered so ([`Connection::FOREIGN`]). Zero for never.
    pub migration_end: u32,
    /// Bits of this type.
    pub flags: u32,
    /// How many of `service_cidrs` hold something.
    pub service_cidr_count: u32,
    /// Zero.
    pub reserved: u32,
    /// The cluster's ServiceCIDRs: addresses in them that belong to no service are dropped.
    pub service_cidrs: [Prefix; 4],
}

impl Node {
    /// Packets between a client outside and a pod of this node pass through the node's stack, its netfilter rules and
    /// all. Otherwise they go straight from device to device.
    pub const THROUGH_STACK: u32 = 1;
}

/// A stretch of addresses: those that equal `address` where `mask` has ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Prefix {
    /// The first address.
    pub address: Addr,
    /// Ones for the bits that count. Of an IPv4 prefix, the mask of its mapped form.
    pub mask: Addr,
}

impl Prefix {
    /// Whether `address` is one of them.
    #[inline(always)]
    pub const fn contains(&self, address: Addr) -> bool {
        let (own, mask, other) = (self.address.words(), self.mask.words(), address.words());
        (own[0] ^ other[0]) & mask[0] == 0
            && (own[1] ^ other[1]) & mask[1] == 0
            && (own[2] ^ other[2]) & mask[2] == 0
            && (own[3] ^ other[3]) & mask[3] == 0
    }
}

/// Value of `CONNTRACK`: what one direction of a connection is translated to, and on whose behalf.
///
/// The two directions of a connection name each other: the key of one is the reverse of the other's [`Self::to`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// What the packet's flow becomes.
    pub to: Flow,
    /// The service.
    pub service: u32,
    /// The service's generation when the connection was made.
    pub service_generation: u32,
    /// The backend.
    pub backend: u32,
    /// The backend's generation when the connection was made.
    pub backend_generation: u32,
    /// When this direction was last used, see [`moment`].
    pub seen: u32,
    /// Bits of this type.
    pub flags: u32,
}

impl Connection {
    /// This is the direction from the backend to the client.
    pub const REPLY: u32 = 1;
    /// The client's address is translated to the node's, because the backend is on another node, or because it is the
    /// client itself: packets are sent on from here, since the node's stack would take them for forgeries.
    pub const REMOTE: u32 = 2;
    /// The sender of this direction has sent its FIN.
    pub const FIN: u32 = 4;
    /// The sender of this direction has sent a RST.
    pub const RST: u32 = 8;
    /// Nothing is translated: the connection is another proxy's, see [`Node::migration_end`]. Has no other direction.
    pub const FOREIGN: u32 = 16;
    /// The backend answers the client itself, see [`Service::DSR`].
    pub const DSR: u32 = 32;
    /// The backend has gone from its service. From then on, [`Self::seen`] of this direction is when TCP at the client
    /// last asked for an answer after it had got one.
    pub const ORPHANED: u32 = 128;
    /// The client is a pod of this node and keeps its address: packets go the way that all of the pod's packets go,
    /// through the node's stack, and the backend's are translated where they reach the pod's device.
    pub const FROM_POD: u32 = 64;
    /// The connection began with a SYN, or the association with an INIT, and the client has sent nothing else yet. The
    /// other direction keeps it: a backend's answer to them does not show that there is such a client.
    pub const HALF_OPEN: u32 = 256;

    /// The key of the other direction.
    #[inline(always)]
    pub const fn partner(&self) -> Flow {
        self.to.reversed()
    }

    /// Whether `other`, which is found at [`Self::partner`], is the other direction of this one, whose key is `flow`. It may
    /// have been evicted, and another connection have taken its place.
    #[inline(always)]
    pub fn is_partner(&self, flow: &Flow, other: &Self) -> bool {
        match self.flags & (Self::REPLY | Self::REMOTE | Self::DSR) {
            // A backend's node gets the client's packets translated already, but translates the replies.
            Self::DSR => other.flags & Self::DSR != 0,
            _ => other.to == flow.reversed(),
        }
    }

    /// For how long, in units of [`moment`], both directions with these flags may be silent while the connection is not
    /// over.
    #[inline(always)]
    pub fn idle_limit(protocol: Protocol, one: u32, other: u32) -> u32 {
        if one & other & Self::HALF_OPEN != 0 {
            HALF_OPEN_IDLE
        } else if protocol == Protocol::TCP {
            TCP_IDLE
        } else if protocol == Protocol::SCTP {
            SCTP_IDLE
        } else {
            UDP_IDLE
        }
    }

    /// Whether a TCP connection with these flags of its two directions is over. Of one whose backend answers the client
    /// itself, a node sees only one direction's end.
    #[inline(always)]
    pub const fn is_over(one: u32, other: u32) -> bool {
        let both = one | other;
        let fin = if both & Self::DSR != 0 {
            both
        } else {
            one & other
        };
        both & Self::RST != 0 || fin & Self::FIN != 0
    }
}

/// Key of `SOCKETS`: an address that a socket sends to or hears from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketKey {
    /// The socket, as `SO_COOKIE` tells it.
    pub cookie: u64,
    /// A frontend's address, or a backend's.
    pub address: Addr,
    /// Its port.
    pub port: Port,
    /// [`SocketKey::FRONTEND`] or [`SocketKey::BACKEND`].
    pub side: u16,
    padding: u32,
}

impl SocketKey {
    /// The address is a service's: where did this socket's last datagram to it go?
    pub const FRONTEND: u16 = 0;
    /// The address is a backend's: by which service did this socket reach it?
    pub const BACKEND: u16 = 1;

    /// The key of one side of a socket's traffic.
    #[inline(always)]
    pub const fn new(cookie: u64, address: Addr, port: Port, side: u16) -> Self {
        Self {
            cookie,
            address,
            port,
            side,
            padding: 0,
        }
    }
}

/// Value of `SOCKETS` and `CONNECTED`: the service a socket addressed and the backend it got.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What the program addressed.
    pub frontend: Addr,
    /// What it talks to.
    pub backend: Addr,
    /// The port the program addressed.
    pub frontend_port: Port,
    /// The port it talks to.
    pub backend_port: Port,
    /// The service.
    pub service: u32,
    /// The service's generation then.
    pub service_generation: u32,
    /// The backend.
    pub backend_id: u32,
    /// The backend's generation then.
    pub backend_generation: u32,
    /// When the socket last sent there, see [`moment`].
    pub seen: u32,
}

/// Value of `STATS`: what a service did, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections, or UDP flows, given to a backend.
    pub connections: u64,
    /// Packets translated, in both directions.
    pub packets: u64,
    /// Their bytes, from the link layer's header on.
    pub bytes: u64,
    /// Packets or calls refused or dropped after the service was known.
    pub drops: u64,
}

/// Key of `SOURCE_RANGES`: a service and a prefix of client addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// How many bits count from `service` on: 32 for it, then those of the address in its mapped form. For the kernel's
    /// trie, in the machine's byte order.
    pub bits: u32,
    /// The service's id.
    pub service: u32,
    /// The prefix's address; a client's when looking up.
    pub address: Addr,
}

impl SourceRange {
    /// The bits of a service's id and a whole address.
    pub const ALL_BITS: u32 = 160;

    /// The clients of `service` whose first `length` bits, counted in the mapped form, are those of `address`.
    #[inline(always)]
    pub const fn new(service: u32, address: Addr, length: u32) -> Self {
        Self {
            bits: 32 + length,
            service,
            address,
        }
    }
}

/// Key of `AFFINITY`: a client of a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    /// The service's id.
    pub service: u32,
    padding: u32,
    /// The client: its address, or a network namespace of this node by [`AffinityKey::namespace`].
    pub client: Addr,
}

impl AffinityKey {
    /// The client at `address`.
    #[inline(always)]
    pub const fn address(service: u32, address: Addr) -> Self {
        Self {
            service,
            padding: 0,
            client: address,
        }
    }

    /// The sockets of the network namespace with this cookie: a socket that connects has no address yet, and all of a
    /// pod's have the same one. The client's form, `100::` and the cookie, is of the discard prefix (RFC 6666), which
    /// is nobody's address.
    #[inline(always)]
    pub const fn namespace(service: u32, cookie: u64) -> Self {
        let words = [
            u32::from_be(0x0100_0000),
            0,
            (cookie >> 32) as u32,
            cookie as u32,
        ];
        Self::address(service, Addr::from_words(words))
    }
}

/// Value of `AFFINITY`: the backend that a client is held to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The backend.
    pub backend: u32,
    /// The backend's generation then.
    pub backend_generation: u32,
    /// The service's [`Service::affinity_generation`] then.
    pub affinity_generation: u32,
    /// Seconds of the monotonic clock at the client's last new connection.
    pub since: u32,
}

/// Where `ADDRESS_FILTER` keeps the slot of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterPlace {
    /// The entry.
    pub entry: u32,
    /// The byte in it.
    pub byte: u32,
}

impl FilterPlace {
    /// The slot of `address`.
    #[inline(always)]
    pub const fn of(address: Addr) -> Self {
        const SLOTS: u32 = maps::ADDRESS_FILTER_SIZE * 8;
        let words = address.words();
        let high = (words[0] as u64) << 32 | words[1] as u64;
        let low = (words[2] as u64) << 32 | words[3] as u64;
        // Addresses are close to one another, so one multiplication would leave them in rows.
        let mut hash =
            (high.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let slot = flow::index((hash >> 32) as u32, SLOTS);
        Self {
            entry: slot / 8,
            byte: slot % 8,
        }
    }
}

/// Key of `FRAGMENTS`: a packet that was cut to pieces (RFC 791, RFC 8200).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    /// Who sends.
    pub source: Addr,
    /// Who receives.
    pub destination: Addr,
    /// What the pieces have in common; of IPv4, zero-extended.
    pub id: u32,
    /// The transport protocol.
    pub protocol: Protocol,
    padding: u8,
    more_padding: u16,
}

impl FragmentKey {
    /// The key of the pieces with `id` from `source` to `destination`.
    #[inline(always)]
    pub const fn new(source: Addr, destination: Addr, id: u32, protocol: Protocol) -> Self {
        Self {
            source,
            destination,
            id,
            protocol,
            padding: 0,
            more_padding: 0,
        }
    }
}

/// Value of `FRAGMENTS`: what only the first piece holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPorts {
    /// The sender's port.
    pub source: Port,
    /// The receiver's port.
    pub destination: Port,
}

/// Value of `RECENT_DROPS`: a packet or call that went no further.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropRecord {
    /// When: nanoseconds of the monotonic clock; zero for a record never written.
    pub time: u64,
    /// The packet's flow as it arrived. A socket's call has no source.
    pub flow: Flow,
    /// The reason, as a number of [`crate::drop::Drop`].
    pub reason: u32,
    /// The device it came by; zero for a socket's call.
    pub device: u32,
}

/// Key of `LOCAL_BACKENDS`: where a service's backend listens.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The service's id.
    pub service: u32,
    /// The backend's address.
    pub address: Addr,
    /// The backend's port.
    pub port: Port,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    padding: u8,
}

impl BackendKey {
    /// The key of the backend of `service` at `address` and `port`.
    #[inline(always)]
    pub const fn new(service: u32, address: Addr, port: Port, protocol: Protocol) -> Self {
        Self {
            service,
            address,
            port,
            protocol,
            padding: 0,
        }
    }
}

/// Value of `XDP_DEVICES`: a device's Ethernet address. Three words in network order, so that comparing takes no call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac {
    words: [u16; 3],
    padding: u16,
}

impl Mac {
    /// The address from its bytes.
    pub const fn new(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self::from_words([
            u16::from_ne_bytes([a, b]),
            u16::from_ne_bytes([c, d]),
            u16::from_ne_bytes([e, f]),
        ])
    }

    /// The address from its words in network order.
    #[inline(always)]
    pub const fn from_words(words: [u16; 3]) -> Self {
        Self { words, padding: 0 }
    }
}

/// Value of `NAMES`: the Service port that a service id stands for, in UTF-8, filled up with zeros:
/// `namespace/name:port` as [`ServicePortName`](https://pkg.go.dev/k8s.io/kubernetes/pkg/proxy#ServicePortName) prints.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; Self::LENGTH],
}

impl Name {
    /// The bytes of a name: a namespace, a name and a port's name have at most 63 each, and there are two separators.
    pub const LENGTH: usize = 192;

    /// The name `text`, cut after [`Name::LENGTH`] bytes.
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; Self::LENGTH];
        for (to, from) in bytes.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self { bytes }
    }

    /// The text; empty if it is not UTF-8.
    pub fn text(&self) -> &str {
        let length = self.bytes.iter().position(|byte| *byte == 0);
        let bytes = &self.bytes[..length.unwrap_or(Self::LENGTH)];
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// A coarse moment: units of 2^30 ns (1.07 s) of the monotonic clock, which fit a word for 146 years.
#[inline(always)]
pub const fn moment(nanoseconds: u64) -> u32 {
    (nanoseconds >> 30) as u32
}

/// How many units of [`moment`] ago `seen` was. What another CPU, whose clock is ahead a little, has seen after `now` is
/// no time ago.
#[inline(always)]
pub const fn age(seen: u32, now: u32) -> u32 {
    now.saturating_sub(seen)
}

/// After so many units of [`moment`] without an answer, a TCP connection whose backend has gone is reset.
pub const ORPHAN_PATIENCE: u32 = 2;

/// After so many units of [`moment`] without a packet, a UDP flow is a new one (kube-proxy's conntrack: 120 s).
pub const UDP_IDLE: u32 = 112;

/// After so many units of [`moment`] without a packet, a TCP connection is none any more: a day, as kube-proxy sets it for
/// the kernel's own tracking.
pub const TCP_IDLE: u32 = 80_466;

/// After so many units of [`moment`] without a packet, an SCTP association is none any more: a quarter of an hour. Its ends
/// exchange heartbeats every half a minute when they are idle, and give up after ten without an answer, which are a minute
/// apart at most (RFC 9260, 16).
pub const SCTP_IDLE: u32 = 838;

/// After so many units of [`moment`] without a packet, a connection that was never completed is none any more: as long as
/// the kernel's own tracking waits for the end of a handshake. Otherwise whoever sends SYNs takes all ports for a day.
pub const HALF_OPEN_IDLE: u32 = 60;

const _: () = {
    assert!(size_of::<FrontendKey>() == 20);
    assert!(size_of::<NodePortKey>() == 4);
    assert!(size_of::<Frontend>() == 8);
    assert!(size_of::<Service>() == 64);
    assert!(size_of::<Backend>() == 32);
    assert!(size_of::<Prefix>() == 32);
    assert!(size_of::<Node>() == 192);
    assert!(size_of::<Flow>() == 40);
    assert!(size_of::<Connection>() == 64);
    assert!(size_of::<SocketKey>() == 32);
    assert!(size_of::<Peer>() == 56);
    assert!(size_of::<Stats>() == 32);
    assert!(size_of::<SourceRange>() == 24);
    assert!(size_of::<AffinityKey>() == 24);
    assert!(size_of::<Affinity>() == 16);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<FragmentPorts>() == 4);
    assert!(size_of::<DropRecord>() == 56);
    assert!(size_of::<BackendKey>() == 24);
    assert!(size_of::<Mac>() == 8);
    assert!(size_of::<Name>() == 192);
};

/// Lets user space read and write these types as map keys and values.
#[cfg(not(target_arch = "bpf"))]
mod pod {
    use super::{
        Affinity, AffinityKey, Backend, BackendKey, Connection, DropRecord, FragmentKey,
        FragmentPorts, Frontend, FrontendKey, Mac, Name, Node, NodeAddress, NodePortKey, Peer,
        Prefix, Service, SocketKey, SourceRange, Stats,
    };
    use crate::{addr::Addr, flow::Flow};

    macro_rules! pod {
        ($($type:ty),*) => {
            $(
                // SAFETY: `repr(C)` or `repr(transparent)` over integers alone; padding is spelled out (the size
                // assertions above would fail otherwise), and every bit pattern is a legal value.
                unsafe impl aya::Pod for $type {}
            )*
        };
    }

    pod!(
        Addr,
        Flow,
        FrontendKey,
        NodePortKey,
        Frontend,
        NodeAddress,
        Service,
        Backend,
        Node,
        Connection,
        SocketKey,
        Peer,
        Stats,
        Prefix,
        SourceRange,
        AffinityKey,
        Affinity,
        FragmentKey,
        FragmentPorts,
        DropRecord,
        BackendKey,
        Mac,
        Name
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_runs_say_what_becomes_of_a_client() {
        assert_eq!(Run::default(), Run::REFUSE);
        assert_eq!((Run::REFUSE.count(), Run::DROP.count()), (0, 0));
        assert_ne!(Run::REFUSE, Run::DROP);
    }

    #[test]
    fn a_run_yields_every_slot_and_no_other() {
        let run = Run::new(100, 3);
        let slots: std::collections::BTreeSet<u32> = (0..=u32::MAX)
            .step_by(0x0100_0000)
            .map(|hash| run.slot(hash))
            .collect();
        assert_eq!(
            slots.into_iter().collect::<std::vec::Vec<_>>(),
            [100, 101, 102]
        );
    }

    #[test]
    fn neighbouring_addresses_have_slots_of_their_own() {
        let ranges: [fn(u32) -> core::net::IpAddr; 3] = [
            |i| core::net::Ipv4Addr::from_bits(0x0a60_0000 + i).into(),
            |i| core::net::Ipv6Addr::from_bits(0xfd00_0010_0096 << 80 | u128::from(i)).into(),
            |i| core::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(i) << 64 | 1).into(),
        ];
        for range in ranges {
            let places = (0..10_000).map(|i| FilterPlace::of(range(i).into()));
            let places: std::collections::BTreeSet<_> =
                places.map(|place| (place.entry, place.byte)).collect();
            assert!(places.len() > 9_900, "{}", places.len());
        }
    }

    #[test]
    fn policies_bind_the_clients_they_are_meant_for() {
        use Origin::{Node, Outside};
        let external = [Kind::NODE_PORT, Kind::EXTERNAL_IP, Kind::LOAD_BALANCER];
        for origin in [Node, Outside] {
            assert!(Service::is_local_only(
                Service::INTERNAL_LOCAL,
                Kind::CLUSTER_IP,
                origin
            ));
            assert!(!Service::is_local_only(
                Service::EXTERNAL_LOCAL,
                Kind::CLUSTER_IP,
                origin
            ));
            for kind in external {
                assert!(!Service::is_local_only(
                    Service::INTERNAL_LOCAL,
                    kind,
                    origin
                ));
                assert_eq!(
                    Service::is_local_only(Service::EXTERNAL_LOCAL, kind, origin),
                    origin == Outside
                );
            }
        }
    }

    #[test]
    fn what_is_seen_after_the_clock_was_read_is_no_time_ago() {
        assert_eq!(age(90, 100), 10);
        assert_eq!(age(100, 100), 0);
        assert_eq!(age(101, 100), 0);
    }

    #[test]
    fn a_connection_is_half_open_until_the_client_goes_on() {
        let half = Connection::HALF_OPEN;
        let limit = Connection::idle_limit;
        assert_eq!(limit(Protocol::TCP, half, half), HALF_OPEN_IDLE);
        assert_eq!(limit(Protocol::SCTP, half, half), HALF_OPEN_IDLE);
        assert_eq!(limit(Protocol::TCP, half, 0), TCP_IDLE);
        assert_eq!(limit(Protocol::TCP, 0, half), TCP_IDLE);
        assert_eq!(limit(Protocol::SCTP, 0, 0), SCTP_IDLE);
        assert_eq!(limit(Protocol::UDP, 0, 0), UDP_IDLE);
    }

    #[test]
    fn a_connection_is_over_after_a_reset_or_both_fins() {
        let (fin, rst) = (Connection::FIN, Connection::RST);
        assert!(!Connection::is_over(0, 0));
        assert!(!Connection::is_over(fin, 0));
        assert!(!Connection::is_over(0, fin));
        assert!(Connection::is_over(fin, fin));
        assert!(Connection::is_over(fin | Connection::DSR, Connection::DSR));
        assert!(!Connection::is_over(Connection::DSR, Connection::DSR));
        assert!(Connection::is_over(rst, 0));
        assert!(Connection::is_over(0, rst));
    }
}
