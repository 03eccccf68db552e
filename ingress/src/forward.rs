//! Sending a request to a Service: which endpoint, what its answer says of it, and trying again where that is safe.
//!
//! A request is sent again only while nothing of a response has come, and only if the backend cannot have acted on it:
//! nothing was sent yet, or the request may be repeated (RFC 9110 section 9.2.2) and has no body, and it went out on a
//! connection that the backend was closing at the same moment.

use std::net::SocketAddr;
use std::rc::Rc;

use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use hyper::body::Body;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use crate::answer::Reason;
use crate::balance::Choice;
use crate::body::{Progress, RequestBody};
use crate::exchange::{Exchange, Failed, Reply, Sent};
use crate::pool::Connection;
use crate::record::Record;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// Most attempts for one request.
const MAX_ATTEMPTS: usize = 3;

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
    let ejection = worker.settings().ejection();
    let mut unreachable: Vec<SocketAddr> = Vec::new();
    let mut failure = None;
    let mut may_reuse = true;
    for attempt in 0..MAX_ATTEMPTS {
        let sent = Instant::now();
        let choice = Choice {
            tried: &unreachable,
            ..Choice::new(sent)
        };
        let place = match upstream.pick(&choice) {
            Ok(place) => place,
            Err(reason) => return Err(failure.unwrap_or(reason)),
        };
        let address = place.address();
        record.tried(address);
        if attempt > 0 {
            worker.metrics().retries.count();
        }
        let connection = match exchange.connection(address, may_reuse).await {
            Ok(connection) => connection,
            Err(reason) => {
                upstream.failed(&place, &ejection, Instant::now());
                unreachable.push(address);
                failure = Some(reason);
                continue;
            }
        };
        let is_reused = connection.is_reused();
        let spare = Spare::of(&request, &connection);
        match exchange.send(connection, request).await {
            Ok(reply) => {
                place.succeeded(sent, Instant::now());
                record.holds(place);
                return Ok(reply);
            }
            Err(Failed { reason, sent }) => {
                let is_stale = is_reused && reason == Reason::BackendClosed;
                if !is_stale && reason.is_backends_fault() {
                    upstream.failed(&place, &ejection, Instant::now());
                }
                request = match (sent, spare) {
                    (Sent::Nothing(request), _) => *request,
                    (Sent::Perhaps, Some(spare)) if is_stale => spare.into_request(),
                    _ => return Err(reason),
                };
                may_reuse = false;
                failure = Some(reason);
            }
        }
    }
    Err(failure.unwrap_or(Reason::NoEndpoint))
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
