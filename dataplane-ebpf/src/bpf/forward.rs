//! Sending a packet on from here, without the node's stack.
//!
//! A packet with the node's own address as its source has to go this way: it would look like a forgery to the stack. One
//! between a client outside and a pod goes this way because it is shorter, and because netfilter's FORWARD rules, reverse
//! path filters and connection tracking, which see only what we made of the packet, cannot get in its way.

use super::maps::NODE;
use super::parse::{L3, Packet};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup as FibLookup, bpf_redir_neigh as Neighbour,
};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use core::ffi::c_void;
use dataplane_ebpf::abi::{Connection, Node};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `gso_size` of a packet that stands for several which the kernel keeps apart (`GSO_BY_FRAGS`).
const BY_FRAGMENTS: u32 = 0xffff;

/// Where a packet goes from here. In memory of the CPU, see [`Work`](super::work::Work).
pub(crate) struct Route {
    /// Zero for the node's stack.
    device: u32,
    neighbour: Neighbour,
    pub(crate) lookup: FibLookup,
    /// The most that the next link takes, if the packet is too big for it.
    pub(crate) mtu: u16,
}

impl Route {
    #[inline(always)]
    pub(crate) fn is_by_stack(&self) -> bool {
        self.device == 0
    }
}

/// What of a packet matters to its next hop.
pub(crate) struct Hop {
    ttl: u8,
    may_fragment: bool,
    /// Bytes of the IP packet, or of the longest of those it stands for; zero leaves the check to the kernel, which
    /// knows the device's MTU but no route's.
    length: u16,
}

impl Hop {
    #[inline(always)]
    pub(crate) fn of(ctx: &TcContext, packet: &Packet) -> Self {
        // SAFETY: the kernel's context.
        let segment = unsafe { (*ctx.skb.skb).gso_size };
        let length = match segment {
            0 => packet.payload,
            _ => packet.l4_length + segment,
        };
        let length = (packet.l4 - L3) as u32 + length;
        Self {
            ttl: packet.ttl,
            may_fragment: packet.may_fragment,
            length: if segment == BY_FRAGMENTS || length > 0xffff {
                0
            } else {
                length as u16
            },
        }
    }

    /// That of an ICMP error, which nobody answers.
    #[inline(always)]
    pub(crate) fn of_error(ttl: u8) -> Self {
        Self {
            ttl,
            may_fragment: false,
            length: 0,
        }
    }
}

/// Finds out how a packet, which becomes one of flow `to`, goes on by `connection`. The packet itself is still unchanged,
/// so that an answer to its sender can quote it.
#[inline(always)]
pub(crate) fn way(
    ctx: &TcContext,
    hop: &Hop,
    connection: &Connection,
    to: &Flow,
    route: &mut Route,
) -> Result<(), Drop> {
    route.device = 0;
    let is_remote = connection.flags & Connection::REMOTE != 0;
    if !is_remote && (connection.flags & Connection::FROM_POD != 0 || is_all_by_stack()) {
        return Ok(());
    }
    match look_up(ctx, hop, to, route) {
        Ok(()) if hop.ttl <= 1 => Err(Drop::Expired),
        // To a process of the node, or by a way that only the stack knows.
        Err(Drop::NoRoute) if !is_remote => Ok(()),
        // The stack cuts it to pieces. One that only we can send is answered like one that may not be cut: most senders
        // heed that, and there is no helper for cutting.
        Err(Drop::TooBig) if !is_remote && hop.may_fragment => Ok(()),
        result => result,
    }
}

/// Whether a packet of flow `to` could go on if it had so many bytes more. Asks anew, so `route` stays where it leads.
#[inline(always)]
pub(crate) fn has_room(
    ctx: &TcContext,
    hop: &Hop,
    more: u16,
    to: &Flow,
    route: &mut Route,
) -> bool {
    let Some(length) = hop.length.checked_add(more) else {
        return false;
    };
    // SAFETY: the kernel's context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    hop.length != 0
        && ask(ctx.as_ptr(), device, to, length, &mut route.lookup) != BPF_FIB_LKUP_RET_FRAG_NEEDED
}

#[inline(always)]
fn is_all_by_stack() -> bool {
    NODE.get(0)
        .is_some_and(|node| node.flags & Node::THROUGH_STACK != 0)
}

/// Looks up where a packet of flow `to` goes next.
#[inline(always)]
fn look_up(ctx: &TcContext, hop: &Hop, to: &Flow, route: &mut Route) -> Result<(), Drop> {
    // SAFETY: the kernel's context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    let lookup = &mut route.lookup;
    match ask(ctx.as_ptr(), device, to, hop.length, lookup) {
        // Without a known neighbour, sending resolves it.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {
            next_hop(route);
            Ok(())
        }
        BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // SAFETY: the kernel has written the MTU in place of the length.
            route.mtu = unsafe { lookup.__bindgen_anon_1.mtu_result };
            Err(Drop::TooBig)
        }
        _ => Err(Drop::NoRoute),
    }
}

/// Asks the kernel's routes where a packet of flow `to` and `length` bytes goes that came by `device`; a length of zero
/// leaves it to the kernel, which may know the packet's, whether it fits. What the kernel answers is in `lookup`.
#[inline(always)]
pub(crate) fn ask(
    ctx: *mut c_void,
    device: u32,
    to: &Flow,
    length: u16,
    lookup: &mut FibLookup,
) -> u32 {
    // What the kernel reads, one by one: to clear all of it takes a call.
    lookup.__bindgen_anon_2.flowinfo = 0;
    lookup.l4_protocol = to.protocol.number();
    lookup.sport = to.source_port.word();
    lookup.dport = to.destination_port.word();
    lookup.__bindgen_anon_1.tot_len = length;
    lookup.ifindex = device;
    if to.destination.is_v4() {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = to.source.v4_word();
        lookup.__bindgen_anon_4.ipv4_dst = to.destination.v4_word();
    } else {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = to.source.words();
        lookup.__bindgen_anon_4.ipv6_dst = to.destination.words();
    }
    // SAFETY: the helper reads and writes `lookup`, whose size is given.
    let result = unsafe { bpf_fib_lookup(ctx, &raw mut *lookup, size_of::<FibLookup>() as i32, 0) };
    result as u32
}

/// The look-up replaced the destination by the next hop's address; its family may differ from the packet's.
#[inline(always)]
fn next_hop(route: &mut Route) {
    let lookup = &route.lookup;
    route.neighbour.nh_family = u32::from(lookup.family);
    // SAFETY: the union's larger member covers the smaller, and the kernel wrote one of them.
    route.neighbour.__bindgen_anon_1.ipv6_nh = unsafe { lookup.__bindgen_anon_4.ipv6_dst };
    route.device = lookup.ifindex;
}

/// Sends the packet to `route`'s next hop; the result is the hook's.
#[inline(always)]
pub(crate) fn send(route: &mut Route) -> i32 {
    // SAFETY: the helper reads `neighbour`, whose size is given.
    unsafe {
        bpf_redirect_neigh(
            route.device,
            &raw mut route.neighbour,
            size_of::<Neighbour>() as i32,
            0,
        ) as i32
    }
}
