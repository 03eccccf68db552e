//! The load that a release of the gateway is built for: some of each kind that the other sections measure.
//!
//! The program is one that counts what runs in it and writes the counts down at its end. `make release` builds it, and
//! builds the release by the counts.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::handshakes::{self, Session};
use super::load::{self, Wire};
use super::peers::{Kind, Peer};
use super::place::Machine;

/// How long each protocol is spoken.
const LENGTH: Duration = Duration::from_secs(3);
/// How many handshakes there are of each kind.
const HANDSHAKES: u32 = 300;

/// Asks the gateway for something in every way, and ends it in good order.
pub(crate) fn train(machine: &Machine) -> Result<()> {
    let peer = Peer::start(Kind::Portolan, &machine.files)?;
    let peer = peer.context("there is no portolan-ingress in PORTOLAN_BIN")?;
    for wire in Wire::ALL {
        load::ask(&peer, *wire, LENGTH, &machine.files)
            .with_context(|| format!("asking over {}", wire.name()))?;
    }
    for session in [Session::New, Session::Resumed] {
        handshakes::shake(peer.https, &machine.certificate, session, HANDSHAKES)?;
    }
    peer.process.end()
}
