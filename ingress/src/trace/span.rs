//! What a span says: OpenTelemetry's semantic conventions for HTTP, and where in the cluster the request went.
//!
//! Queries are left out: they may hold what nobody should read. Paths, agents and hosts are the client's words.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{Attempt, Question, Trace};
use crate::message::answer::Reason;
use crate::message::variables::scheme;
use crate::routes::Route;

/// A request that is over.
#[derive(Debug)]
pub struct Served<'r> {
    /// The method, as the client sent it.
    pub method: &'r Method,
    /// The target, as the client sent it.
    pub target: &'r Uri,
    /// The version of HTTP that it came in.
    pub version: Version,
    /// The host that it is for, as the client said.
    pub host: Option<&'r HeaderValue>,
    /// What the client says it is.
    pub agent: Option<&'r HeaderValue>,
    /// The other end of its connection.
    pub peer: SocketAddr,
    /// Whether it came over TLS.
    pub is_secure: bool,
    /// The route that it took.
    pub route: Option<&'r Route>,
    /// The status of its answer.
    pub status: StatusCode,
    /// Why the gateway answered itself, or why the response is incomplete.
    pub reason: Option<Reason>,
    /// Whether all of the response went to the client.
    pub is_complete: bool,
}

/// What went wrong, if anything did.
struct Failure {
    /// A status that says so.
    status: Option<StatusCode>,
    /// Why, as far as the gateway knows.
    reason: Option<Reason>,
}

/// The attributes of a span.
struct Attributes(Vec<KeyValue>);

impl Trace {
    /// All its spans, the one of the request last.
    pub(super) fn spans(self, served: &Served<'_>) -> Vec<SpanData> {
        let end = self.clock.elapsed();
        let count = self.attempts.len();
        let questions = self.questions.iter();
        let questions = questions.map(|question| self.question_span(question, end, served));
        let attempts = self.attempts.iter().zip(1..);
        let attempts = attempts
            .map(|(attempt, number)| self.attempt_span(attempt, number == count, end, served));
        let mut spans: Vec<_> = questions.chain(attempts).collect();
        spans.push(self.request_span(end, served));
        spans
    }

    fn request_span(&self, end: Duration, served: &Served<'_>) -> SpanData {
        let method = name(served.method);
        let route = served.route.map(|route| &*route.path);
        let plain = || match route.filter(|path| !path.is_empty()) {
            Some(path) => format!("{method} {path}"),
            None => method.to_owned(),
        };
        let is_ours = |reason: &Reason| !served.is_complete || reason.status().is_server_error();
        let failure = Failure {
            status: Some(served.status).filter(StatusCode::is_server_error),
            reason: served.reason.filter(is_ours),
        };
        let mut attributes = Attributes::of(served.method, served);
        attributes.put("url.scheme", scheme(served.is_secure));
        attributes.put("url.path", served.target.path().to_owned());
        attributes.maybe("http.route", route.map(str::to_owned));
        attributes.host(served.host);
        attributes.put("client.address", address(served.peer));
        attributes.put("network.peer.address", address(served.peer));
        attributes.put("network.peer.port", i64::from(served.peer.port()));
        attributes.maybe("user_agent.original", served.agent.map(text));
        attributes.put("network.protocol.version", version(served.version));
        attributes.status(served.status);
        attributes.maybe("error.type", failure.kind());
        SpanData {
            parent_span_id: self.parent.map_or(SpanId::INVALID, |parent| parent.span),
            parent_span_is_remote: self.parent.is_some(),
            name: self.name.clone().unwrap_or_else(plain).into(),
            attributes: attributes.0,
            status: failure.verdict(),
            ..self.span(self.context.span, SpanKind::Server, Duration::ZERO, end)
        }
    }

    fn question_span(&self, question: &Question, end: Duration, served: &Served<'_>) -> SpanData {
        let (ended, status) = question.ended.unwrap_or((end, None));
        let is_error = |status: &StatusCode| status.is_client_error() || status.is_server_error();
        let reason = match question.ended {
            Some(_) => Reason::AuthFailed,
            // The request was over before there was an answer.
            None => served.reason.unwrap_or(Reason::ClientGone),
        };
        let failure = Failure {
            status: status.filter(is_error),
            reason: status.is_none().then_some(reason),
        };
        let url = &question.url;
        let mut attributes = Attributes::of(&question.method, served);
        if let (Some(scheme), Some(host)) = (url.scheme_str(), url.host()) {
            let port = url
                .port()
                .map_or_else(String::new, |port| format!(":{port}"));
            let path = url.path();
            attributes.put("url.full", format!("{scheme}://{host}{port}{path}"));
            attributes.put("server.address", host.to_owned());
        }
        attributes.maybe("server.port", url.port_u16().map(i64::from));
        if let Some(status) = status {
            attributes.status(status);
        }
        attributes.maybe("error.type", failure.kind());
        SpanData {
            parent_span_id: self.context.span,
            name: name(&question.method).into(),
            attributes: attributes.0,
            status: failure.verdict(),
            ..self.span(question.span, SpanKind::Client, question.began, ended)
        }
    }

    fn attempt_span(
        &self,
        attempt: &Attempt,
        is_last: bool,
        end: Duration,
        served: &Served<'_>,
    ) -> SpanData {
        // A response that was taken goes on with the request, and may still break off.
        let is_taken = is_last && !matches!(attempt.outcome, Some(Err(_)));
        let ended = attempt.ended.filter(|_| !is_taken).unwrap_or(end);
        let answered = attempt.outcome.and_then(Result::ok);
        let broke = served
            .reason
            .filter(|_| is_taken && (answered.is_none() || !served.is_complete));
        let is_error = |status: &StatusCode| status.is_client_error() || status.is_server_error();
        let failure = Failure {
            status: answered.filter(is_error),
            reason: attempt.outcome.and_then(Result::err).or(broke),
        };
        let (backend, path) = (attempt.backend, attempt.target.path());
        let url = format!("{}://{backend}{path}", scheme(attempt.is_secure));
        let mut attributes = Attributes::of(&attempt.method, served);
        attributes.put("url.full", url);
        attributes.put("server.address", address(backend));
        attributes.put("server.port", i64::from(backend.port()));
        attributes.put("network.peer.address", address(backend));
        attributes.put("network.peer.port", i64::from(backend.port()));
        attributes.put("network.protocol.version", version(attempt.version));
        if let Some(status) = answered {
            attributes.status(status);
        }
        if attempt.resends > 0 {
            attributes.put("http.request.resend_count", i64::from(attempt.resends));
        }
        attributes.maybe("error.type", failure.kind());
        SpanData {
            parent_span_id: self.context.span,
            name: name(&attempt.method).into(),
            attributes: attributes.0,
            status: failure.verdict(),
            ..self.span(attempt.span, SpanKind::Client, attempt.began, ended)
        }
    }

    fn span(&self, id: SpanId, kind: SpanKind, began: Duration, ended: Duration) -> SpanData {
        let state = self.state.as_ref().and_then(|state| state.to_str().ok());
        let state = state.and_then(|state| state.parse::<TraceState>().ok());
        SpanData {
            span_context: SpanContext::new(
                self.context.trace,
                id,
                TraceFlags::SAMPLED,
                false,
                state.unwrap_or_default(),
            ),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: kind,
            name: "".into(),
            start_time: self.began + began,
            end_time: self.began + ended,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("portolan-ingress").build(),
        }
    }
}

impl Failure {
    /// What went wrong, in one word.
    fn kind(&self) -> Option<Value> {
        let status = || Some(self.status?.as_str().to_owned().into());
        self.reason
            .map(|reason| reason.name().into())
            .or_else(status)
    }

    /// Whether that is an error. A client that goes away is none.
    fn verdict(&self) -> Status {
        let is_ours = self
            .reason
            .is_none_or(|reason| reason.status().is_server_error());
        match self.status.is_some() || self.reason.is_some() {
            true if is_ours => Status::error(""),
            _ => Status::Unset,
        }
    }
}

impl Attributes {
    /// What all spans of a request have, of this one's `method`.
    fn of(method: &Method, served: &Served<'_>) -> Self {
        let mut attributes = Self(Vec::with_capacity(20));
        attributes.put("http.request.method", known(method).unwrap_or("_OTHER"));
        if known(method).is_none() {
            let sent = method.as_str().to_owned();
            attributes.put("http.request.method_original", sent);
        }
        if let Some(route) = served.route {
            let name = &route.ingress.name;
            attributes.put("k8s.namespace.name", name.namespace.clone());
            for (key, name) in [
                ("k8s.ingress.name", &name.name),
                ("k8s.service.name", &route.service),
            ] {
                // The gateway's own default backend belongs to no Ingress, and a route may lead nowhere.
                attributes.maybe(key, Some(name).filter(|name| !name.is_empty()).cloned());
            }
        }
        attributes
    }

    fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(key, value));
    }

    fn maybe(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    fn status(&mut self, status: StatusCode) {
        self.put("http.response.status_code", i64::from(status.as_u16()));
    }

    /// The host and port that the client asked for.
    fn host(&mut self, host: Option<&HeaderValue>) {
        let Some(host) = host.and_then(|host| host.to_str().ok()) else {
            return;
        };
        let Ok(authority) = host.parse::<http::uri::Authority>() else {
            return;
        };
        self.put("server.address", authority.host().to_ascii_lowercase());
        self.maybe("server.port", authority.port_u16().map(i64::from));
    }
}

/// What a span is called by its method.
fn name(method: &Method) -> &'static str {
    known(method).unwrap_or("HTTP")
}

/// A method that the conventions know; others could be any number.
fn known(method: &Method) -> Option<&'static str> {
    Some(match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "CONNECT" => "CONNECT",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "PATCH" => "PATCH",
        "QUERY" => "QUERY",
        _ => return None,
    })
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn address(address: SocketAddr) -> String {
    address.ip().to_canonical().to_string()
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
