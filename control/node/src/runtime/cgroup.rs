//! Control groups of pods and containers, on version 1, version 2 and both at once.
//!
//! A group is a directory of the same path in every hierarchy that matters: always in the version 2 tree when one is
//! mounted, even one without controllers, because that is where eBPF socket hooks look; and in the version 1 trees of
//! `memory`, `cpu`, `cpuacct` and `pids`, where those exist.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Limits;
use crate::fs::{at, ignore_missing};

/// Controllers of version 1 that a container's limits and accounting use.
const V1_CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
const V2_CONTROLLERS: &str = "+cpu +memory +pids";
/// Length of the period that CPU limits are given in, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// The mounted hierarchies of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// Mount point by version 1 controller.
    v1: BTreeMap<String, PathBuf>,
    /// Mount point of version 2.
    v2: Option<PathBuf>,
}

impl Hierarchies {
    /// What is mounted now.
    pub(crate) fn detect() -> io::Result<Self> {
        let path = Path::new("/proc/self/mountinfo");
        Ok(Self::parse(&fs::read_to_string(path).map_err(at(path))?))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut found = Self {
            v1: BTreeMap::new(),
            v2: None,
        };
        for line in mountinfo.lines() {
            let Some((mount, source)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = mount.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut source = source.split(' ');
            match (source.next(), source.nth(1)) {
                (Some("cgroup2"), _) => found.v2 = found.v2.or(Some(point)),
                (Some("cgroup"), Some(options)) => {
                    for controller in options
                        .split(',')
                        .filter(|option| V1_CONTROLLERS.contains(option))
                    {
                        found
                            .v1
                            .entry(controller.to_owned())
                            .or_insert_with(|| point.clone());
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Makes the group `path` and lets groups below it have limits, which all groups above it have to allow too.
    pub(crate) fn open(&self, path: &Path) -> io::Result<CgroupDirs> {
        let mut ancestors: Vec<&Path> = path.ancestors().collect();
        ancestors.reverse();
        for ancestor in ancestors {
            let group = self.group(ancestor);
            group.create()?;
            group.delegate();
        }
        Ok(self.group(path))
    }

    /// The directories of the group `path` in every hierarchy.
    pub(crate) fn group(&self, path: &Path) -> CgroupDirs {
        let path = path.strip_prefix("/").unwrap_or(path);
        let v1 = self
            .v1
            .iter()
            .map(|(controller, mount)| (controller.clone(), mount.join(path)))
            .collect();
        CgroupDirs {
            v1,
            v2: self.v2.as_ref().map(|mount| mount.join(path)),
        }
    }
}

/// One group's directories.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CgroupDirs {
    v1: BTreeMap<String, PathBuf>,
    v2: Option<PathBuf>,
}

impl CgroupDirs {
    /// The group `name` below this one.
    pub(crate) fn child(&self, name: &str) -> Self {
        let v1 = self
            .v1
            .iter()
            .map(|(controller, dir)| (controller.clone(), dir.join(name)))
            .collect();
        Self {
            v1,
            v2: self.v2.as_ref().map(|dir| dir.join(name)),
        }
    }

    /// Makes the group's directories.
    pub(crate) fn create(&self) -> io::Result<()> {
        self.dirs()
            .try_for_each(|dir| fs::create_dir_all(dir).map_err(at(dir)))
    }

    /// Lets groups below this one have limits. Version 2 refuses that while processes are in this very group; then
    /// they have none, and whoever reads the log knows.
    pub(crate) fn delegate(&self) {
        let v2_only = self.v2.as_ref().filter(|_| !self.v1.contains_key("memory"));
        let Some(path) = v2_only.map(|dir| dir.join("cgroup.subtree_control")) else {
            return;
        };
        if let Err(error) = fs::write(&path, V2_CONTROLLERS) {
            tracing::warn!(path = %path.display(), %error, "containers below have no limits");
        }
    }

    /// Sets the group's limits.
    pub(crate) fn limit(&self, limits: &Limits) -> io::Result<()> {
        for (path, value) in self.settings(limits) {
            // The kernel may be built without a controller; then there is no file.
            if path.exists() {
                fs::write(&path, &value).map_err(at(&path))?;
            }
        }
        Ok(())
    }

    /// The files to write for these limits, and what.
    fn settings(&self, limits: &Limits) -> Vec<(PathBuf, String)> {
        // A thousandth of a CPU is 1.024 shares; the kernel's least is 2.
        let shares = (limits.cpu_request * 1024 / 1000).clamp(2, 262_144);
        let quota = limits
            .cpu_limit
            .map(|milli| (milli * CPU_PERIOD / 1000).max(1000));
        let mut files = Vec::new();
        let mut put = |dir: Option<&PathBuf>, name: &str, value: Option<String>| {
            if let (Some(dir), Some(value)) = (dir, value) {
                files.push((dir.join(name), value));
            }
        };
        let v1 = |controller| self.v1.get(controller);
        put(v1("cpu"), "cpu.shares", Some(shares.to_string()));
        put(
            v1("cpu"),
            "cpu.cfs_period_us",
            quota.map(|_| CPU_PERIOD.to_string()),
        );
        put(
            v1("cpu"),
            "cpu.cfs_quota_us",
            quota.map(|quota| quota.to_string()),
        );
        put(
            v1("memory"),
            "memory.limit_in_bytes",
            limits.memory_limit.map(|bytes| bytes.to_string()),
        );
        put(
            v1("pids"),
            "pids.max",
            limits.pids_limit.map(|count| count.to_string()),
        );
        if !self.v1.contains_key("memory") {
            let v2 = self.v2.as_ref();
            // Shares 2..262144 become weights 1..10000.
            let weight = 1 + (shares - 2) * 9999 / 262_142;
            put(v2, "cpu.weight", Some(weight.to_string()));
            put(
                v2,
                "cpu.max",
                quota.map(|quota| format!("{quota} {CPU_PERIOD}")),
            );
            put(
                v2,
                "memory.max",
                limits.memory_limit.map(|bytes| bytes.to_string()),
            );
            put(
                v2,
                "memory.oom.group",
                limits.memory_limit.map(|_| "1".to_owned()),
            );
            put(
                v2,
                "pids.max",
                limits.pids_limit.map(|count| count.to_string()),
            );
        }
        files
    }

    /// Moves the calling process into the group.
    pub(crate) fn join(&self) -> io::Result<()> {
        self.dirs().try_for_each(|dir| {
            let path = dir.join("cgroup.procs");
            fs::write(&path, "0").map_err(at(&path))
        })
    }

    /// How often the kernel has killed a process of the group for want of memory.
    pub(crate) fn memory_kills(&self) -> u64 {
        let v1 = self
            .v1
            .get("memory")
            .map(|dir| dir.join("memory.oom_control"));
        let v2 = self.v2.as_ref().map(|dir| dir.join("memory.events"));
        v1.iter()
            .chain(&v2)
            .filter_map(|path| field(path, "oom_kill"))
            .max()
            .unwrap_or(0)
    }

    /// Bytes of memory in use, if anyone counts.
    pub(crate) fn memory_usage(&self) -> Option<u64> {
        let v1 = self
            .v1
            .get("memory")
            .map(|dir| dir.join("memory.usage_in_bytes"));
        let path = v1.or_else(|| self.v2.as_ref().map(|dir| dir.join("memory.current")))?;
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Processes in this group and all below it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for dir in self.dirs() {
            collect_processes(dir, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Kills all processes in this group and below, and removes the directories. Waits at most `patience` for the
    /// kernel to let go of them.
    pub(crate) fn destroy(&self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            for pid in self.processes() {
                // Gone already is as good.
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                )
                .ok();
            }
            match self
                .dirs()
                .try_for_each(|dir| ignore_missing(remove_tree(dir)).map_err(at(dir)))
            {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                // Killed processes stay in their group until they are dead, which nothing announces here.
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        // cpu and cpuacct are one directory on most machines; making or joining it twice does no harm.
        self.v1.values().chain(&self.v2)
    }
}

/// The value of a line `key value`.
fn field(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

fn collect_processes(dir: &Path, found: &mut Vec<i32>) {
    // A group that has just been removed has no processes.
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for child in children(dir) {
        collect_processes(&child, found);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes a group and those below it; the files in them go with them.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for child in children(dir) {
        ignore_missing(remove_tree(&child))?;
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
38 31 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
    const UNIFIED: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";

    fn check(mountinfo: &str, limits: &Limits, expected: &[(&str, &str)]) {
        let group = Hierarchies::parse(mountinfo).group(Path::new("/p"));
        let found: Vec<(String, String)> = group
            .settings(limits)
            .into_iter()
            .map(|(path, value)| (path.display().to_string(), value))
            .collect();
        let expected: Vec<(String, String)> = expected
            .iter()
            .map(|(path, value)| (format!("/sys/fs/cgroup/{path}"), (*value).to_owned()))
            .collect();
        assert_eq!(found, expected);
    }

    const LIMITS: Limits = Limits {
        cpu_request: 250,
        cpu_limit: Some(500),
        memory_limit: Some(1 << 20),
        pids_limit: Some(9),
    };

    #[test]
    fn limits_go_to_version_1_where_its_controllers_are() {
        check(
            HYBRID,
            &LIMITS,
            &[
                ("cpu,cpuacct/p/cpu.shares", "256"),
                ("cpu,cpuacct/p/cpu.cfs_period_us", "100000"),
                ("cpu,cpuacct/p/cpu.cfs_quota_us", "50000"),
                ("memory/p/memory.limit_in_bytes", "1048576"),
            ],
        );
    }

    #[test]
    fn limits_go_to_version_2_otherwise() {
        check(
            UNIFIED,
            &LIMITS,
            &[
                ("p/cpu.weight", "10"),
                ("p/cpu.max", "50000 100000"),
                ("p/memory.max", "1048576"),
                ("p/memory.oom.group", "1"),
                ("p/pids.max", "9"),
            ],
        );
        check(UNIFIED, &Limits::default(), &[("p/cpu.weight", "1")]);
    }

    #[test]
    fn groups_exist_in_version_2_even_beside_version_1() {
        let group = Hierarchies::parse(HYBRID).group(Path::new("/portolan/node-1"));
        assert_eq!(
            group.v2.as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified/portolan/node-1"))
        );
        assert_eq!(
            group.child("pods").v1["memory"],
            Path::new("/sys/fs/cgroup/memory/portolan/node-1/pods")
        );
    }
}
