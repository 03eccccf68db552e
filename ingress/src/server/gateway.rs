//! The data plane as a whole: what all its threads share, and its life from binding to draining.
//!
//! The threads read two immutable snapshots, routes and certificates, and whoever knows better swaps in new ones. No
//! request waits for that, and none sees half of it.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::config::GatewayArgs;
use crate::configmap::Everywhere;
use crate::filters;
use crate::observe::metrics::{Identity, Metrics};
use crate::routes::Table;
use crate::server::listener::{Listener, Listeners, Protocol};
use crate::server::settings::Settings;
use crate::server::worker::{self, Outlets};
use crate::tls::Certificates;
use crate::tls::backend::Defaults;
use crate::tls::certificate::Certificate;
use crate::upstream::registry::Upstreams;

/// What all threads share.
#[derive(Debug)]
pub struct Shared {
    settings: watch::Sender<Arc<Settings>>,
    /// The routes in effect.
    pub routes: Arc<ArcSwap<Table>>,
    /// The backends that they lead to.
    pub upstreams: Upstreams,
    /// The certificates in effect.
    pub certificates: Arc<ArcSwap<Certificates>>,
    /// TLS to backends where no Ingress says otherwise.
    pub backend_tls: Arc<Defaults>,
    /// What filters know.
    pub filters: filters::State,
    /// Counters.
    pub metrics: Arc<Metrics>,
    phase: watch::Sender<Phase>,
}

/// Where the gateway is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It does not know all objects yet; nothing listens.
    Starting,
    /// It serves.
    Serving,
    /// It finishes what it has begun.
    Draining,
}

/// Serving threads.
#[derive(Debug)]
pub struct Serving {
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    finished: Vec<oneshot::Receiver<()>>,
}

impl Shared {
    /// A gateway without routes, and with nothing but its own certificate.
    pub fn new(settings: GatewayArgs) -> Result<Arc<Self>, Error> {
        let metrics = Metrics::of(Identity::default(), &settings.metrics);
        Self::counted(settings, metrics)
    }

    /// All metrics in Prometheus' text format.
    pub fn scrape(&self) -> String {
        let (routes, certificates) = (self.routes.load(), self.certificates.load());
        self.metrics.render(&routes, &certificates)
    }

    /// The same with counters that say whose they are.
    pub fn counted(settings: GatewayArgs, metrics: Metrics) -> Result<Arc<Self>, Error> {
        let default = Certificate::self_signed().map_err(Error::Certificate)?;
        let certificates = Arc::new(ArcSwap::from_pointee(Certificates::new(
            default,
            settings.default_ssl_certificate.clone(),
        )));
        let file = settings.backend_ca_file.as_deref();
        let backend_tls = Defaults::new(!settings.no_backend_verify, file);
        let backend_tls = backend_tls.map_err(|source| Error::BackendRoots {
            file: settings.backend_ca_file.clone().unwrap_or_default(),
            source,
        })?;
        let filters = filters::State::new(&settings);
        let settings = Settings::new(settings, Everywhere::default(), &certificates, None);
        let settings = settings.map_err(Error::Tls)?;
        Ok(Arc::new(Self {
            settings: watch::Sender::new(Arc::new(settings)),
            routes: Arc::default(),
            upstreams: Upstreams::default(),
            certificates,
            backend_tls: Arc::new(backend_tls),
            filters,
            metrics: Arc::new(metrics),
            phase: watch::Sender::new(Phase::Starting),
        }))
    }

    /// The settings in effect.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// The settings in effect, now and from now on.
    pub fn follow_settings(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }

    /// Puts other settings into effect.
    pub fn change_settings(&self, args: GatewayArgs, everywhere: Everywhere) -> Result<(), Error> {
        let last = self.settings();
        let settings = Settings::new(args, everywhere, &self.certificates, Some(&last));
        let settings = settings.map_err(Error::Tls)?;
        self.settings.send_replace(Arc::new(settings));
        Ok(())
    }

    /// Where the gateway is in its life.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Binds all addresses, except for those of which the sockets are `inherited`.
    pub fn bind(&self, inherited: Vec<Listener>) -> Result<Listeners, Error> {
        Listeners::bind(&self.settings(), self.workers(), inherited)
    }

    /// Starts the threads that serve `listeners` until `shutdown`.
    pub fn serve(
        self: &Arc<Self>,
        listeners: Listeners,
        outlets: &Outlets,
        shutdown: &CancellationToken,
    ) -> Result<Serving, Error> {
        let http = listeners.addresses(Protocol::Http).to_vec();
        let https = listeners.addresses(Protocol::Https).to_vec();
        let mut finished = Vec::with_capacity(listeners.of_threads.len());
        for (number, sockets) in listeners.of_threads.into_iter().enumerate() {
            let started = worker::start(
                number,
                self.clone(),
                outlets.clone(),
                sockets,
                shutdown.clone(),
            );
            finished.push(started.map_err(Error::Thread)?);
        }
        self.phase.send_replace(Phase::Serving);
        Ok(Serving {
            http,
            https,
            finished,
        })
    }

    /// Announces the end, so that readiness says so while requests are being finished.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// The number of threads.
    pub fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.settings().workers.unwrap_or_else(cores).max(1)
    }
}

impl Serving {
    /// Where HTTP is served.
    pub fn http(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where HTTPS is served.
    pub fn https(&self) -> &[SocketAddr] {
        &self.https
    }

    /// Waits until all threads have finished. One that dies before its time is an error at once.
    pub async fn finished(self) -> Result<(), Error> {
        let all = futures::future::try_join_all(self.finished).await;
        all.map(drop).map_err(|_| Error::WorkerDied)
    }
}
