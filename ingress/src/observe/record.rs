//! What became of a request: its line in the access log and its share in the metrics.
//!
//! A record begins with the request and ends when the response is through, has failed or was abandoned. It is written
//! when it is dropped, so no way out of a request can forget it.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, REFERER, USER_AGENT};
use http::request::Parts;
use http::{Method, Request, StatusCode, Uri, Version};
use tokio::time::Instant;

use crate::annotations::log::Log;
use crate::filters::Visit;
use crate::filters::limits::Slot;
use crate::forward::pool::Key;
use crate::message::answer::Reason;
use crate::message::body::Progress;
use crate::observe::line::{Field, Line, Value};
use crate::observe::series::{BackendTimes, Observed};
use crate::routes::{Route, Target};
use crate::server::settings::Settings;
use crate::server::worker::{Peer, Worker};
use crate::trace::context::Context;
use crate::trace::span::Served;
use crate::trace::{Trace, Tracer};
use crate::upstream::endpoint::{Endpoint, InFlight};

/// What is known about a request so far.
pub struct Record {
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    started: Instant,
    method: Method,
    target: Uri,
    version: Version,
    host: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    id: Option<HeaderValue>,
    route: Option<Arc<Route>>,
    /// Its part in a trace, if it has one.
    trace: Option<Box<Trace>>,
    backend: Option<Arc<Endpoint>>,
    /// Counts among the requests of its client until the response is through.
    slot: Option<Slot>,
    /// When it was sent to the backend, and how long the head of its response took.
    tried: Option<Instant>,
    head: Option<Duration>,
    /// How long connecting to the backend took, if that was necessary.
    connect: Option<Duration>,
    /// How far its body has come, if it has one.
    body: Option<Rc<Progress>>,
    /// Counts at the endpoint that answered until the response is through.
    place: Option<InFlight>,
    attempts: u32,
    status: Option<StatusCode>,
    reason: Option<Reason>,
    sent: u64,
    is_complete: bool,
}

/// A request that is over, as its line tells of it.
struct Finished<'r> {
    record: &'r Record,
    status: StatusCode,
    at: Instant,
    time: jiff::Timestamp,
}

impl Record {
    /// The record of the request with the head `parts`, as the client sent it.
    pub fn new(worker: Rc<Worker>, peer: Rc<Peer>, parts: &Parts) -> Box<Self> {
        let field = |name| parts.headers.get(name).cloned();
        peer.begin();
        worker.metrics().requests.count();
        let tracer = worker.tracer();
        let trace = tracer.and_then(|tracer| tracer.begin(&parts.headers));
        Box::new(Self {
            worker,
            peer,
            started: Instant::now(),
            method: parts.method.clone(),
            target: parts.uri.clone(),
            version: parts.version,
            host: field(http::header::HOST).or_else(|| authority(&parts.uri)),
            agent: field(USER_AGENT),
            referer: field(REFERER),
            id: None,
            route: None,
            trace,
            backend: None,
            slot: None,
            tried: None,
            head: None,
            connect: None,
            body: None,
            place: None,
            attempts: 0,
            status: None,
            reason: None,
            sent: 0,
            is_complete: false,
        })
    }

    /// The request takes `route`.
    pub fn routed(&mut self, route: Arc<Route>) {
        self.route = Some(route);
    }

    /// The route says which trace the request belongs to.
    pub fn traced(&mut self, tracer: &Tracer, visit: &Visit<'_>, parts: &mut Parts) {
        self.trace = tracer.follow(self.trace.take(), visit, parts);
    }

    /// The request is called this.
    pub fn named(&mut self, id: HeaderValue) {
        self.id = Some(id);
    }

    /// `request` is sent to `place` at `now` by a connection for `key`, after it was sent to others or to the same `resends`
    /// times.
    pub fn tried<B>(
        &mut self,
        place: &InFlight,
        key: &Key,
        resends: u32,
        now: Instant,
        request: &mut Request<B>,
    ) {
        self.backend = Some(place.endpoint().clone());
        self.tried = Some(now);
        self.attempts += 1;
        if let Some(trace) = &mut self.trace {
            trace.attempt(key, resends, request);
        }
    }

    /// The request has a body, of which `progress` tells.
    pub fn reads(&mut self, progress: &Rc<Progress>) {
        self.body = Some(progress.clone());
    }

    /// The last attempt had to connect, which took so long, or went over an open connection.
    pub fn connected(&mut self, took: Option<Duration>) {
        self.connect = took;
    }

    /// The last attempt came to a response with this status, or failed, at `now`.
    pub fn came_to(&mut self, outcome: Result<StatusCode, Reason>, now: Instant) {
        let tried = self.tried.filter(|_| outcome.is_ok());
        self.head = tried.map(|tried| now - tried);
        if let Some(trace) = &mut self.trace {
            trace.came_to(outcome);
        }
    }

    /// A service is asked `question` about the request.
    pub fn asks<B>(&mut self, question: &mut Request<B>) {
        if let Some(trace) = &mut self.trace {
            trace.ask(question);
        }
    }

    /// The service has answered with this status, or not at all.
    pub fn told(&mut self, status: Option<StatusCode>) {
        if let Some(trace) = &mut self.trace {
            trace.told(status);
        }
    }

    /// The request counts among those of its client.
    pub fn counts(&mut self, slot: Option<Slot>) {
        self.slot = slot;
    }

    /// The request has `place` at the endpoint that answered it.
    pub fn holds(&mut self, place: InFlight) {
        self.place = Some(place);
    }

    /// The client is answered with `status`.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        if self.reason.is_some() {
            self.head = None;
        }
    }

    /// Something went wrong, or the gateway answered itself.
    pub fn failed(&mut self, reason: Reason) {
        self.reason = Some(reason);
    }

    /// So much more of the body was handed on.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u64);
    }

    /// The response is through.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    fn write(&mut self, now: Instant) {
        if !self.is_complete && self.reason.is_none() {
            self.reason = Some(Reason::ClientGone);
        }
        let status = self.status.unwrap_or_else(|| Reason::ClientGone.status());
        let metrics = self.worker.metrics();
        if let Some(reason) = self.reason {
            metrics.count_reason(reason);
        }
        if let Some(route) = &self.route {
            route.series.count(&Observed {
                method: &self.method,
                status,
                elapsed: now - self.started,
                backend: self.backend_times(now),
                received: self.body.as_ref().map_or(0, |body| body.received()),
                sent: self.sent,
            });
        }
        let settings = self.worker.settings();
        if !settings.no_access_log && self.is_logged(&settings) {
            let line = Finished {
                record: self,
                status,
                at: now,
                time: jiff::Timestamp::now(),
            };
            self.worker.log().write(&settings.access_log_format, &line);
        }
        if let Some(trace) = self.trace.take() {
            self.finish(*trace, status);
        }
    }

    fn finish(&self, trace: Trace, status: StatusCode) {
        let Some(tracer) = self.worker.tracer() else {
            return;
        };
        let served = Served {
            method: &self.method,
            target: &self.target,
            version: self.version,
            host: self.host.as_ref(),
            agent: self.agent.as_ref(),
            peer: self.peer.address,
            is_secure: self.peer.is_secure,
            route: self.route.as_deref(),
            status,
            reason: self.reason,
            is_complete: self.is_complete,
        };
        tracer.finish(trace, &served);
    }

    /// Whether the Ingress wants requests to be written down, and nobody else wants this one not to be.
    fn is_logged(&self, settings: &Settings) -> bool {
        let unlogged = &settings.everywhere.unlogged;
        let target = || {
            self.target
                .path_and_query()
                .map_or("", |target| target.as_str())
        };
        if !unlogged.is_empty() && unlogged.has(target()) {
            return false;
        }
        let asked = self
            .route
            .as_ref()
            .and_then(|route| route.asks(|policy| &policy.log));
        asked.copied().unwrap_or_default() == Log::On
    }

    fn backend_times(&self, now: Instant) -> Option<BackendTimes> {
        let total = now - self.tried?;
        Some(BackendTimes {
            connect: self.connect,
            head: self.head,
            total,
        })
    }

    /// Path and query, as the client wrote them.
    fn target(&self) -> &str {
        self.target
            .path_and_query()
            .map_or("", |target| target.as_str())
    }

    /// The span of the request, if it has one.
    fn context(&self) -> Option<Context> {
        self.trace.as_ref().map(|trace| trace.context())
    }
}

impl Line for Finished<'_> {
    fn value(&self, field: Field) -> Value<'_> {
        let record = self.record;
        let route = record.route.as_deref();
        let name = route.map(|route| &route.ingress.name);
        let context = || record.context();
        match field {
            Field::Time => Value::own(record.worker.log().stamp(self.time)),
            Field::TimeLocal => {
                let zoned = self.time.to_zoned(jiff::tz::TimeZone::UTC);
                Value::own(zoned.strftime("%d/%b/%Y:%H:%M:%S %z").to_string())
            }
            Field::Msec => Value::Seconds(self.time.as_microsecond() as f64 / 1e6),
            Field::RemoteAddr => record.peer.via.address().into(),
            Field::RemotePort => u64::from(record.peer.address.port()).into(),
            Field::Scheme if record.peer.is_secure => "https".into(),
            Field::Scheme => "http".into(),
            Field::Protocol => protocol(record.version).into(),
            Field::Method => record.method.as_str().into(),
            Field::Host => record.host.as_ref().into(),
            Field::Target => record.target().into(),
            Field::Request => {
                let (method, protocol) = (&record.method, protocol(record.version));
                Value::own(format!("{method} {} {protocol}", record.target()))
            }
            Field::Status => u64::from(self.status.as_u16()).into(),
            Field::BytesSent => record.sent.into(),
            Field::Duration => seconds(self.at - record.started),
            Field::RequestId => record.id.as_ref().into(),
            Field::UserAgent => record.agent.as_ref().into(),
            Field::Referer => record.referer.as_ref().into(),
            Field::Namespace => name.map(|name| &*name.namespace).into(),
            // The gateway's own default backend belongs to none.
            Field::Ingress => name
                .map(|name| &*name.name)
                .filter(|name| !name.is_empty())
                .into(),
            Field::Service => route.map(|route| &*route.service).into(),
            Field::Path => route.map(|route| &*route.path).into(),
            Field::Backend => record
                .backend
                .as_ref()
                .map(|endpoint| endpoint.text())
                .into(),
            Field::Attempts => u64::from(record.attempts).into(),
            Field::Reason => record.reason.map(Reason::name).into(),
            Field::TraceId => {
                context().map_or(Value::Nothing, |it| Value::own(it.trace.to_string()))
            }
            Field::SpanId => context().map_or(Value::Nothing, |it| Value::own(it.span.to_string())),
            Field::Traceparent => context().map_or(Value::Nothing, |it| Value::own(it.to_string())),
            Field::Sampled => context().map(|it| u64::from(it.is_sampled)).into(),
            Field::UpstreamName => route
                .and_then(upstream_name)
                .map_or(Value::Nothing, Value::own),
            Field::UpstreamStatus
            | Field::UpstreamLength
            | Field::UpstreamHead
            | Field::UpstreamDuration => self.upstream(field),
        }
    }
}

impl Finished<'_> {
    /// What only a request that a backend has answered has.
    fn upstream(&self, field: Field) -> Value<'_> {
        let times = self.record.backend_times(self.at);
        let Some((total, head)) = times.and_then(|times| Some((times.total, times.head?))) else {
            return Value::Nothing;
        };
        match field {
            Field::UpstreamHead => seconds(head),
            Field::UpstreamDuration => seconds(total),
            Field::UpstreamLength => self.value(Field::BytesSent),
            _ => self.value(Field::Status),
        }
    }
}

fn seconds(time: Duration) -> Value<'static> {
    Value::Seconds(time.as_secs_f64())
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        self.peer.end(now);
        self.write(now);
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = (&self.method, &self.host, &self.target);
        f.debug_tuple("Record")
            .field(&target)
            .finish_non_exhaustive()
    }
}

fn upstream_name(route: &Route) -> Option<String> {
    let Target::Backend(upstream) = &route.target else {
        return None;
    };
    let name = upstream.name();
    let (service, port) = (&name.service, &name.port);
    let parts = [&*service.namespace, &*service.name, &**port];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    Some(parts.collect::<Vec<_>>().join("-"))
}

fn authority(uri: &Uri) -> Option<HeaderValue> {
    HeaderValue::from_str(uri.authority()?.as_str()).ok()
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "unknown",
    }
}
