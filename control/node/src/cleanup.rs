//! Removes what a node's pods have left on the machine.

use std::fs;
use std::time::Duration;

use crate::args::NodeArgs;
use crate::pod::prepare;
use crate::run::{Error, io};
use crate::runtime::cgroup::Hierarchies;

/// How long the kernel may take to let go of killed processes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes everything that pods of this node have left on the machine: processes, namespaces, mounts, cgroups and their
/// directories. The agent must not run any more. Images stay. Can be called again.
pub fn cleanup(args: &NodeArgs) -> Result<(), Error> {
    let hierarchies = Hierarchies::detect().map_err(io("looking for cgroups"))?;
    let pods = hierarchies.group(&args.cgroup_root).child("pods");
    pods.destroy(PATIENCE)
        .map_err(io("removing the pods' cgroups"))?;
    for entry in fs::read_dir(args.pods_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let dir = entry.path();
        let what = || format!("removing {}", dir.display());
        match prepare::find(&dir).map_err(io(what()))? {
            Some(record) => prepare::remove(&dir, &record).map_err(io(what()))?,
            None => prepare::unmount_all(&dir).map_err(io(what()))?,
        }
        fs::remove_dir_all(&dir).map_err(io(what()))?;
    }
    Ok(())
}
