//! Sending a request to a Service: which endpoint, what its answer says of it, and trying again where that is safe.
//!
//! A request is sent again only while nothing of a response has come, and only if the backend cannot have acted on it:
//! nothing was sent yet, or the request may be repeated (RFC 9110 section 9.2.2) and has no body, and it went out on a
//! connection that the backend was closing at the same moment.

use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use hyper::body::Body;
use tokio::time::Instant;

use crate::answer::Reason;
use crate::balance::Choice;
use crate::body::{Progress, RequestBody};
use crate::exchange::{Exchange, Failed, Reply, Sent};
use crate::pool::{Connection, Key};
use crate::protocol::{Http, Spoken};
use crate::record::Record;
use crate::upgrade::Upgrade;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// Most attempts for one request.
const MAX_ATTEMPTS: usize = 3;

/// A request without a body, to be sent again if it is refused or lost.
struct Spare {
    /// Whether it can have been lost because its connection was just being closed, and does no harm if it was not.
    may_repeat: bool,
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
}

/// Sends `request` to one of the endpoints of `upstream`, who is spoken to like this.
pub async fn forward(
    worker: &Rc<Worker>,
    upstream: &Upstream,
    spoken: &Spoken,
    mut request: Request<RequestBody>,
    progress: Rc<Progress>,
    upgrade: Option<Upgrade>,
    record: &mut Record,
) -> Result<Reply, Reason> {
    prepare(&mut request, spoken)?;
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
        let key = Key {
            address,
            spoken: spoken.clone(),
        };
        let connection = match exchange.connection(&key, may_reuse).await {
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
                    (Sent::Refused, Some(spare)) => spare.into_request(),
                    (Sent::Perhaps, Some(spare)) if is_stale && spare.may_repeat => {
                        spare.into_request()
                    }
                    _ => return Err(reason),
                };
                may_reuse = false;
                failure = Some(reason);
            }
        }
    }
    Err(failure.unwrap_or(Reason::NoEndpoint))
}

/// Makes `request` one that a backend understands.
fn prepare(request: &mut Request<RequestBody>, spoken: &Spoken) -> Result<(), Reason> {
    match spoken.http {
        Http::One => prepare_http1(request),
        Http::Two => prepare_http2(request, spoken.tls.is_some())?,
    }
    Ok(())
}

/// A body of unknown length must be announced, or there would be none; and `TE` concerns this connection only.
fn prepare_http1(request: &mut Request<RequestBody>) {
    *request.version_mut() = Version::HTTP_11;
    let body = request.body();
    let is_unannounced = !body.is_end_stream() && body.size_hint().exact().is_none();
    let headers = request.headers_mut();
    if is_unannounced {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if headers.contains_key(TE) && !headers.contains_key(CONNECTION) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// The host goes where HTTP/2 has it (RFC 9113 section 8.3.1).
fn prepare_http2(request: &mut Request<RequestBody>, is_secure: bool) -> Result<(), Reason> {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(HOST).ok_or(Reason::NoHost)?;
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| Reason::BadHost)?;
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    let scheme = if is_secure {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    target.scheme = Some(scheme);
    target.authority = Some(authority);
    *request.uri_mut() = Uri::from_parts(target).map_err(|_| Reason::BadTarget)?;
    Ok(())
}

impl Spare {
    /// A spare of `request`, if it may be sent again on any condition.
    fn of(request: &Request<RequestBody>, connection: &Connection) -> Option<Self> {
        let may_repeat = connection.is_reused() && request.method().is_idempotent();
        let may_be_refused = request.version() == Version::HTTP_2;
        let is_needed = may_repeat || may_be_refused;
        (is_needed && request.body().is_end_stream()).then(|| Self {
            may_repeat,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
        })
    }

    fn into_request(self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        request
    }
}
