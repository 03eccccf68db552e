//! A thread's connections to backends: opened, lent out, taken back.
//!
//! A connection belongs to the thread that opened it, so taking one locks nothing. One of HTTP/1.1 is lent to one request
//! at a time and comes back only when request and response are both complete; dropped at any other time it is closed at
//! once, since nobody could tell what would come out of it next. One of HTTP/2 is lent to as many requests as its backend
//! allows, and a lease that is dropped early costs its stream only.
//!
//! No connection is used for ever: after so many requests, or so long, it is closed, so that what a balancer in front of
//! backends has decided once is decided again.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use crate::forward::exclusive::Exclusive;
use crate::forward::idle::{Idle, Shelf};
use crate::forward::multiplex::{self, Multiplexed};
use crate::forward::protocol::{Expected, Http, Spoken};
use crate::forward::stall::until_stalled;
use crate::message::answer::Reason;
use crate::message::body::RequestBody;
use crate::tls::backend::Defaults;

/// The connections of a thread that can take requests.
#[derive(Debug)]
pub struct Pool {
    idle: RefCell<Shelf>,
    multiplexed: Multiplexed,
    dialer: Dialer,
}

/// What opens sockets.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// What bounds them.
    pub limits: Limits,
    tls: Arc<Defaults>,
}

/// What bounds a pool.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long connecting may take.
    pub connect: Duration,
    /// How long an idle connection is kept.
    pub keep: Duration,
    /// Most idle connections of HTTP/1.1.
    pub idle: usize,
    /// Most requests over one connection.
    pub requests: u32,
    /// How long a connection is used.
    pub age: Duration,
}

/// What a connection is good for. Requests that differ here never share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The endpoint.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub spoken: Spoken,
}

/// A connection to a backend, lent to one request.
#[derive(Debug)]
pub struct Connection {
    key: Key,
    kind: Kind,
    reused: bool,
}

#[derive(Debug)]
enum Kind {
    One(Exclusive),
    Two(multiplex::Lease),
}

impl Pool {
    /// An empty pool, with TLS as in `tls` where nobody says otherwise.
    pub fn new(limits: Limits, tls: Arc<Defaults>) -> Self {
        let dialer = Dialer { limits, tls };
        Self {
            idle: RefCell::default(),
            multiplexed: Multiplexed::new(dialer.clone()),
            dialer,
        }
    }

    /// A connection that is open and good for `key` at `now`, the one that was used last.
    pub fn take(&self, key: &Key, now: Instant) -> Option<Connection> {
        let kind = match key.spoken.http {
            Http::One => Kind::One(self.take_idle(key, now)?),
            Http::Two => Kind::Two(self.multiplexed.lease(key)?),
        };
        Some(Connection {
            key: key.clone(),
            kind,
            reused: true,
        })
    }

    fn take_idle(&self, key: &Key, now: Instant) -> Option<Exclusive> {
        loop {
            let idle = self.idle.borrow_mut().pop(key)?;
            if !self.is_good(&idle, now) {
                continue;
            }
            let mut connection = idle.connection;
            if connection.settle() {
                return Some(connection);
            }
        }
    }

    /// Takes back a connection whose request and response are complete.
    pub fn put(&self, connection: Connection) {
        let Kind::One(mut exclusive) = connection.kind else {
            return;
        };
        exclusive.requests += 1;
        let since = Instant::now();
        let idle = Idle {
            connection: exclusive,
            since,
        };
        if self.is_good(&idle, since) {
            let most = self.dialer.limits.idle;
            self.idle.borrow_mut().push(connection.key, idle, most);
        }
    }

    /// Whether `idle` may take another request.
    fn is_good(&self, idle: &Idle, now: Instant) -> bool {
        let Idle { connection, since } = idle;
        let limits = &self.dialer.limits;
        now.saturating_duration_since(*since) <= limits.keep
            && !limits.are_used_up(connection.opened, connection.requests, now)
            && !connection.is_closed()
    }

    /// Opens a connection that is good for `key`, which may take as long as `limit`. Requests that ask for one of HTTP/2 at
    /// the same time share it.
    pub async fn connect(&self, key: &Key, limit: Duration) -> Result<Connection, Reason> {
        let kind = match key.spoken.http {
            Http::One => Kind::One(Exclusive::open(key, &self.dialer.within(limit)).await?),
            Http::Two => Kind::Two(self.multiplexed.open(key, limit).await?),
        };
        Ok(Connection {
            key: key.clone(),
            kind,
            reused: false,
        })
    }

    /// Closes what has been idle or used for too long, or was closed by its backend.
    pub fn sweep(&self) {
        self.multiplexed.sweep();
        let now = Instant::now();
        // Nobody else looks whether their backends have closed them.
        let is_good = |idle: &mut Idle| idle.connection.settle() && self.is_good(idle, now);
        self.idle.borrow_mut().retain(is_good);
    }
}

impl Limits {
    /// Whether a connection that was `opened` then and has had so many `requests` is to take no more.
    pub fn are_used_up(&self, opened: Instant, requests: u32, now: Instant) -> bool {
        requests >= self.requests || now - opened >= self.age
    }
}

impl Dialer {
    /// The same where connecting may take as long as `connect`.
    pub fn within(&self, connect: Duration) -> Self {
        let limits = Limits {
            connect,
            ..self.limits
        };
        let tls = self.tls.clone();
        Self { limits, tls }
    }

    /// Opens a socket for `key`.
    pub async fn dial(&self, key: &Key) -> Result<TcpStream, Reason> {
        let connect = TcpStream::connect(key.address);
        let stream = timeout(self.limits.connect, connect)
            .await
            .map_err(|_| Reason::ConnectTimeout)?
            .map_err(|_| Reason::ConnectFailed)?;
        tune(&stream).map_err(|_| Reason::ConnectFailed)?;
        Ok(stream)
    }

    /// Makes sure over `stream` that it leads to whom it should.
    pub async fn secure(
        &self,
        key: &Key,
        expected: &Expected,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Reason> {
        let failed = |error: &dyn std::fmt::Display| {
            let (address, name) = (key.address, expected.name.to_str());
            tracing::debug!(%address, %name, %error, "TLS to a backend failed");
            Reason::BackendTls
        };
        let connector = expected.tls.connector(key.spoken.http, &self.tls);
        let connector = connector.map_err(|error| failed(&error))?;
        let handshake = connector.connect(expected.name.clone(), stream);
        let stream = timeout(self.limits.connect, handshake)
            .await
            .map_err(|_| Reason::ConnectTimeout)?;
        stream.map_err(|error| failed(&error))
    }
}

/// No waiting for acknowledgements, and probes that find out about backends that are gone while a stream is silent. They
/// are TCP's: servers of gRPC close connections whose HTTP/2 pings come more often than every five minutes.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)
}

impl Connection {
    /// Sends `request` and waits for the head of the response; nothing if that has not come by `deadline`, which moves on.
    /// Dropped before that, it takes the request back as far as the protocol can.
    pub async fn send(
        &mut self,
        request: Box<Request<RequestBody>>,
        deadline: impl Fn() -> Instant,
    ) -> Option<Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> {
        match &mut self.kind {
            Kind::One(exclusive) => exclusive.send(request, deadline).await,
            Kind::Two(lease) => {
                let response = pin!(lease.sender().try_send_request(*request));
                until_stalled(response, deadline).await
            }
        }
    }

    /// Whether it is for who holds it to move it along: whatever comes on it or is sent on it, a body or a change of
    /// protocols, gets on by this alone.
    pub fn has_to_be_moved(&self) -> bool {
        matches!(self.kind, Kind::One(_))
    }

    /// Takes something of what comes on it, which leaves it as it is until it is moved along.
    pub fn take_quietly<T>(&self, take: impl FnOnce() -> T) -> T {
        match &self.kind {
            Kind::One(exclusive) => exclusive.quietly(take),
            Kind::Two(_) => take(),
        }
    }

    /// Moves it along as far as it can be, if it has to be.
    pub fn advance(&mut self, cx: &mut Context<'_>) {
        match &mut self.kind {
            Kind::One(exclusive) => exclusive.advance(cx),
            Kind::Two(_) => {}
        }
    }

    /// Waits for `outcome`, which comes of something on the connection.
    pub async fn carry<F: Future>(&mut self, outcome: F) -> F::Output {
        let mut outcome = pin!(outcome);
        poll_fn(|cx| {
            self.advance(cx);
            outcome.as_mut().poll(cx)
        })
        .await
    }

    /// Whether it has served a request before.
    pub fn is_reused(&self) -> bool {
        self.reused
    }
}
