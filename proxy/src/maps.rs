//! The maps that kernel and daemon share, as the daemon writes them. No other file writes a BPF map.
//!
//! [`Maps`] has one method for each kind of write that the rules of [`dataplane_ebpf::abi`] know; who calls them in which
//! order is the business of [`crate::tables`]. There are two implementations: the kernel's maps, and [`Fake`] for tests.

mod conntrack;
mod fake;
mod kernel;
mod sockets;
mod xdp_devices;

use std::io;
use std::net::IpAddr;

use dataplane_ebpf::abi::{
    Backend, BackendKey, Frontend, Name, Node, NodeAddress, Run, Service, SourceRange,
};
use dataplane_ebpf::addr::Port;
use model::TrafficPolicy;

use crate::desired::Entry;

pub use conntrack::{Conntrack, Swept};
pub use fake::Fake;
pub use kernel::KernelMaps;
pub use sockets::Sockets;
pub(crate) use xdp_devices::XdpDevices;

/// A write or read that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {map}")]
pub struct Error {
    /// What was to be done.
    pub action: &'static str,
    /// The map.
    pub map: &'static str,
    /// Why not.
    pub source: io::Error,
}

impl Error {
    /// Whether there was no room: what a hash and a trie say of it.
    pub fn is_full(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
    }
}

/// How many values the arrays have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Service ids.
    pub services: u32,
    /// Backend ids.
    pub backends: u32,
    /// Slots.
    pub slots: u32,
}

/// The maps of one node.
pub trait Maps {
    /// The sizes of the arrays.
    fn sizes(&self) -> Sizes;

    /// The backend at `id`.
    fn backend(&self, id: u32) -> Result<Backend, Error>;

    /// All backends that were given an address, with their ids.
    fn backends(&self) -> Result<Vec<(u32, Backend)>, Error>;

    /// The service at `id`.
    fn service(&self, id: u32) -> Result<Service, Error>;

    /// The backend ids in the slots of `run`.
    fn slots(&self, run: Run) -> Result<Vec<u32>, Error>;

    /// All frontends and node ports.
    fn entries(&self) -> Result<Vec<(Entry, Frontend)>, Error>;

    /// All source ranges.
    fn source_ranges(&self) -> Result<Vec<SourceRange>, Error>;

    /// All names, by service id.
    fn names(&self) -> Result<Vec<(u32, Name)>, Error>;

    /// All backends on this node that answer clients themselves, with their ids.
    fn local_backends(&self) -> Result<Vec<(BackendKey, u32)>, Error>;

    /// Whether a connected UDP socket ever got the backend at `id`.
    fn is_udp_connected(&self, id: u32) -> Result<bool, Error>;

    /// All addresses that take NodePort traffic.
    fn node_addresses(&self) -> Result<Vec<(IpAddr, NodeAddress)>, Error>;

    /// What the programs know about the node.
    fn node(&self) -> Result<Node, Error>;

    /// Writes the backend at `id`, its generation last.
    fn write_backend(&mut self, id: u32, backend: Backend) -> Result<(), Error>;

    /// Writes the slots of `run`, which nothing names yet.
    fn write_slots(&mut self, run: Run, ids: &[u32]) -> Result<(), Error>;

    /// Writes everything about the service at `id` but its runs.
    fn write_service(&mut self, id: u32, settings: Settings) -> Result<(), Error>;

    /// Makes `run` the one that new connections under `policy` to the service at `id` use, by a single store.
    fn publish(&mut self, id: u32, policy: TrafficPolicy, run: Run) -> Result<(), Error>;

    /// Points `entry` at a service, whether it pointed at another one before or at none.
    fn insert_entry(&mut self, entry: Entry, frontend: Frontend) -> Result<(), Error>;

    /// Removes `entry`. One that is not there is no error.
    fn remove_entry(&mut self, entry: Entry) -> Result<(), Error>;

    /// Lets the clients in `range` use the load balancer's addresses of its service.
    fn insert_source_range(&mut self, range: SourceRange) -> Result<(), Error>;

    /// Takes `range` back. One that is not there is no error.
    fn remove_source_range(&mut self, range: SourceRange) -> Result<(), Error>;

    /// Lets packets that other nodes send on to the backend at `key` be answered from here; its id is `id`.
    fn insert_local_backend(&mut self, key: BackendKey, id: u32) -> Result<(), Error>;

    /// Takes that back. One that is not there is no error.
    fn remove_local_backend(&mut self, key: BackendKey) -> Result<(), Error>;

    /// Names the service at `id`.
    fn write_name(&mut self, id: u32, name: Name) -> Result<(), Error>;

    /// Removes the name of the service at `id`. One that is not there is no error.
    fn remove_name(&mut self, id: u32) -> Result<(), Error>;

    /// Sets to zero what the programs have counted for the service at `id`.
    fn clear_stats(&mut self, id: u32) -> Result<(), Error>;

    /// Forgets that a connected UDP socket ever got the backend at `id`.
    fn clear_udp_connected(&mut self, id: u32) -> Result<(), Error>;

    /// Lets `address` take NodePort traffic.
    fn insert_node_address(&mut self, address: IpAddr, value: NodeAddress) -> Result<(), Error>;

    /// Lets `address` take none. One that took none before is no error.
    fn remove_node_address(&mut self, address: IpAddr) -> Result<(), Error>;

    /// Writes what the programs know about the node.
    fn write_node(&mut self, node: Node) -> Result<(), Error>;
}

/// A service but for its runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// See [`Service::generation`].
    pub generation: u32,
    /// See [`Service::flags`].
    pub flags: u32,
    /// See [`Service::affinity_seconds`].
    pub affinity_seconds: u32,
    /// See [`Service::affinity_generation`].
    pub affinity_generation: u32,
}

impl Settings {
    /// The settings of `service`.
    pub fn of(service: &Service) -> Self {
        Self {
            generation: service.generation,
            flags: service.flags,
            affinity_seconds: service.affinity_seconds,
            affinity_generation: service.affinity_generation,
        }
    }
}

/// Whether `backend` was given an address.
pub fn is_used(backend: &Backend) -> bool {
    backend.port != Port::NONE
}

/// The run of `service` for traffic under `policy`.
pub fn run_of(service: &Service, policy: TrafficPolicy) -> Run {
    match policy {
        TrafficPolicy::Cluster => service.cluster,
        TrafficPolicy::Local => service.local,
    }
}

/// The generation after `generation`; zero is for what was never used.
pub fn next_generation(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}
