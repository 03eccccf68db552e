//! What a request costs, how long it takes at a fixed rate, and what a TLS handshake costs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::grpc;
use super::handshakes::{self, Session};
use super::load::{self, Wire};
use super::paced;
use super::peers::{Kind, Peer};
use super::place::{HOST, Machine};
use crate::report::{Cell, Figure, Table};

/// How much is measured.
struct Scale {
    rounds: usize,
    length: Duration,
    handshakes: u32,
}

const FULL: Scale = Scale {
    rounds: 7,
    length: Duration::from_secs(2),
    handshakes: 1000,
};

const QUICK: Scale = Scale {
    rounds: 1,
    length: Duration::from_secs(1),
    handshakes: 100,
};

/// Samples by contestant.
type Samples = BTreeMap<&'static str, Vec<f64>>;

/// Measures all of it, or only what requests over `wires` cost if there are any.
pub(crate) fn measure(machine: &Machine, wires: &[Wire], quick: bool) -> Result<Vec<Table>> {
    let scale = if quick { QUICK } else { FULL };
    let mut peers = Vec::new();
    for kind in Kind::ALL {
        peers.extend(Peer::start(kind, &machine.files)?);
    }
    let mut costs = costs_table(&scale);
    if !wires.is_empty() {
        for wire in wires {
            add_costs(&mut costs, machine, &peers, *wire, &scale)?;
        }
        return Ok(vec![costs]);
    }
    for wire in Wire::ALL {
        add_costs(&mut costs, machine, &peers, *wire, &scale)?;
    }
    Ok(vec![
        costs,
        latencies(&peers, &scale)?,
        handshake_costs(machine, &peers, &scale)?,
    ])
}

/// Measures what a request over `wire` costs.
fn add_costs(
    table: &mut Table,
    machine: &Machine,
    peers: &[Peer],
    wire: Wire,
    scale: &Scale,
) -> Result<()> {
    if wire == Wire::Grpc {
        for peer in peers {
            grpc::check(peer, &machine.certificate)?;
        }
    }
    let (mut micros, mut rates) = (Samples::new(), Samples::new());
    for _ in 0..scale.rounds {
        for peer in peers {
            let work = load::ask(peer, wire, scale.length, &machine.files)
                .with_context(|| format!("{} over {}", peer.name(), wire.name()))?;
            micros.entry(peer.name()).or_default().push(work.micros());
            rates.entry(peer.name()).or_default().push(work.rate());
        }
    }
    for peer in peers {
        let rate = Figure::of(rates[peer.name()].iter().copied());
        table.add(vec![
            wire.name().into(),
            peer.name().into(),
            Cell::Figure(Figure::of(micros[peer.name()].iter().copied()), 1),
            Cell::Figure(ratios(&micros, peer.name()), 2),
            Cell::Number(rate.median(), 0),
        ]);
    }
    Ok(())
}

/// How a contestant's samples compare with nginx's of the same rounds.
fn ratios(samples: &Samples, name: &str) -> Figure {
    let nginx = samples.get(Kind::Nginx.name());
    Figure::ratios(&samples[name], nginx.unwrap_or(&samples[name]))
}

fn costs_table(scale: &Scale) -> Table {
    Table::new(
        "What a request costs",
        format!(
            "`measure l7 requests`: answers of 1 KiB, on 64 connections that stay (HTTP/2 and gRPC: 8 with 8 streams each), one \
             thread, routing, forwarding headers, access log and metrics on; the backend is asked over HTTP/1.1, for gRPC (unary \
             calls) over HTTP/2 in the clear; {} rounds in which the contestants take turns, {} s \
             each; median (minimum–maximum).",
            scale.rounds,
            scale.length.as_secs()
        ),
        &[
            "protocol",
            "gateway",
            "processor time a request, µs",
            "to nginx's",
            "requests/s",
        ],
    )
}

fn latencies(peers: &[Peer], scale: &Scale) -> Result<Table> {
    let mut saturation = f64::INFINITY;
    for peer in peers {
        if matches!(peer.kind, Kind::Portolan | Kind::Nginx) {
            let rate = paced::saturation(peer.http, HOST, "/", 2 * scale.length)?;
            saturation = saturation.min(rate);
        }
    }
    let rate = 0.7 * saturation;
    let mut table = Table::new(
        "How long a request takes",
        format!(
            "`measure l7 requests`: {rate:.0} requests/s over HTTP/1.1 on {} connections, which is 70 % of what the slower of \
             Portolan and nginx answers to the same clients when these do not wait, from when a request is due; {} rounds; \
             median (minimum–maximum).",
            paced::CLIENTS,
            scale.rounds
        ),
        &["gateway", "p50, µs", "p99, µs", "p99 to nginx's"],
    );
    let (mut middle, mut high) = (Samples::new(), Samples::new());
    for _ in 0..scale.rounds {
        // Envoy cannot do so many on one thread.
        for peer in peers.iter().filter(|peer| peer.kind != Kind::Envoy) {
            let times = paced::ask(peer.http, HOST, "/", rate, scale.length)?;
            middle.entry(peer.name()).or_default().push(times.median());
            high.entry(peer.name())
                .or_default()
                .push(times.quantile(0.99));
        }
    }
    for name in middle.keys() {
        table.add(vec![
            (*name).into(),
            Cell::Figure(Figure::of(middle[name].iter().copied()), 0),
            Cell::Figure(Figure::of(high[name].iter().copied()), 0),
            Cell::Figure(ratios(&high, name), 2),
        ]);
    }
    Ok(table)
}

fn handshake_costs(machine: &Machine, peers: &[Peer], scale: &Scale) -> Result<Table> {
    let mut table = Table::new(
        "What a TLS handshake costs",
        format!(
            "`measure l7 requests`: TLS 1.3 with an ECDSA certificate (P-256) and one request, {} times in a row; {} rounds; \
             median (minimum–maximum).",
            scale.handshakes, scale.rounds
        ),
        &["handshake", "gateway", "processor time, µs", "to nginx's"],
    );
    for session in [Session::New, Session::Resumed] {
        let mut micros = Samples::new();
        for _ in 0..scale.rounds {
            for peer in peers {
                let before = peer.process.processor_time()?;
                handshakes::shake(peer.https, &machine.certificate, session, scale.handshakes)
                    .with_context(|| format!("handshakes with {}", peer.name()))?;
                let used = peer.process.processor_time()? - before;
                let each = used.as_secs_f64() * 1e6 / f64::from(scale.handshakes);
                micros.entry(peer.name()).or_default().push(each);
            }
        }
        for peer in peers {
            table.add(vec![
                session.name().into(),
                peer.name().into(),
                Cell::Figure(Figure::of(micros[peer.name()].iter().copied()), 0),
                Cell::Figure(ratios(&micros, peer.name()), 2),
            ]);
        }
    }
    Ok(table)
}
