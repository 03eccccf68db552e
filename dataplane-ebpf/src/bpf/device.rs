//! A packet's way through the hooks of uplinks and of devices towards pods, step by step.

use super::client::Sender;
use super::conntrack::{self, Course};
use super::forward::{self, Hop};
use super::icmp::{self, Outcome, Side};
use super::maps::NODE;
use super::parse::{self, Packet};
use super::work::Work;
use super::{dsr, fragment, nat, reject, rewrite, service, stats};
use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::programs::TcContext;
use dataplane_ebpf::abi::{Connection, Frontend, Origin};
use dataplane_ebpf::drop::{Answer, Drop};
use dataplane_ebpf::flow::Flow;

/// The next program on the device decides, and in the end the stack: `TCX_NEXT`, and `TC_ACT_UNSPEC` for clsact.
const PASS: i32 = -1;

/// `skb->pkt_type` of a frame for this machine.
const PACKET_HOST: u32 = 0;

/// Not a verdict of the kernel's: the packet goes no further, for the work's reason.
const DROPPED: i32 = 100;

/// Not a verdict of the kernel's: the packet belongs to the work's connection.
const OURS: i32 = 103;

/// Not a verdict of the kernel's: another node tells of the packet's connection in it.
const TOLD: i32 = 104;

/// Not a verdict of the kernel's: the packet is neither TCP nor UDP, so it may be an ICMP error about one that is.
const OTHER: i32 = 101;

/// Not a verdict of the kernel's: the packet cannot be read.
const UNREADABLE: i32 = 102;

/// The verdict on a packet from the wire.
#[inline(always)]
pub(crate) fn ingress(ctx: &TcContext) -> i32 {
    if is_for_us(ctx) {
        arrive(ctx, Origin::Outside, Side::Wire)
    } else {
        PASS
    }
}

/// The verdict on a packet from a pod. Whom its frame is for does not matter: where the pod's device is a port of a
/// bridge, another pod may be meant.
#[inline(always)]
pub(crate) fn pod_ingress(ctx: &TcContext) -> i32 {
    arrive(ctx, Origin::Node, Side::Pod)
}

#[inline(always)]
fn arrive(ctx: &TcContext, origin: Origin, side: Side) -> i32 {
    let verdict = match from_device(ctx, origin) {
        TOLD => hear(ctx),
        verdict => verdict,
    };
    let is_other = verdict == OTHER;
    let verdict = match verdict {
        OURS => go_on(ctx),
        OTHER => error(ctx, side),
        verdict => verdict,
    };
    match verdict {
        // ICMP errors are never answered.
        DROPPED if count_drop(ctx) && !is_other => reject::answer(ctx),
        DROPPED => TC_ACT_SHOT,
        UNREADABLE => unreadable(ctx),
        verdict => verdict,
    }
}

/// The verdict on a packet to the wire, or to a pod.
#[inline(always)]
pub(crate) fn egress(ctx: &TcContext) -> i32 {
    let verdict = match to_device(ctx) {
        OTHER => error(ctx, Side::Egress),
        verdict => verdict,
    };
    match verdict {
        // A backend's reply: its sender is not to blame, so it is not told.
        DROPPED => {
            count_drop(ctx);
            TC_ACT_SHOT
        }
        // No backend's reply: those come from a stack, which writes what can be read.
        UNREADABLE => PASS,
        verdict => verdict,
    }
}

/// Turns a result into a verdict. Nothing is decided yet for a packet that cannot be read.
#[inline(always)]
fn settle(result: Result<i32, Drop>) -> i32 {
    match result {
        Ok(verdict) => verdict,
        Err(Drop::Malformed) => UNREADABLE,
        Err(reason) => match Work::get() {
            Ok(work) => {
                work.reason = reason;
                DROPPED
            }
            Err(_) => TC_ACT_SHOT,
        },
    }
}

/// Counts the packet that is dropped for the work's reason, and remembers it for a while. Whether its sender is told.
///
/// The packet is read once more, so that only those that are dropped pay for it.
#[inline(never)]
fn count_drop(ctx: &TcContext) -> bool {
    let Ok(work) = Work::get() else {
        return false;
    };
    // SAFETY: the kernel's context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    stats::count_reason(work.reason, &parse::flow(ctx), device);
    work.answer = work.reason.answer();
    work.answer != Answer::Silence
}

/// A function of its own for the kernel as well, like the other steps of this size: its stack is free again when the next
/// one runs, of which there are 512 bytes for all that call each other ("combined stack size of 2 calls is too large"),
/// and the verifier, which then knows nothing any more of how it came there, walks through the next one once.
#[inline(never)]
fn from_device(ctx: &TcContext, origin: Origin) -> i32 {
    settle(try_from_device(ctx, origin))
}

/// Packets in which another node tells of their connection.
#[inline(never)]
fn hear(ctx: &TcContext) -> i32 {
    let heard = Work::get().and_then(|work| dsr::hear(ctx, work));
    settle(heard.map(|heard| if heard { OURS } else { PASS }))
}

/// Sends a packet, whose connection is found, on its way.
#[inline(never)]
fn go_on(ctx: &TcContext) -> i32 {
    settle(try_go_on(ctx))
}

#[inline(never)]
fn to_device(ctx: &TcContext) -> i32 {
    settle(try_to_device(ctx))
}

/// ICMP errors.
#[inline(never)]
fn error(ctx: &TcContext, side: Side) -> i32 {
    settle(icmp::translate(ctx, side).map(|outcome| match outcome {
        Outcome::Foreign | Outcome::Translated => PASS,
        Outcome::Sent(verdict) => verdict,
    }))
}

/// The verdict on a packet that cannot be read: dropped at addresses where services answer, since nobody
/// knows whose it is there. Any other is the stack's to judge: it may come by a device whose headers are not Ethernet's.
#[inline(always)]
fn unreadable(ctx: &TcContext) -> i32 {
    if !belongs_to_services(ctx) {
        return PASS;
    }
    if let Ok(work) = Work::get() {
        work.reason = Drop::Malformed;
    }
    count_drop(ctx);
    TC_ACT_SHOT
}

#[inline(never)]
fn belongs_to_services(ctx: &TcContext) -> bool {
    parse::destination(ctx).is_some_and(service::may_answer)
}

/// From the wire: requests of clients outside, and replies of backends on other nodes. From a pod: its requests, and its
/// replies.
#[inline(always)]
fn try_from_device(ctx: &TcContext, origin: Origin) -> Result<i32, Drop> {
    let Some(packet) = parse::packet(ctx)? else {
        return Ok(OTHER);
    };
    let work = Work::begin(packet)?;
    if origin == Origin::Outside && dsr::is_told(ctx, &work.packet) {
        return Ok(TOLD);
    }
    if !fragment::recall(&mut work.packet) {
        return lone_piece(&work.packet);
    }
    if find_connection(ctx, work, origin)? {
        Ok(OURS)
    } else {
        Ok(PASS)
    }
}

#[inline(always)]
fn try_go_on(ctx: &TcContext) -> Result<i32, Drop> {
    let work = Work::get()?;
    fragment::remember(&work.packet);
    let service = work.connection.service;
    carry(ctx, work).inspect_err(|_| stats::count_drop(service))
}

/// Takes the work's packet where its connection goes.
#[inline(always)]
fn carry(ctx: &TcContext, work: &mut Work) -> Result<i32, Drop> {
    let hop = Hop::of(ctx, &work.packet);
    let connection = &work.connection;
    forward::way(ctx, &hop, connection, &connection.to, &mut work.route)?;
    if !work.route.is_by_stack() {
        send_on(ctx, work)
    } else if connection.flags & Connection::REPLY != 0 {
        // It is translated where it leaves the node's stack.
        Ok(PASS)
    } else {
        hand_over(ctx, &work.packet, connection)
    }
}

/// Whether the frame is addressed to this machine. A switch may flood a frame for another one, and two nodes must not
/// both answer it.
#[inline(always)]
fn is_for_us(ctx: &TcContext) -> bool {
    // SAFETY: the kernel's context.
    unsafe { (*ctx.skb.skb).pkt_type == PACKET_HOST }
}

/// What the node's stack sends: replies of backends on this node, and of any backend to a pod.
#[inline(always)]
fn try_to_device(ctx: &TcContext) -> Result<i32, Drop> {
    let Some(mut packet) = parse::packet(ctx)? else {
        return Ok(OTHER);
    };
    if !fragment::recall(&mut packet) {
        return Ok(PASS);
    }
    match conntrack::find(&packet.flow) {
        Some(reply)
            if reply.flags & (Connection::REPLY | Connection::REMOTE) == Connection::REPLY =>
        {
            conntrack::touch(&packet, reply);
            fragment::remember(&packet);
            hand_over(ctx, &packet, reply).inspect_err(|_| stats::count_drop(reply.service))
        }
        _ => Ok(PASS),
    }
}

/// A piece of a packet whose first piece was not seen, or was none of ours. Nobody but services has their addresses; at
/// the node's own it may be for the node.
#[inline(always)]
fn lone_piece(packet: &Packet) -> Result<i32, Drop> {
    if service::is_service_address(packet.flow.destination) {
        Err(Drop::Fragment)
    } else {
        Ok(PASS)
    }
}

/// Finds or opens the connection that a packet belongs to; `false` if it is none of ours, or another hook's.
#[inline(always)]
fn find_connection(ctx: &TcContext, work: &mut Work, origin: Origin) -> Result<bool, Drop> {
    let course = match conntrack::find(&work.packet.flow) {
        Some(known) => conntrack::resume(work, known, origin)?,
        None => Course::Begin,
    };
    match course {
        Course::Ignore => Ok(false),
        Course::Continue => Ok(true),
        Course::Begin => open(ctx, work, origin),
        Course::Move => match open(ctx, work, origin) {
            // With no backend that serves, or none for a new client, a flow keeps the one it has; choosing failed before
            // anything changed.
            Err(Drop::NoBackend | Drop::NoPolicyBackend | Drop::SourceRange) => Ok(true),
            moved => moved,
        },
    }
}

/// Opens a connection for the first packet of one, or for a later packet whose entry was evicted: the hash chooses the
/// same backend again as long as the service's backends are the same.
#[inline(always)]
fn open(ctx: &TcContext, work: &mut Work, origin: Origin) -> Result<bool, Drop> {
    let Some(frontend) = frontend(&work.packet.flow)? else {
        return Ok(false);
    };
    let node = NODE.get(0).ok_or(Drop::Inconsistent)?;
    if conntrack::is_foreign(work, node) {
        return Ok(false);
    }
    let sender = Sender {
        flow: &work.packet.flow,
        origin,
        seed: node.seed,
    };
    let choice = service::select(frontend, &sender)?;
    if !choice.is_direct || !dsr::open(ctx, work, &choice) {
        nat::open(work, &choice, node, origin)
            .inspect_err(|_| stats::count_drop(choice.service))?;
    }
    stats::count_connection(choice.service);
    Ok(true)
}

/// The service that a packet of `flow` is for, if it is for one.
#[inline(always)]
pub(crate) fn frontend(flow: &Flow) -> Result<Option<Frontend>, Drop> {
    let (address, port) = (flow.destination, flow.destination_port);
    // A packet for a loopback address never comes by a device.
    service::find(address, port, flow.protocol, || false)
}

/// Translates a packet and leaves it to the node's stack.
#[inline(always)]
fn hand_over(ctx: &TcContext, packet: &Packet, connection: &Connection) -> Result<i32, Drop> {
    rewrite::flow(ctx, packet, &connection.to)?;
    stats::count_packet(connection.service, ctx.len());
    Ok(PASS)
}

/// Translates the work's packet and sends it to the next hop: a pod, the backend's node, or the client's way back.
#[inline(always)]
fn send_on(ctx: &TcContext, work: &mut Work) -> Result<i32, Drop> {
    let tells = dsr::is_to_tell(ctx, work);
    let Work {
        packet,
        connection,
        route,
        ..
    } = work;
    rewrite::flow(ctx, packet, &connection.to)?;
    rewrite::decrement_ttl(ctx, packet.is_v4(), packet.ttl)?;
    if tells {
        dsr::tell(ctx, packet)?;
    }
    stats::count_packet(connection.service, ctx.len());
    Ok(forward::send(route))
}
