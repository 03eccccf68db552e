//! Answers to packets that go no further: a TCP reset, or an ICMP error. The packet itself becomes the answer and leaves
//! the way it came, from the address that it was for: its sender believes whom it has asked.
//!
//! The device may have left a packet's checksum to be completed later (a packet from a virtual machine or another
//! namespace on the same host). Nothing in a program's context tells; [`is_partial`] finds out, and the answers are
//! made so that the completion comes out right.

use super::parse::{Fragment, L3, Packet, tcp};
use super::work::Work;
use super::{limit, sctp, stats};
use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_change_tail};
use aya_ebpf::programs::TcContext;
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::checksum::Sum;
use dataplane_ebpf::drop::{Answer, Drop};
use dataplane_ebpf::flow::Flow;

/// Time to live of answers.
const TTL: u8 = 64;

/// Words of the longest IP header that an ICMP error quotes: with IPv4 options, or IPv6 extension headers of 72 bytes.
const MAX_NETWORK_WORDS: usize = 28;

/// Turns the packet into the work's answer and sends it back; one that must not be answered is dropped.
#[inline(never)]
pub(crate) fn answer(ctx: &TcContext) -> i32 {
    match try_answer(ctx) {
        // SAFETY: the kernel's context; the helper takes numbers.
        Ok(true) => unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 },
        Ok(false) => TC_ACT_SHOT,
        Err(reason) => {
            if let Ok(work) = Work::get() {
                // SAFETY: the kernel's context.
                let device = unsafe { (*ctx.skb.skb).ifindex };
                stats::count_reason(reason, &work.packet.flow, device);
            }
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn try_answer(ctx: &TcContext) -> Result<bool, Drop> {
    // Its packet is still the one that arrived: nothing is changed before it is decided that the packet goes on.
    let Work {
        packet,
        route,
        answer,
        ..
    } = Work::get()?;
    let (answer, mtu) = (*answer, route.mtu);
    // RFC 1122, section 3.2.2: not to a later fragment. A reset is what ends all.
    if packet.fragment == Fragment::Later || packet.tcp_flags & tcp::RST != 0 {
        return Ok(false);
    }
    if packet.is_tcp() && answer == Answer::Refusal {
        if packet.fragment == Fragment::First {
            return Ok(false);
        }
        reset(ctx, packet)?;
    } else if packet.l4 - L3 > MAX_NETWORK_WORDS * 4 {
        return Ok(false);
    } else if packet.is_sctp() && sctp::is_unsummed(ctx, packet)? {
        // A device would sum the answer in its stead. Nothing is lost with a refusal: Linux opens an association as
        // patiently after one as without (`sctp_v4_err`).
        return Ok(false);
    } else if !limit::allows_error() {
        return Ok(false);
    } else {
        let kind = Kind::of(answer, packet.is_v4(), mtu);
        let quoted = quote(ctx, packet)?;
        if packet.is_v4() {
            error_v4(ctx, packet, &kind, quoted)?;
        } else {
            error_v6(ctx, packet, &kind, quoted)?;
        }
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

/// What an ICMP error says.
struct Kind {
    kind: u8,
    code: u8,
    /// What stands before the quoted packet, in network order: an MTU, or zero.
    rest: u32,
}

impl Kind {
    /// RFC 792 with RFC 1191, and RFC 4443.
    #[inline(always)]
    fn of(answer: Answer, is_v4: bool, mtu: u16) -> Self {
        let (kind, code) = match (answer, is_v4) {
            (Answer::TooBig, true) => (3, 4),
            (Answer::TooBig, false) => (2, 0),
            (Answer::Expired, true) => (11, 0),
            (Answer::Expired, false) => (3, 0),
            (_, true) => (3, 3),
            (_, false) => (1, 4),
        };
        let rest = if answer == Answer::TooBig {
            u32::from(mtu).to_be()
        } else {
            0
        };
        Self { kind, code, rest }
    }

    /// What it adds to the checksum.
    #[inline(always)]
    fn sum(&self) -> Sum {
        Sum::ZERO
            .add(u32::from(u16::from_ne_bytes([self.kind, self.code])))
            .add(self.rest)
    }
}

/// How much of a packet an ICMP error quotes, and what that adds to the checksum.
struct Quote {
    length: u16,
    sum: Sum,
}

/// An ICMP error for IPv4, before the quoted packet.
#[repr(C)]
struct ErrorV4 {
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
    rest: u32,
}

#[inline(always)]
fn error_v4(ctx: &TcContext, packet: &Packet, kind: &Kind, quote: Quote) -> Result<(), Drop> {
    let flow = &packet.flow;
    let mut header = ErrorV4 {
        version_ihl: 0x45,
        tos: 0,
        total_length: (size_of::<ErrorV4>() as u16 + quote.length).to_be(),
        id: 0,
        fragment: 0,
        ttl: TTL,
        protocol: Protocol::ICMP.number(),
        checksum: 0,
        source: flow.destination.v4_word(),
        destination: flow.source.v4_word(),
        kind: kind.kind,
        code: kind.code,
        icmp_checksum: quote.sum.add_sum(kind.sum()).checksum(),
        rest: kind.rest,
    };
    let lead = u32::from(u16::from_ne_bytes([header.version_ihl, header.tos]));
    let ttl = u32::from(u16::from_ne_bytes([header.ttl, header.protocol]));
    let sum = Sum::ZERO
        .add(lead)
        .add(u32::from(header.total_length))
        .add(ttl);
    header.checksum = sum.add(header.source).add(header.destination).checksum();
    insert(ctx, &header)
}

/// An ICMP error for IPv6, before the quoted packet.
#[repr(C)]
struct ErrorV6 {
    version_class_label: u32,
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
    kind: u8,
    code: u8,
    checksum: u16,
    rest: u32,
}

#[inline(always)]
fn error_v6(ctx: &TcContext, packet: &Packet, kind: &Kind, quote: Quote) -> Result<(), Drop> {
    let flow = &packet.flow;
    let length = (8 + quote.length).to_be();
    let mut header = ErrorV6 {
        version_class_label: (6u32 << 28).to_be(),
        payload_length: length,
        next_header: Protocol::ICMPV6.number(),
        hop_limit: TTL,
        source: flow.destination.words(),
        destination: flow.source.words(),
        kind: kind.kind,
        code: kind.code,
        checksum: 0,
        rest: kind.rest,
    };
    let next = u32::from(u16::from(header.next_header).to_be());
    let sum = quote
        .sum
        .add_sum(kind.sum())
        .add(u32::from(length))
        .add(next);
    header.checksum = sum
        .add_words(header.source)
        .add_words(header.destination)
        .checksum();
    insert(ctx, &header)
}

/// Trims the packet to what an ICMP error quotes: the IP header and the transport header, of which its sender needs the
/// first 8 bytes (RFC 792) and the kernel, to complete a checksum, that checksum.
#[inline(always)]
fn quote(ctx: &TcContext, packet: &Packet) -> Result<Quote, Drop> {
    let (field, transport) = match packet.flow.protocol {
        Protocol::TCP => (16, 20),
        Protocol::SCTP => (8, 12),
        _ => (6, 8),
    };
    let (field, end) = (packet.l4 + field, packet.l4 + transport);
    let checksum: u16 = ctx.load(field).map_err(|_| Drop::Malformed)?;
    let partial = is_partial(ctx, field)?;
    store(ctx, field, &checksum)?;
    trim(ctx, end)?;
    // Completed, the quoted transport header will sum to the complement of what the field holds now.
    let (covered, sum) = if partial {
        (packet.l4, Sum::ZERO.add(u32::from(!checksum)))
    } else {
        (end, Sum::ZERO)
    };
    Ok(Quote {
        length: (end - L3) as u16,
        sum: add_quoted(ctx, covered, sum)?,
    })
}

/// Adds to `sum` what lies between the IP header's beginning and `end`.
#[inline(always)]
fn add_quoted(ctx: &TcContext, end: usize, sum: Sum) -> Result<Sum, Drop> {
    let mut sum = sum;
    // Five more words of the transport header.
    for word in 0..MAX_NETWORK_WORDS + 5 {
        let at = L3 + word * 4;
        if at >= end {
            break;
        }
        sum = sum.add(ctx.load(at).map_err(|_| Drop::Malformed)?);
    }
    Ok(sum)
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
