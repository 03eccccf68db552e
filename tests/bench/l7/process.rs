//! A program of the run: on a processor of its own, its output in a file, ended when dropped.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// How long a program may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a program runs. Contestants have a processor for themselves, so that nothing else is in their caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// What is measured.
    Contestant,
    /// Clients, backends, the control plane.
    Beside,
}

impl Place {
    /// The processor's number. With only one, everything shares it.
    pub(crate) fn processor(self) -> usize {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        match self {
            Self::Contestant => 0,
            Self::Beside => 1.min(count - 1),
        }
    }

    /// Moves this thread there.
    pub(crate) fn enter(self) -> Result<()> {
        let mut processors = CpuSet::new();
        processors.set(self.processor())?;
        Ok(sched_setaffinity(Pid::from_raw(0), &processors)?)
    }

    /// `program`, to be run there.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = Command::new("taskset");
        command
            .arg("--cpu-list")
            .arg(self.processor().to_string())
            .arg(program);
        command
    }
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, whose output goes to a file of this `name` in `directory`.
    pub(crate) fn start(mut command: Command, name: &str, directory: &Path) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let child = command
            .stdin(std::process::Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("running {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Waits until `is_ready` says so.
    pub(crate) fn wait(&mut self, mut is_ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_ready() {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                let log = fs::read(&self.log)?;
                let log = String::from_utf8_lossy(&log);
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("{} does not serve: {last:#?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The processor time it has used, with all its threads and children.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let mut total = 0;
        for pid in self.family()? {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let text = fs::read_to_string(task?.path().join("schedstat"))?;
                let time = text.split(' ').next().context("a thread's time")?;
                total += time.parse::<u64>()?;
            }
        }
        Ok(Duration::from_nanos(total))
    }

    /// Resident memory in bytes, with that of its children; what they share counts once for each.
    pub(crate) fn resident(&self) -> Result<f64> {
        let mut total = 0.0;
        for pid in self.family()? {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let value = value.and_then(|value| value.trim().strip_suffix(" kB"));
            let value = value.context("a process's memory")?;
            total += value.trim().parse::<f64>()? * 1024.0;
        }
        Ok(total)
    }

    /// Ends it as an operator does, and waits until it has done what it does at its end.
    pub(crate) fn end(mut self) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its process and the children of that.
    fn family(&self) -> Result<BTreeSet<u32>> {
        let mut family = BTreeSet::from([self.child.id()]);
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = fs::read_to_string(path)?;
        for child in children.split_whitespace() {
            family.insert(child.parse()?);
        }
        Ok(family)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = self.family().unwrap_or_default();
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("measure: ending {}: {error}", self.name);
        }
        for orphan in family {
            let pid = Pid::from_raw(orphan.cast_signed());
            // Its own process is gone, and others may be.
            nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).ok();
        }
    }
}
