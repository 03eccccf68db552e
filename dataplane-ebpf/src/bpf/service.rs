//! From an address to a service, and from a service to a backend.

use super::maps::{BACKENDS, FRONTENDS, NODE_ADDRESSES, NODEPORTS, SERVICES, SLOTS};
use super::stats;
use core::ptr::read_volatile;
use dataplane_ebpf::abi::{
    Backend, Frontend, FrontendKey, NodeAddress, NodePortKey, Origin, Run, Service,
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
        return Err(Drop::UnknownPort);
    }
    Ok(None)
}

/// Whether the whole address belongs to services.
#[inline(always)]
pub(crate) fn is_service_address(address: Addr) -> bool {
    // SAFETY: the map is not preallocated, so the entry outlives this program's run.
    unsafe { FRONTENDS.get(FrontendKey::whole_address(address)) }.is_some()
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
}

/// Chooses a backend by `hash` for a client at `origin`.
#[inline(always)]
pub(crate) fn select(frontend: Frontend, origin: Origin, hash: u32) -> Result<Choice, Drop> {
    let chosen = choose(frontend, origin, hash);
    if chosen.is_err() {
        stats::count_drop(frontend.service);
    }
    chosen
}

#[inline(always)]
fn choose(frontend: Frontend, origin: Origin, hash: u32) -> Result<Choice, Drop> {
    let service = SERVICES
        .get_ptr(frontend.service)
        .ok_or(Drop::Inconsistent)?;
    // SAFETY: a non-null pointer into the array. The daemon may write at any time, hence volatile; a run is one
    // aligned word, so it is read whole.
    let (generation, flags) = unsafe {
        (
            read_volatile(&raw const (*service).generation),
            read_volatile(&raw const (*service).flags),
        )
    };
    let run = if Service::is_local_only(flags, frontend.kind, origin) {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*service).local) }
    } else {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*service).cluster) }
    };
    if run.count() == 0 {
        return Err(if run == Run::DROP {
            Drop::NoPolicyBackend
        } else {
            Drop::NoBackend
        });
    }
    let id = *SLOTS.get(run.slot(hash)).ok_or(Drop::Inconsistent)?;
    let backend = BACKENDS.get_ptr(id).ok_or(Drop::Inconsistent)?;
    // SAFETY: a non-null pointer into the array; what a published run names is not written before its quarantine ends.
    let backend = unsafe { &*backend };
    Ok(Choice {
        service: frontend.service,
        service_generation: generation,
        backend: id,
        backend_generation: backend.generation,
        address: backend.address,
        port: backend.port,
        is_local: backend.flags & Backend::LOCAL != 0,
    })
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
    let Some(backend) = BACKENDS.get_ptr(id) else {
        return Standing::Gone;
    };
    // SAFETY: a non-null pointer into the array; the daemon may write at any time, hence volatile.
    let (current, flags) = unsafe {
        (
            read_volatile(&raw const (*backend).generation),
            read_volatile(&raw const (*backend).flags),
        )
    };
    if current != generation {
        Standing::Gone
    } else if flags & Backend::SERVING == 0 {
        Standing::NotServing
    } else {
        Standing::Serving
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
