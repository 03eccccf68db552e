//! A thread's HTTP/2 connections to backends: each carries as many requests as its backend allows, and another is opened
//! only when all are full.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared, WeakShared};
use hyper::client::conn::http2::{self, Connection, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};

use crate::connection::LocalExecutor;
use crate::forward::pool::{Dialer, Key, Limits};
use crate::message::answer::Reason;
use crate::message::body::RequestBody;
use crate::request::strict::MAX_HEADER_BYTES;

/// Most requests that one connection carries at a time, even if its backend allows more.
const MAX_STREAMS: usize = 100;
/// How often a new connection is looked at for the backend's settings, of whose arrival nobody tells.
const SETTINGS_POLL: Duration = Duration::from_millis(1);
/// How much of a response a backend may send before its client has taken it.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The same for all responses of a connection. There is room for every stream's window, so clients that take nothing do
/// not hold up the others.
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;
/// How much of a request is kept for a backend that does not take it.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// The connections of a thread.
#[derive(Debug)]
pub struct Multiplexed {
    open: RefCell<HashMap<Key, Vec<Rc<Session>>>>,
    /// Those that are being opened, as long as somebody waits for them.
    opening: RefCell<HashMap<Key, WeakShared<Opening>>>,
    dialer: Dialer,
}

type Opening = LocalBoxFuture<'static, Result<Rc<Session>, Reason>>;

/// A connection.
struct Session {
    sender: SendRequest<RequestBody>,
    /// How many streams its backend allows, which it may change at any time; none before it has said so.
    allowed: Box<dyn Fn() -> usize>,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    opened: Instant,
    /// How many requests it has had.
    requests: Cell<u32>,
    /// Whether it takes no more. Requests under way go on.
    is_used_up: Cell<bool>,
    limits: Limits,
}

/// The right to send one request on a connection. Dropping it makes room for another.
#[derive(Debug)]
pub struct Lease {
    session: Rc<Session>,
    sender: SendRequest<RequestBody>,
}

impl Multiplexed {
    /// No connections.
    pub fn new(dialer: Dialer) -> Self {
        Self {
            open: RefCell::default(),
            opening: RefCell::default(),
            dialer,
        }
    }

    /// Room on a connection that is open.
    pub fn lease(&self, key: &Key) -> Option<Lease> {
        let open = self.open.borrow();
        let with_room = open.get(key)?.iter().find(|session| session.has_room());
        with_room.map(Lease::of)
    }

    /// Room on a connection that is opened for it, perhaps by another request at the same time.
    pub async fn open(&self, key: &Key, limit: Duration) -> Result<Lease, Reason> {
        loop {
            let opening = self.opening(key, limit);
            let session = opening.await?;
            if session.sender.is_closed() {
                return Err(Reason::BackendClosed);
            }
            self.keep(key, &session);
            if let Some(lease) = self.lease(key) {
                return Ok(lease);
            }
            // More requests have waited for it than it has room for.
        }
    }

    fn opening(&self, key: &Key, limit: Duration) -> Shared<Opening> {
        let mut all = self.opening.borrow_mut();
        let under_way = all.get(key).and_then(WeakShared::upgrade);
        if let Some(opening) = under_way.filter(|opening| opening.peek().is_none()) {
            return opening;
        }
        let opening = Session::open(key.clone(), self.dialer.within(limit))
            .boxed_local()
            .shared();
        if let Some(weak) = opening.downgrade() {
            all.insert(key.clone(), weak);
        }
        opening
    }

    /// Puts `session` among those that are open, if nobody else has.
    fn keep(&self, key: &Key, session: &Rc<Session>) {
        let mut open = self.open.borrow_mut();
        let of_key = open.entry(key.clone()).or_default();
        if !of_key.iter().any(|known| Rc::ptr_eq(known, session)) {
            of_key.push(session.clone());
        }
    }

    /// Closes what has been idle or used for too long, and forgets what was closed by its backend.
    pub fn sweep(&self) {
        let (keep, now) = (self.dialer.limits.keep, Instant::now());
        let is_kept = |session: &Rc<Session>| {
            session.check_use(now);
            let is_idle = session.streams.get() == 0 && now - session.idle_since.get() > keep;
            // Whoever still uses one that is used up holds on to it.
            !session.sender.is_closed() && !is_idle && !session.is_used_up.get()
        };
        self.open.borrow_mut().retain(|_, of_key| {
            of_key.retain(is_kept);
            !of_key.is_empty()
        });
        self.opening
            .borrow_mut()
            .retain(|_, opening| opening.upgrade().is_some());
    }
}

impl Session {
    async fn open(key: Key, dialer: Dialer) -> Result<Rc<Self>, Reason> {
        let stream = dialer.dial(&key).await?;
        let session = match &key.spoken.tls {
            None => Self::over(stream, dialer.limits).await,
            Some(expected) => {
                let stream = dialer.secure(&key, expected, stream).await?;
                Self::over(stream, dialer.limits).await
            }
        };
        let session = session.map_err(|_| Reason::ConnectFailed)?;
        let ready = timeout(dialer.limits.connect, session.settings()).await;
        ready.map_err(|_| Reason::ConnectTimeout)??;
        Ok(session)
    }

    /// Waits for the backend's settings, with which it begins (RFC 9113 section 3.4). Without them requests that come at
    /// once would be more than it allows, and some would wait for others to end that may never do so.
    async fn settings(&self) -> Result<(), Reason> {
        while (self.allowed)() == 0 {
            if self.sender.is_closed() {
                return Err(Reason::ConnectFailed);
            }
            sleep(SETTINGS_POLL).await;
        }
        Ok(())
    }

    async fn over<S>(stream: S, limits: Limits) -> hyper::Result<Rc<Self>>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let handshake = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(0)
            .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
            .max_send_buf_size(MAX_SEND_BUFFER)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await?;
        let connection = Rc::new(RefCell::new(Some(connection)));
        let told = connection.clone();
        let allowed = move || {
            let connection = told.borrow();
            connection
                .as_ref()
                .map_or(0, Connection::current_max_send_streams)
        };
        tokio::task::spawn_local(drive(connection));
        let opened = Instant::now();
        Ok(Rc::new(Self {
            sender,
            allowed: Box::new(allowed),
            streams: Cell::new(0),
            idle_since: Cell::new(opened),
            opened,
            requests: Cell::new(0),
            is_used_up: Cell::new(false),
            limits,
        }))
    }

    fn has_room(&self) -> bool {
        let room = (self.allowed)().min(MAX_STREAMS);
        !self.sender.is_closed() && !self.is_used_up.get() && self.streams.get() < room
    }

    /// Finds out whether it is used up.
    fn check_use(&self, now: Instant) {
        let requests = self.requests.get();
        if self.limits.are_used_up(self.opened, requests, now) {
            self.is_used_up.set(true);
        }
    }
}

type Wire<S> = Connection<TokioIo<S>, RequestBody, LocalExecutor>;

/// Moves a connection along to its end, and drops it there: requests that are still in its queue come back then.
async fn drive<S>(connection: Rc<RefCell<Option<Wire<S>>>>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let ended = poll_fn(|cx| match &mut *connection.borrow_mut() {
        Some(connection) => Pin::new(connection).poll(cx),
        None => Poll::Ready(Ok(())),
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "connection to a backend ended");
    }
    connection.take();
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("streams", &self.streams.get())
            .finish_non_exhaustive()
    }
}

impl Lease {
    fn of(session: &Rc<Session>) -> Self {
        session.streams.set(session.streams.get() + 1);
        let requests = session.requests.get().saturating_add(1);
        session.requests.set(requests);
        // Those that come at once would be too many by the time that the first of them ends.
        if requests >= session.limits.requests {
            session.is_used_up.set(true);
        }
        Self {
            session: session.clone(),
            sender: session.sender.clone(),
        }
    }

    /// What sends the request.
    pub fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.sender
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let session = &self.session;
        session.streams.set(session.streams.get().saturating_sub(1));
        let now = Instant::now();
        session.idle_since.set(now);
        session.check_use(now);
    }
}
