//! The command line as a whole. The daemon's own flags are in [`crate::config`].

use clap::Parser;

use crate::config::Config;

/// Keeps this node's eBPF service load balancer equal to the Services and EndpointSlices of a Kubernetes cluster.
///
/// The load balancer lives in the kernel and goes on without the daemon: stopping or killing it stops only updates. A new
/// daemon takes over what it finds. To remove everything, run with --cleanup.
#[derive(Parser, Debug, Clone)]
#[command(name = "portolan-proxy", version, max_term_width = 100)]
pub struct Cli {
    /// The daemon's flags.
    #[command(flatten)]
    pub config: Config,
}
