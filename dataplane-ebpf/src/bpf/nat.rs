//! Source translation: finding a source address and port that no other connection to the same backend has.
//!
//! There is no table of ports: the reply's entry in `CONNTRACK` is the reservation. Inserting it fails if it exists,
//! so two CPUs cannot get the same port, and ports are shared between backends.

use super::conntrack;
use super::maps::CONNTRACK;
use super::service::Choice;
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use dataplane_ebpf::abi::{Connection, Node};
use dataplane_ebpf::addr::{Addr, Port};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::{self, Flow};

/// Ports tried before giving up. With half of all ports taken, one connection in 65,000 finds none.
const TRIES: u32 = 16;

/// Makes both directions of a new connection from `client` to the backend of `choice`, and returns the client's.
///
/// A backend on this node sees the client's own address, since its reply must pass here anyway. For any other the
/// node's address is the source, so that the reply comes back.
#[inline(always)]
pub(crate) fn open(client: &Flow, choice: &Choice, node: &Node) -> Result<Connection, Drop> {
    let source = source(client, choice, node)?;
    let flags = if choice.is_local {
        0
    } else {
        Connection::REMOTE
    };
    let mut request = Connection {
        to: Flow::new(
            (source, client.source_port),
            (choice.address, choice.port),
            client.protocol,
        ),
        service: choice.service,
        service_generation: choice.service_generation,
        backend: choice.backend,
        backend_generation: choice.backend_generation,
        seen: conntrack::now(),
        flags,
    };
    let reply = Connection {
        to: client.reversed(),
        flags: flags | Connection::REPLY,
        ..request
    };
    request.to.source_port = reserve(request.to.reversed(), &reply, node)?;
    // Without this entry the next packet chooses by the same hash and finds its reservation: a full table costs time,
    // not the connection.
    CONNTRACK.insert(client, &request, u64::from(BPF_ANY)).ok();
    Ok(request)
}

#[inline(always)]
fn source(client: &Flow, choice: &Choice, node: &Node) -> Result<Addr, Drop> {
    let source = match (choice.is_local, choice.address.is_v4()) {
        (true, _) => client.source,
        (false, true) => node.source_v4,
        (false, false) => node.source_v6,
    };
    if source.is_unspecified() {
        Err(Drop::NoSource)
    } else {
        Ok(source)
    }
}

/// Records `reply` for packets of `flow`, after changing the flow's destination port where another connection has it.
/// Returns the port.
#[inline(always)]
fn reserve(mut flow: Flow, reply: &Connection, node: &Node) -> Result<Port, Drop> {
    if may_keep(flow.destination_port, reply, node) && try_reserve(&flow, reply) {
        return Ok(flow.destination_port);
    }
    let ports = u32::from(node.last_port.saturating_sub(node.first_port)) + 1;
    for _ in 0..TRIES {
        // SAFETY: the helper takes nothing.
        let random = unsafe { bpf_get_prandom_u32() };
        flow.destination_port = Port::new(
            node.first_port
                .wrapping_add(flow::index(random, ports) as u16),
        );
        if try_reserve(&flow, reply) {
            return Ok(flow.destination_port);
        }
    }
    Err(Drop::NoPort)
}

/// Whether the client's own port may be used: with its own address always, with the node's only inside the range set
/// aside for that.
#[inline(always)]
fn may_keep(port: Port, reply: &Connection, node: &Node) -> bool {
    reply.flags & Connection::REMOTE == 0
        || (port.number() >= node.first_port && port.number() <= node.last_port)
}

#[inline(always)]
fn try_reserve(flow: &Flow, reply: &Connection) -> bool {
    if CONNTRACK
        .insert(flow, reply, u64::from(BPF_NOEXIST))
        .is_ok()
    {
        return true;
    }
    // The client's entry may have been evicted while the reply's was not: then the reservation is its own.
    let own = conntrack::find(flow).is_some_and(|entry| entry.to == reply.to);
    own && CONNTRACK.insert(flow, reply, u64::from(BPF_ANY)).is_ok()
}
