//! Counting. Every counter is per CPU, so an increment needs no atomic operation.

use super::maps::{DROPS, STATS};
use dataplane_ebpf::abi::Stats;
use dataplane_ebpf::drop::Drop;

/// A service has given a client a backend.
#[inline(always)]
pub(crate) fn count_connection(service: u32) {
    update(service, |stats| stats.connections += 1);
}

/// A packet of a service was translated.
#[inline(always)]
pub(crate) fn count_packet(service: u32, length: u32) {
    update(service, |stats| {
        stats.packets += 1;
        stats.bytes += u64::from(length);
    });
}

/// A service could not take a client.
#[inline(always)]
pub(crate) fn count_drop(service: u32) {
    update(service, |stats| stats.drops += 1);
}

/// Something went no further.
#[inline(always)]
pub(crate) fn count_reason(reason: Drop) {
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: a non-null pointer to this CPU's own value.
        unsafe { *count += 1 };
    }
}

#[inline(always)]
fn update(service: u32, change: impl FnOnce(&mut Stats)) {
    if let Some(stats) = STATS.get_ptr_mut(service) {
        // SAFETY: a non-null pointer to this CPU's own value; nothing else on this CPU writes it meanwhile.
        change(unsafe { &mut *stats });
    }
}
