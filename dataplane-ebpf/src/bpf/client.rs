//! Who asks for a backend: the sender of a packet here, a socket's call in `call`.

use dataplane_ebpf::abi::{AffinityKey, Origin, Service};
use dataplane_ebpf::addr::Addr;
use dataplane_ebpf::flow::Flow;
use dataplane_ebpf::maglev;

/// What the choice of a backend has to know of the client.
pub(crate) trait Client {
    /// Where it is.
    fn origin(&self) -> Origin;

    /// Its address.
    fn source(&self) -> Addr;

    /// By what a service that holds its clients to their backends knows it.
    fn affinity_key(&self, service: u32) -> AffinityKey;

    /// What chooses its slot of the run of a service with `flags`.
    fn hash(&self, flags: u32) -> u32;
}

/// The sender of a packet. Its flow chooses the slot, so that a connection that is forgotten goes where it went before,
/// as long as the run is the same.
pub(crate) struct Sender<'a> {
    /// The packet's flow as it arrived.
    pub(crate) flow: &'a Flow,
    /// Where the packet comes from.
    pub(crate) origin: Origin,
    /// [`Node::seed`](dataplane_ebpf::abi::Node::seed).
    pub(crate) seed: u32,
}

impl Client for Sender<'_> {
    #[inline(always)]
    fn origin(&self) -> Origin {
        self.origin
    }

    #[inline(always)]
    fn source(&self) -> Addr {
        self.flow.source
    }

    #[inline(always)]
    fn affinity_key(&self, service: u32) -> AffinityKey {
        AffinityKey::address(service, self.flow.source)
    }

    #[inline(always)]
    fn hash(&self, flags: u32) -> u32 {
        let seed = if flags & Service::MAGLEV == 0 {
            self.seed
        } else {
            maglev::SEED
        };
        self.flow.hash(seed)
    }
}
