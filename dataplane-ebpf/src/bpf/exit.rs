//! Where a frame that leaves by a driver goes next.

use super::context::Context as _;
use super::forward;
use super::frame::Frame;
use super::maps::XDP_DEVICES;
use super::parse::L3;
use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup};
use aya_ebpf::helpers::generated::bpf_redirect;
use dataplane_ebpf::abi::Mac;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

/// A device, and the Ethernet header that a frame has there.
pub(crate) struct Exit {
    device: u32,
    /// Destination and source.
    ethernet: [[u8; 6]; 2],
}

/// Looks up where a frame of flow `to` with this time to live goes next. `None` unless all is known and plain: it is for
/// this machine, lives long enough and fits, its neighbour's address is known, and it leaves by a device that takes
/// frames from drivers.
#[inline(always)]
pub(crate) fn find(frame: &Frame, ttl: u8, to: &Flow, lookup: &mut FibLookup) -> Option<Exit> {
    if ttl <= 1 {
        return None;
    }
    let device = frame.device();
    let length = frame.length().wrapping_sub(L3 as u32);
    if forward::ask(frame.as_ptr(), device, to, length as u16, lookup) != BPF_FIB_LKUP_RET_SUCCESS {
        return None;
    }
    let may_leave = if lookup.ifindex == device {
        // The address of the device it leaves by is that of the one it came by: the kernel has just told it.
        frame.destination() == Ok(Mac::new(lookup.smac))
    } else {
        takes_frames(lookup.ifindex) && is_for_us(frame)
    };
    may_leave.then_some(Exit {
        device: lookup.ifindex,
        ethernet: [lookup.dmac, lookup.smac],
    })
}

/// Whether the frame is addressed to the device it came by: a switch may flood a frame for another machine.
#[inline(always)]
pub(crate) fn is_for_us(frame: &Frame) -> bool {
    // SAFETY: the map is not preallocated, so the entry outlives this program's run.
    let own = unsafe { XDP_DEVICES.get(frame.device()) };
    own.is_some_and(|own| frame.destination() == Ok(*own))
}

/// Whether a device other than the frame's own, which does, takes frames from drivers.
#[inline(always)]
fn takes_frames(device: u32) -> bool {
    // SAFETY: the map is not preallocated, so the entry outlives this program's run.
    unsafe { XDP_DEVICES.get(device) }.is_some()
}

impl Exit {
    /// Addresses the frame to the next hop.
    #[inline(always)]
    pub(crate) fn address(&self, frame: &Frame) -> Result<(), Drop> {
        frame.store(0, &self.ethernet)
    }

    /// The verdict that sends a frame of `device` there.
    #[inline(always)]
    pub(crate) fn verdict(&self, device: u32) -> u32 {
        if self.device == device {
            return XDP_TX;
        }
        // SAFETY: the helper takes numbers.
        unsafe { bpf_redirect(self.device, 0) as u32 }
    }
}
