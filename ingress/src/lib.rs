//! portolan-ingress: routes HTTP by host and path, with TLS, from Ingress objects.
//!
//! Settings come from the command line ([`config`]) and from a ConfigMap ([`configmap`]), which is followed.
//!
//! Two halves meet at immutable snapshots. The control half ([`api`]) watches the API, computes routes ([`routes`]) and
//! certificates ([`tls`]) and swaps them in; it reports what is wrong and what is served, and judges objects before
//! they are kept ([`admission`]). The data half ([`server`]) is a set of threads that share nothing else: a thread accepts
//! a connection ([`connection`]) and takes each request its way ([`request`]): checked, routed, filtered ([`filters`]),
//! sent ([`forward`]) to an endpoint that suits it ([`upstream`]) and written down ([`observe`], [`trace`]).
//!
//! Nothing listens before all objects have been seen once.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::watch as channel;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub mod admission;
pub mod annotations;
pub mod api;
pub mod config;
pub mod configmap;
pub mod connection;
pub mod filters;
pub mod forward;
pub mod inspect;
pub mod lint;
pub mod message;
pub mod observe;
pub mod problem;
pub mod request;
pub mod routes;
pub mod server;
pub mod tls;
pub mod trace;
pub mod upstream;

use api::controller::{Controller, Report};
use api::leader::Candidate;
use api::names::Resolver;
use api::{events, leader, published, status, watch};
use config::IngressArgs;
use observe::access_log;
use observe::admin;
use observe::metrics::{Identity, Metrics};
use routes::class::Classes;
use server::gateway::{Serving, Shared};
use server::handover;
use server::worker::Outlets;
use tls::certificate::BadCertificate;
use upstream::external::ExternalNameArgs;

/// How long the end waits for the collector to take the last spans.
const LAST_SPANS: Duration = Duration::from_secs(5);

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
        source: tls::backend::BadRoots,
    },
    /// Name servers cannot be asked.
    #[error("cannot look up names outside the cluster")]
    Resolver(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Spans cannot be sent.
    #[error("cannot send spans")]
    Collector(#[source] trace::BadCollector),
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The sockets of a predecessor cannot be taken over, or not be offered to a successor.
    #[error("cannot hand over listening sockets")]
    HandOver(#[source] io::Error),
    /// A serving thread has ended before its time.
    #[error("a serving thread died")]
    WorkerDied,
}

/// Runs the gateway until `shutdown`, then finishes the requests under way.
pub async fn run(args: IngressArgs, shutdown: CancellationToken) -> Result<(), Error> {
    let config = kube_config(args.kubeconfig.as_deref()).await?;
    let api_addresses = api_addresses(&config).await;
    let client = client(config)?;
    let resolver = resolver(&args.gateway.external_name)?;
    let shared = Shared::counted(
        args.gateway.clone(),
        Metrics::of(identity(&args), &args.gateway.metrics),
    )?;
    let admin = admin::bind(args.gateway.admin_bind).await?;
    // The control half goes on while requests are being finished: their endpoints may still change.
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    tokio::spawn(admin::run(shared.clone(), admin, ended.clone()));
    let socket = args.gateway.admin_socket.clone();
    tokio::spawn(inspect::socket::run(shared.clone(), socket, ended.clone()));
    let (sender, mut reports) = channel::channel(None);
    let classes = Classes::new(args.controller_class.clone(), args.ingress_class.clone());
    let classes = classes.within(args.watch.scope());
    let settings = args.configmap.clone();
    let controller = Controller::new(shared.clone(), classes, settings, api_addresses);
    tokio::spawn(watch::run(
        client.clone(),
        args.clone(),
        resolver,
        controller,
        sender,
        ended.clone(),
    ));
    tokio::select! {
        () = first_report(&mut reports) => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    tokio::spawn(events::run(client.clone(), reports.clone(), ended.clone()));
    tokio::spawn(admission::run(
        args.admission.clone(),
        shared.clone(),
        reports.clone(),
        ended.clone(),
    ));
    let statuses = Statuses::begin(&client, &args, &reports, &shared.metrics, &ended);
    serve(&args, &shared, &shutdown).await?;
    ended.cancel();
    if let Some(statuses) = statuses {
        let report = reports.borrow().clone().unwrap_or_default();
        statuses.end(&client, &args, &report).await;
    }
    Ok(())
}

fn identity(args: &IngressArgs) -> Identity {
    Identity {
        class: args.controller_class.clone(),
        namespace: args.election_namespace.clone().unwrap_or_default(),
        pod: args.pod_name.clone(),
    }
}

/// How to reach the API.
async fn kube_config(kubeconfig: Option<&Path>) -> Result<kube::Config, Error> {
    match kubeconfig {
        Some(file) => {
            let kubeconfig =
                Kubeconfig::read_from(file).map_err(|error| Error::Kubeconfig(error.into()))?;
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
            config.map_err(|error| Error::Kubeconfig(error.into()))
        }
        None => kube::Config::infer()
            .await
            .map_err(|error| Error::Kubeconfig(error.into())),
    }
}

fn client(config: kube::Config) -> Result<Client, Error> {
    Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))
}

/// Where the API server is. If its name cannot be looked up, the cluster still says where it is inside.
async fn api_addresses(config: &kube::Config) -> Vec<IpAddr> {
    let host = config.cluster_url.host().unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    let found = tokio::net::lookup_host((host, 0)).await;
    let found = found.into_iter().flatten();
    found.map(|address| address.ip().to_canonical()).collect()
}

/// Who looks up names outside the cluster, if anybody may stand for one.
fn resolver(settings: &ExternalNameArgs) -> Result<Option<Resolver>, Error> {
    let wanted = settings.allow_external_name;
    let resolver = wanted.then(|| Resolver::new(settings));
    let failed = |error| Error::Resolver(Box::new(error));
    resolver.transpose().map_err(failed)
}

/// Waits until every object has been seen. Should the watch die, its channel closes, and nothing is ever served.
async fn first_report(reports: &mut channel::Receiver<Option<Arc<Report>>>) {
    if reports.wait_for(Option::is_some).await.is_err() {
        std::future::pending().await
    }
}

/// Those who write statuses.
struct Statuses {
    addresses: channel::Receiver<Vec<String>>,
    leads: channel::Receiver<bool>,
    /// Ends the election when it is dropped.
    election: DropGuard,
    tasks: TaskTracker,
}

impl Statuses {
    /// Starts them, if there is anything to write. They end with `ended`, except the election.
    fn begin(
        client: &Client,
        args: &IngressArgs,
        reports: &channel::Receiver<Option<Arc<Report>>>,
        metrics: &Metrics,
        ended: &CancellationToken,
    ) -> Option<Self> {
        if args.publish_status_address.is_empty() && args.publish_service.is_none() {
            return None;
        }
        let tasks = TaskTracker::new();
        let (publish, addresses) = channel::channel(args.publish_status_address.clone());
        if let Some(name) = &args.publish_service {
            let (client, name) = (client.clone(), name.clone());
            tasks.spawn(published::run(client, name, publish, ended.clone()));
        }
        let (announce, leads) = channel::channel(args.disable_leader_election);
        let election = CancellationToken::new();
        if !args.disable_leader_election {
            let candidate = Candidate::new(args, client.default_namespace());
            metrics.election.follow(&candidate.lease, leads.clone());
            let election = election.clone();
            tasks.spawn(leader::run(client.clone(), candidate, announce, election));
        }
        let (wanted, leading, reports) = (addresses.clone(), leads.clone(), reports.clone());
        tasks.spawn(status::run(
            client.clone(),
            wanted,
            leading,
            reports,
            ended.clone(),
        ));
        Some(Self {
            addresses,
            leads,
            election: election.drop_guard(),
            tasks,
        })
    }

    /// Clears statuses if that is wanted and ours to do, and lets another lead.
    async fn end(self, client: &Client, args: &IngressArgs, report: &Report) {
        if args.clear_status_on_shutdown && *self.leads.borrow() {
            let addresses = self.addresses.borrow().clone();
            status::clear(client, report, &addresses).await;
        }
        drop(self.election);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Serves until `shutdown` and through the drain.
async fn serve(
    args: &IngressArgs,
    shared: &Arc<Shared>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let (sink, log) = access_log::start(io::stdout()).map_err(Error::Thread)?;
    let tracing = trace::start(&shared.settings().trace, shared.metrics.clone());
    let (tracer, spans) = tracing.map_err(Error::Collector)?.unzip();
    let outlets = Outlets { log: sink, tracer };
    let serving = take_over(args, shared, &outlets, shutdown).await?;
    drop(outlets);
    tracing::info!(http = ?serving.http(), https = ?serving.https(), "serving");
    tokio::select! {
        finished = serving.finished() => finished?,
        never = announce_end(shared, shutdown) => match never {},
    }
    // All senders are gone, so it ends as soon as the last block is written.
    drop(tokio::task::spawn_blocking(|| log.join()).await);
    if let Some(spans) = spans
        && timeout(LAST_SPANS, spans).await.is_err()
    {
        tracing::warn!("the last spans are lost, as the collector takes too long");
    }
    Ok(())
}

/// Starts serving, with the sockets of a predecessor if there is one, and stands by for a successor.
async fn take_over(
    args: &IngressArgs,
    shared: &Arc<Shared>,
    outlets: &Outlets,
    shutdown: &CancellationToken,
) -> Result<Serving, Error> {
    let Some(path) = args.gateway.handover_socket.clone() else {
        return shared.serve(shared.bind(Vec::new())?, outlets, shutdown);
    };
    let predecessor = handover::take_over(&path).await.map_err(Error::HandOver)?;
    let (predecessor, inherited) = predecessor.unzip();
    let listeners = shared.bind(inherited.unwrap_or_default())?;
    let offered = listeners.duplicate().map_err(Error::HandOver)?;
    let serving = shared.serve(listeners, outlets, shutdown)?;
    if let Some(predecessor) = predecessor {
        let retired = predecessor.retire().await;
        retired.unwrap_or_else(|error| tracing::warn!(%error, "the predecessor is gone"));
    }
    let shutdown = shutdown.clone();
    tokio::spawn(async move { handover::offer(&path, offered, shutdown).await });
    Ok(serving)
}

/// Says so when the end begins. Never returns: the end is when all threads have finished.
async fn announce_end(shared: &Shared, shutdown: &CancellationToken) -> Infallible {
    shutdown.cancelled().await;
    shared.drain();
    tracing::info!("draining");
    std::future::pending().await
}
