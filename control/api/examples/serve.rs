//! The API server alone, without controllers or nodes: `cargo run -p control-api --example serve -- --data-dir /tmp/api`.

use anyhow::Context as _;
use clap::Parser;
use control_api::ServerArgs;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    anyhow::ensure!(installed.is_ok(), "another TLS provider is installed");
    let (ready, _is_ready) = oneshot::channel();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    control_api::run(Args::parse().server, ready, shutdown)
        .await
        .context("running the API server")
}
