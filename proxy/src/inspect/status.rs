//! `status`: whether the dataplane of this node is in order, and what it is made of.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;
use dataplane_ebpf::abi::maps as names;
use dataplane_ebpf::abi::{LAYOUT_VERSION, Node, NodeAddress, Prefix};
use dataplane_ebpf::addr::Addr;
use serde::Serialize;

use super::programs::{self, Attached};
use super::table::Columns;
use super::{Common, View, probe};
use crate::pinned::{Error, PinDirectory, Pinned, Usage};

/// A map that is fuller than this is a warning.
const FULL: f64 = 0.9;
/// Maps that fill up by themselves, and forget what was not used for longest.
const CACHES: [&str; 3] = [names::SOCKETS, names::AFFINITY, names::FRAGMENTS];

/// What to look at.
#[derive(Args, Debug, Clone)]
pub struct StatusArgs {
    /// Where the daemon serves /healthz.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10256))]
    pub healthz_address: SocketAddr,

    /// Where from, and how.
    #[command(flatten)]
    pub common: Common,
}

/// The state of a node's dataplane.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    layout_version: u32,
    directory: String,
    daemon: Daemon,
    programs: Vec<Attached>,
    maps: Vec<Usage>,
    node: NodeSettings,
    drops: u64,
    /// What is not as it should be, in sentences for people.
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Daemon {
    healthz_address: SocketAddr,
    /// Nothing if there was no answer.
    healthz_code: Option<u16>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeSettings {
    source_v4: Option<String>,
    source_v6: Option<String>,
    node_port_addresses: Vec<String>,
    masquerade_ports: (u16, u16),
    through_stack: bool,
    service_cidrs: Vec<String>,
    netns_cookie: u64,
}

/// Reads everything.
pub(super) fn look(args: &StatusArgs) -> Result<Status, Error> {
    let directory = PinDirectory::find(&args.common.bpf_root)?;
    let maps = Pinned::open(&args.common.bpf_root)?;
    let node = maps.node.get(&0)?.unwrap_or_default();
    let mut status = Status {
        layout_version: LAYOUT_VERSION,
        directory: directory.path().display().to_string(),
        daemon: ask(args.healthz_address),
        programs: programs::attached(&directory)?,
        maps: usage(&maps)?,
        node: settings(&maps, &node)?,
        drops: maps.drop_counts()?.iter().map(|(_, count)| count).sum(),
        missing: Vec::new(),
    };
    status.missing = missing(&status);
    Ok(status)
}

fn ask(healthz_address: SocketAddr) -> Daemon {
    let answer = probe::health(healthz_address);
    Daemon {
        healthz_address,
        error: answer.as_ref().err().map(ToString::to_string),
        healthz_code: answer.ok(),
    }
}

/// How full the maps are that can be full.
fn usage(maps: &Pinned) -> Result<Vec<Usage>, Error> {
    let mut usage = maps.usage_by_daemon()?;
    usage.extend([
        maps.conntrack.usage()?,
        maps.sockets.usage()?,
        maps.affinity.usage()?,
        maps.fragments.usage()?,
    ]);
    Ok(usage)
}

fn settings(maps: &Pinned, node: &Node) -> Result<NodeSettings, Error> {
    let address = |address: Addr| (!address.is_unspecified()).then(|| address.to_string());
    let mut node_port_addresses = Vec::new();
    maps.node_addresses.each(|address, values| {
        let is_loopback = |value: &NodeAddress| value.flags & NodeAddress::LOOPBACK != 0;
        let only = match values.iter().any(is_loopback) {
            true => " (for the node only)",
            false => "",
        };
        node_port_addresses.push(format!("{address}{only}"));
    })?;
    node_port_addresses.sort_unstable();
    let count = (node.service_cidr_count as usize).min(node.service_cidrs.len());
    Ok(NodeSettings {
        source_v4: address(node.source_v4),
        source_v6: address(node.source_v6),
        node_port_addresses,
        masquerade_ports: (node.first_port, node.last_port),
        through_stack: node.flags & Node::THROUGH_STACK != 0,
        service_cidrs: node.service_cidrs[..count].iter().map(prefix).collect(),
        netns_cookie: node.netns_cookie,
    })
}

fn prefix(prefix: &Prefix) -> String {
    let ones: u32 = prefix
        .mask
        .words()
        .iter()
        .map(|word| word.count_ones())
        .sum();
    let length = match prefix.address.is_v4() {
        true => ones.saturating_sub(96),
        false => ones,
    };
    format!("{}/{length}", prefix.address)
}

fn missing(status: &Status) -> Vec<String> {
    let mut missing = Vec::new();
    let daemon = &status.daemon;
    match (daemon.healthz_code, &daemon.error) {
        (Some(200), _) => {}
        (Some(code), _) => missing.push(format!("the daemon says that it is not healthy ({code})")),
        (None, error) => missing.push(format!(
            "no daemon answers on {}, so changes of Services do not arrive: {}",
            daemon.healthz_address,
            error.as_deref().unwrap_or("no answer")
        )),
    }
    missing.extend(programs::missing(&status.programs));
    if status.node.netns_cookie == 0 {
        missing.push("the daemon has not written the node's settings yet".to_owned());
    }
    let full = |usage: &&Usage| usage.share() > FULL && !CACHES.contains(&usage.map);
    for usage in status.maps.iter().filter(full) {
        missing.push(format!(
            "map {} is nearly full: {} of {}",
            usage.map, usage.entries, usage.size
        ));
    }
    missing
}

impl View for Status {
    fn is_in_order(&self) -> bool {
        self.missing.is_empty()
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "layout     v{} in {}",
            self.layout_version, self.directory
        )?;
        writeln!(out, "daemon     {}", self.daemon.text())?;
        self.node.write(out)?;
        writeln!(out, "drops      {} (see portolan-proxy drops)", self.drops)?;
        writeln!(out)?;
        let mut columns = Columns::new(&["PROGRAM", "BY", "INSTRUCTIONS", "ATTACHED TO"]);
        for same in self.programs.chunk_by(Attached::is_same_program) {
            let verified = same[0].verified_instructions;
            columns.row([
                same[0].program.clone(),
                same[0].by.to_owned(),
                verified.map(|count| count.to_string()).unwrap_or_default(),
                programs::targets(same),
            ]);
        }
        columns.write(out)?;
        writeln!(out)?;
        let mut columns = Columns::new(&["MAP", "ENTRIES", "SIZE", "USED"]);
        for usage in &self.maps {
            columns.row([
                usage.map.to_owned(),
                usage.entries.to_string(),
                usage.size.to_string(),
                format!("{:.1}%", 100.0 * usage.share()),
            ]);
        }
        columns.write(out)?;
        writeln!(out)?;
        if self.missing.is_empty() {
            return writeln!(out, "nothing is missing");
        }
        for missing in &self.missing {
            writeln!(out, "MISSING: {missing}")?;
        }
        Ok(())
    }
}

impl Daemon {
    fn text(&self) -> String {
        let address = self.healthz_address;
        match (self.healthz_code, &self.error) {
            (Some(200), _) => format!("alive and healthy ({address})"),
            (Some(code), _) => format!("alive, not healthy ({address} answers {code})"),
            (None, error) => format!(
                "no answer ({address}: {})",
                error.as_deref().unwrap_or_default()
            ),
        }
    }
}

impl NodeSettings {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let none = || "none".to_owned();
        let list = |values: &[String]| match values {
            [] => none(),
            values => values.join(", "),
        };
        let (first, last) = self.masquerade_ports;
        let (v4, v6) = (&self.source_v4, &self.source_v6);
        writeln!(
            out,
            "source     IPv4 {}, IPv6 {}, ports {first}-{last}",
            v4.clone().unwrap_or_else(none),
            v6.clone().unwrap_or_else(none)
        )?;
        writeln!(out, "node ports {}", list(&self.node_port_addresses))?;
        writeln!(
            out,
            "cidrs      {} (ServiceCIDRs)",
            list(&self.service_cidrs)
        )?;
        let way = match self.through_stack {
            true => "through the node's stack",
            false => "straight from device to device",
        };
        writeln!(out, "pods       are reached {way}")
    }
}
