//! Changing packets: addresses and ports with their checksums, and the time to live.

use super::parse::{L3, Packet};
use aya_ebpf::bindings::{BPF_F_INVALIDATE_HASH, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::bpf_csum_update;
use aya_ebpf::programs::TcContext;
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::checksum::Sum;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

/// Makes the packet belong to the flow `to`.
#[inline(always)]
pub(crate) fn flow(ctx: &TcContext, packet: &Packet, to: &Flow) -> Result<(), Drop> {
    let addresses = addresses(ctx, L3, &packet.flow, to)?;
    let ports = ports(ctx, packet.l4, &packet.flow, to)?;
    transport_checksum(ctx, packet, addresses, ports)
}

/// Changes the addresses of the IP header at `at`, and its checksum if it has one. Returns by how much they changed.
#[inline(always)]
pub(crate) fn addresses(ctx: &TcContext, at: usize, from: &Flow, to: &Flow) -> Result<Sum, Drop> {
    let change = Sum::ZERO
        .remove_words(from.source.words())
        .remove_words(from.destination.words())
        .add_words(to.source.words())
        .add_words(to.destination.words());
    if to.destination.is_v4() {
        store(
            ctx,
            at + 12,
            &[to.source.v4_word(), to.destination.v4_word()],
        )?;
        ctx.l3_csum_replace(at + 10, 0, u64::from(change.folded()), 0)
            .map_err(|_| Drop::Rewrite)?;
    } else {
        store(ctx, at + 8, &[to.source.words(), to.destination.words()])?;
    }
    Ok(change)
}

/// Changes the ports of the transport header at `at`. Returns by how much they changed.
#[inline(always)]
pub(crate) fn ports(ctx: &TcContext, at: usize, from: &Flow, to: &Flow) -> Result<Sum, Drop> {
    store(
        ctx,
        at,
        &[to.source_port.word(), to.destination_port.word()],
    )?;
    Ok(Sum::ZERO.remove(port_word(from)).add(port_word(to)))
}

/// Both ports as they lie in the packet.
#[inline(always)]
fn port_word(flow: &Flow) -> u32 {
    u32::from(flow.source_port.word()) | u32::from(flow.destination_port.word()) << 16
}

/// The addresses are part of the pseudo-header, the ports are not. The kernel has to know which is which: if a device is
/// still to complete the checksum, the field holds the pseudo-header's sum alone.
#[inline(always)]
fn transport_checksum(
    ctx: &TcContext,
    packet: &Packet,
    addresses: Sum,
    ports: Sum,
) -> Result<(), Drop> {
    let (offset, flags) = match packet.flow.protocol {
        // A UDP checksum of zero means none, and stays (RFC 768).
        Protocol::UDP => (packet.l4 + 6, u64::from(BPF_F_MARK_MANGLED_0)),
        _ => (packet.l4 + 16, 0),
    };
    replace_pseudo(ctx, offset, packet.is_v4(), addresses, flags)?;
    replace(ctx, offset, ports, flags)
}

/// Changes an ICMP error's checksum, at `offset`, for new addresses of its own, and for new addresses and ports in its
/// quote. ICMP for IPv4 covers no addresses but the quoted ones, and those are absorbed by the quoted header's checksum.
#[inline(always)]
pub(crate) fn icmp_checksum(
    ctx: &TcContext,
    offset: usize,
    is_v4: bool,
    [own, quoted, ports]: [Sum; 3],
) -> Result<(), Drop> {
    if !is_v4 {
        replace_pseudo(ctx, offset, is_v4, own, 0)?;
        replace(ctx, offset, quoted, 0)?;
    }
    replace(ctx, offset, ports, 0)
}

/// Changes the checksum at `offset` for a change of what only the pseudo-header holds.
#[inline(always)]
fn replace_pseudo(
    ctx: &TcContext,
    offset: usize,
    is_v4: bool,
    change: Sum,
    flags: u64,
) -> Result<(), Drop> {
    replace(ctx, offset, change, flags | u64::from(BPF_F_PSEUDO_HDR))?;
    if !is_v4 {
        // If the device summed the packet (CHECKSUM_COMPLETE), the helper has changed that sum as if an IPv4 header's
        // checksum had absorbed the addresses. IPv6 has none, so the sum must stay as it was. Fails without such a sum.
        // SAFETY: the helper changes only the packet's metadata.
        unsafe { bpf_csum_update(ctx.skb.skb, change.folded()) };
    }
    Ok(())
}

/// Changes the checksum at `offset` for a change of what it covers.
#[inline(always)]
fn replace(ctx: &TcContext, offset: usize, change: Sum, flags: u64) -> Result<(), Drop> {
    ctx.l4_csum_replace(offset, 0, u64::from(change.folded()), flags)
        .map_err(|_| Drop::Rewrite)
}

/// Takes one hop from a packet's time to live, as a router does. The caller has seen that there is one.
#[inline(always)]
pub(crate) fn decrement_ttl(ctx: &TcContext, is_v4: bool, ttl: u8) -> Result<(), Drop> {
    let less = ttl.wrapping_sub(1);
    if !is_v4 {
        return store(ctx, L3 + 7, &less);
    }
    store(ctx, L3 + 8, &less)?;
    let change = Sum::ZERO.remove(u32::from(ttl)).add(u32::from(less));
    ctx.l3_csum_replace(L3 + 10, 0, u64::from(change.folded()), 0)
        .map_err(|_| Drop::Rewrite)
}

#[inline(always)]
fn store<T>(ctx: &TcContext, offset: usize, value: &T) -> Result<(), Drop> {
    ctx.store(offset, value, u64::from(BPF_F_INVALIDATE_HASH))
        .map_err(|_| Drop::Rewrite)
}
