//! What gateways make of doubtful input: each case of the tests is sent, byte by byte, to ours and to those that users would
//! choose instead, and what their backend receives is judged.
//!
//! All of them pass everything on to one backend, at their defaults otherwise: what is shown is what they themselves
//! refuse or put right.

#[path = "../../../../ingress/tests/cases/mod.rs"]
mod cases;
mod client;
mod contestants;
mod received;
mod recorder;

use anyhow::{Context as _, Result};

use super::peers::Kind;
use super::place::Machine;
use crate::report::{Cell, Table};
use cases::{filled, http11probe, strictness};
use contestants::Contestant;
use received::Received;

/// Something to send.
#[derive(Debug)]
struct Case {
    name: String,
    bytes: Vec<u8>,
    /// How many requests may reach the backend: none of what the standard or our own rules forbid.
    allowed: usize,
}

/// What a contestant did with a case.
#[derive(Debug)]
struct Outcome {
    seen: client::Seen,
    received: Received,
    /// Why a backend may read it in another way than the gateway did.
    doubts: Vec<&'static str>,
}

pub(crate) fn measure(machine: &Machine) -> Result<Vec<Table>> {
    let cases = all();
    let mut contestants = Vec::new();
    for kind in Kind::ALL {
        contestants.extend(Contestant::start(kind, machine)?);
    }
    // At the same time: they wait most of it.
    let outcomes = std::thread::scope(|scope| {
        let threads: Vec<_> = contestants
            .iter()
            .map(|contestant| scope.spawn(|| run(contestant, &cases)))
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let joined = thread.join().ok();
            joined.context("a contestant's thread panicked")?
        });
        joined.collect::<Result<Vec<_>>>()
    })?;
    Ok(vec![
        summary(&cases, &contestants, &outcomes),
        in_detail(&cases, &contestants, &outcomes),
    ])
}

/// All cases of the tests.
fn all() -> Vec<Case> {
    let case = |name: &str, bytes: &[u8], allowed| Case {
        name: name.to_owned(),
        bytes: filled(bytes),
        allowed,
    };
    let ours = strictness::REFUSED.iter();
    let ours = ours.map(|(name, bytes, _)| case(name, bytes.as_bytes(), 0));
    let forwarded = strictness::FORWARDED.iter().chain(strictness::CHANGED);
    let forwarded = forwarded.map(|(name, bytes, _)| case(name, bytes.as_bytes(), 1));
    let others = [
        ("Expect: junk", strictness::BAD_EXPECTATION),
        ("Upgrade without 101", strictness::UPGRADE_REFUSED),
    ];
    let others = others.map(|(name, bytes)| case(name, bytes.as_bytes(), 2));
    let refused = http11probe::REFUSED.iter();
    let refused = refused.map(|(name, bytes)| case(name, bytes, 0));
    let rest = [
        http11probe::LAST,
        http11probe::INCOMPLETE,
        http11probe::ANSWERED,
    ];
    let rest = rest.into_iter().flatten();
    let rest = rest.map(|(name, bytes)| case(name, bytes, 1));
    let accepted = http11probe::ACCEPTED.iter();
    let accepted = accepted.map(|(name, bytes, _)| case(name, bytes, 1));
    ours.chain(forwarded)
        .chain(others)
        .chain(refused)
        .chain(rest)
        .chain(accepted)
        .collect()
}

fn run(contestant: &Contestant, cases: &[Case]) -> Result<Vec<Outcome>> {
    let fence = [
        recorder::FENCE,
        b"HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\n\r\n",
    ]
    .concat();
    // What the start has sent.
    contestant.recorder.take();
    let outcome = |case: &Case| {
        let seen = client::send(contestant.port, &case.bytes)?;
        client::send(contestant.port, &fence)?;
        let received = contestant.recorder.take();
        let mut doubts = received.doubts();
        // What must be refused may be put right instead; but what must be the last of its connection must be alone.
        if received.requests.len() > case.allowed.max(1) {
            doubts.push("more requests than were sent");
        }
        Ok(Outcome {
            seen,
            received,
            doubts,
        })
    };
    let outcomes = cases.iter().map(outcome).collect::<Result<Vec<_>>>();
    outcomes.with_context(|| format!("asking {}", contestant.kind.name()))
}

fn summary(cases: &[Case], contestants: &[Contestant], outcomes: &[Vec<Outcome>]) -> Table {
    let forbidden = cases.iter().filter(|case| case.allowed == 0).count();
    let mut table = Table::new(
        "Doubtful input",
        format!(
            "`measure l7 differential`: {} raw inputs, {forbidden} of which must be refused; each gateway passes everything on to \
             a backend that records. Ambiguous is what a backend may read in another way than the gateway did: the way in for \
             smuggled requests.",
            cases.len()
        ),
        &[
            "gateway",
            "refused of those that must be",
            "put right instead",
            "ambiguous at the backend",
        ],
    );
    for (contestant, outcomes) in contestants.iter().zip(outcomes) {
        let must = cases.iter().zip(outcomes);
        let must = must.filter(|(case, _)| case.allowed == 0);
        let (passed, refused): (Vec<_>, Vec<_>) =
            must.partition(|(_, outcome)| outcome.received.is_whole());
        let right = passed
            .iter()
            .filter(|(_, outcome)| outcome.doubts.is_empty());
        let ambiguous = outcomes.iter().filter(|outcome| !outcome.doubts.is_empty());
        table.add(vec![
            format!("{} {}", contestant.kind.name(), contestant.version).into(),
            Cell::Number(refused.len() as f64, 0),
            Cell::Number(right.count() as f64, 0),
            Cell::Number(ambiguous.count() as f64, 0),
        ]);
    }
    table
}

fn in_detail(cases: &[Case], contestants: &[Contestant], outcomes: &[Vec<Outcome>]) -> Table {
    let mut columns = vec!["input"];
    columns.extend(contestants.iter().map(|contestant| contestant.kind.name()));
    let mut table = Table::new(
        "Doubtful input, case by case",
        "`measure l7 differential`: what the client was answered and whether its connection was closed or stayed open → what \
         the backend received: each request's line, Host and framing; `(cut)` is one that did not come whole. **Ambiguous** \
         says why a backend may read it in another way.",
        &columns,
    );
    for (number, case) in cases.iter().enumerate() {
        let mut row = vec![case.name.as_str().into()];
        row.extend(outcomes.iter().map(|outcomes| outcomes[number].cell()));
        table.add(row);
    }
    table
}

impl Outcome {
    fn cell(&self) -> Cell {
        let mut text = self.seen.to_string();
        if self.received.has_anything() {
            text += &format!(" → {}", self.received);
        }
        if !self.doubts.is_empty() {
            text += &format!(" **ambiguous: {}**", self.doubts.join(", "));
        }
        // A bar would end the cell.
        text.replace('|', "\\|").into()
    }
}
