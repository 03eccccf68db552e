//! portolan-ingress: routes HTTP by host and path, with TLS, from Ingress objects.
//!
//! Two halves meet at immutable snapshots. The control half watches the API ([`watch`]), keeps what it saw
//! ([`objects`]), computes routes ([`routes`]) and certificates ([`tls`]) and swaps them in ([`controller`]); it reports
//! what is wrong ([`events`]) and what is served ([`status`]). The data half is a set of threads that share nothing else
//! ([`worker`]): a thread accepts a connection ([`connection`]) and takes each request its way ([`request`]): checked
//! ([`strict`]), routed, told apart ([`forwarding`]), sent ([`forward`]) to an endpoint that suits it ([`upstream`],
//! [`balance`], [`endpoint`]) over a connection ([`exchange`], [`pool`], [`multiplex`]) and written down ([`record`]).
//!
//! Nothing listens before all objects have been seen once.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

pub mod access_log;
pub mod admin;
pub mod annotations;
pub mod answer;
pub mod backend_tls;
pub mod balance;
pub mod body;
pub mod certificate;
pub mod config;
pub mod connection;
pub mod controller;
pub mod cookie;
pub mod endpoint;
pub mod events;
pub mod exchange;
pub mod filters;
pub mod forward;
pub mod forwarding;
pub mod gateway;
mod health;
pub mod host;
mod latency;
pub mod listener;
pub mod metrics;
pub mod multiplex;
pub mod objects;
pub mod path;
pub mod pool;
pub mod problem;
pub mod protocol;
pub mod record;
pub mod request;
pub mod routes;
pub mod status;
pub mod strict;
pub mod tls;
pub mod trailers;
pub mod upgrade;
pub mod upstream;
pub mod upstreams;
pub mod variables;
pub mod watch;
pub mod worker;

use access_log::Sink;
use certificate::BadCertificate;
use config::IngressArgs;
use controller::{Controller, Report};
use gateway::Shared;
use routes::class::Classes;

/// Why the gateway cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error("cannot read how to reach the Kubernetes API")]
    Kubeconfig(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The client cannot be made.
    #[error("cannot make a client of the Kubernetes API")]
    Client(#[source] Box<kube::Error>),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The default certificate cannot be made.
    #[error("cannot make the default certificate")]
    Certificate(#[source] BadCertificate),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The certificates that backends' are verified by cannot be had.
    #[error("cannot trust the certificates in {file}")]
    BackendRoots {
        /// The file.
        file: PathBuf,
        /// Why.
        source: backend_tls::BadRoots,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// A serving thread has ended before its time.
    #[error("a serving thread died")]
    WorkerDied,
}

/// Runs the gateway until `shutdown`, then finishes the requests under way.
pub async fn run(args: IngressArgs, shutdown: CancellationToken) -> Result<(), Error> {
    let client = client(&args).await?;
    let shared = Shared::new(args.gateway.clone())?;
    let admin = admin::bind(args.gateway.admin_bind).await?;
    // The control half goes on while requests are being finished: their endpoints may still change.
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    tokio::spawn(admin::run(shared.clone(), admin, ended.clone()));
    let (sender, mut reports) = channel::channel(None);
    let classes = Classes::new(args.controller_class.clone(), args.ingress_class.clone());
    let controller = Controller::new(shared.clone(), classes);
    tokio::spawn(watch::run(
        client.clone(),
        controller,
        sender,
        ended.clone(),
    ));
    tokio::select! {
        () = first_report(&mut reports) => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    tokio::spawn(events::run(client.clone(), reports.clone(), ended.clone()));
    let status = status_task(&client, &args, &reports, &ended);
    serve(&args, &shared, &shutdown).await?;
    ended.cancel();
    if let Some(status) = status {
        // It has been told to end, and its failure is no reason not to.
        drop(status.await);
    }
    if args.clear_status_on_shutdown {
        let report = reports.borrow().clone().unwrap_or_default();
        status::clear(&client, &report, &args.publish_status_address).await;
    }
    Ok(())
}

async fn client(args: &IngressArgs) -> Result<Client, Error> {
    let config = match &args.kubeconfig {
        Some(file) => {
            let kubeconfig =
                Kubeconfig::read_from(file).map_err(|error| Error::Kubeconfig(error.into()))?;
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
            config.map_err(|error| Error::Kubeconfig(error.into()))?
        }
        None => kube::Config::infer()
            .await
            .map_err(|error| Error::Kubeconfig(error.into()))?,
    };
    Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))
}

/// Waits until every object has been seen. Should the watch die, its channel closes, and nothing is ever served.
async fn first_report(reports: &mut channel::Receiver<Option<Arc<Report>>>) {
    if reports.wait_for(Option::is_some).await.is_err() {
        std::future::pending().await
    }
}

/// Starts writing statuses if there is anything to write.
fn status_task(
    client: &Client,
    args: &IngressArgs,
    reports: &channel::Receiver<Option<Arc<Report>>>,
    ended: &CancellationToken,
) -> Option<tokio::task::JoinHandle<()>> {
    let wanted = args.publish_status_address.clone();
    let run = || status::run(client.clone(), wanted, reports.clone(), ended.clone());
    (!args.publish_status_address.is_empty()).then(|| tokio::spawn(run()))
}

/// Serves until `shutdown` and through the drain.
async fn serve(
    args: &IngressArgs,
    shared: &Arc<Shared>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let (sink, log) = match args.gateway.no_access_log {
        true => (Sink::off(), None),
        false => {
            let (sink, thread) = access_log::start(io::stdout()).map_err(Error::Thread)?;
            (sink, Some(thread))
        }
    };
    let serving = shared.serve(&sink, shutdown)?;
    drop(sink);
    tracing::info!(http = ?serving.http(), https = ?serving.https(), "serving");
    tokio::select! {
        finished = serving.finished() => finished?,
        never = announce_end(shared, shutdown) => match never {},
    }
    if let Some(log) = log {
        // All senders are gone, so it ends as soon as the last block is written.
        drop(tokio::task::spawn_blocking(|| log.join()).await);
    }
    Ok(())
}

/// Says so when the end begins. Never returns: the end is when all threads have finished.
async fn announce_end(shared: &Shared, shutdown: &CancellationToken) -> Infallible {
    shutdown.cancelled().await;
    shared.drain();
    tracing::info!("draining");
    std::future::pending().await
}
