//! Telling at a glance packets that cannot be ours.
//!
//! Most packets that pass a pod's device are nobody's of ours: their sockets were given a backend when they connected, or
//! never addressed a service. Reading them in full and looking them up would be a toll on all traffic of all pods. So both
//! addresses are looked up in a table of one byte each, in which every address has its place that ours come from or go to.
//! A stranger that shares a place is read in full and then found to be none of ours: that costs time, not correctness.

use super::context::read_halves;
use super::maps::{ADDRESS_FILTER, NODE};
use super::parse::{Ipv4Header, Ipv6Header, L3};
use aya_ebpf::programs::TcContext;
use dataplane_ebpf::abi::FilterPlace;
use dataplane_ebpf::addr::{Addr, Protocol};

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// How an IPv4 header without options begins. One with options may tell of a connection, see [`super::dsr`].
const PLAIN_V4: u8 = 0x45;

/// Notes that packets of ours come from `address`.
#[inline(always)]
pub(crate) fn note(address: Addr) {
    if let Some(slot) = slot(address) {
        // SAFETY: a place in the map, which exists as long as the program does. All who write it write the same.
        unsafe {
            if *slot == 0 {
                *slot = 1;
            }
        }
    }
}

/// Whether a packet is certainly none of ours. ICMP may be an error about one that is, whoever sent it; and what is out of
/// the ordinary, or does not lie in one piece at the packet's beginning, is left to those who read it in full.
///
/// A function of its own for the kernel as well, so that the steps after it find the stack free.
#[inline(never)]
pub(crate) fn is_foreign(ctx: &TcContext) -> bool {
    let addresses = match u16::from_be(ctx.skb.protocol() as u16) {
        ETH_P_IP => addresses_v4(ctx),
        ETH_P_IPV6 => addresses_v6(ctx),
        _ => return true,
    };
    addresses.is_some_and(|(source, destination)| {
        !is_known(source) && !is_known(destination) && !is_reserved(destination)
    })
}

#[inline(always)]
fn addresses_v4(ctx: &TcContext) -> Option<(Addr, Addr)> {
    let header: Ipv4Header = read(ctx, L3)?;
    let (source, destination) = (header.source, header.destination);
    (header.version_ihl == PLAIN_V4 && has_ports(header.protocol))
        .then(|| (Addr::from_v4_word(source), Addr::from_v4_word(destination)))
}

#[inline(always)]
fn addresses_v6(ctx: &TcContext) -> Option<(Addr, Addr)> {
    let header: Ipv6Header = read(ctx, L3)?;
    let (source, destination) = (header.source, header.destination);
    has_ports(header.next_header).then(|| (Addr::from_words(source), Addr::from_words(destination)))
}

#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    let protocol = Protocol::new(protocol);
    protocol == Protocol::TCP || protocol == Protocol::UDP || protocol == Protocol::SCTP
}

#[inline(always)]
fn is_known(address: Addr) -> bool {
    // SAFETY: a place in the map, which exists as long as the program does; others may write it at any time, one byte.
    slot(address).is_some_and(|slot| unsafe { slot.read_volatile() } != 0)
}

/// Whether the address is one that only services may have.
#[inline(always)]
fn is_reserved(address: Addr) -> bool {
    NODE.get(0).is_some_and(|node| {
        let known = node
            .service_cidrs
            .iter()
            .take(node.service_cidr_count as usize);
        known.into_iter().any(|cidr| cidr.contains(address))
    })
}

#[inline(always)]
fn slot(address: Addr) -> Option<*mut u8> {
    let place = FilterPlace::of(address);
    let entry = ADDRESS_FILTER.get_ptr_mut(place.entry)?;
    // SAFETY: an entry has eight bytes.
    Some(unsafe { entry.cast::<u8>().add((place.byte & 7) as usize) })
}

/// A value at `offset`, if the packet has it in its first piece.
#[inline(always)]
fn read<T>(ctx: &TcContext, offset: usize) -> Option<T> {
    let place = ctx.data() + offset;
    if place + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: within the packet's first piece, as just checked. Headers lie at even addresses.
    Some(unsafe { read_halves(place as *const u8) })
}
