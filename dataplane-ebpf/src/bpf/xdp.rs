//! A frame's way through an uplink's driver: what is sent on to another machine leaves again before the kernel has made
//! a packet of it.
//!
//! Only the plain case is handled: a whole TCP or UDP packet between a client outside and a backend on another node,
//! with a known way to go. Everything else goes on unchanged to the hooks behind, which do the same work with the same
//! connections, and do all of it: a connection may be served here or there at any packet.

use super::client::Sender;
use super::context::Context as _;
use super::exit::{self, Exit};
use super::frame::Frame;
use super::maps::NODE;
use super::parse::{self, Fragment, Packet};
use super::work::Work;
use super::{conntrack, device, nat, rewrite, service, stats};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use dataplane_ebpf::abi::{Connection, Origin};
use dataplane_ebpf::drop::Drop;

/// The verdict on a frame.
#[inline(always)]
pub(crate) fn driver(frame: &Frame) -> u32 {
    // What is to be dropped or refused is counted and answered by the hooks behind.
    let Ok(Some((work, exit))) = find_way(frame) else {
        return XDP_PASS;
    };
    match send_on(frame, &work.packet, &work.connection, &exit) {
        Ok(()) => exit.verdict(frame.device()),
        // Half changed, it is nobody's any more.
        Err(reason) => {
            stats::count_reason(reason, &work.packet.flow, frame.device());
            stats::count_drop(work.connection.service);
            XDP_DROP
        }
    }
}

/// The connection the frame's packet belongs to and where it goes next, if it is to be sent on from here. Leaves the
/// frame as it is.
#[inline(always)]
fn find_way(frame: &Frame) -> Result<Option<(&'static mut Work, Exit)>, Drop> {
    let Some(packet) = parse::packet(frame)? else {
        return Ok(None);
    };
    if packet.fragment != Fragment::Whole || packet.is_sctp() {
        return Ok(None);
    }
    let work = Work::begin(packet)?;
    let exit = match conntrack::find(&work.packet.flow) {
        Some(known) => follow(frame, work, known),
        None => open(frame, work)?,
    };
    Ok(exit.map(|exit| (work, exit)))
}

/// Takes up the `known` connection of a packet, unless something about it has to be decided first.
#[inline(always)]
fn follow(frame: &Frame, work: &mut Work, known: &mut Connection) -> Option<Exit> {
    let now = conntrack::now();
    if !conntrack::is_settled(&work.packet, known, now) || !is_plain(&work.packet, known) {
        return None;
    }
    let exit = exit::find(frame, work.packet.ttl, &known.to, &mut work.route.lookup)?;
    conntrack::take_up(work, known, now);
    Some(exit)
}

/// Whether a packet of a connection to another node goes there with nothing but its header changed: the other node is
/// told of a connection whose backend answers the client itself with datagrams, and with a SYN, which is never plain.
#[inline(always)]
fn is_plain(packet: &Packet, connection: &Connection) -> bool {
    let flags = connection.flags;
    flags & Connection::REMOTE != 0 && (packet.is_tcp() || flags & Connection::DSR == 0)
}

/// Opens a connection as the ingress hook does, but without counting what fails: it will fail there again.
#[inline(always)]
fn open(frame: &Frame, work: &mut Work) -> Result<Option<Exit>, Drop> {
    let Some(frontend) = device::frontend(&work.packet.flow)? else {
        return Ok(None);
    };
    let node = NODE.get(0).ok_or(Drop::Inconsistent)?;
    if !exit::is_for_us(frame) || conntrack::is_foreign(work, node) {
        return Ok(None);
    }
    let sender = Sender {
        flow: &work.packet.flow,
        origin: Origin::Outside,
        seed: node.seed,
    };
    let choice = service::choose(frontend, &sender)?;
    if choice.is_direct {
        // Whether it can be one depends on the way it takes.
        return Ok(None);
    }
    nat::open(work, &choice, node, Origin::Outside)?;
    stats::count_connection(choice.service);
    let (ttl, to) = (work.packet.ttl, &work.connection.to);
    Ok(if is_plain(&work.packet, &work.connection) {
        exit::find(frame, ttl, to, &mut work.route.lookup)
    } else {
        None
    })
}

/// Translates the packet and addresses the frame to its next hop.
#[inline(always)]
fn send_on(
    frame: &Frame,
    packet: &Packet,
    connection: &Connection,
    exit: &Exit,
) -> Result<(), Drop> {
    rewrite::flow(frame, packet, &connection.to)?;
    rewrite::decrement_ttl(frame, packet.is_v4(), packet.ttl)?;
    exit.address(frame)?;
    stats::count_packet(connection.service, frame.length());
    Ok(())
}
