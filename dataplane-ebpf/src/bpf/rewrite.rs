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
    let from = &packet.flow;
    let addresses = Sum::ZERO
        .remove_words(from.source.words())
        .remove_words(from.destination.words())
        .add_words(to.source.words())
        .add_words(to.destination.words());
    let ports = Sum::ZERO.remove(port_word(from)).add(port_word(to));
    if packet.is_v4() {
        let words = [to.source.v4_word(), to.destination.v4_word()];
        store(ctx, L3 + 12, &words)?;
        ctx.l3_csum_replace(L3 + 10, 0, u64::from(addresses.folded()), 0)
            .map_err(|_| Drop::Rewrite)?;
    } else {
        store(ctx, L3 + 8, &[to.source.words(), to.destination.words()])?;
    }
    store(
        ctx,
        packet.l4,
        &[to.source_port.word(), to.destination_port.word()],
    )?;
    transport_checksum(ctx, packet, addresses, ports)
}

/// Both ports as they lie in the packet.
#[inline(always)]
fn port_word(flow: &Flow) -> u32 {
    u32::from(flow.source_port.word()) | u32::from(flow.destination_port.word()) << 16
}

/// The addresses are part of the pseudo-header, the ports are not: the kernel has to know which is which, because of a
/// packet whose checksum a device is still to complete the field holds the pseudo-header's sum alone.
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
    let pseudo = flags | u64::from(BPF_F_PSEUDO_HDR);
    let addresses = addresses.folded();
    ctx.l4_csum_replace(offset, 0, u64::from(addresses), pseudo)
        .map_err(|_| Drop::Rewrite)?;
    ctx.l4_csum_replace(offset, 0, u64::from(ports.folded()), flags)
        .map_err(|_| Drop::Rewrite)?;
    if !packet.is_v4() {
        // If the device summed the packet (CHECKSUM_COMPLETE), the helper has changed that sum as if an IPv4 header's
        // checksum had absorbed the addresses. IPv6 has none, so the sum must stay as it was. Fails without such a sum.
        // SAFETY: the helper changes only the packet's metadata.
        unsafe { bpf_csum_update(ctx.skb.skb, addresses) };
    }
    Ok(())
}

/// Takes one hop from the packet's time to live, as a router does. The caller has seen that there is one.
#[inline(always)]
pub(crate) fn decrement_ttl(ctx: &TcContext, packet: &Packet) -> Result<(), Drop> {
    let ttl = packet.ttl.wrapping_sub(1);
    if !packet.is_v4() {
        return store(ctx, L3 + 7, &ttl);
    }
    store(ctx, L3 + 8, &ttl)?;
    let change = Sum::ZERO.remove(u32::from(packet.ttl)).add(u32::from(ttl));
    ctx.l3_csum_replace(L3 + 10, 0, u64::from(change.folded()), 0)
        .map_err(|_| Drop::Rewrite)
}

#[inline(always)]
fn store<T>(ctx: &TcContext, offset: usize, value: &T) -> Result<(), Drop> {
    ctx.store(offset, value, u64::from(BPF_F_INVALIDATE_HASH))
        .map_err(|_| Drop::Rewrite)
}
