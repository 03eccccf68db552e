//! What a connection that is tracked means for a packet, as `conntrack.rs` of the programs has it.

use dataplane_ebpf::abi::{Backend, Connection, UDP_IDLE, age, moment};
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::flow::Flow;

use super::super::decision::{Course, Tracked};
use super::super::snapshot::Snapshot;
use crate::pinned::Error;

/// What the entry of `flow` means for a packet that begins a conversation.
pub(super) fn resume(maps: &impl Snapshot, flow: &Flow) -> Result<Option<Tracked>, Error> {
    let Some(connection) = maps.connection(flow)? else {
        return Ok(None);
    };
    let course = if connection.flags & Connection::FOREIGN != 0 {
        Course::Foreign
    } else if connection.flags & Connection::REPLY != 0 {
        Course::Reply
    } else {
        course(maps, flow, &connection)?
    };
    Ok(Some(Tracked { connection, course }))
}

/// What becomes of a packet of a connection that began with the client and is ours.
fn course(maps: &impl Snapshot, flow: &Flow, connection: &Connection) -> Result<Course, Error> {
    let backend = maps.backend(connection.backend)?.unwrap_or_default();
    let partner = maps.connection(&connection.partner())?;
    let is_displaced = partner.is_some_and(|other| !connection.is_partner(flow, &other));
    if is_displaced {
        return Ok(Course::Begin);
    }
    if backend.generation != connection.backend_generation {
        return Ok(Course::Begin);
    }
    if connection.to.protocol == Protocol::TCP {
        let other = partner.map_or(Connection::RST, |partner| partner.flags);
        let is_over = Connection::is_over(connection.flags, other);
        return Ok(if is_over {
            Course::Begin
        } else {
            Course::Continue
        });
    }
    let service = maps.service(connection.service)?.unwrap_or_default();
    let now = moment(maps.now());
    let is_old = |seen: u32| age(seen, now) > UDP_IDLE;
    let is_idle = is_old(connection.seen) && partner.is_none_or(|partner| is_old(partner.seen));
    Ok(
        if service.generation != connection.service_generation || is_idle {
            Course::Begin
        } else if backend.flags & Backend::SERVING == 0 {
            Course::Move
        } else {
            Course::Continue
        },
    )
}
