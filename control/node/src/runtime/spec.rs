//! What agent and shim tell each other, through files of the container's directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cgroup::CgroupDirs;

/// Everything needed to run one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerSpec {
    /// The program.
    pub(crate) process: Process,
    /// Directories of the image's layers, lowest first.
    pub(crate) layers: Vec<PathBuf>,
    /// True if the container may not write into its root.
    pub(crate) read_only: bool,
    /// What is mounted into the root, besides the kernel's own file systems.
    pub(crate) mounts: Vec<Mount>,
    /// The pod's namespaces.
    pub(crate) namespaces: Namespaces,
    /// The container's cgroups.
    pub(crate) cgroups: CgroupDirs,
    /// The pod's cgroups where the shim itself lives.
    pub(crate) shim_cgroups: CgroupDirs,
    /// What the kernel subtracts from or adds to the badness score when memory is short.
    pub(crate) oom_score: i32,
    /// The log file.
    pub(crate) log: PathBuf,
}

/// How a program is started: for the container's first process and for `exec`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Process {
    /// The program and its arguments; never empty.
    pub(crate) arguments: Vec<String>,
    /// `NAME=VALUE` pairs.
    pub(crate) environment: Vec<String>,
    /// The directory it starts in.
    pub(crate) directory: PathBuf,
    /// Who it runs as.
    pub(crate) user: User,
    /// What it may do.
    pub(crate) security: Security,
    /// True if it gets a terminal.
    pub(crate) terminal: bool,
    /// True if its input stays open; else it reads an end of file.
    pub(crate) stdin: bool,
}

/// A user by the image's word, with what the pod overrides.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct User {
    /// The image's `USER`, to be looked up in the container's `/etc/passwd`, or the pod's id.
    pub(crate) name: UserName,
    /// The pod's group id, if it names one.
    pub(crate) group: Option<u32>,
    /// Additional groups.
    pub(crate) groups: Vec<u32>,
    /// Refuse to run as user 0.
    pub(crate) must_not_be_root: bool,
}

/// Where a user comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum UserName {
    /// A user id.
    Id(u32),
    /// What an image says: `name`, `id`, `name:group`, ... or nothing for root.
    Image(String),
}

impl Default for UserName {
    fn default() -> Self {
        Self::Image(String::new())
    }
}

/// What a process may do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Security {
    /// Numbers of the capabilities it may have.
    pub(crate) capabilities: Vec<u8>,
    /// Everything is allowed: all devices, nothing masked, a writable /sys.
    pub(crate) privileged: bool,
    /// A set-uid program gains nothing.
    pub(crate) no_new_privileges: bool,
    /// The runtime's seccomp profile is on.
    pub(crate) seccomp: bool,
}

/// A bind mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// A file or directory of the machine.
    pub(crate) source: PathBuf,
    /// A path inside the source, which it cannot leave; made as a directory if missing.
    pub(crate) sub_path: Option<PathBuf>,
    /// Where it appears in the container.
    pub(crate) target: PathBuf,
    /// The container may not write to it.
    pub(crate) read_only: bool,
}

/// Paths of the pod's namespaces; none means that the container uses the agent's own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Namespaces {
    /// Network namespace.
    pub(crate) net: Option<PathBuf>,
    /// IPC namespace.
    pub(crate) ipc: Option<PathBuf>,
    /// Host name.
    pub(crate) uts: Option<PathBuf>,
    /// True if the container sees all processes of the machine.
    pub(crate) host_pid: bool,
}

/// Limits of a container's cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Weight of the CPU time asked for, in thousandths of a CPU.
    pub(crate) cpu_request: u64,
    /// The most CPU time, in thousandths of a CPU.
    pub(crate) cpu_limit: Option<u64>,
    /// The most memory in bytes.
    pub(crate) memory_limit: Option<u64>,
    /// The most processes and threads.
    pub(crate) pids_limit: Option<u64>,
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// The container's first process.
    pub(crate) process: ProcessId,
    /// Its shim.
    pub(crate) shim: ProcessId,
    /// When the program was started.
    pub(crate) at: Timestamp,
}

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// The process id.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub(crate) start: u64,
}

impl ProcessId {
    /// The process that has the id `pid` now.
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        Ok(Self {
            pid: pid.as_raw(),
            start: start_time(pid)?,
        })
    }

    /// True if this very process still exists and is not a zombie.
    pub(crate) fn is_alive(&self) -> bool {
        stat(Pid::from_raw(self.pid)).is_ok_and(|stat| stat.start == self.start && !stat.zombie)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.pid)
    }
}

struct Stat {
    start: u64,
    zombie: bool,
}

fn start_time(pid: Pid) -> io::Result<u64> {
    Ok(stat(pid)?.start)
}

fn stat(pid: Pid) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything: fields are counted from its end. Field 3 is the state, 22 the start.
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .collect();
    let start = fields
        .get(19)
        .and_then(|field| field.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(Stat {
        start,
        zombie: matches!(fields.first(), Some(&"Z" | &"X")),
    })
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// The exit code; 128 + signal if a signal ended it.
    pub(crate) code: i32,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// The kernel killed it for want of memory.
    pub(crate) out_of_memory: bool,
    /// When it started; none if it never did.
    pub(crate) started_at: Option<Timestamp>,
    /// When it ended.
    pub(crate) finished_at: Timestamp,
}

/// What the shim reports on its output once the container runs or has failed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The program runs.
    Started(Started),
    /// It could not be started.
    Failed(String),
}

/// Names of the files in a container's directory.
pub(super) const SPEC: &str = "spec.json";
pub(super) const STARTED: &str = "started.json";
pub(super) const EXIT: &str = "exit.json";

/// Reads a JSON file; none if it does not exist.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_not_mistaken_for_another_of_the_same_number() {
        let mine = ProcessId::of(Pid::this()).expect("this process exists");
        assert!(mine.is_alive());
        assert!(
            !ProcessId {
                start: mine.start + 1,
                ..mine
            }
            .is_alive()
        );
        assert!(ProcessId::of(Pid::from_raw(i32::MAX)).is_err());
    }
}
