//! Counting. Every counter is per CPU, so an increment needs no atomic operation.

use super::maps::{DROPS, NEXT_DROP, RECENT_DROPS, STATS};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use dataplane_ebpf::abi::{DropRecord, Stats, maps};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

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

/// Something went no further: a packet of `flow` that came by `device`, or a socket's call, which came by none.
#[inline(always)]
pub(crate) fn count_reason(reason: Drop, flow: &Flow, device: u32) {
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: a non-null pointer to this CPU's own value.
        unsafe { *count += 1 };
    }
    if let Some(record) = next_record() {
        // SAFETY: a non-null pointer to this CPU's own value. A call that is interrupted by another one's may leave a
        // record with something of both, which misleads nothing but a reader.
        unsafe {
            (*record).time = bpf_ktime_get_ns();
            (*record).flow = *flow;
            (*record).reason = reason as u32;
            (*record).device = device;
        }
    }
}

/// This CPU's oldest record.
#[inline(always)]
fn next_record() -> Option<*mut DropRecord> {
    let next = NEXT_DROP.get_ptr_mut(0)?;
    // SAFETY: a non-null pointer to this CPU's own value.
    let number = unsafe {
        *next = (*next).wrapping_add(1);
        *next
    };
    RECENT_DROPS.get_ptr_mut(number % maps::RECENT_DROPS_SIZE)
}

#[inline(always)]
fn update(service: u32, change: impl FnOnce(&mut Stats)) {
    if let Some(stats) = STATS.get_ptr_mut(service) {
        // SAFETY: a non-null pointer to this CPU's own value; nothing else on this CPU writes it meanwhile.
        change(unsafe { &mut *stats });
    }
}
