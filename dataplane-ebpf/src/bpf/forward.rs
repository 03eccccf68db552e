//! Sending a packet on from here, without the node's stack.
//!
//! A packet with the node's own address as its source has to go this way: it would look like a forgery to the stack. One
//! between a client outside and a pod goes this way because it is shorter, and because netfilter's FORWARD rules, reverse
//! path filters and connection tracking, which see only what we made of the packet, cannot get in its way.

use super::maps::NODE;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup as FibLookup, bpf_redir_neigh as Neighbour,
};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use core::mem::zeroed;
use dataplane_ebpf::abi::{Connection, Node};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Where a packet goes from here.
///
/// Not an option of a next hop: the compiler would leave the one's discriminant unset where the other is an error, and
/// read it before it knows ("R2 !read_ok").
pub(crate) struct Route {
    /// Zero for the node's stack.
    device: u32,
    neighbour: Neighbour,
}

impl Route {
    #[inline(always)]
    pub(crate) fn by_stack() -> Self {
        Self {
            device: 0,
            // SAFETY: integers only; zero is a legal value of each.
            neighbour: unsafe { zeroed() },
        }
    }

    #[inline(always)]
    pub(crate) fn is_by_stack(&self) -> bool {
        self.device == 0
    }
}

/// How a packet with this time to live, which becomes one of flow `to`, goes on by `connection`. The packet itself is
/// still unchanged, so that an answer to its sender can quote it.
#[inline(always)]
pub(crate) fn way(
    ctx: &TcContext,
    ttl: u8,
    connection: &Connection,
    to: &Flow,
) -> Result<Route, Drop> {
    let is_remote = connection.flags & Connection::REMOTE != 0;
    if !is_remote && (connection.flags & Connection::FROM_POD != 0 || is_all_by_stack()) {
        return Ok(Route::by_stack());
    }
    match route(ctx, to) {
        Ok(_) if ttl <= 1 => Err(Drop::Expired),
        Ok(route) => Ok(route),
        // To a process of the node, or by a way that only the stack knows.
        Err(Drop::NoRoute) if !is_remote => Ok(Route::by_stack()),
        Err(reason) => Err(reason),
    }
}

#[inline(always)]
fn is_all_by_stack() -> bool {
    NODE.get(0)
        .is_some_and(|node| node.flags & Node::THROUGH_STACK != 0)
}

/// Looks up where a packet of flow `to` goes next.
#[inline(always)]
fn route(ctx: &TcContext, to: &Flow) -> Result<Route, Drop> {
    // SAFETY: integers only; zero is a legal value of each.
    let mut lookup: FibLookup = unsafe { zeroed() };
    lookup.l4_protocol = to.protocol.number();
    lookup.sport = to.source_port.word();
    lookup.dport = to.destination_port.word();
    // SAFETY: the kernel's context.
    lookup.ifindex = unsafe { (*ctx.skb.skb).ifindex };
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
    let result = unsafe {
        bpf_fib_lookup(
            ctx.as_ptr(),
            &raw mut lookup,
            size_of::<FibLookup>() as i32,
            0,
        )
    };
    match result as u32 {
        // Without a known neighbour, sending resolves it.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => Ok(next_hop(&lookup)),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Drop::TooBig),
        _ => Err(Drop::NoRoute),
    }
}

/// The look-up replaced the destination by the next hop's address; its family may differ from the packet's.
#[inline(always)]
fn next_hop(lookup: &FibLookup) -> Route {
    // SAFETY: integers only; zero is a legal value of each.
    let mut neighbour: Neighbour = unsafe { zeroed() };
    neighbour.nh_family = u32::from(lookup.family);
    // SAFETY: the union's larger member covers the smaller, and the kernel wrote one of them.
    neighbour.__bindgen_anon_1.ipv6_nh = unsafe { lookup.__bindgen_anon_4.ipv6_dst };
    Route {
        device: lookup.ifindex,
        neighbour,
    }
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
