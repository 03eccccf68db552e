//! The command line as a whole: the daemon's flags are in [`crate::config`], the tools' in [`crate::inspect`].

use clap::Parser;

use crate::config::Config;
use crate::inspect::Command;

/// Keeps this node's eBPF service load balancer equal to the Services and EndpointSlices of a Kubernetes cluster.
///
/// The load balancer lives in the kernel and goes on without the daemon: stopping or killing it stops only updates. A new
/// daemon takes over what it finds. To remove everything, run with --cleanup.
///
/// Without a command, this is the daemon. The commands show what is in the kernel, with or without a daemon, and change
/// nothing.
#[derive(Parser, Debug, Clone)]
#[command(
    name = "portolan-proxy",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to look at, instead of being the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The daemon's flags.
    #[command(flatten)]
    pub config: Config,
}
