//! `portolan down`: removes every trace of a local cluster, also of one that is half built or half dead.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::layout::{Layout, NodeLayout};
use super::process::Process;
use super::supervisor;
use super::{ClusterArgs, daemons, network, outside, place};

/// How long the supervisor may take to end all daemons.
const PATIENCE: Duration = Duration::from_secs(15);

/// Removes the cluster that `up` left in the state directory; one that is not there is no error.
pub(crate) async fn run(args: &ClusterArgs) -> Result<()> {
    let state_dir = args.state_dir();
    let file = Layout::file(&state_dir);
    let Ok(text) = fs::read(&file) else {
        println!(
            "no cluster {:?} here: {} does not exist",
            args.name,
            file.display()
        );
        return Ok(());
    };
    let layout: Layout =
        serde_json::from_slice(&text).with_context(|| format!("parsing {}", file.display()))?;
    if let Some(supervisor) = Process::recall(&layout.pid_file(supervisor::NAME)) {
        tokio::task::spawn_blocking(move || supervisor.end(PATIENCE)).await?;
    }
    remove_everything(&layout).await?;
    println!("cluster {:?} is gone", layout.name);
    Ok(())
}

/// Every step is tried, so that one thing that will not go leaves nothing else behind; the first error is returned.
pub(crate) async fn remove_everything(layout: &Layout) -> Result<()> {
    end_daemons(layout);
    let mut results = Vec::new();
    for node in layout.node_layouts() {
        results.push(remove_pods(layout, &node));
        results.push(place::remove_netns(&node.netns));
    }
    results.push(network::remove_bridge(layout).await);
    results.push(outside::close(layout));
    results.push(place::remove_cgroups(&layout.cgroup()));
    results.push(remove_pins(&layout.bpf_root()));
    results.into_iter().collect::<Result<Vec<()>>>()?;
    remove_tree(&layout.state_dir)?;
    remove_shared_parents(layout)
}

/// The directories that all clusters of the machine share go with the last cluster.
fn remove_shared_parents(layout: &Layout) -> Result<()> {
    let mut parents = place::cgroup_paths(&layout.cgroup())?;
    parents.extend([layout.bpf_root(), layout.state_dir.clone()]);
    for parent in parents
        .iter()
        .filter_map(|path| path.parent())
        .filter(|dir| dir.ends_with("portolan"))
    {
        place::remove_if_empty(parent)?;
    }
    Ok(())
}

/// A supervisor that was killed could not end its daemons.
fn end_daemons(layout: &Layout) {
    let Ok(entries) = fs::read_dir(layout.state_dir.join("run")) else {
        return;
    };
    for entry in entries.flatten() {
        if let Some(process) = Process::recall(&entry.path()) {
            process.end(PATIENCE);
        }
    }
}

/// The node agent itself knows what its pods leave behind.
fn remove_pods(layout: &Layout, node: &NodeLayout) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(daemons::node_agent_arguments(layout, node))
        .arg("--cleanup");
    let output = command
        .output()
        .context("starting the node agent's cleanup")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "removing the pods of {}: {}",
        node.name,
        said.trim()
    );
    Ok(())
}

/// The last pin of a BPF program or map going away is what detaches and frees it.
fn remove_pins(dir: &Path) -> Result<()> {
    remove_tree(dir)
}

fn remove_tree(dir: &Path) -> Result<()> {
    place::ignore_missing(fs::remove_dir_all(dir))
        .with_context(|| format!("removing {}", dir.display()))
}
