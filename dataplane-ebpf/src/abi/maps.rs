//! Names of the maps, and how many entries each has unless the loader says otherwise.

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

/// Entries of `FRONTENDS`. Like the other sizes of what the API asks for, room for 50,000 Services with five endpoints
/// each: to grow takes longer than to install them all.
pub const FRONTENDS_SIZE: u32 = 1 << 17;
/// Entries of `NODEPORTS`: the default range of 2768 ports in two protocols and two families fits.
pub const NODEPORTS_SIZE: u32 = 1 << 14;
/// Entries of `NODE_ADDRESSES`.
pub const NODE_ADDRESSES_SIZE: u32 = 1 << 8;
/// Entries of `SERVICES`, `STATS` and `NAMES`.
pub const SERVICES_SIZE: u32 = 1 << 16;
/// Entries of `SLOTS`.
pub const SLOTS_SIZE: u32 = 1 << 19;
/// Entries of `BACKENDS` and `UDP_CONNECTED`.
pub const BACKENDS_SIZE: u32 = 1 << 18;
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
