//! Packets that were cut to pieces: only the first piece has the ports, the others are known by it.
//!
//! Pieces are translated one by one and never put together. One that overtakes the first is nobody's.

use super::maps::FRAGMENTS;
use super::parse::{Fragment, Packet};
use aya_ebpf::bindings::BPF_ANY;
use dataplane_ebpf::abi::{FragmentKey, FragmentPorts};

/// Remembers the ports if this is a first piece.
#[inline(always)]
pub(crate) fn remember(packet: &Packet) {
    if packet.fragment != Fragment::First {
        return;
    }
    let ports = FragmentPorts {
        source: packet.flow.source_port,
        destination: packet.flow.destination_port,
    };
    // Without it the other pieces are nobody's, as if they had overtaken this one.
    FRAGMENTS
        .insert(key(packet), ports, u64::from(BPF_ANY))
        .ok();
}

/// Gives a later piece the ports of its packet's first piece; `false` if they are not known. Any other packet has them.
#[inline(always)]
pub(crate) fn recall(packet: &mut Packet) -> bool {
    if packet.fragment != Fragment::Later {
        return true;
    }
    // SAFETY: the two ports are copied at once; an entry that another CPU evicts meanwhile may turn into another packet's,
    // and one piece then goes astray, as on a congested link.
    let Some(ports) = (unsafe { FRAGMENTS.get(key(packet)) }) else {
        return false;
    };
    packet.flow.source_port = ports.source;
    packet.flow.destination_port = ports.destination;
    true
}

#[inline(always)]
fn key(packet: &Packet) -> FragmentKey {
    FragmentKey::new(
        packet.flow.source,
        packet.flow.destination,
        packet.fragment_id,
        packet.flow.protocol,
    )
}
