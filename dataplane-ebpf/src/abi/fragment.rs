//! Packets that were cut to pieces.

use crate::addr::{Addr, Port, Protocol};

/// Key of `FRAGMENTS`: a packet that was cut to pieces (RFC 791, RFC 8200).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    /// Who sends.
    pub source: Addr,
    /// Who receives.
    pub destination: Addr,
    /// What the pieces have in common; of IPv4, zero-extended.
    pub id: u32,
    /// The transport protocol.
    pub protocol: Protocol,
    padding: u8,
    more_padding: u16,
}

impl FragmentKey {
    /// The key of the pieces with `id` from `source` to `destination`.
    #[inline(always)]
    pub const fn new(source: Addr, destination: Addr, id: u32, protocol: Protocol) -> Self {
        Self {
            source,
            destination,
            id,
            protocol,
            padding: 0,
            more_padding: 0,
        }
    }
}

/// Value of `FRAGMENTS`: what only the first piece holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPorts {
    /// The sender's port.
    pub source: Port,
    /// The receiver's port.
    pub destination: Port,
}
