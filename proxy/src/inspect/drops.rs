//! `drops`: how much went no further and why, and the last of it one by one.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use clap::Args;
use dataplane_ebpf::abi::DropRecord;
use dataplane_ebpf::drop::{Answer, Drop};
use serde::Serialize;

use super::table::Columns;
use super::{Common, View, clock, text};
use crate::pinned::{Error, Pinned};

/// How often `--watch` looks. A CPU keeps its last records only, so not too rarely.
const PERIOD: Duration = Duration::from_millis(500);

/// What to show.
#[derive(Args, Debug, Clone)]
pub struct DropsArgs {
    /// Go on showing what is dropped until interrupted. As JSON, each is a document on a line of its own.
    #[arg(long)]
    pub watch: bool,

    /// Where from, and how.
    #[command(flatten)]
    pub common: Common,
}

/// What a node dropped.
#[derive(Debug, Serialize)]
pub(super) struct Drops {
    total: u64,
    reasons: Vec<Reason>,
    recent: Vec<Record>,
}

/// A reason and how often it was met.
#[derive(Debug, Serialize)]
struct Reason {
    reason: &'static str,
    count: u64,
    /// Whether the sender was told: by a reset, an ICMP error or ECONNREFUSED.
    refused: bool,
    meaning: &'static str,
    advice: &'static str,
}

/// A packet or call that went no further.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    reason: &'static str,
    seconds_ago: f64,
    protocol: String,
    /// Nothing for a socket's call, which has no source yet.
    source: Option<String>,
    source_port: Option<u16>,
    destination: String,
    destination_port: u16,
    /// Nothing for a socket's call.
    device: Option<String>,
}

/// Reads all counters and records.
pub(super) fn look(args: &DropsArgs) -> Result<Drops, Error> {
    let maps = Pinned::open(&args.common.bpf_root)?;
    let counts = maps.drop_counts()?;
    let now = clock::nanoseconds();
    let recent = recent(&maps)?;
    Ok(Drops {
        total: counts.iter().map(|(_, count)| count).sum(),
        reasons: counts.into_iter().map(reason).collect(),
        recent: recent.iter().map(|drop| record(drop, now)).collect(),
    })
}

/// Hands every drop from now on to `show`, for ever or until one of the two fails.
pub(super) fn watch(
    args: &DropsArgs,
    mut show: impl FnMut(&Record) -> Result<(), super::Error>,
) -> Result<(), super::Error> {
    let maps = Pinned::open(&args.common.bpf_root)?;
    let mut last = clock::nanoseconds();
    loop {
        let mut drops = recent(&maps)?;
        drops.retain(|drop| drop.time > last);
        let now = clock::nanoseconds();
        for drop in drops {
            show(&record(&drop, now))?;
            last = drop.time;
        }
        thread::sleep(PERIOD);
    }
}

/// The records that are left on all CPUs, the oldest first.
fn recent(maps: &Pinned) -> Result<Vec<DropRecord>, Error> {
    let mut all: Vec<DropRecord> = Vec::new();
    maps.recent_drops.each(|_, records| {
        all.extend(records.iter().filter(|record| record.time != 0));
    })?;
    all.sort_unstable_by_key(|record| record.time);
    Ok(all)
}

fn reason((reason, count): (Drop, u64)) -> Reason {
    let (meaning, advice) = explain(reason);
    Reason {
        reason: reason.name(),
        count,
        refused: reason.answer() == Answer::Refusal,
        meaning,
        advice,
    }
}

fn record(drop: &DropRecord, now: u64) -> Record {
    let flow = &drop.flow;
    let known = Drop::ALL
        .into_iter()
        .find(|reason| *reason as u32 == drop.reason);
    let source = Some(flow.source).filter(|source| !source.is_unspecified());
    Record {
        // A newer build may know reasons that this one does not.
        reason: known.map_or("unknown", Drop::name),
        seconds_ago: Duration::from_nanos(now.saturating_sub(drop.time)).as_secs_f64(),
        protocol: flow.protocol.to_string(),
        source: source.map(|source| source.to_string()),
        source_port: source.map(|_| flow.source_port.number()),
        destination: flow.destination.to_string(),
        destination_port: flow.destination_port.number(),
        device: (drop.device != 0).then(|| text::device(drop.device)),
    }
}

/// What a reason means, and what to do about it.
fn explain(reason: Drop) -> (&'static str, &'static str) {
    match reason {
        Drop::Malformed => (
            "the packet's headers contradict its length or themselves",
            "capture at the device of the recent drops; the sender or a middlebox is broken",
        ),
        Drop::Fragment => (
            "a fragment whose packet's first fragment, which has the ports, was not seen",
            "lower the sender's MTU or let path MTU discovery work (do not filter ICMP)",
        ),
        Drop::NoBackend => (
            "the Service has no usable endpoint anywhere: refused",
            "look at the Service's selector and at the readiness of its pods",
        ),
        Drop::NoPolicyBackend => (
            "the Service has endpoints, but its traffic policy allows none on this node",
            "expected with policy Local where no pod runs; send to a node that has one",
        ),
        Drop::UnknownPort => (
            "a port that no Service has, on an address that belongs to one: refused",
            "the client uses a wrong port or protocol, or the Service lost that port",
        ),
        Drop::BackendGone => (
            "the connection's pod is gone: refused, so that the client connects anew",
            "expected when pods end; many of them mean that pods end before they are drained",
        ),
        Drop::NoPort => (
            "all ports tried for source translation were taken",
            "widen --masquerade-ports, or spread the clients over more nodes or backends",
        ),
        Drop::NoSource => (
            "the node has no address of this family to translate the source to",
            "give the node an InternalIP of this family (see status)",
        ),
        Drop::NoRoute => (
            "the node has no route to the backend or back to the client",
            "look at the routes to the pod network: ip route get <backend>",
        ),
        Drop::TooBig => (
            "the packet does not fit the next link: the sender is told that link's MTU",
            "expected for path MTU discovery; lasting growth means that ICMP is filtered",
        ),
        Drop::Expired => (
            "the packet's time to live ran out on this node",
            "look for a routing loop between nodes, or a traceroute",
        ),
        Drop::TableFull => (
            "the kernel refused to record the connection",
            "raise --max-connections, or look for memory pressure on the node",
        ),
        Drop::Rewrite => (
            "the kernel refused to change the packet",
            "report it with the recent drops: it should not happen",
        ),
        Drop::Inconsistent => (
            "the maps contradict each other",
            "restart the daemon, which repairs them, and report it",
        ),
        Drop::SourceRange => (
            "the client is in none of the Service's loadBalancerSourceRanges",
            "expected for clients that are to be kept out; else see services, OPTIONS from=",
        ),
        Drop::Unallocated => (
            "an address inside the ServiceCIDRs that no Service has",
            "the client uses the address of a deleted Service, or scans the range",
        ),
    }
}

impl View for Drops {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut columns = Columns::new(&["REASON", "COUNT", "MEANING", "WHAT TO DO"]);
        let met = self.reasons.iter().filter(|reason| reason.count > 0);
        for reason in met {
            columns.row([
                reason.reason.to_owned(),
                reason.count.to_string(),
                reason.meaning.to_owned(),
                reason.advice.to_owned(),
            ]);
        }
        if self.total == 0 {
            return writeln!(out, "nothing was dropped or refused");
        }
        columns.write(out)?;
        writeln!(out)?;
        let mut columns = Columns::new(&["AGO", "REASON", "DEVICE", "FLOW"]);
        for record in &self.recent {
            columns.row([
                record.ago(),
                record.reason.to_owned(),
                record.device_text(),
                record.flow(),
            ]);
        }
        columns.write(out)
    }
}

/// A line of `--watch`.
impl View for Record {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let (ago, reason, device) = (self.ago(), self.reason, self.device_text());
        writeln!(
            out,
            "{ago:>6}   {reason:<17}   {device:<8}   {}",
            self.flow()
        )
    }
}

impl Record {
    fn ago(&self) -> String {
        match self.seconds_ago {
            short if short < 10.0 => format!("{short:.1}s"),
            long => text::seconds(Duration::from_secs_f64(long).as_secs()),
        }
    }

    fn device_text(&self) -> String {
        let device = self.device.as_deref();
        device.unwrap_or("(socket)").to_owned()
    }

    fn flow(&self) -> String {
        let destination = text::endpoint(&self.destination, self.destination_port, &self.protocol);
        match (&self.source, self.source_port) {
            (Some(source), Some(port)) => {
                format!("{} > {destination}", text::endpoint_alone(source, port))
            }
            _ => format!("> {destination}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_ebpf::addr::{Addr, Port, Protocol};
    use dataplane_ebpf::flow::Flow;
    use std::net::Ipv4Addr;

    #[test]
    fn every_reason_is_explained() {
        for reason in Drop::ALL {
            let (meaning, advice) = explain(reason);
            assert!(!meaning.is_empty() && !advice.is_empty());
        }
    }

    fn drop(source: Addr, reason: u32, device: u32) -> DropRecord {
        let destination = (Addr::from(Ipv4Addr::new(10, 96, 0, 10)), Port::new(80));
        let flow = Flow::new((source, Port::new(40_000)), destination, Protocol::TCP);
        DropRecord {
            time: 1_000_000_000,
            flow,
            reason,
            device,
        }
    }

    #[track_caller]
    fn check(drop: &DropRecord, expected: &str) {
        let mut line = Vec::new();
        let record = record(drop, 3_500_000_000);
        record.write(&mut line).expect("a vector takes everything");
        let line = String::from_utf8(line).expect("made of text");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn a_record_tells_when_why_where_and_what() {
        let client = Addr::from(Ipv4Addr::new(203, 0, 113, 9));
        let reason = Drop::NoBackend as u32;
        check(
            &drop(client, reason, u32::MAX),
            "2.5s no-backend #4294967295 203.0.113.9:40000 > 10.96.0.10:80/TCP",
        );
        check(
            &drop(Addr::UNSPECIFIED, reason, 0),
            "2.5s no-backend (socket) > 10.96.0.10:80/TCP",
        );
        check(
            &drop(client, 999, 0),
            "2.5s unknown (socket) 203.0.113.9:40000 > 10.96.0.10:80/TCP",
        );
    }
}
