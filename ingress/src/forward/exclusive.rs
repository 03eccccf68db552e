//! A connection of HTTP/1.1 to a backend, lent to one request at a time.
//!
//! It has no task of its own: who waits for something that comes on it moves it along, so a request crosses both its
//! connections within one task, and no step of it has to be scheduled. Between requests nobody does; what happens there
//! is found out by who takes it next.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use crate::forward::pool::{Dialer, Key};
use crate::message::answer::Reason;
use crate::message::body::RequestBody;

/// Most bytes that are read ahead of a response whose client is slow, its head included, or kept of a request that its
/// backend does not take.
const MAX_BUFFER: usize = 64 * 1024;

/// A connection. Dropping it closes it.
pub(crate) struct Exclusive {
    sender: http1::SendRequest<RequestBody>,
    /// Nothing once it has ended.
    wire: Option<Wire>,
    /// When it was opened.
    pub(super) opened: Instant,
    /// How many requests it has served.
    pub(super) requests: u32,
}

type Wire = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

impl Exclusive {
    /// Opens one that is good for `key`.
    pub(crate) async fn open(key: &Key, dialer: &Dialer) -> Result<Self, Reason> {
        let stream = dialer.dial(key).await?;
        match &key.spoken.tls {
            None => Self::over(stream).await,
            Some(expected) => Self::over(dialer.secure(key, expected, stream).await?).await,
        }
    }

    async fn over<S>(stream: S) -> Result<Self, Reason>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|_| Reason::ConnectFailed)?;
        let wire: Wire = Box::pin(connection.with_upgrades());
        Ok(Self {
            sender,
            wire: Some(wire),
            opened: Instant::now(),
            requests: 0,
        })
    }

    /// Moves it along as far as it can be.
    pub(crate) fn advance(&mut self, cx: &mut Context<'_>) {
        advance(&mut self.wire, cx);
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.wire.is_none() || self.sender.is_closed()
    }

    /// Leaves the last request behind, and says whether another can be sent. What has come meanwhile is seen now: an end,
    /// or bytes that nobody asked for, which end it too.
    pub(crate) fn settle(&mut self) -> bool {
        // Whoever had it last is to be woken no more, and who takes it will move it along without that.
        self.advance(&mut Context::from_waker(Waker::noop()));
        !self.is_closed() && self.sender.is_ready()
    }

    /// Sends `request` and waits for the head of the response.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        // All that the response waits for is the wire, which has been moved along whenever it is looked at. So there is
        // nobody to wake, and no budget that might make it wait for itself.
        let mut response = pin!(unconstrained(self.sender.try_send_request(request)));
        let mut nobody = Context::from_waker(Waker::noop());
        poll_fn(|cx| {
            advance(&mut self.wire, cx);
            response.as_mut().poll(&mut nobody)
        })
        .await
    }
}

fn advance(wire: &mut Option<Wire>, cx: &mut Context<'_>) {
    let Some(moving) = wire else { return };
    if let Poll::Ready(ended) = moving.as_mut().poll(cx) {
        *wire = None;
        if let Err(error) = ended {
            tracing::debug!(%error, "connection to a backend ended");
        }
    }
}

impl fmt::Debug for Exclusive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exclusive")
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
