//! What is told of the traffic: counts, and packets that went no further.

use crate::flow::Flow;

/// Value of `STATS`: what a service did, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections, or UDP flows, given to a backend.
    pub connections: u64,
    /// Packets translated, in both directions.
    pub packets: u64,
    /// Their bytes, from the link layer's header on.
    pub bytes: u64,
    /// Packets or calls refused or dropped after the service was known.
    pub drops: u64,
}

/// Value of `RECENT_DROPS`: a packet or call that went no further.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropRecord {
    /// When: nanoseconds of the monotonic clock; zero for a record never written.
    pub time: u64,
    /// The packet's flow as it arrived. A socket's call has no source.
    pub flow: Flow,
    /// The reason, as a number of [`crate::drop::Drop`].
    pub reason: u32,
    /// The device it came by; zero for a socket's call.
    pub device: u32,
}
