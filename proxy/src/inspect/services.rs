//! `services`: each Service port with everything by which clients reach it, its settings and its counters.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Write};

use clap::Args;
use dataplane_ebpf::abi::{Frontend, FrontendKey, Kind, NodePortKey, Run, Service, Stats};
use dataplane_ebpf::addr::{Addr, Family, Port, Protocol};
use serde::Serialize;

use super::filter::ServiceFilter;
use super::table::Columns;
use super::text::Shown;
use super::{Common, View, filter, text};
use crate::pinned::{Error, Pinned, add};

/// What to list.
#[derive(Args, Debug, Clone)]
pub struct ServicesArgs {
    /// Only this Service, or this port of it: NAMESPACE/NAME, NAMESPACE/NAME:PORT, or a service id.
    #[arg(value_name = "NAMESPACE/NAME")]
    pub service: Option<ServiceFilter>,

    /// Where from, and how.
    #[command(flatten)]
    pub common: Common,
}

/// The services of a node.
#[derive(Debug, Serialize)]
pub(super) struct Services {
    services: Vec<Entry>,
}

/// A Service port in one family.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    id: u32,
    /// Nothing where the daemon has written no name.
    name: Option<String>,
    frontends: Vec<Address>,
    internal_traffic_policy: &'static str,
    external_traffic_policy: &'static str,
    algorithm: &'static str,
    direct_server_return: bool,
    affinity_seconds: u32,
    /// The clients that may use its load balancer addresses; nothing for all.
    source_ranges: Option<BTreeSet<String>>,
    /// What clients under no local policy get.
    cluster: Target,
    /// What clients under a local policy get.
    local: Target,
    connections: u64,
    packets: u64,
    bytes: u64,
    drops: u64,
}

/// What clients use to reach a service.
#[derive(Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
struct Address {
    kind: &'static str,
    family: Shown<Family>,
    /// Nothing for a node port, which is on all addresses that `status` lists.
    address: Option<Shown<Addr>>,
    port: u16,
    protocol: Shown<Protocol>,
}

/// What a new connection gets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    /// `forward`, `refuse` or `drop`.
    verdict: &'static str,
    /// How many different backends there are.
    backends: usize,
}

/// Reads the services that are asked for.
pub(super) fn look(args: &ServicesArgs) -> Result<Services, Error> {
    let maps = Pinned::open(&args.common.bpf_root)?;
    let names = maps.all_names()?;
    let is_met = |id| filter::is_met(args.service.as_ref(), id, &names);
    let mut frontends = frontends(&maps, is_met)?;
    for id in names.keys().filter(|id| is_met(**id)) {
        frontends.entry(*id).or_default();
    }
    let mut ranges = source_ranges(&maps, is_met)?;
    let slots = Slots {
        maps: &maps,
        read: OnceCell::new(),
    };
    let mut services = Vec::with_capacity(frontends.len());
    for (id, addresses) in frontends {
        let name = names.get(&id).cloned();
        let ranges = ranges.remove(&id).unwrap_or_default();
        services.push(entry(&maps, &slots, id, name, addresses, ranges)?);
    }
    // Those without a name come last.
    services.sort_unstable_by(|a, b| a.place().cmp(&b.place()));
    Ok(Services { services })
}

/// The frontends of each service that `is_met`.
fn frontends(
    maps: &Pinned,
    is_met: impl Fn(u32) -> bool,
) -> Result<HashMap<u32, Vec<Address>>, Error> {
    let mut all: HashMap<u32, Vec<Address>> = HashMap::new();
    let mut add = |values: &[Frontend], address: &dyn Fn(Kind) -> Address| {
        for frontend in values {
            if frontend.kind != Kind::ADDRESS && is_met(frontend.service) {
                let addresses = all.entry(frontend.service).or_default();
                addresses.push(address(frontend.kind));
            }
        }
    };
    maps.frontends
        .each(|key, values| add(values, &|kind| address(key, kind)))?;
    maps.node_ports
        .each(|key, values| add(values, &|kind| node_port(key, kind)))?;
    Ok(all)
}

fn address(key: FrontendKey, kind: Kind) -> Address {
    Address {
        kind: text::kind(kind),
        family: Shown(Family::of(key.address)),
        address: Some(Shown(key.address)),
        port: key.port.number(),
        protocol: Shown(key.protocol),
    }
}

fn node_port(key: NodePortKey, kind: Kind) -> Address {
    Address {
        kind: text::kind(kind),
        family: Shown(key.family),
        address: None,
        port: key.port.number(),
        protocol: Shown(key.protocol),
    }
}

fn source_ranges(
    maps: &Pinned,
    is_met: impl Fn(u32) -> bool,
) -> Result<HashMap<u32, BTreeSet<String>>, Error> {
    let mut all: HashMap<u32, BTreeSet<String>> = HashMap::new();
    maps.source_ranges.each(|key, _| {
        if is_met(key.service) {
            let ranges = all.entry(key.service).or_default();
            ranges.insert(text::source_range(&key));
        }
    })?;
    Ok(all)
}

fn entry(
    maps: &Pinned,
    slots: &Slots<'_>,
    id: u32,
    name: Option<String>,
    mut frontends: Vec<Address>,
    ranges: BTreeSet<String>,
) -> Result<Entry, Error> {
    frontends.sort_unstable();
    // An id beyond the end of the map has no backends either.
    let service = maps.services.get(&id)?.unwrap_or_default();
    let has = |flag| service.flags & flag != 0;
    let mut counted = Stats::default();
    add(&mut counted, &maps.stats.values(&id)?);
    Ok(Entry {
        id,
        name,
        frontends,
        internal_traffic_policy: text::policy(has(Service::INTERNAL_LOCAL)),
        external_traffic_policy: text::policy(has(Service::EXTERNAL_LOCAL)),
        algorithm: if has(Service::MAGLEV) {
            "maglev"
        } else {
            "random"
        },
        direct_server_return: has(Service::DSR),
        affinity_seconds: service.affinity_seconds,
        source_ranges: has(Service::SOURCE_RANGES).then_some(ranges),
        cluster: slots.target(service.cluster, has(Service::MAGLEV))?,
        local: slots.target(service.local, has(Service::MAGLEV))?,
        connections: counted.connections,
        packets: counted.packets,
        bytes: counted.bytes,
        drops: counted.drops,
    })
}

/// What all runs are in. Read only if some service's run is a table, which names each backend many times.
struct Slots<'a> {
    maps: &'a Pinned,
    read: OnceCell<Vec<u32>>,
}

impl Slots<'_> {
    fn target(&self, run: Run, is_table: bool) -> Result<Target, Error> {
        let backends = match is_table {
            true => self.distinct(run)?,
            false => run.count() as usize,
        };
        let verdict = text::verdict(run);
        Ok(Target { verdict, backends })
    }

    fn distinct(&self, run: Run) -> Result<usize, Error> {
        let slots = match self.read.get() {
            Some(slots) => slots,
            None => {
                let slots = self.maps.all_slots()?;
                self.read.get_or_init(|| slots)
            }
        };
        let slots = slots.iter().skip(run.base() as usize);
        Ok(HashSet::<&u32>::from_iter(slots.take(run.count() as usize)).len())
    }
}

impl View for Services {
    fn is_in_order(&self) -> bool {
        !self.services.is_empty()
    }

    /// A service's first line has everything, the lines below it its other frontends.
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut columns = Columns::new(&[
            "SERVICE",
            "ID",
            "KIND",
            "FRONTEND",
            "CLUSTER",
            "LOCAL",
            "OPTIONS",
            "CONNECTIONS",
            "PACKETS",
            "BYTES",
            "DROPS",
        ]);
        for entry in &self.services {
            let mut addresses = entry.frontends.iter();
            let first = addresses.next();
            columns.row([
                text::service(entry.name.as_deref(), entry.id),
                entry.id.to_string(),
                first.map(|first| first.kind.to_owned()).unwrap_or_default(),
                first.map(Address::text).unwrap_or_default(),
                entry.cluster.text(),
                entry.local.text(),
                entry.options(),
                entry.connections.to_string(),
                entry.packets.to_string(),
                entry.bytes.to_string(),
                entry.drops.to_string(),
            ]);
            for address in addresses {
                let empty = String::new;
                columns.row([empty(), empty(), address.kind.to_owned(), address.text()]);
            }
        }
        columns.write(out)
    }
}

impl Entry {
    /// Its place in the list.
    fn place(&self) -> (bool, Option<&str>, u32) {
        (self.name.is_none(), self.name.as_deref(), self.id)
    }

    /// What differs from a plain service.
    fn options(&self) -> String {
        let mut options = Vec::new();
        for (policy, name) in [
            (self.internal_traffic_policy, "internal-local"),
            (self.external_traffic_policy, "external-local"),
        ] {
            if policy == text::policy(true) {
                options.push(name.to_owned());
            }
        }
        if self.algorithm != "random" {
            options.push(self.algorithm.to_owned());
        }
        if self.direct_server_return {
            options.push("dsr".to_owned());
        }
        if self.affinity_seconds != 0 {
            options.push(format!("affinity={}s", self.affinity_seconds));
        }
        if let Some(ranges) = &self.source_ranges {
            let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
            options.push(format!("from={}", ranges.join(",")));
        }
        options.join(" ")
    }
}

impl Address {
    fn text(&self) -> String {
        let Self { port, protocol, .. } = self;
        match self.address {
            Some(Shown(address)) => {
                let socket = text::socket(address, Port::new(*port));
                format!("{socket}/{protocol}")
            }
            None => format!("<node {}>:{port}/{protocol}", self.family),
        }
    }
}

impl Target {
    fn text(&self) -> String {
        match self.verdict {
            text::FORWARD => self.backends.to_string(),
            verdict => verdict.to_owned(),
        }
    }
}
