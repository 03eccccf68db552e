//! A serving thread: its own runtime, sockets, connections to backends and block of the access log.
//!
//! Nothing here is shared with another thread except the snapshots and counters of [`Shared`], so a request takes no
//! lock. A connection stays with the thread that accepted it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use http::Request;
use hyper::body::Body;
use hyper::upgrade::OnUpgrade;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::connection::h1::Awake;
use crate::filters::outbound::Outbound;
use crate::forward::pool::{Limits, Pool};
use crate::observe::access_log::{AccessLog, Sink};
use crate::observe::metrics::Metrics;
use crate::request::forwarding::Via;
use crate::routes::Table;
use crate::server::gateway::Shared;
use crate::server::listener::{Listener, Protocol};
use crate::server::settings::Settings;
use crate::tls::client_certificate::ClientCertificate;
use crate::trace::Tracer;

/// How often idle connections to backends are looked through.
const SWEEP: Duration = Duration::from_secs(5);
/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What a thread's tasks share.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    settings: RefCell<Rc<Settings>>,
    routes: RefCell<Cache<Arc<ArcSwap<Table>>, Arc<Table>>>,
    pool: Pool,
    outbound: Outbound,
    log: AccessLog,
    tracer: Option<Tracer>,
    awake: Awake,
    /// Connections and tunnels, which are waited for at the end.
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Where what threads tell of requests goes.
#[derive(Debug, Clone)]
pub struct Outlets {
    /// Lines of the access log.
    pub log: Sink,
    /// Spans, if requests are traced.
    pub tracer: Option<Tracer>,
}

/// The client's end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether the connection is TLS.
    pub is_secure: bool,
    /// The host that was asked for when it was opened, in lower case.
    pub server_name: Option<Box<str>>,
    /// Whether it is told to come by HTTPS only, since that host has a TLS section.
    pub is_strict: bool,
    /// What backends are told about it.
    pub via: Via,
    /// The certificate that it has shown.
    pub certificate: Option<Rc<ClientCertificate>>,
    /// Requests under way, and when the last of them ended.
    busy: Cell<usize>,
    idle_since: Cell<Instant>,
    /// Requests so far.
    requests: Cell<u32>,
    asked_to_switch: Cell<bool>,
    had_body: Cell<bool>,
}

impl Peer {
    /// The peer of a connection that is only just open.
    pub fn new(
        address: SocketAddr,
        is_secure: bool,
        server_name: Option<Box<str>>,
        is_strict: bool,
        via: Via,
        certificate: Option<Rc<ClientCertificate>>,
    ) -> Self {
        let idle_since = Cell::new(Instant::now());
        Self {
            address,
            is_secure,
            server_name,
            is_strict,
            via,
            certificate,
            busy: Cell::new(0),
            idle_since,
            requests: Cell::new(0),
            asked_to_switch: Cell::new(false),
            had_body: Cell::new(false),
        }
    }

    /// It asks for something.
    pub fn asks<B: Body>(&self, request: &Request<B>) {
        self.requests.set(self.requests.get().saturating_add(1));
        self.had_body.set(!request.body().is_end_stream());
        if request.extensions().get::<OnUpgrade>().is_some() {
            self.asked_to_switch.set(true);
        }
    }

    /// How often it has asked for something.
    pub fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// Whether one of its requests asked to switch protocols.
    pub fn asked_to_switch(&self) -> bool {
        self.asked_to_switch.get()
    }

    /// Whether its last request had a body.
    pub fn had_body(&self) -> bool {
        self.had_body.get()
    }

    /// Since when there has been no request, if there is none.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.busy.get() == 0).then(|| self.idle_since.get())
    }

    /// A request begins.
    pub fn begin(&self) {
        self.busy.set(self.busy.get() + 1);
    }

    /// A request ends.
    pub fn end(&self, now: Instant) {
        self.busy.set(self.busy.get().saturating_sub(1));
        self.idle_since.set(now);
    }

    /// Waits until there has been no request for `limit`.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let since = self.idle_since().unwrap_or_else(Instant::now);
            if since.elapsed() >= limit {
                return;
            }
            sleep_until(since + limit).await;
        }
    }
}

/// Starts thread `number` and returns what says that it has finished.
pub fn start(
    number: usize,
    shared: Arc<Shared>,
    outlets: Outlets,
    sockets: Vec<Listener>,
    shutdown: CancellationToken,
) -> std::io::Result<oneshot::Receiver<()>> {
    let (finished, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("worker-{number}"));
    thread.spawn(move || {
        // It has to be made where it is to run. Without it the thread ends before its time, which is noticed.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "cannot start the runtime of a thread"),
        };
        runtime.block_on(serve(shared, outlets, sockets, shutdown));
        if finished.send(()).is_err() {
            tracing::debug!("nobody waits for this thread");
        }
    })?;
    Ok(receiver)
}

/// Serves `sockets` until `shutdown`, then waits for what is under way, up to the drain timeout.
async fn serve(
    shared: Arc<Shared>,
    outlets: Outlets,
    sockets: Vec<Listener>,
    shutdown: CancellationToken,
) {
    // Every connection looks at it all the time, so each thread has its own.
    let shutdown = shutdown.child_token();
    let worker = Rc::new(Worker::new(shared, outlets, shutdown.clone()));
    let room = Arc::new(Semaphore::new(worker.share_of_connections()));
    for listener in sockets {
        tokio::task::spawn_local(accept(worker.clone(), listener, room.clone()));
    }
    let housekeeping = tokio::task::spawn_local(keep_house(worker.clone()));
    shutdown.cancelled().await;
    worker.tasks.close();
    let drained = tokio::time::timeout(worker.settings().drain_timeout, worker.tasks.wait()).await;
    if drained.is_err() {
        tracing::warn!(
            connections = worker.tasks.len(),
            "drain timeout, closing connections"
        );
    }
    housekeeping.abort();
    worker.log.flush();
}

/// Accepts connections on `listener` while there is room, until shutdown.
async fn accept(worker: Rc<Worker>, listener: Listener, room: Arc<Semaphore>) {
    let is_secure = listener.protocol == Protocol::Https;
    let socket = match TcpListener::from_std(listener.socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "cannot listen"),
    };
    loop {
        let accepted = tokio::select! {
            accepted = accept_one(&socket, &room) => accepted,
            () = worker.shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, address, place)) => worker.open(stream, address, is_secure, place),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Accepts a connection once there is room for it.
async fn accept_one(
    socket: &TcpListener,
    room: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = room.clone().acquire_owned().await;
    let place = place.map_err(std::io::Error::other)?;
    let (stream, address) = socket.accept().await?;
    Ok((stream, address, place))
}

/// Hands over lines of the access log, closes connections to backends that nobody needs and takes over settings that
/// change. Never returns.
async fn keep_house(worker: Rc<Worker>) {
    let sweep = async {
        loop {
            tokio::time::sleep(SWEEP).await;
            worker.pool.sweep();
        }
    };
    tokio::join!(sweep, worker.log.run(), worker.follow_settings());
}

impl Worker {
    fn new(shared: Arc<Shared>, outlets: Outlets, shutdown: CancellationToken) -> Self {
        let settings = shared.settings();
        let limits = Limits {
            connect: settings.connect_timeout,
            keep: settings.upstream_keepalive_timeout,
            idle: settings.upstream_keepalive_connections,
            requests: settings.upstream_keepalive_requests,
            age: settings.upstream_keepalive_time,
        };
        Self {
            routes: RefCell::new(Cache::new(shared.routes.clone())),
            pool: Pool::new(limits, shared.backend_tls.clone()),
            outbound: Outbound::new(shared.backend_tls.clone()),
            log: AccessLog::new(outlets.log, shared.metrics.clone()),
            tracer: outlets.tracer,
            awake: Awake::default(),
            tasks: TaskTracker::new(),
            shutdown,
            settings: RefCell::new(Rc::new(Settings::clone(&settings))),
            shared,
        }
    }

    fn open(
        self: &Rc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        is_secure: bool,
        place: OwnedSemaphorePermit,
    ) {
        let worker = self.clone();
        self.tasks.spawn_local(async move {
            worker.metrics().accepted.count();
            connection::serve(&worker, stream, address, is_secure).await;
            worker.metrics().closed.count();
            drop(place);
        });
    }

    fn share_of_connections(&self) -> usize {
        let workers = self.shared.workers();
        self.settings()
            .max_connections
            .div_ceil(workers)
            .clamp(1, Semaphore::MAX_PERMITS)
    }

    /// The settings in effect.
    pub fn settings(&self) -> Rc<Settings> {
        self.settings.borrow().clone()
    }

    /// Takes over settings that change. Never returns.
    async fn follow_settings(&self) {
        let mut settings = self.shared.follow_settings();
        // Those that came since the thread was made count, too.
        settings.mark_changed();
        while settings.changed().await.is_ok() {
            let new = Rc::new(Settings::clone(&settings.borrow_and_update()));
            self.settings.replace(new);
        }
    }

    /// What all threads share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The routes in effect.
    pub fn routes(&self) -> Arc<Table> {
        self.routes.borrow_mut().load().clone()
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// This thread's connections to backends.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// This thread's connections to services that filters ask.
    pub fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// This thread's access log.
    pub fn log(&self) -> &AccessLog {
        &self.log
    }

    /// What traces requests, if they are traced.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.as_ref()
    }

    /// This thread's parsers of HTTP/1.
    pub fn awake(&self) -> &Awake {
        &self.awake
    }

    /// What says that the gateway is to end.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Runs `task` beside the connections; the end waits for it as for them.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_local(task);
    }
}
