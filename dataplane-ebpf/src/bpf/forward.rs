//! Sending a packet on from here, without the node's stack: a packet with the node's own address as its source would
//! look like a forgery to it.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup as FibLookup, bpf_redir_neigh as Neighbour,
};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use core::mem::zeroed;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The next hop of a packet.
pub(crate) struct Route {
    device: u32,
    neighbour: Neighbour,
}

/// Looks up where a packet of flow `to` with this time to live goes next. The packet itself is still unchanged, so that an answer to its
/// sender can quote it.
#[inline(always)]
pub(crate) fn route(ctx: &TcContext, ttl: u8, to: &Flow) -> Result<Route, Drop> {
    if ttl <= 1 {
        return Err(Drop::Expired);
    }
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
