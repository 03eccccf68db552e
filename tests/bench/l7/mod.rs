//! The gateway against those that users would choose instead.

mod differential;
mod grpc;
mod handshakes;
mod load;
mod memory;
mod paced;
mod peers;
mod place;
mod process;
mod requests;
mod routes;
mod train;

use anyhow::Result;
use clap::ValueEnum;

use crate::report::Table;
use crate::sandbox::Sandbox;
use place::Machine;

pub(crate) use load::Wire;

/// What is measured of the gateway.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// Processor time of requests and TLS handshakes, and latency at a fixed rate: against nginx, HAProxy and Envoy.
    Requests,
    /// The cost of many routes, and of changes among them.
    Routes,
    /// Memory: empty, with many routes, for idle connections.
    Memory,
    /// What each makes of doubtful input. It gives no figures, so it is only done if it is asked for.
    Differential,
    /// The load that a release of the gateway is built for. It gives no figures, so it is only done if it is asked for.
    Train,
}

impl Section {
    /// All that measure.
    pub(crate) const ALL: &[Self] = &[Self::Requests, Self::Routes, Self::Memory];
}

/// Where all sections take place.
pub(crate) fn machine(sandbox: &Sandbox) -> Result<Machine> {
    Machine::enter(sandbox)
}

/// Measures a section; of requests only what those over `wires` cost, if any are given.
pub(crate) fn measure(
    machine: &Machine,
    section: Section,
    wires: &[Wire],
    quick: bool,
) -> Result<Vec<Table>> {
    match section {
        Section::Requests => requests::measure(machine, wires, quick),
        Section::Routes => routes::measure(machine, quick),
        Section::Memory => memory::measure(machine, quick),
        Section::Differential => differential::measure(machine),
        Section::Train => train::train(machine).map(|()| Vec::new()),
    }
}
