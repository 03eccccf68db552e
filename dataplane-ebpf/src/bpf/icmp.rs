//! ICMP errors about translated packets: translated as well, so that path MTU discovery works and a refusal arrives.
//!
//! An error quotes the packet it is about as that packet looked where it failed. The entry of the *other* direction says
//! what both the quote and the error itself have to become: the error travels as that direction's packets do.

use super::forward::{self, Hop};
use super::parse::{self, IcmpError, L3};
use super::work::Work;
use super::{conntrack, rewrite, stats};
use aya_ebpf::programs::TcContext;
use dataplane_ebpf::abi::Connection;
use dataplane_ebpf::addr::{Port, Protocol};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

/// Which hook the error passes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// From the wire.
    Wire,
    /// From a pod.
    Pod,
    /// To the wire, or to a pod.
    Egress,
}

/// What became of a packet that was to be translated as an ICMP error.
pub(crate) enum Outcome {
    /// It is about no connection that we know.
    Unknown,
    /// It is not for this hook to translate.
    Foreign,
    /// It was translated, and the stack may have it.
    Translated,
    /// It was translated and is on its way; the hook's verdict.
    Sent(i32),
}

/// Translates the packet if it is an ICMP error about a known connection.
#[inline(always)]
pub(crate) fn translate(ctx: &TcContext, side: Side) -> Result<Outcome, Drop> {
    let Some(error) = parse::icmp_error(ctx)? else {
        return Ok(Outcome::Unknown);
    };
    let direction = error.about.reversed();
    let Some(connection) = conntrack::find(&direction) else {
        return Ok(Outcome::Unknown);
    };
    if connection.flags & Connection::FOREIGN != 0 {
        return Ok(Outcome::Foreign);
    }
    let local_reply =
        connection.flags & (Connection::REPLY | Connection::REMOTE) == Connection::REPLY;
    if (local_reply && side == Side::Wire) || (!local_reply && side == Side::Egress) {
        return Ok(Outcome::Foreign);
    }
    let outer = outer(&error, &direction, &connection.to);
    let route = &mut Work::get()?.route;
    let mut is_sent = false;
    if side != Side::Egress {
        let hop = Hop::of_error(error.ttl);
        forward::way(ctx, &hop, connection, &outer, route)?;
        is_sent = !route.is_by_stack();
        if local_reply && !is_sent {
            // It is translated where it leaves the node's stack.
            return Ok(Outcome::Foreign);
        }
    }
    rewrite_error(ctx, &error, &outer, &connection.to.reversed())?;
    stats::count_packet(connection.service, ctx.len());
    if !is_sent {
        return Ok(Outcome::Translated);
    }
    rewrite::decrement_ttl(ctx, outer.destination.is_v4(), error.ttl)?;
    Ok(Outcome::Sent(forward::send(route)))
}

/// Where the error goes. Where the direction's source is translated, the error's is too, whoever sent it: a router on the
/// way may have no address that means anything on the other side.
#[inline(always)]
fn outer(error: &IcmpError, direction: &Flow, to: &Flow) -> Flow {
    let source = if direction.source == to.source {
        error.source
    } else {
        to.source
    };
    let protocol = if source.is_v4() {
        Protocol::ICMP
    } else {
        Protocol::ICMPV6
    };
    Flow::new((source, Port::NONE), (to.destination, Port::NONE), protocol)
}

/// The quoted transport checksum stays as it is: a quote is cut short, so nobody can verify it.
#[inline(always)]
fn rewrite_error(
    ctx: &TcContext,
    error: &IcmpError,
    outer: &Flow,
    about: &Flow,
) -> Result<(), Drop> {
    let before = Flow::new(
        (error.source, Port::NONE),
        (error.destination, Port::NONE),
        outer.protocol,
    );
    let pseudo = rewrite::addresses(ctx, L3, &before, outer)?;
    let quoted = rewrite::addresses(ctx, error.quoted_l3, &error.about, about)?;
    let ports = rewrite::ports(ctx, error.quoted_l4, &error.about, about)?;
    rewrite::icmp_checksum(
        ctx,
        error.l4 + 2,
        outer.destination.is_v4(),
        [pseudo, quoted, ports],
    )
}
