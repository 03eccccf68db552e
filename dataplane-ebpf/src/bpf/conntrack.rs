//! Connections through this node: both directions in one table, made and taken away together.
//!
//! Each direction writes only its own entry, so no two CPUs fight over one. Entries leave when the table is full, the
//! longest unused first; the daemon may sweep those that are over.

use super::maps::CONNTRACK;
use super::parse::{Packet, tcp};
use super::service::{self, Standing};
use super::stats;
use super::work::Work;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use core::ptr::copy_nonoverlapping;
use dataplane_ebpf::abi::{Connection, Node, ORPHAN_PATIENCE, Origin, UDP_IDLE, age, moment};
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

/// How long both ends of a connection that is over are silent until its port is another's, in units of [`moment`].
const QUIET: u32 = 2;

/// The entry of `flow`.
///
/// The reference is good while nothing is inserted. An entry that another CPU evicts meanwhile may turn into another
/// connection's, once in a very long while: one packet then goes astray, as on a congested link.
#[inline(always)]
pub(crate) fn find(flow: &Flow) -> Option<&'static mut Connection> {
    // SAFETY: a non-null pointer to a value of the map, which exists as long as the program does.
    CONNTRACK
        .get_ptr_mut(flow)
        .map(|entry| unsafe { &mut *entry })
}

/// The other direction of `connection`, whose entry is `flow`'s.
#[inline(always)]
pub(crate) fn find_partner(
    flow: &Flow,
    connection: &Connection,
) -> Option<&'static mut Connection> {
    find(&connection.partner()).filter(|other| connection.is_partner(flow, other))
}

/// What becomes of a packet that has an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// It is none of ours after all.
    Ignore,
    /// It goes where the ones before it went.
    Continue,
    /// It goes to another backend if there is one, otherwise where the ones before it went.
    Move,
    /// It begins a new connection.
    Begin,
}

/// Takes up the connection of a packet that came from `origin` and decides what becomes of the packet.
#[inline(always)]
pub(crate) fn resume(
    work: &mut Work,
    known: &mut Connection,
    origin: Origin,
) -> Result<Course, Drop> {
    let now = now();
    let course = if known.flags & (Connection::REPLY | Connection::FOREIGN) == 0 {
        course(&work.packet, known, now)?
    } else if known.flags & Connection::FOREIGN != 0 {
        foreign_course(&work.packet, known, now)
    } else if is_translated_later(known.flags, origin) {
        Course::Ignore
    } else {
        Course::Continue
    };
    match course {
        Course::Ignore => {}
        Course::Begin => {
            close(&work.packet.flow, known);
        }
        Course::Continue | Course::Move => take_up(work, known, now),
    }
    Ok(course)
}

/// Whether a reply that came from `origin` is translated by another hook: one to a pod where it reaches the pod's
/// device, one of a backend on this node where it leaves its pod. Such a one that comes by wire is none.
#[inline(always)]
fn is_translated_later(flags: u32, origin: Origin) -> bool {
    flags & Connection::FROM_POD != 0
        || (flags & Connection::REMOTE == 0 && origin == Origin::Outside)
}

/// Another proxy's connection stays its own until it is opened anew.
#[inline(always)]
fn foreign_course(packet: &Packet, connection: &mut Connection, now: u32) -> Course {
    if packet.is_syn() {
        return Course::Begin;
    }
    touch(packet, connection, now);
    Course::Ignore
}

/// Whether a packet without an entry is of a connection that the proxy which was here before has translated; remembered
/// if so. Nobody knows which backend that has, and the old proxy's rules still translate it.
#[inline(always)]
pub(crate) fn is_foreign(work: &mut Work, node: &Node) -> bool {
    let packet = &work.packet;
    if now() >= node.migration_end || !packet.is_tcp() || packet.tcp_flags & tcp::SYN != 0 {
        return false;
    }
    work.connection = Connection {
        to: packet.flow,
        service: 0,
        service_generation: 0,
        backend: 0,
        backend_generation: 0,
        seen: now(),
        flags: Connection::FOREIGN,
    };
    // If the table has no room, the next packet is a stranger again: just as well.
    insert(&work.packet.flow, &work.connection, BPF_NOEXIST);
    true
}

/// Whether `packet` plainly goes on between a client outside and a backend elsewhere, so that nothing has to be decided:
/// [`resume`] would continue.
#[inline(always)]
pub(crate) fn is_settled(packet: &Packet, known: &Connection, now: u32) -> bool {
    match known.flags & (Connection::REPLY | Connection::REMOTE) {
        Connection::REMOTE => {}
        sides => return sides == Connection::REPLY | Connection::REMOTE,
    }
    if service::standing(known.backend, known.backend_generation) != Standing::Serving {
        return false;
    }
    let stays = if packet.is_tcp() {
        !packet.is_syn()
    } else {
        service::is_same(known.service, known.service_generation)
    };
    // The rest holds for the whole of a moment.
    stays && (known.seen == now || is_still_its_own(packet, known, now))
}

/// What [`is_settled`] looks for at the first packet of each moment.
#[inline(always)]
fn is_still_its_own(packet: &Packet, known: &Connection, now: u32) -> bool {
    !is_displaced(packet, known, now)
        && (packet.is_tcp()
            || !has_other_service(packet, known, now) && !is_idle(&packet.flow, known, now))
}

/// Copies the connection of a packet into the work and notes that it was used.
#[inline(always)]
pub(crate) fn take_up(work: &mut Work, known: &mut Connection, now: u32) {
    let is_first = touch(&work.packet, known, now);
    // SAFETY: both are valid, and in different maps. An assignment would become a call that copies byte by byte, since
    // the compiler cannot know that.
    unsafe { copy_nonoverlapping(&raw const *known, &raw mut work.connection, 1) };
    // `known` is not used any more: what is inserted may evict it.
    if is_first {
        restore_partner(work);
    }
}

/// Makes the other direction of the work's connection again if it was evicted, or its packets would be nobody's as long
/// as this direction's entry lives. Looked for at the first packet of each moment only.
#[inline(always)]
fn restore_partner(work: &mut Work) {
    if work.connection.flags & (Connection::DSR | Connection::REMOTE) == Connection::DSR {
        // Only the node that the client's packets enter by knows what it would have to be.
        return;
    }
    work.reply_flow = work.connection.partner();
    if find(&work.reply_flow).is_some() {
        return;
    }
    let sides = Connection::REPLY
        | Connection::REMOTE
        | Connection::FROM_POD
        | Connection::DSR
        | Connection::HALF_OPEN;
    work.reply = Connection {
        to: work.packet.flow.reversed(),
        flags: work.connection.flags & sides ^ Connection::REPLY,
        ..work.connection
    };
    insert(&work.reply_flow, &work.reply, BPF_NOEXIST);
}

/// Decides what becomes of a client's `packet` that belongs to `connection`.
#[inline(always)]
fn course(packet: &Packet, connection: &mut Connection, now: u32) -> Result<Course, Drop> {
    if is_displaced(packet, connection, now) {
        if packet.is_tcp() && !packet.is_syn() {
            connection.flags |= Connection::RST;
            stats::count_drop(connection.service);
            return Err(Drop::BackendGone);
        }
        return Ok(Course::Begin);
    }
    let standing = service::standing(connection.backend, connection.backend_generation);
    if packet.is_tcp() {
        tcp_course(packet, connection, standing, now)
    } else if packet.is_sctp() {
        Ok(sctp_course(packet, connection, standing))
    } else {
        Ok(udp_course(packet, connection, standing, now))
    }
}

/// Whether another connection has taken the place of a client's: its other direction was evicted, and that one has got the
/// same address and port, so that the backend takes both for one. Looked for at the first packet of each moment only.
#[inline(never)]
fn is_displaced(packet: &Packet, connection: &Connection, now: u32) -> bool {
    connection.seen != now
        && find(&connection.partner())
            .is_some_and(|other| !connection.is_partner(&packet.flow, other))
}

/// TCP stays where it is as long as the backend exists, even when it no longer serves: it may be finishing its work.
#[inline(always)]
fn tcp_course(
    packet: &Packet,
    connection: &mut Connection,
    standing: Standing,
    now: u32,
) -> Result<Course, Drop> {
    match (packet.is_syn(), standing) {
        (false, Standing::Gone) => orphan_course(packet, connection, now),
        (true, Standing::Gone) => Ok(Course::Begin),
        // A SYN on a connection that is not over is sent again, or meets a peer that sorts it out (RFC 9293, 3.10.7.4).
        (true, _) if is_over(&packet.flow, connection) => Ok(Course::Begin),
        _ => Ok(Course::Continue),
    }
}

/// Half a connection cannot move, and the pod may still be there: it may have left its service only, by a changed label.
/// So the connection is reset only when what asks for an answer has had none for a while.
///
/// A bare acknowledgment asks for nothing, and an answer to an earlier packet may well be older than it.
#[inline(always)]
fn orphan_course(packet: &Packet, connection: &mut Connection, now: u32) -> Result<Course, Drop> {
    // Answers that go to the client straight are not seen here.
    if !packet.asks() || connection.flags & Connection::DSR != 0 {
        return Ok(Course::Continue);
    }
    let is_first = connection.flags & Connection::ORPHANED == 0;
    if is_first || is_answered(&packet.flow, connection) {
        connection.flags |= Connection::ORPHANED;
        connection.seen = now;
    } else if age(connection.seen, now) >= ORPHAN_PATIENCE {
        stats::count_drop(connection.service);
        return Err(Drop::BackendGone);
    }
    Ok(Course::Continue)
}

/// Whether the other direction was used since this one was.
#[inline(always)]
fn is_answered(flow: &Flow, connection: &Connection) -> bool {
    find_partner(flow, connection).is_some_and(|partner| partner.seen >= connection.seen)
}

/// An association stays where it is as long as the backend exists, whatever becomes of it otherwise. When it is gone,
/// another one ends the association, which it does not know.
#[inline(always)]
fn sctp_course(packet: &Packet, connection: &Connection, standing: Standing) -> Course {
    if packet.is_syn()
        || standing == Standing::Gone
        || !service::is_same(connection.service, connection.service_generation)
    {
        Course::Begin
    } else {
        Course::Continue
    }
}

#[inline(always)]
fn udp_course(packet: &Packet, connection: &Connection, standing: Standing, now: u32) -> Course {
    if standing == Standing::Gone
        || !service::is_same(connection.service, connection.service_generation)
        || has_other_service(packet, connection, now)
        || is_idle(&packet.flow, connection, now)
    {
        Course::Begin
    } else if standing == Standing::NotServing {
        Course::Move
    } else {
        Course::Continue
    }
}

/// Whether the address that a flow's client uses is another service's by now, or none's. Looked for at the first packet of
/// each moment only.
#[inline(never)]
fn has_other_service(packet: &Packet, connection: &Connection, now: u32) -> bool {
    // The node of a backend that answers itself sees only the backend's address.
    let names_service =
        connection.flags & (Connection::REMOTE | Connection::DSR) != Connection::DSR;
    let (address, port) = (packet.flow.destination, packet.flow.destination_port);
    names_service && connection.seen != now && {
        let found = service::find(address, port, Protocol::UDP, || false);
        !matches!(found, Ok(Some(frontend)) if frontend.service == connection.service)
    }
}

/// Whether neither direction was used for long.
#[inline(always)]
fn is_idle(flow: &Flow, connection: &Connection, now: u32) -> bool {
    is_unused(connection, now)
        && find_partner(flow, connection).is_none_or(|partner| is_unused(partner, now))
}

/// Whether this direction was not used for long.
#[inline(always)]
pub(crate) fn is_unused(connection: &Connection, now: u32) -> bool {
    age(connection.seen, now) > UDP_IDLE
}

#[inline(always)]
fn is_over(flow: &Flow, connection: &Connection) -> bool {
    let partner = find_partner(flow, connection).map_or(Connection::RST, |partner| partner.flags);
    Connection::is_over(connection.flags, partner)
}

/// Whether neither end of a connection has said anything for so long that it is none any more. When a TCP connection is
/// over, that is soon: all that may still come is a last packet that is sent again.
#[inline(always)]
pub(crate) fn is_past(flow: &Flow, connection: &Connection) -> bool {
    if connection.flags & Connection::DSR != 0 {
        // No node sees both directions for sure, and a port of the node's is not at stake.
        return false;
    }
    // Of a direction that was evicted nothing is known.
    let (other_seen, other) = find_partner(flow, connection)
        .map_or((connection.seen, Connection::HALF_OPEN), |partner| {
            (partner.seen, partner.flags)
        });
    let (one, protocol) = (connection.flags, connection.to.protocol);
    let is_over = protocol == Protocol::TCP && Connection::is_over(one, other);
    let idle = age(connection.seen.max(other_seen), now());
    if is_over {
        idle >= QUIET
    } else {
        idle > Connection::idle_limit(protocol, one, other)
    }
}

/// Notes that `packet` used `connection` now; whether it is the first to do so at this moment. Writes only what changed: a
/// write takes the cache line from other CPUs.
#[inline(always)]
pub(crate) fn touch(packet: &Packet, connection: &mut Connection, now: u32) -> bool {
    let is_first = connection.seen != now;
    if is_first && connection.flags & Connection::ORPHANED == 0 {
        connection.seen = now;
    }
    let mut flags = connection.flags;
    if packet.tcp_flags & tcp::SYN == 0 && flags & Connection::REPLY == 0 {
        flags &= !Connection::HALF_OPEN;
    }
    if packet.tcp_flags & tcp::FIN != 0 {
        flags |= Connection::FIN;
    }
    if packet.tcp_flags & tcp::RST != 0 {
        flags |= Connection::RST;
    }
    if connection.flags != flags {
        connection.flags = flags;
    }
    is_first
}

/// Records an entry; `flags` say whether it may replace one. Whether it was recorded.
#[inline(always)]
pub(crate) fn insert(flow: &Flow, connection: &Connection, flags: u32) -> bool {
    CONNTRACK.insert(flow, connection, u64::from(flags)).is_ok()
}

/// Takes away both directions of `connection`, whose entry is `flow`'s. Whether that was still there: of several CPUs, one
/// takes it away.
#[inline(always)]
pub(crate) fn close(flow: &Flow, connection: &Connection) -> bool {
    let partner = connection.partner();
    if find_partner(flow, connection).is_some() {
        // One that is gone by now was evicted: just as well.
        CONNTRACK.remove(partner).ok();
    }
    CONNTRACK.remove(flow).is_ok()
}

/// The current moment. A call into the kernel, so the steps of one packet pass it on.
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: the helper takes nothing.
    moment(unsafe { bpf_ktime_get_coarse_ns() })
}
