//! Sending a request to a backend and waiting for the head of its response; trying again where that is safe.
//!
//! A request is sent again only while nothing of a response has come, and only if the backend cannot have acted on it:
//! nothing was sent yet, or the request may be repeated (RFC 9110 section 9.2.2) and has no body, and it went out on a
//! connection that the backend was closing at the same moment.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, timeout_at};

use crate::answer::Reason;
use crate::body::{BackendBody, Progress, RequestBody};
use crate::pool::Connection;
use crate::record::Record;
use crate::strict;
use crate::upgrade::Switch;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// Most attempts for one request.
const MAX_ATTEMPTS: usize = 3;

/// What a backend answered.
pub enum Reply {
    /// A response.
    Response(Box<Response<BackendBody>>),
    /// It switches to the protocol that the client asked for.
    Switch(Box<Switch>),
}

/// Why an attempt failed.
enum Failed {
    /// For good.
    Finally(Reason),
    /// The request can be sent again, over a new connection.
    Again(Box<Request<RequestBody>>),
}

/// A request under way.
struct Exchange<'r> {
    worker: &'r Rc<Worker>,
    progress: Rc<Progress>,
    /// The client's end, if it asks to switch protocols.
    upgrade: Option<OnUpgrade>,
}

/// A request without a body that may be repeated, to be sent again if it is lost.
struct Spare {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

/// Sends `request` to one of the endpoints of `upstream`.
pub async fn forward(
    worker: &Rc<Worker>,
    upstream: &Upstream,
    mut request: Request<RequestBody>,
    progress: Rc<Progress>,
    upgrade: Option<OnUpgrade>,
    record: &mut Record,
) -> Result<Reply, Reason> {
    prepare(&mut request);
    let mut exchange = Exchange {
        worker,
        progress,
        upgrade,
    };
    let mut unreachable: Vec<SocketAddr> = Vec::new();
    let mut failure = Reason::NoEndpoint;
    let mut may_reuse = true;
    for attempt in 0..MAX_ATTEMPTS {
        let Some(address) = upstream.pick(&unreachable) else {
            break;
        };
        record.tried(address);
        if attempt > 0 {
            worker.metrics().retries.count();
        }
        let connection = match exchange.connection(address, may_reuse).await {
            Ok(connection) => connection,
            Err(reason) => {
                unreachable.push(address);
                failure = reason;
                continue;
            }
        };
        match exchange.send(connection, request).await {
            Ok(reply) => return Ok(reply),
            Err(Failed::Finally(reason)) => return Err(reason),
            Err(Failed::Again(back)) => {
                request = *back;
                may_reuse = false;
                failure = Reason::BackendClosed;
            }
        }
    }
    Err(failure)
}

/// Makes `request` one that HTTP/1.1 can carry. A body of unknown length must be announced, or there would be none.
fn prepare(request: &mut Request<RequestBody>) {
    *request.version_mut() = Version::HTTP_11;
    let body = request.body();
    let is_unannounced = !body.is_end_stream() && body.size_hint().exact().is_none();
    if is_unannounced {
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
}

impl Exchange<'_> {
    async fn connection(&self, address: SocketAddr, may_reuse: bool) -> Result<Connection, Reason> {
        let metrics = self.worker.metrics();
        if may_reuse && let Some(connection) = self.worker.pool().take(address).await {
            metrics.reuses.count();
            return Ok(connection);
        }
        metrics.connects.count();
        self.worker.pool().connect(address).await
    }

    async fn send(
        &mut self,
        mut connection: Connection,
        request: Request<RequestBody>,
    ) -> Result<Reply, Failed> {
        let spare = Spare::of(&request, &connection);
        let sending = connection.sender().try_send_request(request);
        let limit = self.worker.settings().backend_timeout;
        let Some(sent) = until_stalled(sending, &self.progress, limit).await else {
            return Err(Failed::Finally(self.blame(Reason::BackendTimeout)));
        };
        match sent {
            Ok(response) => self.reply(connection, response).map_err(Failed::Finally),
            Err(error) => Err(self.after(error, spare)),
        }
    }

    /// What to do after `error`.
    fn after(&self, mut error: TrySendError<Request<RequestBody>>, spare: Option<Spare>) -> Failed {
        if let Some(request) = error.take_message() {
            return Failed::Again(Box::new(request));
        }
        let error = error.into_error();
        let is_lost = !error.is_parse() && !error.is_timeout();
        match spare {
            Some(spare) if is_lost => Failed::Again(Box::new(spare.into_request())),
            _ if is_lost => Failed::Finally(self.blame(Reason::BackendClosed)),
            _ => Failed::Finally(self.blame(Reason::BadResponse)),
        }
    }

    /// `reason`, unless it was the client that failed first.
    fn blame(&self, reason: Reason) -> Reason {
        self.progress.failure().unwrap_or(reason)
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
            let client = self.upgrade.take().ok_or(Reason::BadResponse)?;
            return Ok(Reply::Switch(Box::new(Switch {
                client,
                connection,
                response,
            })));
        }
        strict::strip_response(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        let (progress, worker) = (self.progress.clone(), self.worker.clone());
        let response = response.map(|body| BackendBody::new(body, connection, progress, worker));
        Ok(Reply::Response(Box::new(response)))
    }
}

/// Waits for `response`. The time counts from when the request's body last moved.
async fn until_stalled<F: Future>(
    response: F,
    progress: &Progress,
    limit: Duration,
) -> Option<F::Output> {
    let mut response = std::pin::pin!(response);
    let mut deadline = Instant::now() + limit;
    loop {
        if let Ok(response) = timeout_at(deadline, response.as_mut()).await {
            return Some(response);
        }
        let moved = progress.moved() + limit;
        if moved <= deadline {
            return None;
        }
        deadline = moved;
    }
}

impl Reply {
    /// The status that the client sees.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Response(response) => response.status(),
            Self::Switch(_) => StatusCode::SWITCHING_PROTOCOLS,
        }
    }
}

impl Spare {
    /// A spare of `request`, if it may be repeated and the connection could be one that is just being closed.
    fn of(request: &Request<RequestBody>, connection: &Connection) -> Option<Self> {
        let is_needed = connection.is_reused() && request.body().is_end_stream();
        (is_needed && request.method().is_idempotent()).then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        })
    }

    fn into_request(self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}
