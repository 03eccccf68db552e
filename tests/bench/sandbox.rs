//! Where the dataplane is measured: a mount and a process namespace, so that file systems and processes vanish with
//! the measuring process, and a cgroup and an empty directory, which a supervisor removes.
//!
//! The supervisor also keeps the time: what takes longer than it may is killed. What a killed supervisor leaves, the next
//! one removes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::alarm;

/// Tells the process inside which cgroup is its own.
const CGROUP: &str = "PORTOLAN_MEASURE_CGROUP";
/// Tells it where its files are to be.
const FILES: &str = "PORTOLAN_MEASURE_FILES";
/// Cgroup and directory are called this and the supervisor's process id.
const PREFIX: &str = "portolan-measure-";

/// The inside, which ends with the process.
#[derive(Debug)]
pub(crate) struct Sandbox {
    cgroup: PathBuf,
    files: PathBuf,
}

/// Runs this program again inside, for at most `limit`, and cleans up after it.
pub(crate) fn supervise(limit: Duration) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "this needs root, for network namespaces, cgroups and eBPF"
    );
    let parents = [cgroup2()?, std::env::temp_dir()];
    let name = format!("{PREFIX}{}", std::process::id());
    for parent in &parents {
        remove_left_over(parent)?;
    }
    let [cgroup, files] = parents.map(|parent| parent.join(&name));
    for path in [&cgroup, &files] {
        fs::create_dir(path).with_context(|| format!("creating {}", path.display()))?;
    }
    let result = run_inside(&cgroup, &files, limit);
    remove_empty(&cgroup)?;
    remove_empty(&files)?;
    result
}

/// Runs this program with another command and returns how it ended.
pub(crate) fn run_again(command: &str, json: Option<&Path>) -> Result<ExitCode> {
    let mut again = Command::new(std::env::current_exe()?);
    again.arg(command);
    if let Some(path) = json {
        again.arg("--json").arg(path);
    }
    let status = again.status().context("running this program again")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_inside(cgroup: &Path, files: &Path, limit: Duration) -> Result<ExitCode> {
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGALRM,
        Signal::SIGCHLD,
    ] {
        signals.add(signal);
    }
    signals.thread_block()?;
    // The next child is the first process of its namespace: when it ends, the kernel kills the others there.
    unshare(CloneFlags::CLONE_NEWPID).context("making namespaces (CAP_SYS_ADMIN)")?;
    let mut child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env(CGROUP, cgroup)
        .env(FILES, files)
        .spawn()
        .context("running this program again")?;
    alarm::set(u32::try_from(limit.as_secs())?);
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(status) = child.try_wait()? {
                    return Ok(if status.success() {
                        ExitCode::SUCCESS
                    } else {
                        ExitCode::FAILURE
                    });
                }
            }
            Signal::SIGALRM => {
                end(&mut child)?;
                bail!("not finished after {} s", limit.as_secs());
            }
            signal => {
                end(&mut child)?;
                bail!("ended by {signal}");
            }
        }
    }
}

fn end(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

impl Sandbox {
    /// The sandbox that this process is in, if it is the one inside.
    pub(crate) fn inside() -> Result<Option<Self>> {
        let (Some(cgroup), Some(files)) = (std::env::var_os(CGROUP), std::env::var_os(FILES))
        else {
            return Ok(None);
        };
        let (cgroup, files) = (PathBuf::from(cgroup), PathBuf::from(files));
        set_pdeathsig(Signal::SIGKILL)?;
        // The supervisor waits for signals, which it has blocked for that; what is started here is to be ended by this one.
        let mut ending = SigSet::empty();
        ending.add(Signal::SIGTERM);
        ending.thread_unblock()?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        for (kind, place) in [("proc", Path::new("/proc")), ("tmpfs", &files)] {
            let none = MsFlags::empty();
            mount(Some(kind), place, Some(kind), none, None::<&str>)
                .with_context(|| format!("mounting {kind} on {}", place.display()))?;
        }
        Ok(Some(Self { cgroup, files }))
    }

    /// A directory for files of one part of the run.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.files.join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    /// A BPF file system to pin something in.
    pub(crate) fn bpffs(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory(name)?;
        mount(
            Some("bpf"),
            &path,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mounting a BPF file system on {}", path.display()))?;
        Ok(path)
    }

    /// A cgroup for one contestant's pods.
    pub(crate) fn cgroup(&self, name: &str) -> Result<PathBuf> {
        let path = self.cgroup.join(name);
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    /// Moves this process, all its threads, into a cgroup: a socket belongs to the one it was made in.
    pub(crate) fn enter(&self, cgroup: &Path) -> Result<()> {
        let path = cgroup.join("cgroup.procs");
        fs::write(&path, "0").with_context(|| format!("writing {}", path.display()))
    }
}

/// The cgroup2 directory that this process is in.
fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts
        .lines()
        .filter_map(|line| {
            line.split(' ')
                .collect::<Vec<_>>()
                .first_chunk::<3>()
                .copied()
        })
        .find(|[_, _, kind]| *kind == "cgroup2")
        .context("no cgroup2 file system is mounted")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(Path::new(mount[1]).join(own.unwrap_or_default()))
}

/// Removes the directories of supervisors that were killed: what was in them died with them.
fn remove_left_over(parent: &Path) -> Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            remove_empty(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a directory with those below it; a cgroup once the last process in it has ended.
fn remove_empty(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result.with_context(|| format!("removing {}", path.display())),
        }
    }
}
