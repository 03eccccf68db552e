//! The shim: the parent of one container's first process, which outlives the agent.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, pipe2, setsid};

use super::log::{Lines, LogWriter, Stream};
use super::spec::{EXIT, ProcessId, Report, SPEC, STARTED, read_json};
use super::{ContainerSpec, Exit, Started, init};
use crate::fs::{write_at_once, write_durably};
use crate::sys::{self, Standard};

/// How long output is still read after the container has ended; it is there already, so this is for odd cases.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs the container in `dir` to its end.
pub(crate) fn main(dir: &Path) -> ExitCode {
    let outcome = start(dir).map(|running| (write_started(dir, &running.started), running));
    let report = match &outcome {
        Ok((Ok(()), running)) => Report::Started(running.started.clone()),
        Ok((Err(error), _)) => Report::Failed(error.to_string()),
        Err(error) => Report::Failed(error.clone()),
    };
    let reported = tell(&report);
    match outcome {
        Ok((_, running)) => match supervise(dir, running).and(reported) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("the shim of {}", dir.display()), &error);
                ExitCode::FAILURE
            }
        },
        Err(_) => ExitCode::FAILURE,
    }
}

/// A container that runs, as its shim holds it.
struct Running {
    spec: ContainerSpec,
    pid: Pid,
    started: Started,
    memory_kills: u64,
    outputs: Vec<Output>,
    /// Held open for a container whose input never ends.
    _stdin: Option<OwnedFd>,
}

/// One end that the container's output comes out of.
struct Output {
    from: File,
    lines: Lines,
}

/// The ends of the container's standard streams: the child's, and the shim's.
struct Streams {
    child: [OwnedFd; 3],
    stdin: Option<OwnedFd>,
    outputs: Vec<Output>,
}

impl Streams {
    fn open(spec: &ContainerSpec) -> io::Result<Self> {
        let output = |from: OwnedFd, stream| Output {
            from: from.into(),
            lines: Lines::new(stream),
        };
        if spec.process.terminal {
            let pty = nix::pty::openpty(None, None)?;
            let child = [pty.slave.try_clone()?, pty.slave.try_clone()?, pty.slave];
            return Ok(Self {
                child,
                stdin: None,
                outputs: vec![output(pty.master, Stream::Out)],
            });
        }
        let (out, out_end) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (err, err_end) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (input, stdin) = if spec.process.stdin {
            let (input, end) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
            (input, Some(end))
        } else {
            (sys::dev_null()?, None)
        };
        let outputs = vec![output(out, Stream::Out), output(err, Stream::Err)];
        Ok(Self {
            child: [input, out_end, err_end],
            stdin,
            outputs,
        })
    }
}

fn start(dir: &Path) -> Result<Running, String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let alone = sys::SingleThread::check().map_err(failed("counting threads"))?;
    let spec: ContainerSpec = read_json(&dir.join(SPEC))
        .and_then(|spec| spec.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(failed("reading the container's specification"))?;
    // A session of its own: no signal meant for the agent's terminal arrives.
    setsid().map_err(|error| failed("starting a session")(error.into()))?;
    spec.shim_cgroups
        .join()
        .map_err(failed("joining the pod's cgroup"))?;
    if !spec.namespaces.host_pid {
        unshare(CloneFlags::CLONE_NEWPID)
            .map_err(|error| failed("making a process namespace")(error.into()))?;
    }
    let memory_kills = spec.cgroups.memory_kills();
    let streams = Streams::open(&spec).map_err(failed("making pipes"))?;
    let (failure, failure_end) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|error| failed("making a pipe")(error.into()))?;
    match alone
        .fork()
        .map_err(|error| failed("forking")(error.into()))?
    {
        ForkResult::Child => {
            drop(failure);
            run_child(dir, &spec, streams, failure_end)
        }
        ForkResult::Parent { child } => {
            drop(failure_end);
            drop(streams.child);
            wait_for_exec(failure, child)?;
            let processes =
                ProcessId::of(child).and_then(|process| Ok((process, ProcessId::of(Pid::this())?)));
            let (process, shim) = processes.map_err(failed("looking up the process"))?;
            let started = Started {
                process,
                shim,
                at: Timestamp::now(),
            };
            let (outputs, stdin) = (streams.outputs, streams.stdin);
            Ok(Running {
                spec,
                pid: child,
                started,
                memory_kills,
                outputs,
                _stdin: stdin,
            })
        }
    }
}

/// The child's side of the fork: becomes the program or says why not and ends.
fn run_child(dir: &Path, spec: &ContainerSpec, streams: Streams, failure: OwnedFd) -> ! {
    let error = match redirect(spec, streams) {
        Ok(()) => init::run(dir, spec),
        Err(error) => format!("redirecting streams: {error}"),
    };
    // If even this fails, the parent still sees the process end.
    File::from(failure).write_all(error.as_bytes()).ok();
    sys::exit_now(127)
}

fn redirect(spec: &ContainerSpec, streams: Streams) -> nix::Result<()> {
    let [input, output, error] = &streams.child;
    setsid()?;
    if spec.process.terminal {
        sys::set_controlling_terminal(input.as_fd())?;
    }
    sys::redirect(input.as_fd(), Standard::Input)?;
    sys::redirect(output.as_fd(), Standard::Output)?;
    sys::redirect(error.as_fd(), Standard::Error)
}

/// Waits until the child has become the program, which closes its end of the pipe.
fn wait_for_exec(failure: OwnedFd, child: Pid) -> Result<(), String> {
    let mut message = String::new();
    File::from(failure)
        .read_to_string(&mut message)
        .map_err(|error| error.to_string())?;
    if message.is_empty() {
        return Ok(());
    }
    // It is ending: do not leave a zombie to whoever inherits us.
    waitpid(child, None).map_err(|error| format!("{message}; waiting: {error}"))?;
    Err(message)
}

fn write_started(dir: &Path, started: &Started) -> io::Result<()> {
    write_at_once(&dir.join(STARTED), &serde_json::to_vec(started)?)
}

/// Tells the agent, then lets go of the pipe to it.
fn tell(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    // The agent may have died meanwhile; the container runs all the same.
    io::stdout()
        .write_all(&line)
        .and_then(|()| io::stdout().flush())
        .ok();
    Ok(sys::redirect(sys::dev_null()?.as_fd(), Standard::Output)?)
}

fn supervise(dir: &Path, mut running: Running) -> io::Result<()> {
    let mut log = LogWriter::open(&running.spec.log)?;
    let pidfd = sys::pidfd_open(running.pid)?;
    while !pump(
        &mut running.outputs,
        Some(&pidfd),
        PollTimeout::NONE,
        &mut log,
    )? {}
    let status = waitpid(running.pid, Some(WaitPidFlag::empty()))?;
    let finished_at = Timestamp::now();
    // With a process namespace of its own, nothing of the container is left; else its group says what is.
    for pid in running.spec.cgroups.processes() {
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
    let deadline = Instant::now() + LAST_WORDS;
    while !running.outputs.is_empty() && Instant::now() < deadline {
        pump(
            &mut running.outputs,
            None,
            PollTimeout::from(100u8),
            &mut log,
        )?;
    }
    for output in &mut running.outputs {
        if let Err(error) = output.lines.finish(finished_at, &mut log) {
            complain("writing the log", &error);
        }
    }
    write_durably(
        &dir.join(EXIT),
        &serde_json::to_vec(&exit(&running, status, finished_at))?,
    )
}

fn exit(running: &Running, status: WaitStatus, finished_at: Timestamp) -> Exit {
    let (code, signal) = match status {
        WaitStatus::Exited(_, code) => (code, None),
        WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
        // Neither stopped nor continued processes are waited for.
        _ => (255, None),
    };
    let out_of_memory = code == 137 && running.spec.cgroups.memory_kills() > running.memory_kills;
    Exit {
        code,
        signal,
        out_of_memory,
        started_at: Some(running.started.at),
        finished_at,
    }
}

/// Waits for output and logs it; true once the process behind `pidfd` has ended.
fn pump(
    outputs: &mut Vec<Output>,
    pidfd: Option<&OwnedFd>,
    timeout: PollTimeout,
    log: &mut LogWriter,
) -> io::Result<bool> {
    let mut fds: Vec<PollFd<'_>> = outputs
        .iter()
        .map(|output| PollFd::new(output.from.as_fd(), PollFlags::POLLIN))
        .collect();
    fds.extend(pidfd.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
    let ended = pidfd.is_some() && ready.pop() == Some(true);
    let mut index = 0;
    outputs.retain_mut(|output| {
        index += 1;
        !ready[index - 1] || copy(output, log)
    });
    Ok(ended)
}

/// Says what went wrong where an administrator may look for it; a full disk is no reason to end.
fn complain(what: &str, error: &io::Error) {
    writeln!(io::stderr(), "{what}: {error}").ok();
}

/// Logs what can be read at once; false at the end. What cannot be logged is lost, and the container goes on.
fn copy(output: &mut Output, log: &mut LogWriter) -> bool {
    let mut buffer = [0; 32 << 10];
    let count = match output.from.read(&mut buffer) {
        Ok(count) => count,
        // A terminal whose last user is gone.
        Err(error) if error.raw_os_error() == Some(libc::EIO) => 0,
        Err(error) => {
            complain("reading output", &error);
            0
        }
    };
    let now = Timestamp::now();
    let logged = match count {
        0 => output.lines.finish(now, log),
        count => output.lines.push(&buffer[..count], now, log),
    };
    if let Err(error) = logged {
        complain("writing the log", &error);
    }
    count > 0
}
