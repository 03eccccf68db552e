//! Backends: who serves, and how a node finds its own.

use crate::addr::{Addr, Port, Protocol};

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
    /// It is in its service's [`Service::cluster`](super::Service::cluster) run: a client that is held to it by
    /// affinity may go on using it.
    pub const IN_CLUSTER_RUN: u8 = 4;
    /// The same for [`Service::local`](super::Service::local).
    pub const IN_LOCAL_RUN: u8 = 8;
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
