//! Keeps the daemons of a local cluster running, as systemd would on a real machine.
//!
//! A daemon that ends is started again, soon at first and less often if it keeps ending. Pods and the dataplane
//! depend on none of this: they outlive every daemon and the supervisor.

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::daemons::{self, Daemon, Programs};
use super::layout::Layout;
use super::process::{Process, forget};

/// The name of the supervisor's own pid file and log.
pub(crate) const NAME: &str = "supervisor";
/// How long a daemon may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before the first restart; doubled at each further one, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A daemon that ran this long starts again without delay.
const STABLE: Duration = Duration::from_secs(10);
/// A log is begun anew when it has grown past this at a daemon's start.
const LOG_LIMIT: u64 = 16 << 20;

/// What the hidden command `supervise` takes.
#[derive(clap::Args, Debug)]
pub(crate) struct SuperviseArgs {
    /// The cluster's state directory.
    #[arg(long)]
    state_dir: PathBuf,
    /// End the cluster and remove it when this process ends.
    #[arg(long)]
    owner_pid: Option<i32>,
}

/// Runs until SIGTERM, or until the owner ends; then ends the daemons in reverse order.
pub(crate) async fn run(args: SuperviseArgs) -> Result<()> {
    // The error (already a session leader) leaves us where we want to be.
    if let Err(error) = nix::unistd::setsid() {
        tracing::debug!(%error, "keeping the session");
    }
    let layout = load(&args)?;
    myself()?.remember(&layout.pid_file(NAME))?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for (position, daemon) in daemons::of(&layout, &Programs::beside_this_one()?)?
        .into_iter()
        .enumerate()
    {
        tasks.spawn(keep_running(layout.clone(), daemon, shutdown.clone()));
        if position == 0 {
            api_listens(&layout).await;
        }
    }
    let abandoned = tokio::select! {
        _ = terminate.recv() => false,
        () = owner_ends(args.owner_pid) => true,
    };
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    forget(&layout.pid_file(NAME))?;
    if abandoned {
        super::down::remove_everything(&layout).await?;
    }
    Ok(())
}

/// Returns when the API server, which is the first daemon, takes connections: its clients would otherwise begin with a
/// refused one and a pause. They can wait by themselves, so this gives up after a while.
async fn api_listens(layout: &Layout) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && TcpStream::connect(layout.api_address()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn load(args: &SuperviseArgs) -> Result<Layout> {
    let path = Layout::file(&args.state_dir);
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))
}

fn myself() -> Result<Process> {
    Process::of_pid(std::process::id().cast_signed()).context("reading /proc/self/stat")
}

/// Returns when the owner has ended; never, if there is none.
async fn owner_ends(pid: Option<i32>) {
    let Some(owner) = pid.map(Process::of_pid) else {
        return std::future::pending().await;
    };
    while owner.is_some_and(Process::runs) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn keep_running(layout: Layout, daemon: Daemon, shutdown: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        match run_once(&layout, &daemon, &shutdown).await {
            Ok(()) if shutdown.is_cancelled() => return,
            Ok(()) => {}
            Err(error) => tracing::error!(daemon = daemon.name, "{error:#}"),
        }
        pause = if started.elapsed() >= STABLE {
            FIRST_PAUSE
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Starts the daemon and waits for its end or for shutdown, which ends it.
async fn run_once(layout: &Layout, daemon: &Daemon, shutdown: &CancellationToken) -> Result<()> {
    let pid_file = layout.pid_file(&daemon.name);
    // A supervisor that was killed leaves its daemons behind; two of a kind would fight over ports and pins.
    if let Some(left_over) = Process::recall(&pid_file) {
        tokio::task::spawn_blocking(move || left_over.end(PATIENCE)).await?;
    }
    let mut child = start(layout, daemon)?;
    let process = child
        .id()
        .and_then(|pid| Process::of_pid(pid.cast_signed()));
    if let Some(process) = process {
        process.remember(&pid_file)?;
    }
    let status = tokio::select! {
        status = child.wait() => status?,
        () = shutdown.cancelled() => return end(child, process, &pid_file).await,
    };
    tracing::warn!(daemon = daemon.name, %status, "ended, starting it again");
    Ok(())
}

async fn end(mut child: Child, process: Option<Process>, pid_file: &std::path::Path) -> Result<()> {
    if let Some(process) = process {
        process.signal(nix::sys::signal::Signal::SIGTERM);
    }
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        child.kill().await?;
    }
    forget(pid_file)
}

fn start(layout: &Layout, daemon: &Daemon) -> Result<Child> {
    let log = open_log(&layout.log(&daemon.name))?;
    let (program, arguments) = daemon
        .command
        .split_first()
        .context("a daemon has a program")?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {program}"))
}

/// Opens a daemon's log for appending.
pub(crate) fn open_log(path: &std::path::Path) -> Result<File> {
    let too_long = fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_LIMIT);
    let mut options = OpenOptions::new();
    options.create(true).write(true).append(true);
    let log = options
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    if too_long {
        log.set_len(0)?;
    }
    Ok(log)
}
