//! Reading packets. All bounds are checked here; later steps use the offsets found.
//!
//! How bytes are read is the hook's [`Context`]'s business.

use super::context::Context;
use dataplane_ebpf::addr::{Addr, Port, Protocol};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

/// Where the IP header begins: uplinks are Ethernet devices, and VLAN tags are kept outside the packet.
pub(crate) const L3: usize = 14;

const ETH_P_IP: u32 = 0x0800;
const ETH_P_IPV6: u32 = 0x86dd;

/// Extension headers that are skipped to find the transport header; real packets have one or two.
const MAX_EXTENSIONS: usize = 4;

/// TCP flags.
pub(crate) mod tcp {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;
}

/// The type of the chunk that opens an SCTP association (RFC 9260, section 3.2). It is the only one in its packet.
const SCTP_INIT: u8 = 1;

/// A TCP, UDP or SCTP packet, or a piece of one.
pub(crate) struct Packet {
    /// Who talks to whom. A later fragment has no ports.
    pub(crate) flow: Flow,
    /// Where the transport header begins.
    pub(crate) l4: usize,
    /// Bytes after the IP header and its options.
    pub(crate) payload: u32,
    /// Bytes of the transport header; zero for a later fragment.
    pub(crate) l4_length: u32,
    /// Time to live or hop limit.
    pub(crate) ttl: u8,
    /// TCP flags; zero for UDP. Of SCTP, SYN for an INIT.
    pub(crate) tcp_flags: u8,
    /// Which piece it is.
    pub(crate) fragment: Fragment,
    /// What the pieces have in common.
    pub(crate) fragment_id: u32,
    /// Whether a router may cut it to pieces: IPv4 without "don't fragment".
    pub(crate) may_fragment: bool,
}

/// Which piece of an IP packet it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// All of it.
    Whole,
    /// The first piece, which has the ports.
    First,
    /// Another piece, which has not.
    Later,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn is_v4(&self) -> bool {
        self.flow.destination.is_v4()
    }

    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        self.flow.protocol == Protocol::TCP
    }

    #[inline(always)]
    pub(crate) fn is_sctp(&self) -> bool {
        self.flow.protocol == Protocol::SCTP
    }

    /// Whether TCP at the other end has to answer: it carries data, a SYN or a FIN.
    #[inline(always)]
    pub(crate) fn asks(&self) -> bool {
        self.payload > self.l4_length || self.tcp_flags & (tcp::SYN | tcp::FIN) != 0
    }

    /// Whether this opens a TCP connection or an SCTP association.
    #[inline(always)]
    pub(crate) fn is_syn(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }
}

/// RFC 791, section 3.1.
#[repr(C)]
pub(crate) struct Ipv4Header {
    pub(crate) version_ihl: u8,
    _tos: u8,
    total_length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    pub(crate) protocol: u8,
    _checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

/// RFC 8200, section 3.
#[repr(C)]
pub(crate) struct Ipv6Header {
    version_class_label: u32,
    payload_length: u16,
    pub(crate) next_header: u8,
    hop_limit: u8,
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
}

/// Extension header of an IPv6 packet that was cut to pieces (RFC 8200, section 4.5).
#[repr(C)]
struct FragmentHeader {
    following: u8,
    _reserved: u8,
    offset: u16,
    id: u32,
}

/// What an IP header says about the packet it heads.
struct Network {
    source: Addr,
    destination: Addr,
    protocol: Protocol,
    l4: usize,
    /// Where the packet ends, if it is not cut short.
    end: u32,
    ttl: u8,
    fragment: Fragment,
    fragment_id: u32,
    may_fragment: bool,
}

impl Network {
    /// Bytes after the IP header and its options.
    #[inline(always)]
    fn payload(&self) -> Result<u32, Drop> {
        self.end.checked_sub(self.l4 as u32).ok_or(Drop::Malformed)
    }
}

/// The TCP, UDP or SCTP packet in `ctx`; `None` if it is none.
#[inline(always)]
pub(crate) fn packet(ctx: &impl Context) -> Result<Option<Packet>, Drop> {
    match network(ctx)? {
        Some(network) => transport(ctx, &network),
        None => Ok(None),
    }
}

/// Where the IP header in `ctx` says the packet goes, whatever else is wrong with it.
#[inline(always)]
pub(crate) fn destination(ctx: &impl Context) -> Option<Addr> {
    match ctx.ether_type() {
        ETH_P_IP => ctx.load(L3 + 16).ok().map(Addr::from_v4_word),
        ETH_P_IPV6 => ctx.load(L3 + 24).ok().map(Addr::from_words),
        _ => None,
    }
}

/// The flow of the packet in `ctx`, as far as it can be read: for people to see.
#[inline(always)]
pub(crate) fn flow(ctx: &impl Context) -> Flow {
    let Ok(Some(network)) = network(ctx) else {
        let destination = destination(ctx).unwrap_or_default();
        let (source, destination) = ((Addr::UNSPECIFIED, Port::NONE), (destination, Port::NONE));
        return Flow::new(source, destination, Protocol::NONE);
    };
    let has_ports = network.fragment != Fragment::Later
        && (network.protocol == Protocol::TCP || network.protocol == Protocol::UDP);
    let (source, destination) = if has_ports {
        ports(ctx, network.l4).unwrap_or_default()
    } else {
        (Port::NONE, Port::NONE)
    };
    Flow::new(
        (network.source, source),
        (network.destination, destination),
        network.protocol,
    )
}

/// The IP packet in `ctx`, complete; `None` if it is none.
#[inline(always)]
fn network(ctx: &impl Context) -> Result<Option<Network>, Drop> {
    let network = match ctx.ether_type() {
        ETH_P_IP => ipv4(ctx, L3)?,
        ETH_P_IPV6 => ipv6(ctx, L3)?,
        _ => return Ok(None),
    };
    if network.end > ctx.length() {
        Err(Drop::Malformed)
    } else {
        Ok(Some(network))
    }
}

#[inline(always)]
fn ipv4(ctx: &impl Context, at: usize) -> Result<Network, Drop> {
    let header: Ipv4Header = ctx.load(at)?;
    let header_length = u32::from(header.version_ihl & 0xf) * 4;
    let total_length = u32::from(u16::from_be(header.total_length));
    if header.version_ihl >> 4 != 4 || header_length < 20 {
        return Err(Drop::Malformed);
    }
    let fragment = u16::from_be(header.fragment);
    Ok(Network {
        source: Addr::from_v4_word(header.source),
        destination: Addr::from_v4_word(header.destination),
        protocol: Protocol::new(header.protocol),
        l4: at + header_length as usize,
        end: end(ctx, at, total_length),
        ttl: header.ttl,
        fragment: piece(fragment & 0x1fff, fragment & 0x2000 != 0),
        fragment_id: u32::from(header.id),
        may_fragment: fragment & 0x4000 == 0,
    })
}

#[inline(always)]
fn ipv6(ctx: &impl Context, at: usize) -> Result<Network, Drop> {
    let header: Ipv6Header = ctx.load(at)?;
    let source = Addr::from_words(header.source);
    let destination = Addr::from_words(header.destination);
    // An IPv4-mapped address means a socket's, never a packet's; further on, it would be taken for an IPv4 packet's.
    let is_disguised = source.is_v4() || destination.is_v4();
    if u32::from_be(header.version_class_label) >> 28 != 6 || is_disguised {
        return Err(Drop::Malformed);
    }
    let payload_length = u32::from(u16::from_be(header.payload_length));
    let mut next = header.next_header;
    let mut l4 = at + 40;
    let (mut fragment, mut fragment_id) = (Fragment::Whole, 0);
    for _ in 0..MAX_EXTENSIONS {
        match next {
            // Hop-by-hop options, routing, destination options (RFC 8200, sections 4.3, 4.4 and 4.6).
            0 | 43 | 60 => {
                let [following, length]: [u8; 2] = ctx.load(l4)?;
                next = following;
                l4 += (usize::from(length) + 1) * 8;
            }
            // Fragment (section 4.5). What follows in a later piece is no header.
            44 => {
                let FragmentHeader {
                    following,
                    offset,
                    id,
                    ..
                } = ctx.load(l4)?;
                let offset = u16::from_be(offset);
                fragment_id = id;
                fragment = piece(offset & 0xfff8, offset & 1 != 0);
                next = following;
                l4 += 8;
                if fragment == Fragment::Later {
                    break;
                }
            }
            _ => break,
        }
    }
    Ok(Network {
        source,
        destination,
        protocol: Protocol::new(next),
        l4,
        end: end(
            ctx,
            at,
            if payload_length == 0 {
                0
            } else {
                payload_length + 40
            },
        ),
        ttl: header.hop_limit,
        fragment,
        fragment_id,
        may_fragment: false,
    })
}

/// Where the packet at `at` ends. A length of zero stands for one beyond 65,535 bytes, which packets that a device or the
/// stack has put together may have (BIG TCP).
#[inline(always)]
fn end(ctx: &impl Context, at: usize, length: u32) -> u32 {
    if length == 0 {
        ctx.length()
    } else {
        at as u32 + length
    }
}

#[inline(always)]
fn piece(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

#[inline(always)]
fn transport(ctx: &impl Context, network: &Network) -> Result<Option<Packet>, Drop> {
    let header_length = match network.protocol {
        Protocol::TCP => 20,
        Protocol::UDP => 8,
        Protocol::SCTP => 12,
        _ => return Ok(None),
    };
    let payload = network.payload()?;
    let mut flow = Flow::new(
        (network.source, Port::NONE),
        (network.destination, Port::NONE),
        network.protocol,
    );
    let (mut tcp_flags, mut l4_length) = (0, 0);
    if network.fragment != Fragment::Later {
        if payload < header_length {
            return Err(Drop::Malformed);
        }
        (flow.source_port, flow.destination_port) = ports(ctx, network.l4)?;
        l4_length = header_length;
        if network.protocol == Protocol::TCP {
            let [offset, flags]: [u8; 2] = ctx.load(network.l4 + 12)?;
            tcp_flags = flags;
            l4_length = u32::from(offset >> 4) * 4;
        } else if network.protocol == Protocol::SCTP && payload > header_length {
            let chunk: u8 = ctx.load(network.l4 + 12)?;
            tcp_flags = if chunk == SCTP_INIT { tcp::SYN } else { 0 };
        }
    }
    Ok(Some(Packet {
        flow,
        l4: network.l4,
        payload,
        l4_length,
        ttl: network.ttl,
        tcp_flags,
        fragment: network.fragment,
        fragment_id: network.fragment_id,
        may_fragment: network.may_fragment,
    }))
}

/// An ICMP error about a TCP, UDP or SCTP packet.
pub(crate) struct IcmpError {
    /// Who sends it to whom.
    pub(crate) source: Addr,
    pub(crate) destination: Addr,
    /// Where the ICMP header begins.
    pub(crate) l4: usize,
    /// Time to live or hop limit.
    pub(crate) ttl: u8,
    /// The flow of the packet it is about.
    pub(crate) about: Flow,
    /// Where that packet's quoted IP header begins.
    pub(crate) quoted_l3: usize,
    /// Where its transport header begins.
    pub(crate) quoted_l4: usize,
}

/// The ICMP error in `ctx`; `None` if it is none, or quotes too little, or something that is none of ours.
#[inline(always)]
pub(crate) fn icmp_error(ctx: &impl Context) -> Result<Option<IcmpError>, Drop> {
    match network(ctx)? {
        Some(network) => Ok(quotation(ctx, &network)),
        None => Ok(None),
    }
}

#[inline(always)]
fn quotation(ctx: &impl Context, network: &Network) -> Option<IcmpError> {
    if network.fragment != Fragment::Whole {
        return None;
    }
    let kind: u8 = ctx.load(network.l4).ok()?;
    let quoted_l3 = network.l4 + 8;
    let quoted = match (network.protocol, kind) {
        // Unreachable, time exceeded, parameter problem (RFC 792).
        (Protocol::ICMP, 3 | 11 | 12) => ipv4(ctx, quoted_l3).ok()?,
        // Unreachable, too big, time exceeded, parameter problem (RFC 4443).
        (Protocol::ICMPV6, 1..=4) => ipv6(ctx, quoted_l3).ok()?,
        _ => return None,
    };
    let is_translated = matches!(
        quoted.protocol,
        Protocol::TCP | Protocol::UDP | Protocol::SCTP
    );
    if quoted.fragment == Fragment::Later || !is_translated {
        return None;
    }
    if quoted.l4 as u32 + 4 > network.end {
        // The quote ends before its ports; what lies there is padding, which no checksum covers.
        return None;
    }
    let (source_port, destination_port) = ports(ctx, quoted.l4).ok()?;
    Some(IcmpError {
        source: network.source,
        destination: network.destination,
        l4: network.l4,
        ttl: network.ttl,
        about: Flow::new(
            (quoted.source, source_port),
            (quoted.destination, destination_port),
            quoted.protocol,
        ),
        quoted_l3,
        quoted_l4: quoted.l4,
    })
}

#[inline(always)]
fn ports(ctx: &impl Context, l4: usize) -> Result<(Port, Port), Drop> {
    let [source, destination]: [u16; 2] = ctx.load(l4)?;
    Ok((Port::from_word(source), Port::from_word(destination)))
}
