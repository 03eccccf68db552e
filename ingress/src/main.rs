//! Starts the gateway and tells it when to stop.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use clap::Parser;
use ingress::config::IngressArgs;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Portolan's ingress gateway: serves HTTP and HTTPS by the Ingress objects of a Kubernetes cluster.
///
/// Needs to list and watch ingresses, ingressclasses, services, endpointslices and secrets (of type kubernetes.io/tls),
/// to patch ingresses/status, and to create, get and patch events. The access log goes to standard output as JSON,
/// everything else to standard error; RUST_LOG says how much of that.
#[derive(Parser)]
#[command(name = "portolan-ingress", version)]
struct Cli {
    #[command(flatten)]
    args: IngressArgs,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
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
        .block_on(run(cli.args))
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
