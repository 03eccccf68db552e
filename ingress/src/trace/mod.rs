//! Spans of our own: one for each request, and beneath it one for each question to a service for authentication and for
//! each attempt to have a backend answer.
//!
//! A request belongs to the trace that its client says ([`context`]), or begins one. Its headers then say the same to
//! whoever is asked about it: a span of its own to a service for authentication and to a backend, the span of the request
//! to a mirror. Spans are made when the request is over ([`span`]) and sent by a thread of their own ([`export`]).
//!
//! Without a collector there is no [`Tracer`], and that is all a request finds out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, StatusCode, Uri, Version};
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample, SpanData};
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::annotations::opentelemetry::Tracing;
use crate::filters::Visit;
use crate::forward::pool::Key;
use crate::message::answer::Reason;
use crate::message::variables::Template;
use crate::observe::metrics::Metrics;

pub mod context;
mod export;
pub mod settings;
pub mod span;

pub use export::BadCollector;

use context::{Context, PARENT, STATE};
use settings::TraceArgs;
use span::Served;

/// What decides about traces and takes spans. All threads have one.
#[derive(Debug, Clone)]
pub struct Tracer {
    spans: Sender<SpanData>,
    metrics: Arc<Metrics>,
    sampler: Sampler,
    is_parent_heard: bool,
    /// What holds for requests whose Ingress says nothing.
    is_on: bool,
    is_trusting: bool,
    name: Option<Template>,
}

/// A request's part in a trace.
#[derive(Debug)]
pub struct Trace {
    /// The span of the request.
    context: Context,
    /// The span that it belongs under, if its client said one.
    parent: Option<Context>,
    /// What others have noted about the trace.
    state: Option<HeaderValue>,
    /// What the span is called, where that is asked for.
    name: Option<String>,
    began: SystemTime,
    clock: Instant,
    /// Whom Ingresses have asked about it, if that is recorded.
    questions: Vec<Question>,
    /// What was tried, if that is recorded.
    attempts: Vec<Attempt>,
}

/// A request of our own, to a service that says whether the request may enter. Times are from the beginning of the request.
#[derive(Debug)]
struct Question {
    span: SpanId,
    method: Method,
    url: Uri,
    began: Duration,
    /// When it was over and the status of the answer, if there was one.
    ended: Option<(Duration, Option<StatusCode>)>,
}

/// An attempt to have a backend answer. Times are from the beginning of the request.
#[derive(Debug)]
struct Attempt {
    span: SpanId,
    /// How often the same was sent before.
    resends: u32,
    backend: SocketAddr,
    is_secure: bool,
    method: Method,
    target: Uri,
    version: Version,
    began: Duration,
    ended: Option<Duration>,
    /// What came of it, if that is known.
    outcome: Option<Result<StatusCode, Reason>>,
}

/// Starts what sends spans, if there is a collector. The receiver tells when the last of them is gone, after the last
/// tracer.
pub fn start(
    settings: &TraceArgs,
    metrics: Arc<Metrics>,
) -> Result<Option<(Tracer, oneshot::Receiver<()>)>, BadCollector> {
    let Some(collector) = settings.collector() else {
        return Ok(None);
    };
    let (spans, finished) = export::start(settings, collector, metrics.clone())?;
    let tracer = Tracer {
        spans,
        metrics,
        sampler: settings.sampler(),
        is_parent_heard: settings.otel_sampler_parent_based,
        is_on: settings.enable_opentelemetry,
        is_trusting: settings.opentelemetry_trust_incoming_span,
        name: settings.opentelemetry_operation_name.clone(),
    };
    Ok(Some((tracer, finished)))
}

impl Tracer {
    /// The trace of a request with `headers` whose route nobody knows yet, if such requests are traced.
    pub fn begin(&self, headers: &HeaderMap) -> Option<Box<Trace>> {
        self.is_on.then(|| self.trace(headers, self.is_trusting))
    }

    /// The trace of a request that has found its route, given the one that it began with. Its headers say so from now on.
    pub fn follow(
        &self,
        begun: Option<Box<Trace>>,
        visit: &Visit<'_>,
        parts: &mut Parts,
    ) -> Option<Box<Trace>> {
        let nothing = Tracing::default();
        let asked = visit.route.asks(|policy| &policy.tracing);
        let asked = asked.unwrap_or(&nothing);
        if !asked.is_on.unwrap_or(self.is_on) {
            return None;
        }
        let is_trusting = asked.is_trusting.unwrap_or(self.is_trusting);
        let begun = begun.filter(|_| is_trusting == self.is_trusting);
        let mut trace = begun.unwrap_or_else(|| self.trace(&parts.headers, is_trusting));
        let name = asked.name.as_ref().or(self.name.as_ref());
        trace.name = name.map(|name| name.fill(visit.facts(parts)));
        trace.propagate(&mut parts.headers);
        Some(trace)
    }

    fn trace(&self, headers: &HeaderMap, is_trusting: bool) -> Box<Trace> {
        let parent = Context::of(headers).filter(|_| is_trusting);
        let trace = parent.map_or_else(new_trace, |parent| parent.trace);
        let context = Context {
            trace,
            span: new_span(),
            is_sampled: self.samples(parent, trace),
        };
        Box::new(Trace {
            context,
            parent,
            state: parent.and_then(|_| context::state(headers)),
            name: None,
            began: SystemTime::now(),
            clock: Instant::now(),
            questions: Vec::new(),
            attempts: Vec::new(),
        })
    }

    fn samples(&self, parent: Option<Context>, trace: TraceId) -> bool {
        if let Some(parent) = parent.filter(|_| self.is_parent_heard) {
            return parent.is_sampled;
        }
        let kind = opentelemetry::trace::SpanKind::Server;
        let result = self.sampler.should_sample(None, trace, "", &kind, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    /// Sends the spans of a request that is over, if they are recorded.
    pub fn finish(&self, trace: Trace, served: &Served<'_>) {
        if !trace.context.is_sampled {
            return;
        }
        for span in trace.spans(served) {
            if self.spans.try_send(span).is_err() {
                self.metrics.spans_dropped.count();
            }
        }
    }
}

impl Trace {
    /// The span of the request.
    pub fn context(&self) -> Context {
        self.context
    }

    /// Makes `headers` say that what is asked for belongs under the request's span.
    fn propagate(&self, headers: &mut HeaderMap) {
        headers.insert(PARENT, self.context.header());
        match &self.state {
            Some(state) => drop(headers.insert(STATE, state.clone())),
            None => drop(headers.remove(STATE)),
        }
    }

    /// A service is asked `question` about the request, which then belongs under its span.
    pub fn ask<B>(&mut self, question: &mut Request<B>) {
        if !self.context.is_sampled {
            return;
        }
        let span = self.beneath(question);
        self.questions.push(Question {
            span,
            method: question.method().clone(),
            url: question.uri().clone(),
            began: self.clock.elapsed(),
            ended: None,
        });
    }

    /// The service has answered the last question with this status, or not at all.
    pub fn told(&mut self, status: Option<StatusCode>) {
        let elapsed = self.clock.elapsed();
        if let Some(question) = self.questions.last_mut() {
            question.ended = Some((elapsed, status));
        }
    }

    /// Makes `request` say that it belongs under a new span beneath the request's own.
    fn beneath<B>(&self, request: &mut Request<B>) -> SpanId {
        let span = new_span();
        let context = Context {
            span,
            ..self.context
        };
        request.headers_mut().insert(PARENT, context.header());
        span
    }

    /// An attempt at the backend `key` begins, with `request`, which then belongs under its span and was sent `resends`
    /// times before.
    pub fn attempt<B>(&mut self, key: &Key, resends: u32, request: &mut Request<B>) {
        if !self.context.is_sampled {
            return;
        }
        let span = self.beneath(request);
        self.attempts.push(Attempt {
            span,
            resends,
            backend: key.address,
            is_secure: key.spoken.tls.is_some(),
            method: request.method().clone(),
            target: request.uri().clone(),
            version: request.version(),
            began: self.clock.elapsed(),
            ended: None,
            outcome: None,
        });
    }

    /// The last attempt came to a response with this status, or failed. One that came to a response goes on until that is
    /// through or another attempt begins.
    pub fn came_to(&mut self, outcome: Result<StatusCode, Reason>) {
        let elapsed = self.clock.elapsed();
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.outcome = Some(outcome);
            attempt.ended = Some(elapsed);
        }
    }
}

fn new_trace() -> TraceId {
    // Zero is no id.
    TraceId::from(rand::random::<u128>().max(1))
}

fn new_span() -> SpanId {
    SpanId::from(rand::random::<u64>().max(1))
}
