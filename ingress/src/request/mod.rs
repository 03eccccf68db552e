//! A request's way through the gateway, step by step.

pub mod allowance;
pub mod forwarding;
pub mod intercept;
pub mod redirect;
pub mod rewrite;
pub mod strict;
pub mod upgrade;

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, SERVER};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use self::intercept::{Answer, Intercept};
use self::redirect::Redirect;
use self::strict::Head;
use crate::filters::{self, Exit, Visit};
use crate::forward;
use crate::forward::attempts::{Attempts, Manner};
use crate::forward::exchange::Reply;
use crate::forward::protocol::{Http, Spoken};
use crate::message::answer::{self, Reason};
use crate::message::body::{RequestBody, ResponseBody};
use crate::message::grpc::{self, Call};
use crate::message::headers::{self, ResponseEdit};
use crate::observe::record::Record;
use crate::routes::{Route, Target};
use crate::server::worker::{Peer, Worker};
use crate::tls::client_certificate::admit;
use crate::upstream::Upstream;

/// What a request comes to.
enum Outcome {
    /// A backend's answer.
    Reply(Reply),
    /// An answer of our own that is no failure of ours, and why.
    Own(Reason, Response<Full<Bytes>>),
}

/// Answers `request`. It is taken apart at once, so that the state of the answer has no room for the whole as well.
pub fn serve(
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> {
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let is_call = grpc::is_call(&parts);
    let is_last =
        version < Version::HTTP_2 && peer.requests() >= worker.settings().keep_alive_requests;
    let mut record = Record::new(worker.clone(), peer.clone(), &parts);
    async move {
        let mut exit = Exit::default();
        let outcome = answer(&worker, &peer, parts, body, &mut record, &mut exit).await;
        let mut response = match outcome {
            Ok(Outcome::Reply(reply)) => deliver(&worker, reply, record, &exit),
            Ok(Outcome::Own(reason, mut own)) => {
                exit.finish(own.status(), own.headers_mut());
                deliver_own(reason, own, record, is_call)
            }
            Err(reason) => deliver_own(reason, exit.answer(reason, version), record, is_call),
        };
        if peer.is_strict
            && let Some(hsts) = &worker.settings().hsts
        {
            headers::add_hsts(hsts, response.headers_mut());
        }
        if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Ok(response)
    }
}

async fn answer(
    worker: &Rc<Worker>,
    peer: &Peer,
    mut parts: Parts,
    body: Incoming,
    record: &mut Record,
    exit: &mut Exit,
) -> Result<Outcome, Reason> {
    let settings = worker.settings();
    let head = strict::check(&mut parts, settings.rules)?;
    check_direction(worker, peer, &head)?;
    let routes = worker.routes();
    let is_secure = peer.is_secure || peer.via.vouches_for_https(&parts.headers);
    let Some(route) = routes.find(&head.host, parts.uri.path()) else {
        let moved = routes.moved(&head.host).ok_or(Reason::NoRoute)?;
        let redirect = redirect::to_host(moved, is_secure, &parts, &settings);
        return Ok(redirected(redirect, &parts));
    };
    record.routed(route.clone());
    let visit = Visit {
        worker,
        settings: &settings,
        route,
        host: &head.host,
        client: forwarding::client(peer.address.ip(), &parts.headers, &settings.trusted_proxies),
        is_secure,
    };
    if let Some(tracer) = worker.tracer() {
        record.traced(tracer, &visit, &mut parts);
    }
    if route.is_closed() {
        return Err(Reason::Closed);
    }
    filters::ban(&visit, &parts)?;
    filters::deny(route, &parts, exit)?;
    filters::greet(route, &parts, exit)?;
    if peer.is_secure && route.ends_tls() {
        return Err(Reason::Misdirected);
    }
    if let Some(fixed) = route.asks(|policy| &policy.fixed_answer) {
        let own = fixed.answer(parts.version);
        return Ok(Outcome::Own(Reason::FixedAnswer, own));
    }
    if let Some(redirect) = redirect::find(&visit, &routes, &parts) {
        return Ok(redirected(redirect, &parts));
    }
    let size = route.asks(|policy| &policy.body).and_then(|body| body.size);
    let limits = settings.body_limits(size);
    limits.check_length(body.size_hint().exact())?;
    record.named(peer.via.apply(&mut parts.headers));
    if let Some(redirect) = check_certificate(peer, route, &head, &mut parts)? {
        return Ok(redirect);
    }
    exit.may_compress(
        settings
            .compress
            .accepted(&parts.method, parts.version, &parts.headers),
    );
    filters::enter(&visit, &mut parts, record, exit).await?;
    let call = Call::of(&parts);
    let pause = call.map_or(settings.client_timeout, |_| grpc::PATIENCE);
    let (mut body, progress) = RequestBody::new(body, head.trailers, pause, limits);
    if !progress.is_complete() {
        record.reads(&progress);
    }
    filters::copy(&visit, &parts, &mut body);
    let chosen = filters::choose(route, &parts.headers);
    if !Arc::ptr_eq(chosen, route) {
        record.routed(chosen.clone());
    }
    // What is hashed is the request as it came, so this precedes all changes.
    let mut backend = upstream(worker, peer, route, chosen).map(|(upstream, mut spoken)| {
        if head.upgrade {
            // The switch is one of HTTP/1.1.
            spoken.http = Http::One;
        }
        let mut manner = Manner::of(&visit, chosen, upstream, &parts, spoken);
        if call.is_some() {
            let asked = route.asks(|policy| &policy.timeouts);
            manner.patience = manner.patience.of_call(asked);
        }
        Attempts::new(worker, upstream, manner, Instant::now())
    });
    let edit = ResponseEdit::of(route, || visit.facts(&parts));
    rewrite::apply(route, &mut parts, settings.rules.slashes)?;
    headers::edit_request(route, &mut parts.headers);
    let intercept = Intercept::prepare(route, routes.fallback(), &parts);
    let upgrade = head.upgrade.then(|| upgrade::prepare(&mut parts));
    let request = Box::new(Request::from_parts(parts, body));
    let mut reply = match &mut backend {
        Ok(attempts) => {
            // What waits for it gets a reference: its state is large and dear to move.
            let forward = pin!(forward::forward(
                worker, attempts, request, progress, upgrade, record
            ));
            grpc::within(call, forward).await
        }
        Err(reason) => Err(*reason),
    };
    if let Some(intercept) = intercept {
        // Boxed, for few requests come here, and all would carry its state.
        match Box::pin(intercept.judge(worker, reply, record)).await? {
            Answer::Reply(other) => reply = Ok(other),
            Answer::Own(reason, own) => return Ok(Outcome::Own(reason, own)),
        }
    }
    let mut reply = reply?;
    if let Reply::Response(response) = &mut reply {
        edit.apply(response.headers_mut());
        if let Some(call) = call {
            response.body_mut().end_by(call.deadline);
        }
    }
    Ok(Outcome::Reply(reply))
}

fn redirected(redirect: Redirect, parts: &Parts) -> Outcome {
    Outcome::Own(redirect.reason, redirect.answer(parts.version))
}

/// A connection that was opened for one host carries requests for another only if its certificate is good for both.
fn check_direction(worker: &Worker, peer: &Peer, head: &Head) -> Result<(), Reason> {
    let Some(server_name) = peer
        .server_name
        .as_deref()
        .filter(|name| *name != &*head.host)
    else {
        return Ok(());
    };
    let certificates = worker.shared().certificates.load();
    let is_fine = certificates.may_serve(server_name, &head.host);
    is_fine.then_some(()).ok_or(Reason::Misdirected)
}

/// Lets a client in whose certificate the route takes, or says where it is sent instead. One that was not asked for a
/// certificate, as its connection was opened for another host, may open one for this.
fn check_certificate(
    peer: &Peer,
    route: &Route,
    head: &Head,
    parts: &mut Parts,
) -> Result<Option<Outcome>, Reason> {
    let Some(asked) = route.asks(|policy| &policy.client_certificates) else {
        return Ok(None);
    };
    let admitted = admit(asked, peer.certificate.as_ref(), &mut parts.headers);
    let is_other = peer.server_name.as_deref() != Some(&*head.host);
    match (admitted, &asked.error_page) {
        (Ok(()), _) => Ok(None),
        (Err(Reason::NoClientCertificate), _) if peer.is_secure && is_other => {
            Err(Reason::Misdirected)
        }
        (Err(reason), Some(page)) => {
            let redirect = answer::error_page(reason, page, parts.version);
            Ok(Some(Outcome::Own(reason, redirect)))
        }
        (Err(reason), None) => Err(reason),
    }
}

/// The route that says how the backend of `chosen` is spoken to: a canary that says nothing of it is spoken to like the
/// backend beside it.
fn speaker<'r>(route: &'r Route, chosen: &'r Route) -> &'r Route {
    let says = |route: &Route| route.asks(|policy| &policy.backend).is_some();
    if says(route) && !says(chosen) {
        route
    } else {
        chosen
    }
}

/// The backend of `chosen` and how it is spoken to, or the one that stands in for it where it has no endpoint.
fn upstream<'r>(
    worker: &Worker,
    peer: &Peer,
    route: &Route,
    chosen: &'r Route,
) -> Result<(&'r Upstream, Spoken), Reason> {
    let own = match &chosen.target {
        Target::Backend(upstream) => Some(&**upstream),
        Target::Nowhere | Target::WithSlash => None,
    };
    if let Some(fallback) = &chosen.fallback
        && own.is_none_or(Upstream::is_empty)
    {
        return Ok((fallback, Spoken::PLAIN));
    }
    let own = own.ok_or(Reason::NoBackend)?;
    let spoken = speaker(route, chosen).spoken(peer.is_secure, worker.shared().backend_tls.tls());
    Ok((own, spoken.ok_or(Reason::BackendTls)?))
}

/// Hands an answer of our own to the client.
fn deliver_own(
    reason: Reason,
    own: Response<Full<Bytes>>,
    mut record: Box<Record>,
    is_call: bool,
) -> Response<ResponseBody> {
    record.failed(reason);
    record.answered(own.status());
    let own = match is_call {
        true => grpc::answer(own.status(), reason),
        false => own,
    };
    own.map(|body| ResponseBody::own(body, record))
}

/// Hands a backend's answer to the client.
fn deliver(
    worker: &Rc<Worker>,
    reply: Reply,
    mut record: Box<Record>,
    exit: &Exit,
) -> Response<ResponseBody> {
    let status = reply.status();
    record.answered(status);
    match reply {
        Reply::Response(mut response) => {
            exit.finish(status, response.headers_mut());
            let settings = worker.settings();
            let compress = &settings.compress;
            let is_worth_it = compress.announce(exit.coding(), status, response.headers_mut());
            let coding = exit.coding().filter(|_| is_worth_it);
            let name = response.headers_mut().entry(SERVER);
            name.or_insert(answer::SERVER_NAME);
            response.map(|body| {
                ResponseBody::backend(body, record)
                    .compressed(coding.map(|coding| compress.compressor(coding)))
                    .paced(exit.pace())
            })
        }
        Reply::Switch(switch) => upgrade::tunnel(worker, *switch, record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl Fn(Rc<Worker>, Rc<Peer>, Request<Incoming>) -> F) -> usize {
        size_of::<F>()
    }

    /// Each request gets its state anew, and moving it there costs more than anything the state is for once that has the
    /// room of every rare way in it.
    #[test]
    fn the_state_of_a_request_is_small() {
        let size = size(serve);
        assert!(size <= 4 * 1024, "{size} bytes");
    }
}
