//! The node: its settings, its addresses and its devices.

use crate::addr::Addr;

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
    /// Until this [`moment`](super::moment()), a TCP packet in the middle of a connection that nobody knows belongs to
    /// the proxy that was here before: it is left alone, and remembered so
    /// ([`Connection::FOREIGN`](super::Connection::FOREIGN)). Zero for never.
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
