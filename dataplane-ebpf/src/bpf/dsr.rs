//! Direct server return: a backend on another node answers the client itself, with the service's address.
//!
//! The node a packet enters by sends it on with the client's address kept, and tells the backend's node by an option of
//! the IP header which address and port the client used: with a TCP connection's SYN, and with every datagram of UDP that
//! leaves room for it. The backend's node takes the option out and remembers the connection, so that replies leave it as
//! the service's. The nodes need a network that carries the packets of one to the pods of another as they are.

use super::context::Context as _;
use super::forward::{self, Hop};
use super::maps::{BACKENDS, FRONTENDS, LOCAL_BACKENDS};
use super::parse::{Fragment, L3, Packet};
use super::service::{self, Choice};
use super::work::Work;
use super::{conntrack, nat};
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_NET;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::programs::TcContext;
use dataplane_ebpf::abi::{BackendKey, Connection, FrontendKey};
use dataplane_ebpf::addr::{Addr, Port, Protocol};
use dataplane_ebpf::checksum::Sum;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::dsr::{OptionV4, OptionV6};

/// The words of an IPv4 header that lengths are in: version and header length, and the packet's length.
const LENGTHS_V4: usize = L3;
const CHECKSUM_V4: usize = L3 + 10;
const OPTIONS_V4: usize = L3 + 20;

const LENGTH_V6: usize = L3 + 4;
const NEXT_HEADER_V6: usize = L3 + 6;
const OPTIONS_V6: usize = L3 + 40;

/// Opens a connection whose backend answers the client itself. `false` if it cannot be one: the packet has no room for
/// the option, the client talks to the backend from the same port by another service, which only another address can keep
/// apart, or the client is the backend, which would answer itself.
#[inline(always)]
pub(crate) fn open(ctx: &TcContext, work: &mut Work, choice: &Choice) -> bool {
    if work.packet.fragment != Fragment::Whole || is_other_protocol(&work.packet) {
        return false;
    }
    let client = work.packet.flow.source;
    if client == choice.address {
        return false;
    }
    nat::draft(work, choice, client, Connection::REMOTE | Connection::DSR);
    if tells(&work.packet) && !has_room(ctx, work) {
        return false;
    }
    // Without its own entry the next packet finds the reservation.
    nat::try_reserve(work) && {
        conntrack::insert(&work.packet.flow, &work.connection, BPF_ANY);
        true
    }
}

#[inline(always)]
fn is_other_protocol(packet: &Packet) -> bool {
    packet.flow.protocol != Protocol::TCP && packet.flow.protocol != Protocol::UDP
}

/// Whether a packet of a connection tells the backend's node about it.
#[inline(always)]
fn tells(packet: &Packet) -> bool {
    packet.is_syn() || !packet.is_tcp()
}

/// Whether the packet, sent to the backend, has room for the option: in the header, and on the next link.
#[inline(always)]
fn has_room(ctx: &TcContext, work: &mut Work) -> bool {
    let packet = &work.packet;
    let (plain, option) = if packet.is_v4() {
        (OPTIONS_V4, OptionV4::LENGTH)
    } else {
        (OPTIONS_V6, OptionV6::LENGTH)
    };
    packet.l4 == plain
        && packet.fragment == Fragment::Whole
        && forward::has_room(
            ctx,
            &Hop::of(ctx, packet),
            option,
            &work.connection.to,
            &mut work.route,
        )
}

/// Whether the packet, which goes to another node by the work's connection, is to carry the option.
#[inline(always)]
pub(crate) fn is_to_tell(ctx: &TcContext, work: &mut Work) -> bool {
    let sides = Connection::REPLY | Connection::REMOTE | Connection::DSR;
    work.connection.flags & sides == Connection::REMOTE | Connection::DSR
        && tells(&work.packet)
        && has_room(ctx, work)
}

/// Puts the option into a packet that is otherwise ready to leave: the flow it arrived as tells what the client used.
#[inline(always)]
pub(crate) fn tell(ctx: &TcContext, packet: &Packet) -> Result<(), Drop> {
    let (address, port) = (packet.flow.destination, packet.flow.destination_port);
    if packet.is_v4() {
        let option = OptionV4::new(address, port);
        resize(ctx, i32::from(OptionV4::LENGTH))?;
        store(ctx, OPTIONS_V4, &option, 0)?;
        let [kind, address] = option.words();
        change_lengths_v4(ctx, OptionV4::LENGTH, Sum::ZERO.add(kind).add(address))
    } else {
        let next: u8 = load(ctx, NEXT_HEADER_V6)?;
        resize(ctx, i32::from(OptionV6::LENGTH))?;
        let option = OptionV6::new(next, address, port);
        store(ctx, OPTIONS_V6, &option, u64::from(BPF_F_RECOMPUTE_CSUM))?;
        change_header_v6(ctx, OptionV6::LENGTH, OptionV6::HEADER)
    }
}

/// Whether a packet carries the option.
#[inline(always)]
pub(crate) fn is_told(ctx: &TcContext, packet: &Packet) -> bool {
    frontend(ctx, packet).is_some()
}

/// What the packet's option says that the client used. Looks only where [`tell`] puts it, with nothing else there.
#[inline(always)]
fn frontend(ctx: &TcContext, packet: &Packet) -> Option<(Addr, Port)> {
    if packet.fragment != Fragment::Whole {
        None
    } else if packet.is_v4() {
        let is_there = packet.l4 == OPTIONS_V4 + usize::from(OptionV4::LENGTH);
        let option: OptionV4 = is_there.then(|| load(ctx, OPTIONS_V4).ok())??;
        option.frontend()
    } else {
        let is_there = packet.l4 == OPTIONS_V6 + usize::from(OptionV6::LENGTH)
            && load(ctx, NEXT_HEADER_V6) == Ok(OptionV6::HEADER);
        let option: OptionV6 = is_there.then(|| load(ctx, OPTIONS_V6).ok())??;
        option.frontend()
    }
}

/// Takes the option out of the work's packet and records the connection that it tells of. `false`, with the packet as it
/// was, if no node tells of it so: whoever can send packets to a pod could otherwise make it answer as anybody.
#[inline(always)]
pub(crate) fn hear(ctx: &TcContext, work: &mut Work) -> Result<bool, Drop> {
    let Some((address, port)) = frontend(ctx, &work.packet) else {
        return Ok(false);
    };
    if !tells(&work.packet) {
        return Ok(false);
    }
    let Some(choice) = backend(&work.packet, address, port)? else {
        return Ok(false);
    };
    let flow = work.packet.flow;
    nat::draft(work, &choice, flow.source, Connection::DSR);
    work.reply.to.source = address;
    work.reply.to.source_port = port;
    if !is_known(work) {
        record(work)?;
    }
    take_out(ctx, work)?;
    Ok(true)
}

/// Whether the connection is recorded as it is told of: most datagrams of a flow tell nothing new.
#[inline(always)]
fn is_known(work: &Work) -> bool {
    if work.packet.is_tcp() {
        return false;
    }
    let Some(known) = conntrack::find(&work.packet.flow) else {
        return false;
    };
    let is_same = known.flags == work.connection.flags
        && known.service_generation == work.connection.service_generation
        && known.backend == work.connection.backend
        && known.backend_generation == work.connection.backend_generation;
    is_same && conntrack::find(&work.reply_flow).is_some_and(|reply| reply.to == work.reply.to) && {
        conntrack::touch(&work.packet, known, conntrack::now());
        true
    }
}

#[inline(always)]
fn record(work: &Work) -> Result<(), Drop> {
    if !is_free(work) || (!nat::try_reserve(work) && !replaces_old(work)) {
        return Err(Drop::NoPort);
    }
    conntrack::insert(&work.packet.flow, &work.connection, BPF_ANY);
    Ok(())
}

/// The backend on this node that the packet is for, if the option names a service with direct server return. The answers
/// of one that is not known here, or not yet, would leave with an address that the client never used.
#[inline(always)]
fn backend(packet: &Packet, address: Addr, port: Port) -> Result<Option<Choice>, Drop> {
    let flow = &packet.flow;
    let key = FrontendKey::new(address, port, flow.protocol);
    // SAFETY: the map is not preallocated, so the entry outlives this program's run.
    let Some(frontend) = (unsafe { FRONTENDS.get(key) }).copied() else {
        return Ok(None);
    };
    let Some(service_generation) = service::direct_generation(frontend.service) else {
        return Ok(None);
    };
    if !service::admits(frontend, flow.source) {
        return Err(Drop::SourceRange);
    }
    let key = BackendKey::new(
        frontend.service,
        flow.destination,
        flow.destination_port,
        flow.protocol,
    );
    // SAFETY: as above.
    let id = *unsafe { LOCAL_BACKENDS.get(key) }.ok_or(Drop::Inconsistent)?;
    let line = BACKENDS.get(id).ok_or(Drop::Inconsistent)?;
    if line.service != frontend.service {
        return Err(Drop::Inconsistent);
    }
    Ok(Some(Choice {
        service: frontend.service,
        service_generation,
        backend: id,
        backend_generation: line.generation,
        address: flow.destination,
        port: flow.destination_port,
        is_local: true,
        is_direct: true,
    }))
}

/// Whether the place of the client's direction is free: nobody's, that of another one that was told of, which
/// [`replaces_old`] asks about, or one's that is past.
#[inline(always)]
fn is_free(work: &Work) -> bool {
    conntrack::find(&work.packet.flow).is_none_or(|old| {
        old.flags & Connection::DSR != 0
            || conntrack::is_past(&work.packet.flow, old)
            || (!work.packet.is_tcp() && conntrack::is_unused(old, conntrack::now()))
    })
}

/// Whether what the client's address and port were used for before is over, so that the work's reply could be recorded in
/// its place. Both directions pass this node.
#[inline(always)]
fn replaces_old(work: &Work) -> bool {
    let Some(reply) = conntrack::find(&work.reply_flow) else {
        return false;
    };
    let client = conntrack::find(&work.packet.flow);
    let is_old = if !work.packet.is_tcp() {
        let partner = conntrack::find(&reply.partner());
        let now = conntrack::now();
        conntrack::is_unused(reply, now)
            && client.is_none_or(|client| conntrack::is_unused(client, now))
            && partner.is_none_or(|partner| conntrack::is_unused(partner, now))
    } else if reply.flags & Connection::DSR != 0 {
        // Of a direction that was evicted nothing more will be known.
        let client = client.map_or(Connection::FIN, |client| client.flags);
        Connection::is_over(reply.flags & !Connection::DSR, client & !Connection::DSR)
    } else {
        // One that is past has given its place up by now.
        false
    };
    is_old && conntrack::insert(&work.reply_flow, &work.reply, BPF_ANY)
}

#[inline(always)]
fn take_out(ctx: &TcContext, work: &mut Work) -> Result<(), Drop> {
    let length = if work.packet.is_v4() {
        let option: OptionV4 = load(ctx, OPTIONS_V4)?;
        resize(ctx, -i32::from(OptionV4::LENGTH))?;
        let [kind, address] = option.words();
        let change = Sum::ZERO.remove(kind).remove(address);
        change_lengths_v4(ctx, OptionV4::LENGTH.wrapping_neg(), change)?;
        // The helper takes what it cuts out off the device's own sum of the packet. But the header, whose sum is the same
        // with the option and without because of its checksum, has not changed that.
        ctx.change_device_sum(Sum::ZERO.add(kind).add(address));
        OptionV4::LENGTH
    } else {
        let next: u8 = load(ctx, OPTIONS_V6)?;
        resize(ctx, -i32::from(OptionV6::LENGTH))?;
        change_header_v6(ctx, OptionV6::LENGTH.wrapping_neg(), next)?;
        OptionV6::LENGTH
    };
    work.packet.l4 -= usize::from(length);
    Ok(())
}

/// Makes room behind the IP header, or closes it.
#[inline(always)]
fn resize(ctx: &TcContext, by: i32) -> Result<(), Drop> {
    // A datagram that stands for several says how long each one's data is, which stays as it is.
    ctx.adjust_room(by, BPF_ADJ_ROOM_NET, u64::from(BPF_F_ADJ_ROOM_FIXED_GSO))
        .map_err(|_| Drop::Rewrite)
}

/// Makes an IPv4 header, whose options have changed by `options`, longer by so many bytes.
#[inline(always)]
fn change_lengths_v4(ctx: &TcContext, by: u16, options: Sum) -> Result<(), Drop> {
    let [lead, length]: [u16; 2] = load(ctx, LENGTHS_V4)?;
    let [version_ihl, tos] = lead.to_ne_bytes();
    let ihl_change = ((by as i16) / 4) as u8;
    let new_lead = u16::from_ne_bytes([version_ihl.wrapping_add(ihl_change), tos]);
    let new_length = u16::from_be(length).wrapping_add(by).to_be();
    store(ctx, LENGTHS_V4, &[new_lead, new_length], 0)?;
    let change = options
        .remove(u32::from(lead))
        .remove(u32::from(length))
        .add(u32::from(new_lead))
        .add(u32::from(new_length));
    ctx.change_network_checksum(CHECKSUM_V4, change)
}

/// Makes an IPv6 packet longer by so many bytes, the first of which have the number `next`.
#[inline(always)]
fn change_header_v6(ctx: &TcContext, by: u16, next: u8) -> Result<(), Drop> {
    let length: u16 = load(ctx, LENGTH_V6)?;
    let length = u16::from_be(length).wrapping_add(by).to_be();
    // No checksum of IPv6's absorbs the change, so the device's sum of the packet, if there is one, has to follow.
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    store(ctx, LENGTH_V6, &length, flags)?;
    store(ctx, NEXT_HEADER_V6, &next, flags)
}

#[inline(always)]
fn load<T>(ctx: &TcContext, offset: usize) -> Result<T, Drop> {
    ctx.load(offset).map_err(|_| Drop::Rewrite)
}

#[inline(always)]
fn store<T>(ctx: &TcContext, offset: usize, value: &T, flags: u64) -> Result<(), Drop> {
    ctx.store(offset, value, flags).map_err(|_| Drop::Rewrite)
}
