//! `conntrack`: the connections that packets are translated by. What sockets on this node connect is translated once, when
//! they do, and needs no entry.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::net::IpAddr;

use clap::Args;
use dataplane_ebpf::abi::{Backend, Connection};
use dataplane_ebpf::addr::Addr;
use dataplane_ebpf::flow::Flow;
use serde::Serialize;

use super::filter::ServiceFilter;
use super::table::Columns;
use super::{Common, View, clock, filter, text};
use crate::pinned::{Error, Pinned};

/// What to list.
#[derive(Args, Debug, Clone)]
pub struct ConntrackArgs {
    /// Only connections to this Service, or to this port of it.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service: Option<ServiceFilter>,

    /// Only connections of the client with this address.
    #[arg(long, value_name = "ADDRESS")]
    pub client: Option<IpAddr>,

    /// At most so many, those used last. Zero for all.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub limit: usize,

    /// Where from, and how.
    #[command(flatten)]
    pub common: Common,
}

/// The connections of a node.
#[derive(Debug, Serialize)]
pub(super) struct Connections {
    /// How many are as asked for, shown or not.
    matched: usize,
    connections: Vec<Entry>,
}

/// Both directions of a connection.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    protocol: String,
    client: String,
    /// What the client addressed.
    destination: String,
    /// Where its packets go; nothing for a connection that is left alone.
    backend: Option<String>,
    /// The source that the backend sees, where it is not the client's own.
    source: Option<String>,
    service_id: u32,
    service: Option<String>,
    backend_id: u32,
    /// `serving`, `not-serving`, `gone`, or `foreign` for another proxy's connection.
    backend_state: &'static str,
    /// Seconds since either side sent a packet.
    idle_seconds: u64,
    remote: bool,
    /// Its backend is gone; it is reset when what asks for an answer gets none.
    orphaned: bool,
    direct_server_return: bool,
    client_flags: Vec<&'static str>,
    /// Nothing if the other direction's entry is not there.
    backend_flags: Option<Vec<&'static str>>,
}

/// Reads the connections that are asked for.
pub(super) fn look(args: &ConntrackArgs) -> Result<Connections, Error> {
    let maps = Pinned::open(&args.common.bpf_root)?;
    let names = maps.all_names()?;
    let (matched, last) = last_used(&maps, args, &names)?;
    let mut connections = Vec::with_capacity(last.len());
    for ((_, flow), connection) in last {
        let name = names.get(&connection.service).cloned();
        connections.push(entry(&maps, &flow, &connection, name)?);
    }
    Ok(Connections {
        matched,
        connections,
    })
}

/// The directions from the client, in order of the time since their last packet; and how many there are in all.
type Last = BTreeMap<(u64, Flow), Connection>;

fn last_used(
    maps: &Pinned,
    args: &ConntrackArgs,
    names: &HashMap<u32, String>,
) -> Result<(usize, Last), Error> {
    let limit = match args.limit {
        0 => usize::MAX,
        limit => limit,
    };
    let client = args.client.map(Addr::from);
    let now = clock::nanoseconds();
    let (mut matched, mut last) = (0, Last::new());
    maps.conntrack.each(|flow, values| {
        for connection in values {
            let is_wanted = connection.flags & Connection::REPLY == 0
                && client.is_none_or(|client| flow.source == client)
                && filter::is_met(args.service.as_ref(), connection.service, names);
            if is_wanted {
                matched += 1;
                last.insert((clock::age(connection.seen, now), flow), *connection);
            }
            if last.len() > limit {
                last.pop_last();
            }
        }
    })?;
    Ok((matched, last))
}

fn entry(
    maps: &Pinned,
    flow: &Flow,
    connection: &Connection,
    service: Option<String>,
) -> Result<Entry, Error> {
    let now = clock::nanoseconds();
    let is_foreign = connection.flags & Connection::FOREIGN != 0;
    let reply = match is_foreign {
        true => None,
        false => maps.conntrack.get(&connection.partner())?,
    };
    let ages = [Some(connection), reply.as_ref()];
    let ages = ages.into_iter().flatten();
    let (to, has) = (connection.to, |flag| connection.flags & flag != 0);
    let is_kept = (to.source, to.source_port) == (flow.source, flow.source_port);
    Ok(Entry {
        protocol: flow.protocol.to_string(),
        client: text::socket(flow.source, flow.source_port),
        destination: text::socket(flow.destination, flow.destination_port),
        backend: (!is_foreign).then(|| text::socket(to.destination, to.destination_port)),
        source: (!is_foreign && !is_kept).then(|| text::socket(to.source, to.source_port)),
        service_id: connection.service,
        service,
        backend_id: connection.backend,
        backend_state: state(maps, connection)?,
        idle_seconds: ages.map(|one| clock::age(one.seen, now)).min().unwrap_or(0),
        remote: has(Connection::REMOTE),
        orphaned: has(Connection::ORPHANED),
        direct_server_return: has(Connection::DSR),
        client_flags: closing(connection),
        backend_flags: reply.as_ref().map(closing),
    })
}

/// What has become of the backend since the connection was made.
fn state(maps: &Pinned, connection: &Connection) -> Result<&'static str, Error> {
    if connection.flags & Connection::FOREIGN != 0 {
        return Ok("foreign");
    }
    let backend = maps.backends.get(&connection.backend)?;
    Ok(standing(backend.as_ref(), connection.backend_generation))
}

/// What has become of `backend` since it had `generation`.
pub(super) fn standing(backend: Option<&Backend>, generation: u32) -> &'static str {
    match backend {
        Some(backend) if backend.generation != generation => "gone",
        Some(backend) if backend.flags & Backend::SERVING == 0 => "not-serving",
        Some(_) => "serving",
        None => "gone",
    }
}

/// How the sender of a direction has ended it.
fn closing(direction: &Connection) -> Vec<&'static str> {
    let flags = [(Connection::FIN, "FIN"), (Connection::RST, "RST")];
    let set = flags
        .into_iter()
        .filter(|(bit, _)| direction.flags & bit != 0);
    set.map(|(_, name)| name).collect()
}

impl View for Connections {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut columns = Columns::new(&[
            "PROTOCOL",
            "CLIENT",
            "DESTINATION",
            "BACKEND",
            "SOURCE",
            "SERVICE",
            "STATE",
            "IDLE",
            "FLAGS",
        ]);
        for entry in &self.connections {
            columns.row([
                entry.protocol.clone(),
                entry.client.clone(),
                entry.destination.clone(),
                entry
                    .backend
                    .clone()
                    .unwrap_or_else(|| "(left alone)".to_owned()),
                entry.source.clone().unwrap_or_else(|| "(kept)".to_owned()),
                text::service(entry.service.as_deref(), entry.service_id),
                entry.backend_state.to_owned(),
                text::seconds(entry.idle_seconds),
                entry.flags(),
            ]);
        }
        columns.write(out)?;
        match self.matched - self.connections.len() {
            0 => Ok(()),
            more => writeln!(
                out,
                "and {more} that were used longer ago; --limit 0 shows all"
            ),
        }
    }
}

impl Entry {
    fn flags(&self) -> String {
        let mut flags = Vec::new();
        if self.orphaned {
            flags.push("orphaned".to_owned());
        }
        if self.direct_server_return {
            flags.push("dsr".to_owned());
        }
        let sides = [
            ("client", Some(&self.client_flags)),
            ("backend", self.backend_flags.as_ref()),
        ];
        for (side, closing) in sides {
            for flag in closing.into_iter().flatten() {
                flags.push(format!("{side}-{flag}"));
            }
        }
        if self.backend_flags.is_none() && self.backend.is_some() {
            flags.push("no-reply-entry".to_owned());
        }
        flags.join(" ")
    }
}
