//! Answers to packets that are refused: a TCP reset, or an ICMP port unreachable for UDP. The packet itself becomes the
//! answer and leaves the way it came.
//!
//! The device may have left a packet's checksum to be completed later (a packet from a virtual machine or another
//! namespace on the same host). Nothing in a program's context tells; [`is_partial`] finds out, and the answers are
//! made so that the completion comes out right.

use super::parse::{self, Fragment, L3, Packet, tcp};
use super::stats;
use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_change_tail};
use aya_ebpf::programs::TcContext;
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::checksum::Sum;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

/// Time to live of answers.
const TTL: u8 = 64;

/// What an ICMP error quotes of the transport header (RFC 792: 64 bits): all of UDP's.
const QUOTE: usize = 8;

/// Turns the packet into the answer that refuses it and sends it back; one that must not be answered is dropped.
#[inline(never)]
pub(crate) fn answer(ctx: &TcContext) -> i32 {
    match try_answer(ctx) {
        // SAFETY: the kernel's context; the helper takes numbers.
        Ok(true) => unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 },
        Ok(false) => TC_ACT_SHOT,
        Err(reason) => {
            stats::count_reason(reason);
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn try_answer(ctx: &TcContext) -> Result<bool, Drop> {
    let Some(packet) = parse::packet(ctx)? else {
        return Ok(false);
    };
    if packet.fragment != Fragment::Whole || packet.tcp_flags & tcp::RST != 0 {
        return Ok(false);
    }
    if packet.is_tcp() {
        reset(ctx, &packet)?;
    } else if packet.l4 != L3 + if packet.is_v4() { 20 } else { 40 } {
        // Nobody sends options with UDP; quoting them would take a loop.
        return Ok(false);
    } else if packet.is_v4() {
        unreachable_v4(ctx, &packet)?;
    } else {
        unreachable_v6(ctx, &packet)?;
    }
    swap_ethernet(ctx)?;
    Ok(true)
}

/// A TCP header without options; every field in network order.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHeader {
    source: u16,
    destination: u16,
    sequence: u32,
    acknowledgment: u32,
    offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

const TCP_LENGTH: u16 = size_of::<TcpHeader>() as u16;

/// RFC 9293, section 3.10.7.1: what a host without the connection answers.
#[inline(always)]
fn reset(ctx: &TcContext, packet: &Packet) -> Result<(), Drop> {
    let segment: TcpHeader = ctx.load(packet.l4).map_err(|_| Drop::Malformed)?;
    trim(ctx, packet.l4 + usize::from(TCP_LENGTH))?;
    answer_network(ctx, packet)?;
    let header = reset_header(packet, &segment);
    store(ctx, packet.l4, &header)?;
    let pseudo = pseudo(&packet.flow, TCP_LENGTH);
    // SAFETY: twenty bytes of integers either way.
    let words: [u32; 5] = unsafe { core::mem::transmute(header) };
    let whole = words.iter().fold(pseudo, |sum, word| sum.add(*word));
    let field = packet.l4 + 16;
    let checksum = if is_partial(ctx, field)? {
        pseudo.partial()
    } else {
        whole.checksum()
    };
    store(ctx, field, &checksum)
}

#[inline(always)]
fn reset_header(packet: &Packet, segment: &TcpHeader) -> TcpHeader {
    let mut header = TcpHeader {
        source: segment.destination,
        destination: segment.source,
        sequence: 0,
        acknowledgment: 0,
        offset: 5 << 4,
        flags: tcp::RST,
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    if segment.flags & tcp::ACK != 0 {
        header.sequence = segment.acknowledgment;
    } else {
        let data = packet
            .payload
            .wrapping_sub(u32::from(segment.offset >> 4) * 4);
        let controls =
            u32::from(segment.flags & tcp::SYN != 0) + u32::from(segment.flags & tcp::FIN != 0);
        let next = u32::from_be(segment.sequence)
            .wrapping_add(data)
            .wrapping_add(controls);
        header.acknowledgment = next.to_be();
        header.flags |= tcp::ACK;
    }
    header
}

/// Turns the IP header around, options and all, and makes it announce a TCP header alone.
#[inline(always)]
fn answer_network(ctx: &TcContext, packet: &Packet) -> Result<(), Drop> {
    let flow = &packet.flow;
    if !packet.is_v4() {
        let length = (packet.l4 - L3 - 40) as u16 + TCP_LENGTH;
        store(ctx, L3 + 4, &length.to_be())?;
        store(ctx, L3 + 7, &TTL)?;
        return store(
            ctx,
            L3 + 8,
            &[flow.destination.words(), flow.source.words()],
        );
    }
    let old: u16 = ctx.load(L3 + 2).map_err(|_| Drop::Malformed)?;
    let new = ((packet.l4 - L3) as u16 + TCP_LENGTH).to_be();
    store(ctx, L3 + 2, &new)?;
    store(ctx, L3 + 8, &TTL)?;
    store(
        ctx,
        L3 + 12,
        &[flow.destination.v4_word(), flow.source.v4_word()],
    )?;
    // Swapped addresses sum to the same.
    let change = Sum::ZERO
        .remove(u32::from(old))
        .add(u32::from(new))
        .remove(u32::from(packet.ttl))
        .add(u32::from(TTL));
    ctx.l3_csum_replace(L3 + 10, 0, u64::from(change.folded()), 0)
        .map_err(|_| Drop::Rewrite)
}

/// Type 3 code 3 of RFC 792, before the quoted packet.
#[repr(C)]
struct UnreachableV4 {
    version_ihl: u8,
    tos: u8,
    total_length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
    kind: u8,
    code: u8,
    icmp_checksum: u16,
    unused: u32,
}

#[inline(always)]
fn unreachable_v4(ctx: &TcContext, packet: &Packet) -> Result<(), Drop> {
    let quoted = quote::<7>(ctx, packet, 20)?;
    let flow = &packet.flow;
    let mut header = UnreachableV4 {
        version_ihl: 0x45,
        tos: 0,
        total_length: ((size_of::<UnreachableV4>() + 20 + QUOTE) as u16).to_be(),
        id: 0,
        fragment: 0,
        ttl: TTL,
        protocol: Protocol::ICMP.number(),
        checksum: 0,
        source: flow.destination.v4_word(),
        destination: flow.source.v4_word(),
        kind: 3,
        code: 3,
        icmp_checksum: 0,
        unused: 0,
    };
    let lead = u32::from(u16::from_ne_bytes([header.version_ihl, header.tos]));
    let ttl = u32::from(u16::from_ne_bytes([header.ttl, header.protocol]));
    let sum = Sum::ZERO
        .add(lead)
        .add(u32::from(header.total_length))
        .add(ttl);
    header.checksum = sum.add(header.source).add(header.destination).checksum();
    let kind = u32::from(u16::from_ne_bytes([header.kind, header.code]));
    header.icmp_checksum = quoted.add(kind).checksum();
    insert(ctx, &header)
}

/// Type 1 code 4 of RFC 4443, before the quoted packet.
#[repr(C)]
struct UnreachableV6 {
    version_class_label: u32,
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
    kind: u8,
    code: u8,
    checksum: u16,
    unused: u32,
}

#[inline(always)]
fn unreachable_v6(ctx: &TcContext, packet: &Packet) -> Result<(), Drop> {
    let quoted = quote::<12>(ctx, packet, 40)?;
    let flow = &packet.flow;
    let length = ((8 + 40 + QUOTE) as u16).to_be();
    let mut header = UnreachableV6 {
        version_class_label: (6u32 << 28).to_be(),
        payload_length: length,
        next_header: Protocol::ICMPV6.number(),
        hop_limit: TTL,
        source: flow.destination.words(),
        destination: flow.source.words(),
        kind: 1,
        code: 4,
        checksum: 0,
        unused: 0,
    };
    let kind = u32::from(u16::from_ne_bytes([header.kind, header.code]));
    let next = u32::from(u16::from(header.next_header).to_be());
    let sum = quoted.add(kind).add(u32::from(length)).add(next);
    header.checksum = sum
        .add_words(header.source)
        .add_words(header.destination)
        .checksum();
    insert(ctx, &header)
}

/// Trims the packet to what an ICMP error quotes, and sums that: `WORDS` words, of which `network` bytes are the IP
/// header.
#[inline(always)]
fn quote<const WORDS: usize>(
    ctx: &TcContext,
    packet: &Packet,
    network: usize,
) -> Result<Sum, Drop> {
    let field = packet.l4 + 6;
    let checksum: u16 = ctx.load(field).map_err(|_| Drop::Malformed)?;
    let partial = is_partial(ctx, field)?;
    store(ctx, field, &checksum)?;
    trim(ctx, packet.l4 + QUOTE)?;
    let words: [u32; WORDS] = ctx.load(L3).map_err(|_| Drop::Malformed)?;
    let (header, transport) = words.split_at(network / 4);
    let sum = header.iter().fold(Sum::ZERO, |sum, word| sum.add(*word));
    if partial {
        // Completed, the quoted transport header will sum to the complement of what the field holds now.
        return Ok(sum.add(u32::from(!checksum)));
    }
    Ok(transport.iter().fold(sum, |sum, word| sum.add(*word)))
}

/// Inserts `header` between the Ethernet header and the quoted packet.
#[inline(always)]
fn insert<T>(ctx: &TcContext, header: &T) -> Result<(), Drop> {
    ctx.adjust_room(size_of::<T>() as i32, BPF_ADJ_ROOM_MAC, 0)
        .map_err(|_| Drop::Rewrite)?;
    store(ctx, L3, header)
}

/// The sum of the pseudo-header of a packet of `length` bytes.
#[inline(always)]
fn pseudo(flow: &Flow, length: u16) -> Sum {
    let protocol = u32::from(u16::from(flow.protocol.number()).to_be());
    let sum = Sum::ZERO.add(protocol).add(u32::from(length.to_be()));
    if flow.source.is_v4() {
        return sum
            .add(flow.source.v4_word())
            .add(flow.destination.v4_word());
    }
    sum.add_words(flow.source.words())
        .add_words(flow.destination.words())
}

/// Whether the packet's checksum, at `field`, is yet to be completed (CHECKSUM_PARTIAL): only then does the kernel
/// leave the field alone when told of a change outside the pseudo-header. Otherwise it is garbled afterwards.
#[inline(always)]
fn is_partial(ctx: &TcContext, field: usize) -> Result<bool, Drop> {
    let before: u16 = ctx.load(field).map_err(|_| Drop::Malformed)?;
    ctx.l4_csum_replace(field, 0, 1, 2)
        .map_err(|_| Drop::Rewrite)?;
    let after: u16 = ctx.load(field).map_err(|_| Drop::Malformed)?;
    Ok(before == after)
}

/// Cuts the packet to `length` bytes, and makes it one packet if it stands for many.
#[inline(always)]
fn trim(ctx: &TcContext, length: usize) -> Result<(), Drop> {
    // SAFETY: the kernel's context.
    let result = unsafe { bpf_skb_change_tail(ctx.skb.skb, length as u32, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(Drop::Rewrite)
    }
}

#[inline(always)]
fn swap_ethernet(ctx: &TcContext) -> Result<(), Drop> {
    let [destination, source]: [[u16; 3]; 2] = ctx.load(0).map_err(|_| Drop::Malformed)?;
    store(ctx, 0, &[source, destination])
}

#[inline(always)]
fn store<T>(ctx: &TcContext, offset: usize, value: &T) -> Result<(), Drop> {
    ctx.store(offset, value, 0).map_err(|_| Drop::Rewrite)
}
