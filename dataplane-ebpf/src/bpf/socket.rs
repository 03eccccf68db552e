//! The cgroup hooks: a socket that addresses a service gets a backend once, and nothing is left to do per packet.
//!
//! A connected socket's service is kept in the socket's own storage and dies with it. An unconnected UDP socket may
//! talk to many services, so its peers are kept in `SOCKETS` by the socket's cookie, one entry for each direction.

use super::call::Call;
use super::maps::{CONNECTED, NODE, NODEPORTS, SOCKETS, UDP_CONNECTED};
use super::service::{self, Choice, Standing};
use super::stats;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_coarse_ns, bpf_set_retval};
use aya_ebpf::programs::SockContext;
use core::ptr::{copy_nonoverlapping, read_volatile, write_volatile};
use dataplane_ebpf::abi::{Frontend, NodePortKey, Peer, SocketKey, UDP_IDLE, age, moment};
use dataplane_ebpf::addr::{Addr, Family, Port, Protocol};
use dataplane_ebpf::drop::{Answer, Drop};

/// Lets the system call go on.
const ALLOW: i32 = 1;
/// Makes the system call fail, with `EPERM` unless `bpf_set_retval` said otherwise.
const DENY: i32 = 0;

const EADDRINUSE: i32 = 98;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// `connect`: of TCP, and of UDP sockets that fix their peer.
#[inline(always)]
pub(crate) fn connect(call: &Call<'_>) -> i32 {
    answer(call, try_connect(call))
}

#[inline(always)]
fn try_connect(call: &Call<'_>) -> Result<(), Drop> {
    let Some(protocol) = call.protocol() else {
        return Ok(());
    };
    let (address, port) = call.address();
    let Some(frontend) = service::find(address, port, protocol, || call.is_node())? else {
        return Ok(());
    };
    if !knows_source(call, frontend) {
        return Ok(());
    }
    let choice =
        service::choose(frontend, call).inspect_err(|_| stats::count_drop(frontend.service))?;
    let mut peer = peer(&choice, address, port);
    // SAFETY: the helper takes the socket from the context and copies the value.
    let stored = unsafe { CONNECTED.get_or_insert_ptr_mut(call.ctx, Some(&mut peer)) };
    if !stored.is_null() {
        // SAFETY: not null, and alive as long as the socket; a second connect finds the first one's value. Both are valid
        // and in different memory: an assignment would become a call that moves byte by byte.
        unsafe { copy_nonoverlapping(&raw const peer, stored, 1) };
    } else if protocol == Protocol::UDP {
        // TCP would only show the backend in getpeername, but UDP would take replies for a stranger's.
        stats::count_drop(choice.service);
        return Err(Drop::TableFull);
    }
    if protocol == Protocol::UDP {
        // For the daemon: `send` on this socket fires no hook, so it must be found when the backend goes.
        remember(call.cookie(), SocketKey::BACKEND, &peer)?;
        mark_connected(peer.backend_id);
    }
    call.set_address(peer.backend, peer.backend_port);
    stats::count_connection(choice.service);
    Ok(())
}

/// Tells the daemon that a UDP socket is connected to the backend: `send` on it fires no hook, so when the backend goes,
/// the socket has to be found.
#[inline(always)]
fn mark_connected(backend: u32) {
    if let Some(mark) = UDP_CONNECTED.get_ptr_mut(backend) {
        // SAFETY: a non-null pointer into the array; volatile, because others read and write it. Written only if that
        // changes something: a write takes the cache line from other CPUs.
        unsafe {
            if read_volatile(mark) == 0 {
                write_volatile(mark, 1);
            }
        }
    }
}

/// Whether the hook knows the call's source address if the frontend asks for it. A pod's it does not know; then the call
/// is left alone, and the hook of the pod's device decides about the packet.
#[inline(always)]
fn knows_source(call: &Call<'_>, frontend: Frontend) -> bool {
    !service::is_restricted(frontend) || call.is_node()
}

/// `sendmsg` and `sendto` of UDP with an address.
#[inline(always)]
pub(crate) fn sendmsg(call: &Call<'_>) -> i32 {
    answer(call, try_sendmsg(call))
}

#[inline(always)]
fn try_sendmsg(call: &Call<'_>) -> Result<(), Drop> {
    let (address, port) = call.address();
    let Some(frontend) = service::find(address, port, Protocol::UDP, || call.is_node())? else {
        return Ok(());
    };
    let cookie = call.cookie();
    let mut known = find_peer(SocketKey::new(cookie, address, port, SocketKey::FRONTEND))
        .filter(|peer| peer.frontend == address && peer.frontend_port == port);
    let standing = match &mut known {
        Some(peer) => udp_standing(cookie, frontend.service, peer),
        None => Standing::Gone,
    };
    if let (Standing::Serving, Some(peer)) = (standing, &known) {
        return keep(call, cookie, peer);
    }
    if !knows_source(call, frontend) {
        return Ok(());
    }
    match (service::choose(frontend, call), known) {
        (Ok(choice), _) => {
            let peer = peer(&choice, address, port);
            remember(cookie, SocketKey::BACKEND, &peer)?;
            remember(cookie, SocketKey::FRONTEND, &peer)?;
            stats::count_connection(choice.service);
            call.set_address(peer.backend, peer.backend_port);
            Ok(())
        }
        // With no backend that serves, a flow keeps the one it has.
        (Err(_), Some(peer)) if standing == Standing::NotServing => keep(call, cookie, peer),
        (Err(reason), _) => {
            stats::count_drop(frontend.service);
            Err(reason)
        }
    }
}

/// Sends to `peer` as before.
///
/// Its other entry, by which answers get the service's address, may have been evicted, or may be another service's that
/// has the same backend address: the service that was addressed last is the one that answers.
#[inline(always)]
fn keep(call: &Call<'_>, cookie: u64, peer: &Peer) -> Result<(), Drop> {
    let key = SocketKey::new(cookie, peer.backend, peer.backend_port, SocketKey::BACKEND);
    let is_known = find_peer(key).is_some_and(|answers| {
        answers.frontend == peer.frontend && answers.frontend_port == peer.frontend_port
    });
    // A copy, since the entry may be evicted by what is inserted.
    let peer = *peer;
    if !is_known {
        remember(cookie, SocketKey::BACKEND, &peer)?;
    }
    call.set_address(peer.backend, peer.backend_port);
    Ok(())
}

/// Whether a socket may go on sending to `peer`; if so, its idle time starts anew.
#[inline(always)]
fn udp_standing(cookie: u64, service: u32, peer: &mut Peer) -> Standing {
    if peer.service != service
        || !service::is_same(service, peer.service_generation)
        || is_idle(cookie, peer)
    {
        return Standing::Gone;
    }
    touch(peer);
    service::standing(peer.backend_id, peer.backend_generation)
}

/// Whether a socket has neither sent to `peer` nor heard from it for long.
#[inline(always)]
fn is_idle(cookie: u64, peer: &Peer) -> bool {
    let is_old = |seen: u32| age(seen, now()) > UDP_IDLE;
    let answers = SocketKey::new(cookie, peer.backend, peer.backend_port, SocketKey::BACKEND);
    is_old(peer.seen) && find_peer(answers).is_none_or(|answers| is_old(answers.seen))
}

/// Notes that `peer` was used. Writes only what changed: a write takes the cache line from other CPUs.
#[inline(always)]
fn touch(peer: &mut Peer) {
    let now = now();
    if peer.seen != now {
        peer.seen = now;
    }
}

/// `recvmsg` and `recvfrom`: the sender's address becomes the service's again.
///
/// It fires for every UDP socket, also for servers: no service behind the address is the usual case.
#[inline(always)]
pub(crate) fn recvmsg(call: &Call<'_>) -> i32 {
    if show_service(call) {
        return ALLOW;
    }
    let (address, port) = call.address();
    let known = find_peer(SocketKey::new(
        call.cookie(),
        address,
        port,
        SocketKey::BACKEND,
    ))
    .filter(|peer| peer.backend == address && peer.backend_port == port);
    if let Some(peer) = known {
        touch(peer);
        call.set_address(peer.frontend, peer.frontend_port);
    }
    ALLOW
}

/// An entry of `SOCKETS`.
///
/// One that another CPU evicts meanwhile may turn into another socket's, so callers compare what they use.
#[inline(always)]
fn find_peer(key: SocketKey) -> Option<&'static mut Peer> {
    // SAFETY: a non-null pointer to a value of the map, which exists as long as the program does.
    SOCKETS.get_ptr_mut(key).map(|peer| unsafe { &mut *peer })
}

/// `getpeername`: shows the service that the program connected to.
#[inline(always)]
pub(crate) fn getpeername(call: &Call<'_>) -> i32 {
    show_service(call);
    ALLOW
}

/// Replaces the address by the service's if it is the backend that the socket was connected to.
///
/// The comparison also catches a socket that has since been connected elsewhere.
#[inline(always)]
fn show_service(call: &Call<'_>) -> bool {
    // SAFETY: the helper takes the socket from the context.
    let stored = unsafe { CONNECTED.get_ptr_mut(call.ctx) };
    if stored.is_null() {
        return false;
    }
    // SAFETY: not null, and alive as long as the socket.
    let peer = unsafe { &*stored };
    let (address, port) = call.address();
    if peer.backend != address || peer.backend_port != port {
        return false;
    }
    call.set_address(peer.frontend, peer.frontend_port);
    true
}

/// `bind` of a socket of `family`, after it succeeded: a node port taken by a process of the node would be a trap, since
/// packets for it go to the service.
#[inline(always)]
pub(crate) fn post_bind(ctx: &SockContext, family: Family) -> i32 {
    if !takes_node_port(ctx, family) {
        return ALLOW;
    }
    // SAFETY: any error number will do.
    unsafe { bpf_set_retval(-EADDRINUSE) };
    DENY
}

#[inline(always)]
fn takes_node_port(ctx: &SockContext, family: Family) -> bool {
    // SAFETY: the kernel's context; volatile, because the verifier refuses loads that the compiler merged
    // ("invalid bpf_context access").
    let (protocol, port) = unsafe {
        (
            read_volatile(&raw const (*ctx.sock).protocol),
            read_volatile(&raw const (*ctx.sock).src_port),
        )
    };
    let (port, protocol) = (Port::new(port as u16), Protocol::new(protocol as u8));
    // The context does not tell whether an IPv6 socket serves IPv4 too, as it does unless told otherwise.
    if !is_node_port(port, protocol, Family::V4)
        && (family == Family::V4 || !is_node_port(port, protocol, Family::V6))
    {
        return false;
    }
    let Some(node) = NODE.get(0) else {
        return false;
    };
    // SAFETY: the helper only reads the context.
    node.netns_cookie == unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn is_node_port(port: Port, protocol: Protocol, family: Family) -> bool {
    // SAFETY: the map is not preallocated, so the entry outlives this program's run.
    unsafe { NODEPORTS.get(NodePortKey::new(port, protocol, family)) }.is_some()
}

/// Turns a step's result into the hook's, and tells the caller by the error number.
#[inline(always)]
fn answer(call: &Call<'_>, result: Result<(), Drop>) -> i32 {
    let Err(reason) = result else { return ALLOW };
    stats::count_reason(reason, &call.flow(), 0);
    let error = match reason.answer() {
        Answer::Refusal => ECONNREFUSED,
        Answer::Silence | Answer::TooBig | Answer::Expired => EHOSTUNREACH,
    };
    // SAFETY: any error number will do.
    unsafe { bpf_set_retval(-error) };
    DENY
}

#[inline(always)]
fn peer(choice: &Choice, frontend: Addr, frontend_port: Port) -> Peer {
    Peer {
        frontend,
        backend: choice.address,
        frontend_port,
        backend_port: choice.port,
        service: choice.service,
        service_generation: choice.service_generation,
        backend_id: choice.backend,
        backend_generation: choice.backend_generation,
        seen: now(),
    }
}

#[inline(always)]
fn remember(cookie: u64, side: u16, peer: &Peer) -> Result<(), Drop> {
    let key = if side == SocketKey::BACKEND {
        SocketKey::new(cookie, peer.backend, peer.backend_port, side)
    } else {
        SocketKey::new(cookie, peer.frontend, peer.frontend_port, side)
    };
    SOCKETS.insert(key, peer, 0).map_err(|_| {
        stats::count_drop(peer.service);
        Drop::TableFull
    })
}

#[inline(always)]
fn now() -> u32 {
    // SAFETY: the helper takes nothing.
    moment(unsafe { bpf_ktime_get_coarse_ns() })
}
