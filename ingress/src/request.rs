//! A request's way through the gateway, step by step.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::SERVER;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};

use crate::annotations::https::HttpsRedirect;
use crate::answer::{self, Reason};
use crate::attempts::Manner;
use crate::body::{RequestBody, ResponseBody};
use crate::exchange::Reply;
use crate::filters::{self, Exit, Visit};
use crate::forward;
use crate::forwarding;
use crate::protocol::Http;
use crate::record::Record;
use crate::routes::{Route, Table, Target};
use crate::strict::{self, Head};
use crate::upgrade;
use crate::upstream::Upstream;
use crate::worker::{Peer, Worker};

/// Where ACME servers look for the answers to their challenges, over plain HTTP.
const ACME_CHALLENGES: &str = "/.well-known/acme-challenge/";

/// What a request comes to.
enum Outcome {
    /// A backend's answer.
    Reply(Reply),
    /// A redirect of our own.
    Redirect(Response<Full<Bytes>>),
}

/// Answers `request`.
pub async fn serve(
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let mut record = Record::new(worker.clone(), peer.clone(), &parts);
    let mut exit = Exit::default();
    let answer = match answer(&worker, &peer, parts, body, &mut record, &mut exit).await {
        Ok(Outcome::Reply(reply)) => return deliver(&worker, reply, record, &exit),
        Ok(Outcome::Redirect(mut redirect)) => {
            record.failed(Reason::HttpsRedirect);
            exit.finish(redirect.status(), redirect.headers_mut());
            redirect
        }
        Err(reason) => {
            record.failed(reason);
            exit.answer(reason, version)
        }
    };
    record.answered(answer.status());
    answer.map(|body| ResponseBody::own(body, record))
}

async fn answer(
    worker: &Rc<Worker>,
    peer: &Peer,
    mut parts: Parts,
    body: Incoming,
    record: &mut Record,
    exit: &mut Exit,
) -> Result<Outcome, Reason> {
    let head = strict::check(&mut parts, worker.shared().rules)?;
    check_direction(worker, peer, &head)?;
    let routes = worker.routes();
    let route = routes
        .find(&head.host, parts.uri.path())
        .ok_or(Reason::NoRoute)?;
    record.routed(route.clone());
    if route.is_closed() {
        return Err(Reason::Closed);
    }
    filters::greet(route, &parts, exit)?;
    if is_redirected(peer, &routes, route, &head, &parts) {
        return Ok(Outcome::Redirect(to_https(&head, &parts)));
    }
    let size = route.asks(|policy| &policy.body).and_then(|body| body.size);
    let limits = worker.settings().body_limits(size);
    limits.check_length(body.size_hint().exact())?;
    let client = forwarding::client(
        peer.address.ip(),
        &parts.headers,
        &worker.settings().trusted_proxies,
    );
    peer.via.apply(&mut parts.headers);
    record.named(&parts.headers);
    let visit = Visit {
        worker,
        route,
        host: &head.host,
        client,
        is_secure: peer.is_secure,
    };
    exit.may_compress(worker.settings().compress.accepted(
        &parts.method,
        parts.version,
        &parts.headers,
    ));
    filters::enter(&visit, &mut parts, record, exit).await?;
    let pause = worker.settings().client_timeout;
    let (mut body, progress) = RequestBody::new(body, head.trailers, pause, limits);
    filters::copy(&visit, &parts, &mut body);
    let chosen = filters::choose(route, &parts.headers);
    if !Arc::ptr_eq(chosen, route) {
        record.routed(chosen.clone());
    }
    let spoken = speaker(route, chosen).spoken(peer.is_secure, worker.shared().backend_tls.tls());
    let mut spoken = spoken.ok_or(Reason::BackendTls)?;
    if head.upgrade {
        // The switch is one of HTTP/1.1.
        spoken.http = Http::One;
    }
    let upgrade = head.upgrade.then(|| upgrade::prepare(&mut parts));
    let upstream = upstream(chosen)?;
    let manner = Manner::of(&visit, chosen, upstream, &parts, spoken);
    let request = Request::from_parts(parts, body);
    let reply =
        forward::forward(worker, upstream, manner, request, progress, upgrade, record).await?;
    Ok(Outcome::Reply(reply))
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

/// Whether a client that came in the clear is sent to HTTPS.
fn is_redirected(peer: &Peer, routes: &Table, route: &Route, head: &Head, parts: &Parts) -> bool {
    let asked = route.asks(|policy| &policy.https);
    let is_wanted = match asked.copied().unwrap_or_default() {
        HttpsRedirect::WhereTls => routes.is_secure(&head.host),
        HttpsRedirect::Never => false,
        HttpsRedirect::Always => true,
    };
    is_wanted
        && !peer.is_secure
        && !peer.via.vouches_for_https(&parts.headers)
        && !parts.uri.path().starts_with(ACME_CHALLENGES)
}

fn to_https(head: &Head, parts: &Parts) -> Response<Full<Bytes>> {
    let target = parts.uri.path_and_query();
    let target = target.map_or("/", |target| target.as_str());
    answer::https_redirect(&head.host, target, parts.version)
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

fn upstream(route: &Route) -> Result<&Upstream, Reason> {
    match &route.target {
        Target::Backend(upstream) => Ok(upstream),
        Target::Nowhere => Err(Reason::NoBackend),
    }
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
            let settings = &worker.settings().compress;
            let is_worth_it = settings.announce(exit.coding(), status, response.headers_mut());
            let coding = exit.coding().filter(|_| is_worth_it);
            let name = response.headers_mut().entry(SERVER);
            name.or_insert(answer::SERVER_NAME);
            response.map(|body| {
                ResponseBody::backend(body, record)
                    .compressed(coding)
                    .paced(exit.pace())
            })
        }
        Reply::Switch(switch) => upgrade::tunnel(worker, *switch, record),
    }
}
