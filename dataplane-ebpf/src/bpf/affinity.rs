//! Session affinity: a client gets the backend it got last, while that is in the run and not too long ago.
//!
//! Only new connections come here; those that exist have their backend anyhow. An entry that does not hold any more is
//! a miss, never a drop.

use super::maps::AFFINITY;
use super::service;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use dataplane_ebpf::abi::{Affinity, AffinityKey};

/// On what terms a service holds a client to a backend.
pub(crate) struct Terms {
    /// [`Service::affinity_seconds`](dataplane_ebpf::abi::Service::affinity_seconds).
    pub(crate) seconds: u32,
    /// [`Service::affinity_generation`](dataplane_ebpf::abi::Service::affinity_generation).
    pub(crate) generation: u32,
    /// The flag of backends in the run that is open to the client.
    pub(crate) in_run: u8,
}

/// The backend that the client of `key` is held to, from now on if it was to none: then it is `candidate`. A
/// function for the kernel too, so that the verifier forgets the way to the result before it walks on.
#[inline(never)]
pub(crate) fn backend(key: &AffinityKey, terms: &Terms, candidate: u32) -> u32 {
    // Another CPU may have the client's first packet of another connection. The faster one decides for both.
    for _ in 0..2 {
        if let Some(backend) = held(key, terms) {
            return backend;
        }
        if hold(key, terms, candidate) {
            break;
        }
    }
    candidate
}

/// The backend that the client is held to; its time starts anew.
#[inline(always)]
fn held(key: &AffinityKey, terms: &Terms) -> Option<u32> {
    let affinity = AFFINITY.get_ptr_mut(key)?;
    // SAFETY: a non-null pointer to a value of the map, which exists as long as the program does. If it is evicted
    // meanwhile it may be another client's, who then gets another backend once.
    let affinity = unsafe { &mut *affinity };
    let now = now();
    // Another CPU may have been here a second later.
    let elapsed = now.saturating_sub(affinity.since);
    if affinity.affinity_generation != terms.generation
        || elapsed > terms.seconds
        || !service::has_flag(affinity.backend, affinity.backend_generation, terms.in_run)
    {
        // It may be gone by now: just as well.
        AFFINITY.remove(key).ok();
        return None;
    }
    if elapsed != 0 {
        affinity.since = now;
    }
    Some(affinity.backend)
}

/// Holds the client to `backend`, unless it is held to one. Whether it is now.
#[inline(always)]
fn hold(key: &AffinityKey, terms: &Terms, backend: u32) -> bool {
    let affinity = Affinity {
        backend,
        backend_generation: service::backend_generation(backend),
        affinity_generation: terms.generation,
        since: now(),
    };
    AFFINITY
        .insert(key, affinity, u64::from(BPF_NOEXIST))
        .is_ok()
}

/// Seconds of the monotonic clock.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: the helper takes nothing.
    let nanoseconds = unsafe { bpf_ktime_get_coarse_ns() };
    (nanoseconds / 1_000_000_000) as u32
}
