//! What became of a request: its line in the access log and its share in the metrics.
//!
//! A record begins with the request and ends when the response is through, has failed or was abandoned. It is written
//! when it is dropped, so no way out of a request can forget it.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, REFERER, USER_AGENT};
use http::request::Parts;
use http::{Method, Request, StatusCode, Uri, Version};
use serde::Serialize;
use tokio::time::Instant;

use crate::annotations::log::Log;
use crate::filters::Visit;
use crate::filters::limits::Slot;
use crate::forward::pool::Key;
use crate::message::answer::Reason;
use crate::message::body::Progress;
use crate::observe::log_format::LogFormat;
use crate::observe::series::{BackendTimes, Observed};
use crate::routes::{Route, Target};
use crate::server::settings::Settings;
use crate::server::worker::{Peer, Worker};
use crate::trace::context::Context;
use crate::trace::span::Served;
use crate::trace::{Trace, Tracer};
use crate::upstream::endpoint::InFlight;

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
    backend: Option<SocketAddr>,
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

/// A line of the access log.
#[derive(Serialize)]
struct Line<'r> {
    time: jiff::Timestamp,
    remote_addr: std::net::IpAddr,
    remote_port: u16,
    scheme: &'static str,
    protocol: &'static str,
    method: &'r str,
    host: Option<Text<'r>>,
    target: &'r str,
    status: u16,
    bytes_sent: u64,
    /// In seconds.
    duration: f64,
    request_id: Option<Text<'r>>,
    user_agent: Option<Text<'r>>,
    referer: Option<Text<'r>>,
    namespace: Option<&'r str>,
    ingress: Option<&'r str>,
    service: Option<&'r str>,
    path: Option<&'r str>,
    backend: Option<SocketAddr>,
    attempts: u32,
    /// Why the gateway answered itself, or why the response is incomplete.
    reason: Option<&'static str>,
    /// The span of the request, if it has one.
    #[serde(flatten)]
    trace: Option<TraceIds>,
}

/// A span, in hexadecimal digits.
#[derive(Serialize)]
struct TraceIds {
    trace_id: String,
    span_id: String,
}

/// The same with what only nginx's variables speak of.
#[derive(Serialize)]
struct TextLine<'r> {
    #[serde(flatten)]
    line: Line<'r>,
    time_local: String,
    msec: f64,
    request: String,
    /// Like `namespace-service-port`.
    upstream_name: Option<String>,
    upstream_status: Option<u16>,
    upstream_length: Option<u64>,
    upstream_head: Option<f64>,
    upstream_duration: Option<f64>,
    traceparent: Option<String>,
    sampled: Option<u8>,
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

    /// `request` is sent to the backend `key`, after it was sent to others or to the same `resends` times.
    pub fn tried<B>(&mut self, key: &Key, resends: u32, request: &mut Request<B>) {
        self.backend = Some(key.address);
        self.tried = Some(Instant::now());
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

    /// The last attempt came to a response with this status, or failed.
    pub fn came_to(&mut self, outcome: Result<StatusCode, Reason>) {
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
        let is_ours = self.reason.is_some();
        self.head = self.tried.filter(|_| !is_ours).map(|tried| tried.elapsed());
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

    fn write(&mut self) {
        if !self.is_complete && self.reason.is_none() {
            self.reason = Some(Reason::ClientGone);
        }
        let status = self.status.unwrap_or_else(|| Reason::ClientGone.status());
        let elapsed = self.started.elapsed();
        let metrics = self.worker.metrics();
        if let Some(reason) = self.reason {
            metrics.count_reason(reason);
        }
        if let Some(route) = &self.route {
            route.series.count(&Observed {
                method: &self.method,
                status,
                elapsed,
                backend: self.backend_times(),
                received: self.body.as_ref().map_or(0, |body| body.received()),
                sent: self.sent,
            });
        }
        let settings = self.worker.settings();
        if !settings.no_access_log && self.is_logged(&settings) {
            let line = self.line(status, elapsed);
            let format = &settings.access_log_format;
            match format {
                LogFormat::Json => self.worker.log().write(format, &line),
                LogFormat::Text(_) => self.worker.log().write(format, &self.text_line(line)),
            }
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

    fn backend_times(&self) -> Option<BackendTimes> {
        let total = self.tried?.elapsed();
        Some(BackendTimes {
            connect: self.connect,
            head: self.head,
            total,
        })
    }

    fn text_line<'r>(&'r self, line: Line<'r>) -> TextLine<'r> {
        let times = self.backend_times().filter(|times| times.head.is_some());
        let seconds = |time: Duration| time.as_secs_f64();
        let zoned = line.time.to_zoned(jiff::tz::TimeZone::UTC);
        TextLine {
            time_local: zoned.strftime("%d/%b/%Y:%H:%M:%S %z").to_string(),
            msec: line.time.as_microsecond() as f64 / 1e6,
            request: format!("{} {} {}", line.method, line.target, line.protocol),
            upstream_name: self.route.as_deref().and_then(upstream_name),
            upstream_status: times.map(|_| line.status),
            upstream_length: times.map(|_| line.bytes_sent),
            upstream_head: times.and_then(|times| times.head).map(seconds),
            upstream_duration: times.map(|times| seconds(times.total)),
            traceparent: self.context().map(|context| context.to_string()),
            sampled: self.context().map(|context| u8::from(context.is_sampled)),
            line,
        }
    }

    fn line(&self, status: StatusCode, elapsed: Duration) -> Line<'_> {
        let route = self.route.as_ref();
        let name = route.map(|route| &route.ingress.name);
        Line {
            time: jiff::Timestamp::now(),
            remote_addr: self.peer.address.ip().to_canonical(),
            remote_port: self.peer.address.port(),
            scheme: if self.peer.is_secure { "https" } else { "http" },
            protocol: protocol(self.version),
            method: self.method.as_str(),
            host: self.host.as_ref().map(Text),
            target: self
                .target
                .path_and_query()
                .map_or("", |target| target.as_str()),
            status: status.as_u16(),
            bytes_sent: self.sent,
            duration: elapsed.as_secs_f64(),
            request_id: self.id.as_ref().map(Text),
            user_agent: self.agent.as_ref().map(Text),
            referer: self.referer.as_ref().map(Text),
            namespace: name.map(|name| &*name.namespace),
            // The gateway's own default backend belongs to none.
            ingress: name.map(|name| &*name.name).filter(|name| !name.is_empty()),
            service: route.map(|route| &*route.service),
            path: route.map(|route| &*route.path),
            backend: self.backend,
            attempts: self.attempts,
            reason: self.reason.map(Reason::name),
            trace: self.context().map(|context| TraceIds {
                trace_id: context.trace.to_string(),
                span_id: context.span.to_string(),
            }),
        }
    }

    /// The span of the request, if it has one.
    fn context(&self) -> Option<Context> {
        self.trace.as_ref().map(|trace| trace.context())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.peer.end();
        self.write();
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

/// A header's value as text; bytes that are none are replaced.
struct Text<'v>(&'v HeaderValue);

impl Serialize for Text<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.0.as_bytes()))
    }
}
