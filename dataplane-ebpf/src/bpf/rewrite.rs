//! Changing packets: addresses and ports with their checksums, and the time to live.

use super::context::Context;
use super::parse::{Fragment, L3, Packet};
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::checksum::Sum;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

/// Makes the packet belong to the flow `to`, except for SCTP's checksum.
#[inline(always)]
pub(crate) fn flow(ctx: &impl Context, packet: &Packet, to: &Flow) -> Result<(), Drop> {
    let addresses = addresses(ctx, L3, &packet.flow, to)?;
    if packet.fragment == Fragment::Later {
        // It has neither ports nor a checksum that covers the addresses.
        if !packet.is_v4() {
            ctx.change_device_sum(addresses);
        }
        return Ok(());
    }
    let ports = ports(ctx, packet.l4, &packet.flow, to)?;
    if packet.is_sctp() {
        return Ok(());
    }
    transport_checksum(ctx, packet, addresses, ports)
}

/// Changes the addresses of the IP header at `at`, and its checksum if it has one. Returns by how much they changed.
#[inline(always)]
pub(crate) fn addresses(
    ctx: &impl Context,
    at: usize,
    from: &Flow,
    to: &Flow,
) -> Result<Sum, Drop> {
    let change = Sum::ZERO
        .remove_words(from.source.words())
        .remove_words(from.destination.words())
        .add_words(to.source.words())
        .add_words(to.destination.words());
    if to.destination.is_v4() {
        ctx.store(at + 12, &[to.source.v4_word(), to.destination.v4_word()])?;
        ctx.change_network_checksum(at + 10, change)?;
    } else {
        ctx.store(at + 8, &[to.source.words(), to.destination.words()])?;
    }
    Ok(change)
}

/// Changes the ports of the transport header at `at`. Returns by how much they changed.
#[inline(always)]
pub(crate) fn ports(ctx: &impl Context, at: usize, from: &Flow, to: &Flow) -> Result<Sum, Drop> {
    ctx.store(at, &[to.source_port.word(), to.destination_port.word()])?;
    Ok(Sum::ZERO.remove(port_word(from)).add(port_word(to)))
}

/// Both ports as they lie in the packet.
#[inline(always)]
pub(crate) fn port_word(flow: &Flow) -> u32 {
    u32::from(flow.source_port.word()) | u32::from(flow.destination_port.word()) << 16
}

/// The addresses are part of the pseudo-header, the ports are not.
#[inline(always)]
fn transport_checksum(
    ctx: &impl Context,
    packet: &Packet,
    addresses: Sum,
    ports: Sum,
) -> Result<(), Drop> {
    let protocol = packet.flow.protocol;
    let field = match protocol {
        Protocol::UDP => packet.l4 + 6,
        _ => packet.l4 + 16,
    };
    ctx.change_transport_checksum(field, protocol, packet.is_v4(), addresses, ports)
}

/// Changes an ICMP error's checksum, at `offset`, for new addresses of its own, and for new addresses and ports in its
/// quote. ICMP for IPv4 covers no addresses but the quoted ones, and those are absorbed by the quoted header's checksum.
#[inline(always)]
pub(crate) fn icmp_checksum(
    ctx: &impl Context,
    offset: usize,
    is_v4: bool,
    [own, quoted, ports]: [Sum; 3],
) -> Result<(), Drop> {
    if is_v4 {
        return ctx.change_covered_checksum(offset, Protocol::ICMP, ports);
    }
    ctx.change_transport_checksum(offset, Protocol::ICMPV6, is_v4, own, quoted.add_sum(ports))
}

/// Takes one hop from a packet's time to live, as a router does. The caller has seen that there is one.
#[inline(always)]
pub(crate) fn decrement_ttl(ctx: &impl Context, is_v4: bool, ttl: u8) -> Result<(), Drop> {
    let less = ttl.wrapping_sub(1);
    if !is_v4 {
        ctx.store(L3 + 7, &less)?;
        let [before, after] = [ttl, less].map(|ttl| u32::from(u16::from_ne_bytes([0, ttl])));
        ctx.change_device_sum(Sum::ZERO.remove(before).add(after));
        return Ok(());
    }
    ctx.store(L3 + 8, &less)?;
    let change = Sum::ZERO.remove(u32::from(ttl)).add(u32::from(less));
    ctx.change_network_checksum(L3 + 10, change)
}
