//! The values one packet's steps pass on, kept in memory of the CPU rather than on the stack.
//!
//! A program's stack has 512 bytes, which a packet and both directions of its connection would fill. What is read back
//! from here is also just a number to the verifier, whatever way led to it, so it walks each step once instead of once
//! for every way.

use super::forward::Route;
use super::maps::WORK;
use super::parse::Packet;
use dataplane_ebpf::abi::Connection;
use dataplane_ebpf::drop::{Answer, Drop};
use dataplane_ebpf::flow::Flow;

/// What is known of the packet at hand.
pub(crate) struct Work {
    /// The packet.
    pub(crate) packet: Packet,
    /// The connection it belongs to.
    pub(crate) connection: Connection,
    /// A new connection's other direction.
    pub(crate) reply: Connection,
    /// The flow of that direction's packets.
    pub(crate) reply_flow: Flow,
    /// Where the packet goes.
    pub(crate) route: Route,
    /// Whether the packet tells the backend's node of its connection.
    pub(crate) tells: bool,
    /// Why the packet goes no further.
    pub(crate) reason: Drop,
    /// What the packet's sender is told.
    pub(crate) answer: Answer,
}

impl Work {
    /// Begins the work on `packet`.
    ///
    /// A CPU works on one packet at a time: both hooks run with soft interrupts off.
    #[inline(always)]
    pub(crate) fn begin(packet: Packet) -> Result<&'static mut Self, Drop> {
        let work = Self::get()?;
        work.packet = packet;
        Ok(work)
    }

    /// What there is of the work so far. Only one of the program's functions may use it at a time.
    #[inline(always)]
    pub(crate) fn get() -> Result<&'static mut Self, Drop> {
        let work = WORK.get_ptr_mut(0).ok_or(Drop::Inconsistent)?;
        // SAFETY: a non-null pointer to this CPU's own value, which nothing else uses meanwhile.
        Ok(unsafe { &mut *work })
    }
}
