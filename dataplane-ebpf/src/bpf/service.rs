//! From an address to a service, and from a service to a backend.

use super::affinity::{self, Terms};
use super::client::Client;
use super::maps::{
    BACKENDS, FRONTENDS, NODE, NODE_ADDRESSES, NODEPORTS, SERVICES, SLOTS, SOURCE_RANGES,
};
use aya_ebpf::maps::lpm_trie::Key;
use core::ptr::read_volatile;
use dataplane_ebpf::abi::{
    Backend, Frontend, FrontendKey, Kind, NodeAddress, NodePortKey, Origin, Run, Service,
    SourceRange,
};
use dataplane_ebpf::addr::{Addr, Family, Port, Protocol};
use dataplane_ebpf::drop::Drop;

/// The service at `address` and `port`, if there is one.
///
/// `is_node` tells whether the client is in the node's own network namespace; only loopback addresses ask.
#[inline(always)]
pub(crate) fn find(
    address: Addr,
    port: Port,
    protocol: Protocol,
    is_node: impl FnOnce() -> bool,
) -> Result<Option<Frontend>, Drop> {
    // SAFETY: the map is not preallocated, so the entry outlives this program's run.
    if let Some(frontend) = unsafe { FRONTENDS.get(FrontendKey::new(address, port, protocol)) } {
        return Ok(Some(*frontend));
    }
    let node_port = NodePortKey::new(port, protocol, Family::of(address));
    // SAFETY: as above.
    if let Some(frontend) = unsafe { NODEPORTS.get(node_port) }
        && has_node_ports(address, is_node)
    {
        return Ok(Some(*frontend));
    }
    if is_service_address(address) {
        Err(Drop::UnknownPort)
    } else if is_unallocated(address) {
        Err(Drop::Unallocated)
    } else {
        Ok(None)
    }
}

/// Whether the whole address belongs to services.
#[inline(always)]
pub(crate) fn is_service_address(address: Addr) -> bool {
    // SAFETY: the map is not preallocated, so the entry outlives this program's run.
    unsafe { FRONTENDS.get(FrontendKey::whole_address(address)) }.is_some()
}

/// Whether an address that belongs to no service is set aside for services.
#[inline(always)]
pub(crate) fn is_unallocated(address: Addr) -> bool {
    let Some(node) = NODE.get(0) else {
        return false;
    };
    for (number, prefix) in (0..).zip(&node.service_cidrs) {
        if number >= node.service_cidr_count {
            return false;
        }
        if prefix.contains(address) {
            return true;
        }
    }
    false
}

/// Whether a service may answer at some port of the address.
#[inline(always)]
pub(crate) fn may_answer(address: Addr) -> bool {
    is_service_address(address) || has_node_ports(address, || false)
}

#[inline(always)]
fn has_node_ports(address: Addr, is_node: impl FnOnce() -> bool) -> bool {
    // SAFETY: the map is not preallocated, so the entry outlives this program's run.
    match unsafe { NODE_ADDRESSES.get(address) } {
        None => false,
        Some(found) => found.flags & NodeAddress::LOOPBACK == 0 || is_node(),
    }
}

/// A backend chosen for a client, with the generations by which a later packet can tell whether it still holds.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) service: u32,
    pub(crate) service_generation: u32,
    pub(crate) backend: u32,
    pub(crate) backend_generation: u32,
    pub(crate) address: Addr,
    pub(crate) port: Port,
    pub(crate) is_local: bool,
    /// It answers the client itself, from another node.
    pub(crate) is_direct: bool,
}

/// Chooses a backend for a client. Does not count a failure, which need not be one: a flow may keep the backend that it
/// has, and a hook may leave the packet to another.
#[inline(always)]
pub(crate) fn choose(frontend: Frontend, client: &impl Client) -> Result<Choice, Drop> {
    let service = Settings::read(frontend.service)?;
    if service.restricts(frontend.kind) && !is_in_range(frontend.service, client.source()) {
        return Err(Drop::SourceRange);
    }
    let local_only = Service::is_local_only(service.flags, frontend.kind, client.origin());
    let (run, in_run) = if local_only {
        (service.local(), Backend::IN_LOCAL_RUN)
    } else {
        (service.cluster(), Backend::IN_CLUSTER_RUN)
    };
    if run.count() == 0 {
        return Err(if run == Run::DROP {
            Drop::NoPolicyBackend
        } else {
            Drop::NoBackend
        });
    }
    let slot = run.slot(client.hash(service.flags));
    let mut backend = *SLOTS.get(slot).ok_or(Drop::Inconsistent)?;
    if service.affinity_seconds != 0 {
        let terms = Terms {
            seconds: service.affinity_seconds,
            generation: service.affinity_generation(),
            in_run,
        };
        let key = client.affinity_key(frontend.service);
        backend = affinity::backend(&key, &terms, backend);
    }
    let mut choice = chosen(frontend.service, service.generation, backend)?;
    choice.is_direct = service.flags & Service::DSR != 0
        && !choice.is_local
        && frontend.kind != Kind::NODE_PORT
        && client.origin() == Origin::Outside;
    Ok(choice)
}

/// The generation of service `id` if its backends may answer clients themselves.
///
/// They may not at node ports: a node does not know the addresses of the others.
#[inline(always)]
pub(crate) fn direct_generation(id: u32) -> Option<u32> {
    let service = Settings::read(id).ok()?;
    (service.flags & Service::DSR != 0).then_some(service.generation)
}

/// Whether the frontend is only for clients in its service's source ranges.
#[inline(always)]
pub(crate) fn is_restricted(frontend: Frontend) -> bool {
    Settings::read(frontend.service).is_ok_and(|service| service.restricts(frontend.kind))
}

/// Whether a client with the address `source` may use the frontend.
#[inline(always)]
pub(crate) fn admits(frontend: Frontend, source: Addr) -> bool {
    !is_restricted(frontend) || is_in_range(frontend.service, source)
}

#[inline(always)]
fn is_in_range(service: u32, source: Addr) -> bool {
    SOURCE_RANGES
        .get(Key::new(SourceRange::ALL_BITS, (service, source)))
        .is_some()
}

#[inline(always)]
fn chosen(service: u32, service_generation: u32, id: u32) -> Result<Choice, Drop> {
    let backend = BACKENDS.get_ptr(id).ok_or(Drop::Inconsistent)?;
    // SAFETY: a non-null pointer into the array; what a published run names is not written before its quarantine ends.
    let backend = unsafe { &*backend };
    Ok(Choice {
        service,
        service_generation,
        backend: id,
        backend_generation: backend.generation,
        address: backend.address,
        port: backend.port,
        is_local: backend.flags & Backend::LOCAL != 0,
        is_direct: false,
    })
}

/// What a service's line in `SERVICES` says. The daemon may write at any time, hence volatile; a run is one aligned word,
/// so it is read whole.
struct Settings {
    service: *const Service,
    generation: u32,
    flags: u32,
    affinity_seconds: u32,
}

impl Settings {
    #[inline(always)]
    fn read(id: u32) -> Result<Self, Drop> {
        let service = SERVICES.get_ptr(id).ok_or(Drop::Inconsistent)?;
        // SAFETY: a non-null pointer into the array.
        unsafe {
            Ok(Self {
                service,
                generation: read_volatile(&raw const (*service).generation),
                flags: read_volatile(&raw const (*service).flags),
                affinity_seconds: read_volatile(&raw const (*service).affinity_seconds),
            })
        }
    }

    /// Whether clients that use an address of `kind` must be in the service's source ranges.
    #[inline(always)]
    fn restricts(&self, kind: Kind) -> bool {
        kind == Kind::LOAD_BALANCER && self.flags & Service::SOURCE_RANGES != 0
    }

    #[inline(always)]
    fn cluster(&self) -> Run {
        // SAFETY: `read` made it from a pointer into the array.
        unsafe { read_volatile(&raw const (*self.service).cluster) }
    }

    #[inline(always)]
    fn local(&self) -> Run {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.service).local) }
    }

    #[inline(always)]
    fn affinity_generation(&self) -> u32 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.service).affinity_generation) }
    }
}

/// What has become of a backend since it was chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It serves.
    Serving,
    /// Its endpoint still exists but does not serve.
    NotServing,
    /// Its id has been taken back.
    Gone,
}

/// What has become of backend `id` since it had `generation`.
#[inline(always)]
pub(crate) fn standing(id: u32, generation: u32) -> Standing {
    let (current, flags) = backend(id);
    if current != generation {
        Standing::Gone
    } else if flags & Backend::SERVING == 0 {
        Standing::NotServing
    } else {
        Standing::Serving
    }
}

/// Whether backend `id` is still the one that had `generation`, and has `flag`.
#[inline(always)]
pub(crate) fn has_flag(id: u32, generation: u32, flag: u8) -> bool {
    let (current, flags) = backend(id);
    current == generation && flags & flag != 0
}

/// The generation of backend `id`.
#[inline(always)]
pub(crate) fn backend_generation(id: u32) -> u32 {
    backend(id).0
}

/// The generation and the flags of backend `id`; zeros, which no backend in use has, if there is none.
#[inline(always)]
fn backend(id: u32) -> (u32, u8) {
    let Some(backend) = BACKENDS.get_ptr(id) else {
        return (0, 0);
    };
    // SAFETY: a non-null pointer into the array; the daemon may write at any time, hence volatile.
    unsafe {
        (
            read_volatile(&raw const (*backend).generation),
            read_volatile(&raw const (*backend).flags),
        )
    }
}

/// Whether service `id` is still the one that had `generation`.
#[inline(always)]
pub(crate) fn is_same(id: u32, generation: u32) -> bool {
    let Some(service) = SERVICES.get_ptr(id) else {
        return false;
    };
    // SAFETY: a non-null pointer into the array; the daemon may write at any time, hence volatile.
    unsafe { read_volatile(&raw const (*service).generation) == generation }
}
