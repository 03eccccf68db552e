//! Sending a request to a Service, and sending it again where that is safe and wanted.
//!
//! A request is sent again only while its client has seen nothing of a response. What a backend may have acted on is sent
//! again only if it may be repeated (RFC 9110 section 9.2.2) and its body is still known. Whether another attempt is
//! wanted is for [`Attempts`] to say.

pub mod attempts;
pub mod exchange;
mod exclusive;
mod idle;
pub mod multiplex;
pub mod pool;
pub mod protocol;
mod stall;

use std::pin::pin;
use std::rc::Rc;
use std::time::SystemTime;

use http::header::{CONNECTION, HOST, SET_COOKIE, TE, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Uri, Version};
use hyper::body::Body;
use tokio::time::{Instant, timeout_at};

use self::attempts::Attempts;
use self::exchange::{Exchange, Failed, Reply, Sent};
use self::pool::Key;
use self::protocol::{Http, Spoken};
use crate::message::answer::Reason;
use crate::message::body::{Progress, RequestBody};
use crate::observe::record::Record;
use crate::request::upgrade::Upgrade;
use crate::server::worker::Worker;
use crate::upstream::endpoint::InFlight;

/// A request as it was before it was sent.
struct Spare {
    head: Request<()>,
    body: RequestBody,
}

/// Sends `request` to an endpoint by one of the `attempts`. It is boxed, as each step on its way keeps room for what it is
/// given.
pub async fn forward(
    worker: &Rc<Worker>,
    attempts: &mut Attempts<'_>,
    mut request: Box<Request<RequestBody>>,
    progress: Rc<Progress>,
    upgrade: Option<Upgrade>,
    record: &mut Record,
) -> Result<Reply, Reason> {
    prepare(&mut request, attempts.spoken())?;
    let patience = attempts.patience();
    let until = patience.total.map(|total| attempts.started() + total);
    let mut exchange = Exchange {
        worker,
        progress,
        upgrade,
        patience,
        until,
        connect: None,
    };
    let reply = pin!(attempt(&mut exchange, attempts, request, record));
    match until {
        Some(until) => timeout_at(until, reply)
            .await
            .unwrap_or(Err(Reason::RequestTimeout)),
        None => reply.await,
    }
}

/// Makes attempts until one is good enough or no other may follow.
async fn attempt(
    exchange: &mut Exchange<'_>,
    attempts: &mut Attempts<'_>,
    mut request: Box<Request<RequestBody>>,
    record: &mut Record,
) -> Result<Reply, Reason> {
    let mut place = attempts.first()?;
    let (mut may_reuse, mut resends, mut sent) = (true, 0, attempts.started());
    let may_repeat = attempts.may_repeat(request.method());
    // A backend can refuse anything, and HTTP/2 has the words for it.
    let needs_spare = may_repeat || attempts.spoken().http == Http::Two;
    if needs_spare {
        request.body_mut().keep();
    }
    loop {
        let spare = needs_spare.then(|| Spare::of(&request));
        let key = Key {
            address: place.address(),
            spoken: attempts.spoken().clone(),
        };
        record.tried(&place, &key, resends, sent, &mut request);
        resends += 1;
        let outcome = exchange.attempt(&key, may_reuse, sent, request).await;
        let now = Instant::now();
        let (answer, again) = match outcome {
            Ok(reply) => {
                record.connected(exchange.connect);
                record.came_to(Ok(reply.status()), now);
                attempts.answered(&place, reply.status(), sent, now);
                let is_followed = may_repeat && attempts.follow_status(reply.status());
                let again = spare.filter(|_| is_followed);
                (Ok(reply), again.and_then(Spare::into_request))
            }
            Err(failed) => {
                let (reason, is_stale) = (failed.reason, failed.is_stale);
                record.came_to(Err(reason), now);
                let again = failed.request(spare, may_repeat);
                // A connection that was closing says nothing about the endpoint.
                if is_stale && (may_reuse || attempts.repeat()) {
                    (request, may_reuse, sent) = (again.ok_or(reason)?, false, now);
                    continue;
                }
                attempts.failed(&place, reason, now);
                (Err(reason), again.filter(|_| attempts.follow(reason)))
            }
        };
        let next = again.and_then(|again| Some((again, attempts.next(&place)?)));
        let Some((again, next)) = next else {
            let reply = answer?;
            return Ok(finish(reply, place, attempts, record));
        };
        (request, place, may_reuse, sent) = (again, next, true, now);
    }
}

/// Tells the client of its session, and keeps the `place` until the response is through.
fn finish(
    mut reply: Reply,
    place: InFlight,
    attempts: &Attempts<'_>,
    record: &mut Record,
) -> Reply {
    let token = place.endpoint().token();
    let session = attempts.session();
    if let Some(cookie) = session.and_then(|session| session.cookie(token, SystemTime::now())) {
        reply.headers_mut().append(SET_COOKIE, cookie);
    }
    record.holds(place);
    reply
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

impl Failed {
    /// The request, to be sent again: as it was if nothing of it was sent, else the `spare` one if no backend has begun
    /// with it or it `may_repeat`.
    fn request(self, spare: Option<Spare>, may_repeat: bool) -> Option<Box<Request<RequestBody>>> {
        match self.sent {
            Sent::Nothing(request) => Some(request),
            Sent::Perhaps if !may_repeat => None,
            Sent::Refused | Sent::Perhaps => spare.and_then(Spare::into_request),
        }
    }
}

impl Spare {
    fn of(request: &Request<RequestBody>) -> Self {
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        *head.extensions_mut() = request.extensions().clone();
        let body = request.body().again();
        Self { head, body }
    }

    /// The request, unless too much of its body has gone by.
    fn into_request(self) -> Option<Box<Request<RequestBody>>> {
        let Self { head, body } = self;
        body.is_whole().then(|| Box::new(head.map(|()| body)))
    }
}
