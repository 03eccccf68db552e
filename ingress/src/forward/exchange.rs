//! One attempt: a connection to one endpoint, a request sent on it, and the head of its response.
//!
//! What a failure means for the request is for [`forward`](crate::forward) to judge; here it is only told how far the
//! request came.

use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use crate::annotations::timeouts::Patience;
use crate::forward::pool::{Connection, Key};
use crate::message::answer::Reason;
use crate::message::body::{BackendBody, Pause, Progress, RequestBody};
use crate::message::trailers::{Sender, Trailers};
use crate::request::strict;
use crate::request::upgrade::{Switch, Upgrade};
use crate::server::worker::Worker;

/// What a backend answered.
pub enum Reply {
    /// A response.
    Response(Response<Box<BackendBody>>),
    /// It switches to the protocol that the client asked for.
    Switch(Box<Switch>),
}

/// An attempt that failed.
pub(crate) struct Failed {
    /// Why.
    pub(crate) reason: Reason,
    /// How far the request came.
    pub(crate) sent: Sent,
    /// Whether its connection had been idle and was found closed, or was closing in good order, which is nobody's fault.
    pub(crate) is_stale: bool,
}

/// How much of a request a backend may have seen.
pub(crate) enum Sent {
    /// Nothing: here it is, as it was.
    Nothing(Box<Request<RequestBody>>),
    /// Some or all of it, but it says that it has not begun with it.
    Refused,
    /// Some or all of it.
    Perhaps,
}

/// A request under way.
pub(crate) struct Exchange<'r> {
    /// The thread.
    pub(crate) worker: &'r Rc<Worker>,
    /// How far the body of the request has come.
    pub(crate) progress: Rc<Progress>,
    /// The client's end, if it asks to switch protocols.
    pub(crate) upgrade: Option<Upgrade>,
    /// How long the backend may take.
    pub(crate) patience: Patience,
    /// When all has to be over, if ever.
    pub(crate) until: Option<Instant>,
    /// How long the last attempt took to connect, if it had to.
    pub(crate) connect: Option<Duration>,
}

impl Exchange<'_> {
    /// Sends `request` at `now` over a connection for `key`: one that is open, if it `may_reuse` one, else a new one.
    pub(crate) async fn attempt(
        &mut self,
        key: &Key,
        may_reuse: bool,
        now: Instant,
        request: Box<Request<RequestBody>>,
    ) -> Result<Reply, Failed> {
        let connection = match self.connection(key, may_reuse, now).await {
            Ok(connection) => connection,
            Err(reason) => {
                return Err(Failed {
                    reason,
                    sent: Sent::Nothing(request),
                    is_stale: false,
                });
            }
        };
        let is_reused = connection.is_reused();
        let sent = self.send(connection, request).await;
        sent.map_err(|failed| Failed {
            is_stale: failed.is_stale || is_reused && failed.reason == Reason::BackendClosed,
            ..failed
        })
    }

    async fn connection(
        &mut self,
        key: &Key,
        may_reuse: bool,
        now: Instant,
    ) -> Result<Connection, Reason> {
        let metrics = self.worker.metrics();
        if may_reuse && let Some(connection) = self.worker.pool().take(key, now) {
            metrics.reuses.count();
            self.connect = None;
            return Ok(connection);
        }
        metrics.connects.count();
        // Boxed, for few requests come here, and all would carry its state.
        let pool = self.worker.pool();
        let connection = Box::pin(pool.connect(key, self.patience.connect)).await;
        self.connect = Some(now.elapsed());
        connection
    }

    /// Sends `request` and waits for the head of its response.
    #[expect(
        clippy::manual_async_fn,
        reason = "it would keep room for the connection that it is given and for the one that it uses"
    )]
    fn send(
        &mut self,
        mut connection: Connection,
        request: Box<Request<RequestBody>>,
    ) -> impl Future<Output = Result<Reply, Failed>> {
        async move {
            let started = Instant::now();
            let deadline = || self.progress.deadline(started, &self.patience);
            let sent = connection.send(request, deadline).await;
            let sent = sent.ok_or_else(|| self.failed(Reason::BackendTimeout))?;
            match sent {
                Ok(response) => self
                    .reply(connection, response)
                    .map_err(|reason| self.failed(reason)),
                Err(error) => Err(self.after(error)),
            }
        }
    }

    /// What `error` says.
    fn after(&self, mut error: TrySendError<Request<RequestBody>>) -> Failed {
        if let Some(request) = error.take_message() {
            return Failed {
                reason: Reason::BackendClosed,
                sent: Sent::Nothing(Box::new(request)),
                is_stale: false,
            };
        }
        let error = error.into_error();
        if is_unprocessed(&error) {
            return Failed {
                reason: Reason::BackendClosed,
                sent: Sent::Refused,
                is_stale: true,
            };
        }
        let is_lost = !error.is_parse() && !error.is_timeout();
        self.failed(match is_lost {
            true => Reason::BackendClosed,
            false => Reason::BadResponse,
        })
    }

    /// A failure for `reason`, unless it was the client that failed first.
    fn failed(&self, reason: Reason) -> Failed {
        Failed {
            reason: self.progress.failure().unwrap_or(reason),
            sent: Sent::Perhaps,
            is_stale: false,
        }
    }

    fn reply(
        &mut self,
        connection: Connection,
        mut response: Response<Incoming>,
    ) -> Result<Reply, Reason> {
        if response.headers().contains_key(TRANSFER_ENCODING) {
            strict::check_codings(response.headers()).map_err(|_| Reason::BadResponse)?;
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgrade = self.upgrade.take();
            let upgrade = upgrade.filter(|upgrade| upgrade.is_agreed(response.headers()));
            let upgrade = upgrade.ok_or(Reason::BadResponse)?;
            return Ok(Reply::Switch(Box::new(Switch {
                upgrade,
                connection,
                response,
            })));
        }
        let trailers = Trailers::of(Sender::Backend, response.headers());
        strict::strip_response(response.headers_mut());
        trailers.announce(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        let (progress, worker) = (self.progress.clone(), self.worker.clone());
        let pause = Pause::new(self.patience.read, self.until);
        let body = |body| BackendBody::new(body, trailers, pause, connection, progress, worker);
        Ok(Reply::Response(response.map(body).map(Box::new)))
    }
}

/// Whether the backend says that it has not begun with the request, so that any request may be sent again (RFC 9113
/// section 8.7): it refused the stream, or is closing the connection and does not get to it.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    cause.is_some_and(|error: &h2::Error| {
        let is_closing = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        let is_refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (is_refused || is_closing)
    })
}

impl Reply {
    /// The status that the client sees.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Response(response) => response.status(),
            Self::Switch(switch) => switch.upgrade.status(),
        }
    }

    /// The fields that the client sees.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        match self {
            Self::Response(response) => response.headers_mut(),
            Self::Switch(switch) => switch.response.headers_mut(),
        }
    }
}
