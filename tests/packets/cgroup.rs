//! A cgroup of the test's own, with the socket hooks attached and this process inside.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr};
use dataplane_ebpf::{Hook, PROGRAMS};

use crate::dataplane::Dataplane;

/// A process is in one cgroup at a time, so tests that use sockets take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Waits until no other test uses sockets.
pub(crate) fn take_turn() -> MutexGuard<'static, ()> {
    TURN.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A cgroup that this process is in, until dropped.
pub(crate) struct Cgroup {
    path: PathBuf,
    home: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Cgroup {
    /// Makes a cgroup and moves this process into it.
    pub(crate) fn enter() -> Result<Self> {
        let turn = take_turn();
        let mount = mount().context("this test needs a cgroup2 mount")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        let cgroup = Self {
            path: mount.join(format!("portolan-test-{}", std::process::id())),
            home: mount.join(own),
            _turn: turn,
        };
        fs::create_dir_all(&cgroup.path).context("this test needs to make a cgroup")?;
        move_to(&cgroup.path)?;
        Ok(cgroup)
    }

    /// Attaches every socket hook; they are detached when `dataplane` is dropped.
    pub(crate) fn attach(&self, dataplane: &mut Dataplane) -> Result<()> {
        for program in PROGRAMS {
            let directory = File::open(&self.path)?;
            let loaded = dataplane
                .ebpf
                .program_mut(program.name)
                .context("no such program")?;
            let mode = CgroupAttachMode::Single;
            match program.hook {
                Hook::SocketAddress => {
                    <&mut CgroupSockAddr>::try_from(loaded)?.attach(directory, mode)?;
                }
                Hook::Socket => {
                    <&mut CgroupSock>::try_from(loaded)?.attach(directory, mode)?;
                }
                Hook::Ingress | Hook::Egress | Hook::Pod | Hook::Xdp => {}
            }
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = move_to(&self.home).and_then(|()| remove(&self.path)) {
            eprintln!("cannot leave {}: {error:#}", self.path.display());
        }
    }
}

/// Removes the cgroup once the last program that a test started in it has ended.
fn remove(cgroup: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return Ok(result?),
        }
    }
}

fn move_to(cgroup: &Path) -> Result<()> {
    let path = cgroup.join("cgroup.procs");
    fs::write(&path, "0").with_context(|| format!("writing {}", path.display()))
}

fn mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let [_, path, kind] = *line.splitn(4, ' ').collect::<Vec<_>>().first_chunk()?;
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}
