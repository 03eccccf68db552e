//! A packet's way through the hooks of uplinks and of devices towards pods, step by step.

use super::client::Sender;
use super::conntrack::{self, Course};
use super::forward::{self, Hop};
use super::icmp::{self, Outcome, Side};
use super::maps::NODE;
use super::parse::{self, Packet};
use super::work::Work;
use super::{dsr, filter, fragment, nat, reject, rewrite, sctp, service, stats};
use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::programs::TcContext;
use dataplane_ebpf::abi::{Connection, Frontend, Origin};
use dataplane_ebpf::addr::Addr;
use dataplane_ebpf::drop::{Answer, Drop};
use dataplane_ebpf::flow::Flow;

/// The next program on the device decides, and in the end the stack: `TCX_NEXT`, and `TC_ACT_UNSPEC` for clsact.
const PASS: i32 = -1;

/// `skb->pkt_type` of a frame for this machine.
const PACKET_HOST: u32 = 0;

/// Not a verdict of the kernel's: the packet goes no further, for the work's reason.
const DROPPED: i32 = 100;

/// Not a verdict of the kernel's: the packet is of no protocol that services can speak, but it may be an ICMP error about
/// one that is.
const OTHER: i32 = 101;

/// Not a verdict of the kernel's: the packet cannot be read.
const UNREADABLE: i32 = 102;

/// Not a verdict of the kernel's: the packet is read, it is the work's.
const READ: i32 = 103;

/// Not a verdict of the kernel's: the packet is read, and seems to tell of its connection as another node does.
const TOLD: i32 = 104;

/// Not a verdict of the kernel's: the packet belongs to the work's connection.
const OURS: i32 = 105;

/// Not a verdict of the kernel's: the packet opens a connection if it is for a service.
const OPENS: i32 = 106;

/// Not a verdict of the kernel's: the packet opens a connection if it can, but otherwise it belongs to the work's.
const MOVES: i32 = 107;

/// Not a verdict of the kernel's: the packet's way is found, it is the work's.
const ROUTED: i32 = 108;

/// Not a verdict of the kernel's: the packet is of no protocol that services can speak, and not about one that is ours.
const UNKNOWN: i32 = 109;

/// The bits of a VLAN tag that name the VLAN; none for a tag that has only a priority.
const VLAN: u32 = 0xfff;

/// The verdict on a packet from the wire.
#[inline(always)]
pub(crate) fn ingress(ctx: &TcContext) -> i32 {
    if !is_for_us(ctx) || is_in_vlan(ctx) || filter::is_foreign(ctx) {
        return PASS;
    }
    arrive(ctx, Origin::Outside, Side::Wire)
}

/// The verdict on a packet from a pod. Whom its frame is for does not matter: where the pod's device is a port of a
/// bridge, another pod may be meant.
#[inline(always)]
pub(crate) fn pod_ingress(ctx: &TcContext) -> i32 {
    if filter::is_foreign(ctx) {
        return PASS;
    }
    arrive(ctx, Origin::Node, Side::Pod)
}

#[inline(always)]
fn arrive(ctx: &TcContext, origin: Origin, side: Side) -> i32 {
    let verdict = read(ctx);
    let verdict = match verdict {
        TOLD => hear(ctx, origin),
        verdict => verdict,
    };
    let is_other = verdict == OTHER;
    let verdict = match verdict {
        READ => find(origin),
        OTHER => error(ctx, side),
        verdict => verdict,
    };
    let verdict = match verdict {
        OPENS | MOVES => open(ctx, origin, verdict),
        verdict => verdict,
    };
    let verdict = match verdict {
        OURS => find_way(ctx),
        verdict => verdict,
    };
    let verdict = match verdict {
        ROUTED => go_on(ctx),
        verdict => verdict,
    };
    let verdict = match verdict {
        UNKNOWN => leave_or_drop(ctx),
        verdict => verdict,
    };
    match verdict {
        // ICMP errors are never answered, and nobody knows how other protocols are.
        DROPPED if count_drop(ctx) && !is_other => reject::answer(ctx),
        DROPPED => TC_ACT_SHOT,
        UNREADABLE => unreadable(ctx),
        verdict => verdict,
    }
}

/// The verdict on a packet to the wire, or to a pod.
#[inline(always)]
pub(crate) fn egress(ctx: &TcContext) -> i32 {
    if filter::is_foreign(ctx) {
        return PASS;
    }
    let verdict = match read(ctx) {
        // What a packet of the node's own tells, other nodes may judge.
        READ | TOLD => find_reply(),
        OTHER => error(ctx, Side::Egress),
        verdict => verdict,
    };
    let verdict = match verdict {
        OURS => leave(ctx),
        verdict => verdict,
    };
    match verdict {
        // A backend's reply: its sender is not to blame, so it is not told.
        DROPPED => {
            count_drop(ctx);
            TC_ACT_SHOT
        }
        // No backend's reply: those come from a stack, which writes what can be read.
        UNREADABLE | UNKNOWN => PASS,
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
fn read(ctx: &TcContext) -> i32 {
    settle(try_read(ctx))
}

/// Finds the connection of a packet that comes from `origin`. From the wire: requests of clients outside, and replies of
/// backends on other nodes. From a pod: its requests, and its replies.
#[inline(never)]
fn find(origin: Origin) -> i32 {
    settle(try_find(origin))
}

/// Opens a connection for the first packet of one, or for a later packet whose entry was evicted: the hash chooses the
/// same backend again as long as the service's backends are the same.
#[inline(never)]
fn open(ctx: &TcContext, origin: Origin, course: i32) -> i32 {
    settle(try_open(ctx, origin, course))
}

/// Finds the connection of a packet that the node's stack sends: replies of backends on this node, and of any backend to a
/// pod.
#[inline(never)]
fn find_reply() -> i32 {
    settle(try_find_reply())
}

/// Packets that tell of their connection. From a pod, none may: another node would believe it.
#[inline(never)]
fn hear(ctx: &TcContext, origin: Origin) -> i32 {
    let Ok(work) = Work::get() else {
        return TC_ACT_SHOT;
    };
    if origin == Origin::Node {
        // Whosever address it is for: not by way of `UNREADABLE`.
        work.reason = Drop::Malformed;
        return DROPPED;
    }
    settle(dsr::hear(ctx, work).map(|heard| if heard { OURS } else { READ }))
}

/// Finds out where a packet, whose connection is found, goes.
#[inline(never)]
fn find_way(ctx: &TcContext) -> i32 {
    settle(try_find_way(ctx))
}

/// Translates a packet, whose way is found, and sends it there.
#[inline(never)]
fn go_on(ctx: &TcContext) -> i32 {
    settle(try_go_on(ctx))
}

/// Translates a packet, whose connection is found, on its way out.
#[inline(never)]
fn leave(ctx: &TcContext) -> i32 {
    settle(try_leave(ctx))
}

/// ICMP errors, which are never answered.
#[inline(never)]
fn error(ctx: &TcContext, side: Side) -> i32 {
    settle(icmp::translate(ctx, side).map(|outcome| match outcome {
        Outcome::Unknown => UNKNOWN,
        Outcome::Foreign | Outcome::Translated => PASS,
        Outcome::Sent(verdict) => verdict,
    }))
}

/// The verdict on a packet of a protocol that services cannot speak. Nobody else has their addresses, so it would wander
/// from router to router.
#[inline(never)]
fn leave_or_drop(ctx: &TcContext) -> i32 {
    settle(match parse::destination(ctx) {
        Some(address) => unless_services(address, Drop::UnknownPort),
        None => Ok(PASS),
    })
}

/// The verdict on a packet that is for no service's port: it passes unless its address is one of those that are set aside
/// for services. `reason` is for addresses that services have.
#[inline(always)]
fn unless_services(address: Addr, reason: Drop) -> Result<i32, Drop> {
    if service::is_service_address(address) {
        Err(reason)
    } else if service::is_unallocated(address) {
        Err(Drop::Unallocated)
    } else {
        Ok(PASS)
    }
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

#[inline(always)]
fn try_read(ctx: &TcContext) -> Result<i32, Drop> {
    let Some(packet) = parse::packet(ctx)? else {
        return Ok(OTHER);
    };
    let work = Work::begin(packet)?;
    Ok(if dsr::is_told(ctx, &work.packet) {
        TOLD
    } else {
        READ
    })
}

#[inline(always)]
fn try_find(origin: Origin) -> Result<i32, Drop> {
    let work = Work::get()?;
    if !fragment::recall(&mut work.packet) {
        // A piece of a packet whose first piece was not seen, or was none of ours. At the node's own addresses it may be
        // for the node.
        return unless_services(work.packet.flow.destination, Drop::Fragment);
    }
    let course = match conntrack::find(&work.packet.flow) {
        Some(known) => conntrack::resume(work, known, origin)?,
        None => Course::Begin,
    };
    Ok(match course {
        Course::Ignore => PASS,
        Course::Continue => OURS,
        Course::Begin => OPENS,
        Course::Move => MOVES,
    })
}

#[inline(always)]
fn try_find_way(ctx: &TcContext) -> Result<i32, Drop> {
    let work = Work::get()?;
    fragment::remember(&work.packet);
    let hop = Hop::of(ctx, &work.packet);
    let connection = &work.connection;
    forward::way(ctx, &hop, connection, &connection.to, &mut work.route)
        .inspect_err(|_| stats::count_drop(connection.service))?;
    if work.route.is_by_stack() && connection.flags & Connection::REPLY != 0 {
        // It is translated where it leaves the node's stack.
        return Ok(PASS);
    }
    work.tells = dsr::is_to_tell(ctx, work);
    Ok(ROUTED)
}

#[inline(always)]
fn try_go_on(ctx: &TcContext) -> Result<i32, Drop> {
    let Work {
        packet,
        connection,
        route,
        tells,
        ..
    } = Work::get()?;
    translate(ctx, packet, connection)?;
    if route.is_by_stack() {
        return Ok(PASS);
    }
    rewrite::decrement_ttl(ctx, packet.is_v4(), packet.ttl)?;
    if *tells {
        dsr::tell(ctx, packet)?;
    }
    Ok(forward::send(route))
}

#[inline(always)]
fn try_leave(ctx: &TcContext) -> Result<i32, Drop> {
    let Work {
        packet, connection, ..
    } = Work::get()?;
    translate(ctx, packet, connection)?;
    Ok(PASS)
}

/// Whether the frame is addressed to this machine. A switch may flood a frame for another one, and two nodes must not
/// both answer it.
#[inline(always)]
fn is_for_us(ctx: &TcContext) -> bool {
    // SAFETY: the kernel's context.
    unsafe { (*ctx.skb.skb).pkt_type == PACKET_HOST }
}

/// Whether the frame is of a VLAN, whose device sees it once more, without the tag: that one's hook is to have it, or
/// nobody.
#[inline(always)]
fn is_in_vlan(ctx: &TcContext) -> bool {
    // SAFETY: the kernel's context.
    unsafe { (*ctx.skb.skb).vlan_present != 0 && (*ctx.skb.skb).vlan_tci & VLAN != 0 }
}

#[inline(always)]
fn try_find_reply() -> Result<i32, Drop> {
    let work = Work::get()?;
    if !fragment::recall(&mut work.packet) {
        return Ok(PASS);
    }
    match conntrack::find(&work.packet.flow) {
        Some(reply)
            if reply.flags & (Connection::REPLY | Connection::REMOTE) == Connection::REPLY =>
        {
            conntrack::take_up(work, reply, conntrack::now());
            fragment::remember(&work.packet);
            Ok(OURS)
        }
        _ => Ok(PASS),
    }
}

#[inline(always)]
fn try_open(ctx: &TcContext, origin: Origin, course: i32) -> Result<i32, Drop> {
    let work = Work::get()?;
    let Some(frontend) = frontend(&work.packet.flow)? else {
        return Ok(PASS);
    };
    let node = NODE.get(0).ok_or(Drop::Inconsistent)?;
    if conntrack::is_foreign(work, node) {
        return Ok(PASS);
    }
    let sender = Sender {
        flow: &work.packet.flow,
        origin,
        seed: node.seed,
    };
    let choice = match service::choose(frontend, &sender) {
        // With no backend that serves, or none for a new client, a flow keeps the one it has; choosing failed before
        // anything changed.
        Err(Drop::NoBackend | Drop::NoPolicyBackend | Drop::SourceRange) if course == MOVES => {
            return Ok(OURS);
        }
        chosen => chosen.inspect_err(|_| stats::count_drop(frontend.service))?,
    };
    if !choice.is_direct || !dsr::open(ctx, work, &choice) {
        nat::open(work, &choice, node, origin)
            .inspect_err(|_| stats::count_drop(choice.service))?;
    }
    stats::count_connection(choice.service);
    Ok(OURS)
}

/// The service that a packet of `flow` is for, if it is for one.
#[inline(always)]
pub(crate) fn frontend(flow: &Flow) -> Result<Option<Frontend>, Drop> {
    let (address, port) = (flow.destination, flow.destination_port);
    // A packet for a loopback address never comes by a device.
    service::find(address, port, flow.protocol, || false)
}

/// Makes the packet one of its connection's other side.
#[inline(always)]
fn translate(ctx: &TcContext, packet: &Packet, connection: &Connection) -> Result<(), Drop> {
    let translated = sctp::change_checksum(ctx, packet, &connection.to)
        .and_then(|()| rewrite::flow(ctx, packet, &connection.to));
    match translated {
        Ok(()) => stats::count_packet(connection.service, ctx.len()),
        Err(_) => stats::count_drop(connection.service),
    }
    translated
}
