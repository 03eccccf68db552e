//! Source translation: finding a source address and port that no other connection to the same backend has.
//!
//! There is no table of ports: the reply's entry in `CONNTRACK` is the reservation. Inserting it fails if it exists,
//! so two CPUs cannot get the same port, and ports are shared between backends.

use super::service::Choice;
use super::work::Work;
use super::{conntrack, filter};
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use dataplane_ebpf::abi::{Connection, Node, Origin};
use dataplane_ebpf::addr::{Addr, Port};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::{self, Flow};

/// Ports tried before giving up. With half of all ports taken, one connection in 65,000 finds none.
const TRIES: u32 = 16;

/// The step from one try's hash to the next: 2^32 divided by the golden ratio, which spreads the tries over all ports.
const STRIDE: u32 = 0x9e37_79b9;

/// Makes both directions of a new connection from the packet's client to the backend of `choice`; the client's is the
/// work's connection afterwards.
///
/// The backend sees the client's own address wherever its reply must pass here anyway: if one of the two is on this
/// node. Otherwise the node's address is the source, so that the reply comes back; likewise when a pod was chosen as its
/// own backend, which would answer itself.
#[inline(always)]
pub(crate) fn open(
    work: &mut Work,
    choice: &Choice,
    node: &Node,
    origin: Origin,
) -> Result<(), Drop> {
    let client = &work.packet.flow;
    let keeps_address =
        (choice.is_local || origin == Origin::Node) && client.source != choice.address;
    let flags = match (keeps_address, origin) {
        (false, _) => Connection::REMOTE,
        (true, Origin::Node) => Connection::FROM_POD,
        (true, Origin::Outside) => 0,
    };
    let source = if keeps_address {
        client.source
    } else {
        node_source(choice, node)?
    };
    draft(work, choice, source, flags);
    reserve(work, node)?;
    work.connection.to.source_port = work.reply_flow.destination_port;
    // Without this entry the next packet chooses by the same hash and finds its reservation: a full table costs time,
    // not the connection.
    conntrack::insert(&work.packet.flow, &work.connection, BPF_ANY);
    Ok(())
}

/// Writes both directions of a new connection into the work, with `source` in place of the packet's client.
#[inline(always)]
pub(crate) fn draft(work: &mut Work, choice: &Choice, source: Addr, flags: u32) {
    let client = &work.packet.flow;
    let flags = if work.packet.is_syn() {
        flags | Connection::HALF_OPEN
    } else {
        flags
    };
    work.connection = Connection {
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
    work.reply = Connection {
        to: client.reversed(),
        flags: flags | Connection::REPLY,
        ..work.connection
    };
    work.reply_flow = work.connection.partner();
}

#[inline(always)]
fn node_source(choice: &Choice, node: &Node) -> Result<Addr, Drop> {
    let source = if choice.address.is_v4() {
        node.source_v4
    } else {
        node.source_v6
    };
    if source.is_unspecified() {
        Err(Drop::NoSource)
    } else {
        Ok(source)
    }
}

/// Records the work's reply under its flow, after changing the flow's destination port where another connection has it.
#[inline(always)]
fn reserve(work: &mut Work, node: &Node) -> Result<(), Drop> {
    if may_keep(work, node) && try_reserve(work) {
        return Ok(());
    }
    let ports = u32::from(node.last_port.wrapping_sub(node.first_port)) + 1;
    // By hash, so that a flow whose entry was evicted comes by its own reservation again. Not by the hash that chose the
    // backend: flows with a backend in common would have ports in common too.
    let start = work.packet.flow.hash(!node.seed);
    for attempt in 0..TRIES {
        let hash = start.wrapping_add(attempt.wrapping_mul(STRIDE));
        let port = node
            .first_port
            .wrapping_add(flow::index(hash, ports) as u16);
        work.reply_flow.destination_port = Port::new(port);
        if try_reserve(work) {
            return Ok(());
        }
    }
    Err(Drop::NoPort)
}

/// Whether the client's own port may be used: with its own address always, with the node's only inside the range set
/// aside for that.
#[inline(always)]
fn may_keep(work: &Work, node: &Node) -> bool {
    let port = work.reply_flow.destination_port.number();
    work.reply.flags & Connection::REMOTE == 0
        || (port >= node.first_port && port <= node.last_port)
}

/// Records the work's reply unless another connection has its flow. A function for the kernel too, because it is called
/// in a loop.
#[inline(never)]
pub(crate) fn try_reserve(work: &Work) -> bool {
    filter::note(work.reply_flow.source);
    if conntrack::insert(&work.reply_flow, &work.reply, BPF_NOEXIST) {
        return true;
    }
    let Some(entry) = conntrack::find(&work.reply_flow) else {
        return false;
    };
    if entry.to == work.reply.to {
        // The client's entry was evicted while the reply's was not: the reservation is its own.
        return conntrack::insert(&work.reply_flow, &work.reply, BPF_ANY);
    }
    // What is past gives its port up. Two CPUs may want it: only one of them removes it.
    conntrack::is_past(&work.reply_flow, entry)
        && conntrack::close(&work.reply_flow, entry)
        && conntrack::insert(&work.reply_flow, &work.reply, BPF_NOEXIST)
}
