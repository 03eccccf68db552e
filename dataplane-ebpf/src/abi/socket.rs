//! Sockets: which service each addressed, and which backend it got.

use crate::addr::{Addr, Port};

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
    /// When the socket last sent there, see [`moment`](super::moment()).
    pub seen: u32,
}
