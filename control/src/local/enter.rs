//! `portolan enter`: becomes another program inside a simulated node.
//!
//! Whoever starts a daemon cannot move it afterwards: a socket belongs to the cgroup and the namespace its creator was
//! in. So the daemon's process joins both first and only then becomes the daemon.

use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::place;

/// Where to go and what to become there.
#[derive(clap::Args, Debug)]
pub(crate) struct EnterArgs {
    /// The network namespace to join, by its name under /run/netns.
    #[arg(long)]
    netns: Option<String>,
    /// The cgroup directory to join.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

/// Joins the cgroup, then the namespace, then becomes the program. Must run before any thread is started.
pub(crate) fn run(args: EnterArgs) -> Result<Infallible> {
    if let Some(cgroup) = &args.cgroup {
        let procs = cgroup.join("cgroup.procs");
        std::fs::write(&procs, "0").with_context(|| format!("joining {}", procs.display()))?;
    }
    if let Some(netns) = &args.netns {
        place::enter_netns(&place::netns_path(netns))?;
    }
    let (program, arguments) = args.command.split_first().context("a program is needed")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("starting {program}"))
}
