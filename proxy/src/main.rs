//! portolan-proxy: keeps a node's eBPF service load balancer equal to the Kubernetes API.

mod run;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use proxy::cli::Cli;
use proxy::config::Config;
use proxy::inspect;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Some(command) => inspect::run(command),
        None => daemon(cli.config),
    }
}

// One thread is enough: the kernel does the work that has to be fast, and one thread keeps memory small.
#[tokio::main(flavor = "current_thread")]
async fn daemon(config: Config) -> ExitCode {
    let level = if config.v < 4 {
        "info"
    } else {
        "info,proxy=debug"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("a TLS provider is installed already");
    }
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone()));
    match run::run(config, shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn cancel_on_signal(shutdown: CancellationToken) {
    let streams = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut terminate), Ok(mut interrupt)) = streams else {
        tracing::warn!("signals cannot be awaited");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shutdown.cancel();
}
