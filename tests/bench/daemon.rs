//! A daemon of the node that is measured: the real program, with a pin directory of its own.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use harness::Namespace;
use nix::mount::{MntFlags, umount2};

use crate::api::Api;
use crate::kernel::Installed;
use crate::objects::{Cluster, NODE};
use crate::sandbox::Sandbox;

/// Long enough for any size on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running daemon; what it has installed goes with it when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    pub(crate) pins: PathBuf,
    pub(crate) api: Api,
}

/// What a daemon needs to know.
pub(crate) struct Setting<'a> {
    /// A name that no other of this run has.
    pub(crate) name: &'a str,
    /// The node's network.
    pub(crate) namespace: &'a Namespace,
    /// The node's address.
    pub(crate) address: Ipv4Addr,
    /// The node's pods.
    pub(crate) cgroup: &'a Path,
    pub(crate) cluster: &'a Cluster,
    /// Whether a program takes the place at the uplink's driver.
    pub(crate) at_driver: bool,
}

/// How a start went.
pub(crate) struct Start {
    pub(crate) maps: Installed,
    /// When everything was right.
    pub(crate) done: Instant,
    /// The processor time used at several moments on the way.
    used: Vec<(Instant, Duration)>,
}

/// Resident memory in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    pub(crate) all: f64,
    pub(crate) anonymous: f64,
    /// The most it ever was.
    pub(crate) peak: f64,
}

impl Daemon {
    /// Starts one that knows nothing yet.
    pub(crate) fn start(sandbox: &Sandbox, setting: &Setting<'_>) -> Result<Self> {
        let api = Api::start(setting.namespace, setting.cluster, setting.address)?;
        let files = sandbox.directory("daemons")?;
        let kubeconfig = files.join(format!("{}.kubeconfig", setting.name));
        fs::write(&kubeconfig, api.kubeconfig())?;
        let log = files.join(format!("{}.log", setting.name));
        let pins = sandbox.bpffs(&format!("{}.pins", setting.name))?;
        let output = File::create(&log)?;
        let program = harness::program("portolan-proxy");
        let mut command = Command::new(&program);
        command
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .arg("--cgroup-root")
            .arg(setting.cgroup)
            .arg("--bpf-root")
            .arg(&pins)
            .args(["--hostname-override", NODE, "--devices", "uplink"])
            .args(["--xdp", if setting.at_driver { "uplink" } else { "off" }])
            .env("RUST_LOG", "warn")
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = setting
            .namespace
            .run(|| command.spawn())
            .with_context(|| format!("running {}", program.display()))?;
        Ok(Self {
            child,
            log,
            pins,
            api,
        })
    }

    /// Waits until everything is installed as it should be.
    pub(crate) fn wait(&mut self, cluster: &Cluster) -> Result<Start> {
        let deadline = Instant::now() + PATIENCE;
        let mut maps = None;
        let mut used = Vec::new();
        loop {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(&self.log)?;
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                bail!(
                    "the daemon did not install {} Services: {last:?}",
                    cluster.services
                );
            }
            // The maps appear one by one, and larger ones take their place.
            let open = maps.take().filter(Installed::is_current);
            let open = open.or_else(|| Installed::open(&self.pins).ok());
            let done = Instant::now();
            // It may just have ended, which the next round tells better.
            used.extend(self.processor_time().ok().map(|time| (done, time)));
            match open {
                Some(open)
                    if open.served() >= cluster.services as usize
                        && open.is_right(cluster)
                        && open.is_current() =>
                {
                    return Ok(Start {
                        maps: open,
                        done,
                        used,
                    });
                }
                open => maps = open,
            }
            // Looking takes a processor that the daemon might use.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it takes of memory.
    pub(crate) fn resident(&self) -> Result<Resident> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            let value = value.and_then(|value| value.trim().strip_suffix(" kB"));
            value
                .and_then(|value| value.trim().parse().ok())
                .with_context(|| format!("the daemon's {name}"))
        };
        Ok(Resident {
            all: field("VmRSS:")?,
            anonymous: field("RssAnon:")?,
            peak: field("VmHWM:")?,
        })
    }

    /// The processor time it has used, on all its threads.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let time = text.split(' ').next().context("a thread's time")?;
            total += time.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }
}

impl Start {
    /// The processor time used after a moment.
    pub(crate) fn used_after(&self, moment: Instant) -> Duration {
        let before = self.used.iter().rfind(|(at, _)| *at <= moment);
        let all = self.used.last().map_or(Duration::ZERO, |(_, used)| *used);
        all.saturating_sub(before.map_or(Duration::ZERO, |(_, used)| *used))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        // With their last name, links and maps vanish.
        let unmounted = umount2(&self.pins, MntFlags::MNT_DETACH);
        if ended.is_err() || unmounted.is_err() {
            eprintln!("measure: ending a daemon: {ended:?}, {unmounted:?}");
        }
    }
}
