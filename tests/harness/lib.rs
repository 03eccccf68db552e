//! What tests and benchmarks share: namespaces of their own, a cluster, clients in chosen places, and waiting for
//! conditions.
//!
//! The cluster lives in a network namespace that stands for the machine, so it can neither disturb nor be disturbed by
//! another cluster. The programs are known only by their command lines.

mod client;
mod cluster;
mod host;
mod namespace;

pub use client::{Connection, Loop, get, https};
pub use cluster::{Cluster, Daemon, REGISTRY, program};
pub use host::Host;
pub use namespace::{Namespace, socket_cookie};

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Long enough for a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Tries until `attempt` succeeds, and gives up with its last error.
///
/// # Errors
/// The last error of `attempt`, with `what` as context.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("waited {PATIENCE:?} until {what}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(30)),
        }
    }
}

/// Fails with both values unless they are equal.
///
/// # Errors
/// When they differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    bail!("{what}: found {found:?}, expected {expected:?}")
}
