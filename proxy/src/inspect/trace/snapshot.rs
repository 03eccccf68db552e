//! What a decision reads of the maps: an interface, so that the decision can be tested without a kernel.

use dataplane_ebpf::abi::{
    Affinity, AffinityKey, Backend, Connection, Frontend, FrontendKey, Node, NodeAddress,
    NodePortKey, Run, Service, SourceRange,
};
use dataplane_ebpf::addr::Addr;
use dataplane_ebpf::flow::Flow;

use crate::pinned::{Error, Pinned};

/// The maps of a node at some time, and the time.
pub(super) trait Snapshot {
    /// Nanoseconds of the monotonic clock.
    fn now(&self) -> u64;
    fn node(&self) -> Result<Node, Error>;
    fn node_address(&self, address: Addr) -> Result<Option<NodeAddress>, Error>;
    fn frontend(&self, key: &FrontendKey) -> Result<Option<Frontend>, Error>;
    fn node_port(&self, key: &NodePortKey) -> Result<Option<Frontend>, Error>;
    fn service(&self, id: u32) -> Result<Option<Service>, Error>;
    fn name(&self, service: u32) -> Result<Option<String>, Error>;
    /// The backend ids in the slots of `run`.
    fn run(&self, run: Run) -> Result<Vec<u32>, Error>;
    fn backend(&self, id: u32) -> Result<Option<Backend>, Error>;
    /// All backends with their ids.
    fn backends(&self) -> Result<Vec<(u32, Backend)>, Error>;
    /// Whether `address` is in one of the source ranges of `service`.
    fn is_in_range(&self, service: u32, address: Addr) -> Result<bool, Error>;
    fn connection(&self, flow: &Flow) -> Result<Option<Connection>, Error>;
    fn affinity(&self, key: &AffinityKey) -> Result<Option<Affinity>, Error>;
}

/// The pinned maps as they are at each look.
pub(super) struct Live {
    pub(super) maps: Pinned,
    pub(super) now: u64,
}

impl Snapshot for Live {
    fn now(&self) -> u64 {
        self.now
    }

    fn node(&self) -> Result<Node, Error> {
        Ok(self.maps.node.get(&0)?.unwrap_or_default())
    }

    fn node_address(&self, address: Addr) -> Result<Option<NodeAddress>, Error> {
        self.maps.node_addresses.get(&address)
    }

    fn frontend(&self, key: &FrontendKey) -> Result<Option<Frontend>, Error> {
        self.maps.frontends.get(key)
    }

    fn node_port(&self, key: &NodePortKey) -> Result<Option<Frontend>, Error> {
        self.maps.node_ports.get(key)
    }

    fn service(&self, id: u32) -> Result<Option<Service>, Error> {
        self.maps.services.get(&id)
    }

    fn name(&self, service: u32) -> Result<Option<String>, Error> {
        self.maps.name(service)
    }

    fn run(&self, run: Run) -> Result<Vec<u32>, Error> {
        self.maps.run(run)
    }

    fn backend(&self, id: u32) -> Result<Option<Backend>, Error> {
        self.maps.backends.get(&id)
    }

    fn backends(&self) -> Result<Vec<(u32, Backend)>, Error> {
        self.maps.used_backends()
    }

    fn is_in_range(&self, service: u32, address: Addr) -> Result<bool, Error> {
        let key = SourceRange {
            bits: SourceRange::ALL_BITS,
            service,
            address,
        };
        Ok(self.maps.source_ranges.get(&key)?.is_some())
    }

    fn connection(&self, flow: &Flow) -> Result<Option<Connection>, Error> {
        self.maps.conntrack.get(flow)
    }

    fn affinity(&self, key: &AffinityKey) -> Result<Option<Affinity>, Error> {
        self.maps.affinity.get(key)
    }
}
