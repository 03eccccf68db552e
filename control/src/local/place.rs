//! The places a simulated node consists of: a named network namespace and a cgroup, made, entered and removed.
//!
//! A namespace is made on a thread of its own, because `unshare` moves the calling thread, and is kept alive by a
//! bind mount under `/run/netns`, where `ip netns` and `nsenter` find it too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::layout::NodeLayout;

const NETNS_DIR: &str = "/run/netns";

/// Where a named network namespace can be opened.
pub(crate) fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Makes a network namespace with that name, with loopback still down; one that exists already is kept.
pub(crate) fn create_netns(name: &str) -> Result<()> {
    let path = netns_path(name);
    if is_netns(&path) {
        return Ok(());
    }
    fs::create_dir_all(NETNS_DIR).with_context(|| format!("creating {NETNS_DIR}"))?;
    fs::write(&path, b"").with_context(|| format!("creating {}", path.display()))?;
    on_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .context("creating a network namespace (root is needed)")?;
        mount(
            Some("/proc/thread-self/ns/net"),
            &path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("mounting the namespace on {}", path.display()))
    })
}

/// Removes the name; the namespace itself ends with its last process.
pub(crate) fn remove_netns(name: &str) -> Result<()> {
    let path = netns_path(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("unmounting {}", path.display())),
    }
    ignore_missing(fs::remove_file(&path)).with_context(|| format!("removing {}", path.display()))
}

/// Runs `work` on a thread of its own inside the namespace.
pub(crate) fn in_netns<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let path = netns_path(name);
    on_own_thread(move || {
        enter_netns(&path)?;
        work()
    })
}

/// Moves the calling thread into the namespace at `path`.
pub(crate) fn enter_netns(path: &Path) -> Result<()> {
    let file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", path.display()))
}

/// A namespace's name is a bind mount, so it lies on another device than its directory.
fn is_netns(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (fs::metadata(path), fs::metadata(NETNS_DIR)) {
        (Ok(file), Ok(dir)) => file.dev() != dir.dev(),
        _ => false,
    }
}

fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    std::thread::spawn(work)
        .join()
        .map_err(|_| anyhow!("the thread inside the namespace panicked"))?
}

/// The node's daemons' cgroup in the unified hierarchy, where the socket hooks reach them.
pub(crate) fn system_cgroup(node: &NodeLayout) -> Result<PathBuf> {
    Ok(node_cgroup(node)?.join("system"))
}

/// The node's cgroup in the unified hierarchy: its daemons and pods live below it.
pub(crate) fn node_cgroup(node: &NodeLayout) -> Result<PathBuf> {
    Ok(below(&cgroup2_mount()?, &node.cgroup))
}

/// Makes the node's cgroups.
pub(crate) fn create_cgroup(node: &NodeLayout) -> Result<()> {
    let path = system_cgroup(node)?;
    fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))
}

/// Removes a cgroup and all below it, in every hierarchy that is mounted.
pub(crate) fn remove_cgroups(relative: &Path) -> Result<()> {
    cgroup_paths(relative)?
        .iter()
        .try_for_each(|path| remove_cgroup_tree(path))
}

/// Where a cgroup is, or would be, in every hierarchy that is mounted.
pub(crate) fn cgroup_paths(relative: &Path) -> Result<Vec<PathBuf>> {
    Ok(cgroup_mounts()?
        .iter()
        .map(|mount| below(mount, relative))
        .collect())
}

/// Removes a directory that nobody uses any more.
pub(crate) fn remove_if_empty(dir: &Path) -> Result<()> {
    match fs::remove_dir(dir) {
        Err(error)
            if error.kind() == io::ErrorKind::DirectoryNotEmpty
                || error.kind() == io::ErrorKind::ResourceBusy =>
        {
            Ok(())
        }
        other => ignore_missing(other).with_context(|| format!("removing {}", dir.display())),
    }
}

fn remove_cgroup_tree(path: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(path) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup_tree(&entry.path())?;
        }
    }
    ignore_missing(fs::remove_dir(path)).with_context(|| format!("removing {}", path.display()))
}

/// Where the unified cgroup hierarchy is mounted.
pub(crate) fn cgroup2_mount() -> Result<PathBuf> {
    mounts("cgroup2")?.into_iter().next().context(
        "no cgroup2 file system is mounted: mount it with `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`",
    )
}

fn cgroup_mounts() -> Result<Vec<PathBuf>> {
    let mut all = mounts("cgroup2")?;
    all.extend(mounts("cgroup")?);
    Ok(all)
}

/// Mount points of that file system type, from `/proc/self/mounts`.
pub(crate) fn mounts(kind: &str) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    let of_kind = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let point = fields.next()?;
        (fields.next()? == kind).then(|| PathBuf::from(point))
    };
    Ok(text.lines().filter_map(of_kind).collect())
}

fn below(mount: &Path, relative: &Path) -> PathBuf {
    mount.join(relative.strip_prefix("/").unwrap_or(relative))
}

/// Success also when there was nothing to remove.
pub(crate) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
