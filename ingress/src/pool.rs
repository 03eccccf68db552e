//! A thread's connections to backends: opened, lent out, taken back.
//!
//! A connection belongs to the thread that opened it, so taking one locks nothing. It comes back only when request and
//! response are both complete; dropped at any other time it is closed at once, since nobody could tell what would come
//! out of it next.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures::FutureExt;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::answer::Reason;
use crate::body::RequestBody;

/// The idle connections of a thread.
#[derive(Debug)]
pub struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    limits: Limits,
}

/// What bounds a pool.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long connecting may take.
    pub connect: Duration,
    /// How long an idle connection is kept.
    pub keep: Duration,
    /// Most idle connections to one endpoint.
    pub idle: usize,
}

/// An HTTP/1.1 connection to a backend, for one request at a time. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<RequestBody>,
    driver: AbortHandle,
    address: SocketAddr,
    reused: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: Limits) -> Self {
        Self {
            idle: RefCell::default(),
            limits,
        }
    }

    /// The connection to `address` that was used last, if one is idle and still open.
    pub async fn take(&self, address: SocketAddr) -> Option<Connection> {
        loop {
            let idle = self.idle.borrow_mut().get_mut(&address)?.pop()?;
            if idle.since.elapsed() > self.limits.keep {
                continue;
            }
            let mut connection = idle.connection;
            if connection.is_ready().await {
                connection.reused = true;
                return Some(connection);
            }
        }
    }

    /// Takes back a connection whose request and response are complete.
    pub fn put(&self, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let of_address = idle.entry(connection.address).or_default();
        if of_address.len() < self.limits.idle {
            let since = Instant::now();
            of_address.push(Idle { connection, since });
        }
    }

    /// Opens a connection to `address`.
    pub async fn connect(&self, address: SocketAddr) -> Result<Connection, Reason> {
        let connect = TcpStream::connect(address);
        let stream = timeout(self.limits.connect, connect)
            .await
            .map_err(|_| Reason::ConnectTimeout)?
            .map_err(|_| Reason::ConnectFailed)?;
        stream
            .set_nodelay(true)
            .map_err(|_| Reason::ConnectFailed)?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|_| Reason::ConnectFailed)?;
        let driver = tokio::task::spawn_local(connection.with_upgrades()).abort_handle();
        let reused = false;
        Ok(Connection {
            sender,
            driver,
            address,
            reused,
        })
    }

    /// Closes what has been idle for too long or was closed by its backend.
    pub fn sweep(&self) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, of_address| {
            of_address.retain(|idle| {
                !idle.connection.sender.is_closed() && idle.since.elapsed() <= self.limits.keep
            });
            !of_address.is_empty()
        });
    }
}

impl Connection {
    /// Whether it can take a request now. Its task may have the end of the last response still before it, so it is given
    /// one turn; what is not ready then has bytes of the last request stuck in it.
    async fn is_ready(&mut self) -> bool {
        if let Some(ready) = self.sender.ready().now_or_never() {
            return ready.is_ok();
        }
        tokio::task::yield_now().await;
        matches!(self.sender.ready().now_or_never(), Some(Ok(())))
    }

    /// What sends a request on it.
    pub fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.sender
    }

    /// Whether it has served a request before.
    pub fn is_reused(&self) -> bool {
        self.reused
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
