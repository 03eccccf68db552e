//! Runs a program in a container that runs already: for `exec` and for exec probes.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, setsid};

use super::spec::{SPEC, STARTED, read_json};
use super::{ContainerSpec, Process, Started, init};
use crate::sys;

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct ExecRequest {
    /// The program and its arguments.
    pub(crate) arguments: Vec<String>,
    /// True if the standard streams are a terminal.
    pub(crate) terminal: bool,
}

/// The exit code for a program that could not be started.
const CANNOT_START: u8 = 126;

/// Enters the container in `dir`, runs the program and ends with its exit code.
pub(crate) fn main(dir: &Path, request: ExecRequest) -> ExitCode {
    match run(dir, request) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            CANNOT_START.into()
        }
    }
}

fn run(dir: &Path, request: ExecRequest) -> io::Result<ExitCode> {
    // Asked before /proc is the container's.
    let alone = sys::SingleThread::check()?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the container is not running");
    let spec: ContainerSpec = read_json(&dir.join(SPEC))?.ok_or_else(missing)?;
    let started: Started = read_json(&dir.join(STARTED))?.ok_or_else(missing)?;
    let pidfd = sys::pidfd_open(started.process.pid())?;
    // Checked once the descriptor holds the process: its number cannot be given away any more.
    if !started.process.is_alive() {
        return Err(missing());
    }
    spec.cgroups.join()?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    setns(pidfd.as_fd(), namespaces)?;
    let process = Process {
        arguments: request.arguments,
        terminal: request.terminal,
        ..spec.process
    };
    match alone.fork()? {
        ForkResult::Child => run_child(&process),
        ForkResult::Parent { child } => Ok(exit_code(waitpid(child, None)?)),
    }
}

fn run_child(process: &Process) -> ! {
    let error = match attach(process) {
        Ok(()) => init::become_program(process, true),
        Err(error) => format!("preparing the session: {error}"),
    };
    eprintln!("{error}");
    sys::exit_now(if error.contains("not found in $PATH") {
        127
    } else {
        i32::from(CANNOT_START)
    })
}

fn attach(process: &Process) -> nix::Result<()> {
    // Whoever asked is gone when our parent is: then nobody waits for the program. Becoming another user undoes this,
    // so it is done again after that.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    setsid()?;
    if process.terminal {
        sys::set_controlling_terminal(io::stdin().as_fd())?;
    }
    Ok(())
}

fn exit_code(status: WaitStatus) -> ExitCode {
    match status {
        // Exit codes have eight bits.
        WaitStatus::Exited(_, code) => u8::try_from(code).unwrap_or(u8::MAX).into(),
        WaitStatus::Signaled(_, signal, _) => {
            u8::try_from(128 + signal as i32).unwrap_or(u8::MAX).into()
        }
        _ => u8::MAX.into(),
    }
}
