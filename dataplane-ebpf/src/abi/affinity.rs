//! Session affinity: which backend a client is held to.

use crate::addr::Addr;

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
    /// The service's [`Service::affinity_generation`](super::Service::affinity_generation) then.
    pub affinity_generation: u32,
    /// Seconds of the monotonic clock at the client's last new connection.
    pub since: u32,
}
