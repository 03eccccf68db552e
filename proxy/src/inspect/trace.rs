//! `trace`: what would become of a conversation, and why: the hook, the rule, the policy, the backend, the source, and what
//! is the matter with every other backend. Nothing is sent and nothing is counted.

mod decide;
mod decision;
mod explain;
mod snapshot;

use std::io::{self, Write};
use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use dataplane_ebpf::abi::{Backend, Node};
use dataplane_ebpf::addr::{Addr, Port, Protocol};
use dataplane_ebpf::flow::Flow;
use serde::Serialize;

use self::decide::decide;
use self::decision::Asker;
use self::explain::Explained;
use self::snapshot::{Live, Snapshot};
use super::table::Columns;
use super::{Common, View, clock, text};
use crate::pinned::{Error, Pinned};

/// What to trace.
#[derive(Args, Debug, Clone)]
pub struct TraceArgs {
    /// The client's address and port. The port matters to packets: it is part of what chooses the backend.
    #[arg(value_name = "FROM")]
    pub client: SocketAddr,

    /// The address and port that the client uses.
    #[arg(value_name = "TO")]
    pub destination: SocketAddr,

    /// The transport protocol.
    #[arg(long, value_enum, default_value = "tcp")]
    pub protocol: Transport,

    /// Where the client is. Without it: on the node if the address is the node's, in a pod if it is that of a backend on
    /// this node, otherwise outside.
    #[arg(long, value_enum, value_name = "WHERE")]
    pub from: Option<Place>,

    /// A pod's packet that no socket hook has seen: one of a raw socket or a virtual machine.
    #[arg(long)]
    pub packet: bool,

    /// Where from, and how.
    #[command(flatten)]
    pub common: Common,
}

/// A protocol with ports.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Where a client is.
#[derive(ValueEnum, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A process in the node's own network namespace.
    Node,
    /// A pod of this node.
    Pod,
    /// Anywhere else.
    Outside,
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Trace {
    protocol: String,
    client: String,
    destination: String,
    from: Place,
    /// Whether the command did not say so.
    from_is_guessed: bool,
    #[serde(flatten)]
    explained: Explained,
}

/// Traces what is asked for.
pub(super) fn look(args: &TraceArgs) -> Result<Trace, Error> {
    let maps = Live {
        maps: Pinned::open(&args.common.bpf_root)?,
        now: clock::nanoseconds(),
    };
    let end = |end: SocketAddr| (Addr::from(end.ip()), Port::new(end.port()));
    let protocol = args.protocol.number();
    let flow = Flow::new(end(args.client), end(args.destination), protocol);
    let place = match args.from {
        Some(place) => place,
        None => guess(&maps, flow.source)?,
    };
    let decision = decide(&maps, &flow, asker(place, args.packet, protocol))?;
    Ok(Trace {
        protocol: protocol.to_string(),
        client: args.client.to_string(),
        destination: args.destination.to_string(),
        from: place,
        from_is_guessed: args.from.is_none(),
        explained: explain::explain(&maps, &flow, &decision)?,
    })
}

/// The socket hooks see TCP and UDP only.
fn asker(place: Place, is_packet: bool, protocol: Protocol) -> Asker {
    let is_packet = is_packet || protocol == Protocol::SCTP;
    match place {
        Place::Outside => Asker::OutsidePacket,
        Place::Pod if is_packet => Asker::PodPacket,
        Place::Pod => Asker::PodSocket,
        Place::Node if is_packet => Asker::NodePacket,
        Place::Node => Asker::NodeSocket,
    }
}

fn guess(maps: &impl Snapshot, client: Addr) -> Result<Place, Error> {
    let Node {
        source_v4,
        source_v6,
        ..
    } = maps.node()?;
    let is_of_node = client.ip().is_loopback()
        || [source_v4, source_v6].contains(&client)
        || maps.node_address(client)?.is_some();
    if is_of_node {
        return Ok(Place::Node);
    }
    let is_here =
        |backend: &Backend| backend.address == client && backend.flags & Backend::LOCAL != 0;
    let mut backends = maps.backends()?.into_iter();
    Ok(match backends.any(|(_, backend)| is_here(&backend)) {
        true => Place::Pod,
        false => Place::Outside,
    })
}

impl Transport {
    fn number(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::TCP,
            Self::Udp => Protocol::UDP,
            Self::Sctp => Protocol::SCTP,
        }
    }
}

impl View for Trace {
    /// Refused and dropped are wanting; left alone is as it should be.
    fn is_in_order(&self) -> bool {
        self.explained.reason.is_none()
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let (protocol, from) = (&self.protocol, self.from.text());
        let guessed = match self.from_is_guessed {
            true => " (say --from if not)",
            false => "",
        };
        writeln!(
            out,
            "{protocol} {} > {}, from {from}{guessed}",
            self.client, self.destination
        )?;
        self.explained.write(out)
    }
}

impl Place {
    fn text(self) -> &'static str {
        match self {
            Self::Node => "the node itself",
            Self::Pod => "a pod of this node",
            Self::Outside => "outside",
        }
    }
}
