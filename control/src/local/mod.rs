//! A whole cluster on this machine: `portolan up` and `portolan down`.
//!
//! The way of `up`: [`preflight`] asks what the machine lacks; [`layout`] names everything; [`place`] makes namespaces and
//! cgroups, [`network`] the links, [`outside`] the way out; [`credentials`] writes a key for each daemon; [`supervisor`] keeps the [`daemons`]
//! running; [`sample`] puts the sample application in; [`report`] tries it by real requests and prints the table.
//! `down` removes what `layout` names, in reverse.

mod credentials;
mod daemons;
pub(crate) mod down;
pub(crate) mod enter;
mod layout;
mod network;
mod outside;
mod place;
mod preflight;
mod process;
mod report;
mod sample;
pub(crate) mod supervisor;
pub(crate) mod up;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which local cluster is meant.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct ClusterArgs {
    /// Name of the cluster: tells its namespaces, links and directories from another's. Two clusters at once need two
    /// network namespaces to live in, because each takes 172.30.0.0/24.
    #[arg(long, default_value = "local")]
    pub(crate) name: String,
    /// Where the cluster keeps its data [default: /var/lib/portolan/NAME]
    #[arg(long)]
    state_dir: Option<PathBuf>,
}

impl ClusterArgs {
    /// The state directory, chosen or by default.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state_dir
            .clone()
            .unwrap_or_else(|| Path::new("/var/lib/portolan").join(&self.name))
    }
}

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// Waits for a condition; the whole of `up` has a deadline.
async fn until(condition: impl AsyncFn() -> bool) {
    while !condition().await {
        tokio::time::sleep(POLL).await;
    }
}
