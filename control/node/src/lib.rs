//! The node agent: registers a Node and runs the pods that are bound to it.
//!
//! ```text
//! watch Pods of this node ──> dispatch ──> one pod::Worker each ──> runtime, net, image
//! watch Nodes ──────────────> net::Routes                             │
//! node_object: Node status and Lease                                  └─> status, Events
//! server: HTTPS API for logs and exec
//! ```
//! The agent keeps nothing in memory that matters: what runs is written down in the data directory, what should run is
//! in the API. It may be killed at any time; containers go on, and the next agent adopts them.
//!
//! This package touches namespaces, cgroups and mounts, and is the only one that does. It reaches the API through
//! `kube` alone.

mod agent;
mod args;
mod cleanup;
mod dispatch;
mod events;
mod fs;
pub mod image;
mod net;
mod node_object;
mod pod;
mod run;
mod runtime;
mod server;
mod sys;
#[cfg(test)]
mod testing;
mod tls;

use std::path::PathBuf;
use std::process::ExitCode;

pub use args::NodeArgs;
pub use cleanup::cleanup;
pub use run::{Error, run};

/// The hidden command that runs a container.
const SHIM_COMMAND: &str = "node-shim";
/// The hidden command that runs a program in a running container.
const EXEC_COMMAND: &str = "node-exec";

/// Runs the hidden command this program was started as, if it was: the agent starts its own program again as the
/// parent of each container. Must be the first thing in `main`, before any thread exists.
#[must_use]
pub fn hidden_command() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next()?;
    if command == SHIM_COMMAND {
        return Some(runtime::shim::main(&PathBuf::from(arguments.next()?)));
    }
    if command == EXEC_COMMAND {
        let dir = PathBuf::from(arguments.next()?);
        let terminal = arguments.next()? == "terminal";
        let arguments = arguments
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        return Some(runtime::enter::main(
            &dir,
            runtime::ExecRequest {
                arguments,
                terminal,
            },
        ));
    }
    None
}
