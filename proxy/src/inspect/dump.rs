//! What the maps hold, as text for people and for golden files: every entry, with what it leads to.
//!
//! Ids are left out, since they say nothing about what clients get and depend on the order in which things happened.

use std::collections::BTreeMap;

use dataplane_ebpf::abi::{Backend, Frontend, Kind, NodeAddress, Run, Service, SourceRange};
use dataplane_ebpf::addr::Family;

use super::text;
use crate::desired::Entry;
use crate::maps::{Error, Maps};

/// The text for `maps`, one line an entry. Of a run that has backends more than once it says how often.
pub fn dump(maps: &impl Maps) -> Result<String, Error> {
    let mut lines = Vec::new();
    for (address, value) in maps.node_addresses()? {
        let only = if value.flags & NodeAddress::LOOPBACK == 0 {
            ""
        } else {
            " for the node only"
        };
        lines.push(format!("node-address {address}{only}"));
    }
    let mut ranges: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for range in maps.source_ranges()? {
        ranges.entry(range.service).or_default().push(prefix(range));
    }
    let mut entries = maps.entries()?;
    entries.sort_unstable_by_key(|(entry, _)| *entry);
    for (entry, frontend) in entries {
        let mut line = entry_line(maps, entry, frontend)?;
        if frontend.kind == Kind::LOAD_BALANCER
            && maps.service(frontend.service)?.flags & Service::SOURCE_RANGES != 0
        {
            let ranges = ranges.entry(frontend.service).or_default();
            ranges.sort_unstable();
            line = format!("{line} for={}", ranges.join(","));
        }
        lines.push(line);
    }
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

fn entry_line(maps: &impl Maps, entry: Entry, frontend: Frontend) -> Result<String, Error> {
    let address = match entry {
        Entry::Frontend(key) if frontend.kind == Kind::ADDRESS => {
            return Ok(format!(
                "address {} refuses what no line names",
                key.address
            ));
        }
        Entry::Frontend(key) if key.address.is_v4() => {
            format!("{} {}:{}", key.protocol, key.address, key.port)
        }
        Entry::Frontend(key) => format!("{} [{}]:{}", key.protocol, key.address, key.port),
        Entry::NodePort(port, protocol, Family::V4) => format!("{protocol} node:{port}"),
        Entry::NodePort(port, protocol, _) => format!("{protocol} [node]:{port}"),
    };
    let service = maps.service(frontend.service)?;
    let (cluster, local) = (run(maps, service.cluster)?, run(maps, service.local)?);
    let mut line = format!(
        "{} {address} cluster={cluster} local={local}",
        text::kind(frontend.kind)
    );
    for (bit, name) in [
        (Service::INTERNAL_LOCAL, "internal-local"),
        (Service::EXTERNAL_LOCAL, "external-local"),
        (Service::MAGLEV, "maglev"),
        (Service::DSR, "dsr"),
    ] {
        if service.flags & bit != 0 {
            line = format!("{line} {name}");
        }
    }
    if service.affinity_seconds != 0 {
        line = format!("{line} affinity={}s", service.affinity_seconds);
    }
    Ok(line)
}

fn prefix(range: SourceRange) -> String {
    let ahead = if range.address.is_v4() { 32 + 96 } else { 32 };
    format!("{}/{}", range.address, range.bits.saturating_sub(ahead))
}

fn run(maps: &impl Maps, run: Run) -> Result<String, Error> {
    match run {
        Run::REFUSE => return Ok("refuse".to_owned()),
        Run::DROP => return Ok("drop".to_owned()),
        _ => {}
    }
    let mut backends = Vec::new();
    for id in maps.slots(run)? {
        backends.push(backend(maps.backend(id)?));
    }
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for backend in &backends {
        *shares.entry(backend).or_default() += 1;
    }
    if shares.len() == backends.len() {
        return Ok(backends.join(","));
    }
    let shares = shares
        .iter()
        .map(|(backend, slots)| format!("{backend}x{slots}"));
    Ok(shares.collect::<Vec<_>>().join(","))
}

/// An asterisk marks a backend on this node, a minus one that does not serve.
fn backend(backend: Backend) -> String {
    let local = if backend.flags & Backend::LOCAL == 0 {
        ""
    } else {
        "*"
    };
    let serving = if backend.flags & Backend::SERVING == 0 {
        "-"
    } else {
        ""
    };
    if backend.address.is_v4() {
        format!("{}:{}{local}{serving}", backend.address, backend.port)
    } else {
        format!("[{}]:{}{local}{serving}", backend.address, backend.port)
    }
}
