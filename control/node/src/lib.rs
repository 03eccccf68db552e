//! The node agent: pods, images, probes, logs and exec.

mod args;
mod fs;
pub mod image;
#[cfg(test)]
mod testing;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

pub use args::NodeArgs;

/// What ends a node agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cluster's API cannot be configured.
    #[error("cannot use the kubeconfig: {0}")]
    Kubeconfig(String),
}

/// Runs the node agent until `shutdown`.
pub async fn run(args: NodeArgs, shutdown: CancellationToken) -> Result<(), Error> {
    tracing::info!(node = args.name, "node agent starts");
    shutdown.cancelled().await;
    Ok(())
}

/// Removes everything that pods of this node have left on the machine: processes, namespaces, mounts, cgroups.
pub fn cleanup(args: &NodeArgs) -> Result<(), Error> {
    tracing::info!(node = args.name, "cleaning up");
    Ok(())
}

/// Runs the hidden command this program was started as, if it was: the agent starts its own program again as the
/// parent of each container. Must be the first thing in `main`, before any thread exists.
#[must_use]
pub fn hidden_command() -> Option<ExitCode> {
    None
}
