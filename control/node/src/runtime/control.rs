//! The agent's side of a container: starting it, finding it again, signalling it and waiting for its end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, BufReader, Interest};
use tokio::process::Command;

use super::spec::{EXIT, Report, SPEC, STARTED, read_json};
use super::{ContainerSpec, ExecRequest, Exit, Limits, Started};
use crate::fs::{at, ignore_missing, write_at_once};
use crate::sys;
use crate::{EXEC_COMMAND, SHIM_COMMAND};

/// How long the kernel may take to let go of killed processes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a container does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// The machine refused something on the way.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The shim says that the program could not be started.
    #[error("{0}")]
    Start(String),
}

/// A container that was started.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    dir: PathBuf,
    spec: ContainerSpec,
    /// Its processes.
    pub(crate) started: Started,
}

/// What became of a container of an earlier agent.
#[derive(Debug)]
pub(crate) enum Found {
    /// There is none.
    Nothing,
    /// It was about to be started; nobody knows how that went.
    Unfinished,
    /// It runs.
    Running(Box<Container>),
    /// It has ended.
    Ended(Exit),
}

impl Container {
    /// Starts a container in the directory `dir`, which is made. Cancelling leaves at most a running container, which
    /// [`Container::find`] finds.
    pub(crate) async fn start(
        program: &Path,
        dir: &Path,
        spec: ContainerSpec,
        limits: Limits,
    ) -> Result<Self, RuntimeError> {
        let spec = prepare(dir.to_owned(), spec, limits).await?;
        let errors = dir.join("shim.log");
        let errors = fs::File::create(&errors).map_err(at(&errors))?;
        let mut shim = Command::new(program)
            .arg0("portolan")
            .arg(SHIM_COMMAND)
            .arg(dir)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(at(program))?;
        let output = shim
            .stdout
            .take()
            .ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await?;
        match serde_json::from_str(&line) {
            Ok(Report::Started(started)) => Ok(Self {
                dir: dir.to_owned(),
                spec,
                started,
            }),
            Ok(Report::Failed(message)) => Err(RuntimeError::Start(message)),
            Err(_) => {
                let said = fs::read_to_string(dir.join("shim.log")).unwrap_or_default();
                Err(RuntimeError::Start(format!(
                    "the shim ended without a word: {}",
                    said.trim()
                )))
            }
        }
    }

    /// Looks for a container in `dir`.
    pub(crate) fn find(dir: &Path) -> io::Result<Found> {
        let Some(spec) = read_json::<ContainerSpec>(&dir.join(SPEC))? else {
            return Ok(Found::Nothing);
        };
        if let Some(exit) = read_json(&dir.join(EXIT))? {
            return Ok(Found::Ended(exit));
        }
        let Some(started) = read_json::<Started>(&dir.join(STARTED))? else {
            return Ok(Found::Unfinished);
        };
        let found = Self {
            dir: dir.to_owned(),
            spec,
            started,
        };
        if found.started.shim.is_alive() {
            return Ok(Found::Running(Box::new(found)));
        }
        Ok(Found::Ended(found.ended_unseen()))
    }

    /// Waits for the container's end. Cancel safe.
    pub(crate) async fn wait(&self) -> Result<Exit, RuntimeError> {
        self.wait_for_shim().await?;
        if let Some(exit) = read_json(&self.dir.join(EXIT))? {
            return Ok(exit);
        }
        // Somebody killed the shim: nobody reads the container's output any more and nobody would see its end.
        let cgroups = self.spec.cgroups.clone();
        tokio::task::spawn_blocking(move || cgroups.destroy(PATIENCE))
            .await
            .map_err(io::Error::other)??;
        Ok(self.ended_unseen())
    }

    async fn wait_for_shim(&self) -> io::Result<()> {
        let shim = self.started.shim;
        let pidfd = match sys::pidfd_open(shim.pid()) {
            Ok(pidfd) if shim.is_alive() => pidfd,
            Ok(_) | Err(nix::errno::Errno::ESRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        sys::watch(pidfd, Interest::READABLE)?
            .readable()
            .await
            .map(drop)
    }

    fn ended_unseen(&self) -> Exit {
        Exit {
            code: 137,
            signal: None,
            out_of_memory: false,
            started_at: Some(self.started.at),
            finished_at: Timestamp::now(),
        }
    }

    /// Sends a signal to the container's first process; that it has ended is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let process = self.started.process;
        match sys::pidfd_open(process.pid()) {
            Ok(pidfd) if process.is_alive() => {
                use std::os::fd::AsFd;
                match sys::pidfd_signal(pidfd.as_fd(), signal) {
                    Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            Ok(_) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A command that runs a program in the container; its streams and its end are those of the program.
    pub(crate) fn exec(&self, program: &Path, request: &ExecRequest) -> Command {
        let mut command = Command::new(program);
        command.arg0("portolan").arg(EXEC_COMMAND).arg(&self.dir);
        command
            .arg(if request.terminal {
                "terminal"
            } else {
                "pipes"
            })
            .args(&request.arguments);
        command.env_clear().current_dir("/").kill_on_drop(true);
        command
    }

    /// Bytes of memory in use.
    pub(crate) fn memory_usage(&self) -> Option<u64> {
        self.spec.cgroups.memory_usage()
    }
}

/// Everything before the shim: directory, cgroups and specification.
async fn prepare(dir: PathBuf, spec: ContainerSpec, limits: Limits) -> io::Result<ContainerSpec> {
    let prepared = tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        spec.shim_cgroups.create()?;
        spec.cgroups.create()?;
        spec.cgroups.limit(&limits)?;
        write_at_once(&dir.join(SPEC), &serde_json::to_vec(&spec)?)?;
        Ok(spec)
    });
    prepared.await.map_err(io::Error::other)?
}

/// Removes what a container that has ended needs no more: its cgroups and its root. Blocks.
pub(crate) fn clean(dir: &Path) -> io::Result<()> {
    if let Some(spec) = read_json::<ContainerSpec>(&dir.join(SPEC))? {
        spec.cgroups.destroy(PATIENCE)?;
    }
    for part in ["upper", "work", "rootfs", "empty"] {
        ignore_missing(fs::remove_dir_all(dir.join(part)))?;
    }
    Ok(())
}
