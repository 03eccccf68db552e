//! SCTP's checksum, which covers the ports but not the addresses.
//!
//! What works: associations between one address of each side. An endpoint with more than one announces them inside the
//! packets (RFC 9260, section 3.3.2), where nothing is translated. There are no socket hooks for SCTP, so a service is
//! reached by clients outside and by pods, not by processes in the node's own network namespace.

use super::context::Context;
use super::parse::{Fragment, Packet};
use super::rewrite;
use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use dataplane_ebpf::crc32c;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

/// Where the checksum is in the header.
const CHECKSUM: usize = 8;

/// Whether the packet has no checksum: a device is still to compute it, or both ends agreed to do without (RFC 9653).
#[inline(always)]
pub(crate) fn is_unsummed(ctx: &impl Context, packet: &Packet) -> Result<bool, Drop> {
    let checksum: u32 = ctx.load(packet.l4 + CHECKSUM)?;
    Ok(checksum == 0)
}

/// Changes the checksum for the ports of `to`.
#[inline(always)]
pub(crate) fn change_checksum(ctx: &impl Context, packet: &Packet, to: &Flow) -> Result<(), Drop> {
    if !packet.is_sctp() || packet.fragment == Fragment::Later {
        return Ok(());
    }
    let difference = rewrite::port_word(&packet.flow) ^ rewrite::port_word(to);
    if difference == 0 || is_unsummed(ctx, packet)? {
        return Ok(());
    }
    if packet.fragment == Fragment::First {
        // The change depends on how much follows, which only the last piece knows. SCTP itself cuts its messages so that
        // packets fit.
        return Err(Drop::Fragment);
    }
    let field = packet.l4 + CHECKSUM;
    let checksum: u32 = ctx.load(field)?;
    ctx.store(field, &(checksum ^ change(difference, packet.payload)))
}

/// What [`step`] works on.
struct Change {
    difference: u32,
    length: u32,
}

/// By what the checksum of a packet of `length` bytes changes when its ports do by `difference`.
#[inline(always)]
fn change(difference: u32, length: u32) -> u32 {
    let mut change = Change { difference, length };
    // A loop of the kernel's, whose body the verifier walks through once.
    // SAFETY: the function has the type that the kernel calls, and `change` outlives the call.
    unsafe {
        bpf_loop(
            crc32c::LENGTH_BITS,
            step as *mut c_void,
            (&raw mut change).cast(),
            0,
        )
    };
    change.difference
}

unsafe extern "C" fn step(bit: u32, change: *mut Change) -> i64 {
    // SAFETY: the pointer is the one that `change` gave.
    let change = unsafe { &mut *change };
    change.difference = crc32c::step(change.difference, change.length, bit);
    0
}
