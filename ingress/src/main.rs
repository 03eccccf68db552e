//! Starts the gateway and tells it when to stop.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use ingress::config::IngressArgs;
use ingress::inspect::socket::Question;
use ingress::lint::command::{self, LintArgs};
use mimalloc::MiMalloc;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Connections take buffers while they are busy and give them up together, with what stays of them in between. This
/// allocator keeps sizes apart, so that what was given up goes back to the kernel.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Portolan's ingress gateway: serves HTTP and HTTPS by the Ingress objects of a Kubernetes cluster.
///
/// Needs to list and watch ingresses, ingressclasses, services and endpointslices, and by name the secrets and configmaps
/// that Ingresses and --configmap name; to patch ingresses/status; to create, get and patch events; and to get, create and update its
/// lease. The access log goes to standard output as JSON,
/// everything else to standard error; RUST_LOG says how much of that.
#[derive(Parser)]
#[command(
    name = "portolan-ingress",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    args: IngressArgs,
}

/// What else the program does.
#[derive(Subcommand)]
enum Command {
    Lint(LintArgs),
    #[command(flatten)]
    Question(Question),
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    match &cli.command {
        Some(Command::Lint(args)) => lint(args),
        Some(Command::Question(question)) => ask(question).map(|()| ExitCode::SUCCESS),
        None => serve(cli.args).map(|()| ExitCode::SUCCESS),
    }
}

fn serve(args: IngressArgs) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    // Fails only if there is a provider already, and then that is the one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .context("cannot start the runtime")?
        .block_on(run(args))
}

/// Prints what becomes of Ingresses. The program fails if not all of it is done.
fn lint(args: &LintArgs) -> Result<ExitCode> {
    // For a cluster that is reached by TLS; as above.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let is_good = runtime.block_on(command::run(args, io::stdout().lock()))?;
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Asks a gateway that runs and prints what it answers.
fn ask(question: &Question) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let answer = runtime.block_on(question.ask())?;
    let written = io::stdout().write_all(answer.as_bytes());
    written.context("cannot write the answer")
}

async fn run(args: IngressArgs) -> Result<()> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    ingress::run(args, shutdown)
        .await
        .context("portolan-ingress stopped")
}
