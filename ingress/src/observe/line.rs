//! What a line of the access log can say about a request.
//!
//! A line is asked for one field after the other, so it costs what its format names and nothing else.

use std::borrow::Cow;

use http::HeaderValue;

/// A field of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// When the line was written (RFC 3339).
    Time,
    /// The same as nginx writes it.
    TimeLocal,
    /// The same in seconds since 1970.
    Msec,
    /// The address of the client.
    RemoteAddr,
    /// Its port.
    RemotePort,
    /// `http` or `https`.
    Scheme,
    /// `HTTP/1.1` and the like.
    Protocol,
    /// The method.
    Method,
    /// The host, as the client wrote it.
    Host,
    /// Path and query, as the client wrote them.
    Target,
    /// Method, target and protocol.
    Request,
    /// The status that the client got.
    Status,
    /// The bytes of the body that were handed on.
    BytesSent,
    /// Seconds from the head of the request to the end of the response.
    Duration,
    /// The request's name.
    RequestId,
    /// The client's `User-Agent`.
    UserAgent,
    /// Its `Referer`.
    Referer,
    /// The namespace of the Ingress.
    Namespace,
    /// Its name.
    Ingress,
    /// The name of the Service.
    Service,
    /// The path of the rule.
    Path,
    /// The address of the endpoint that was asked last.
    Backend,
    /// How many were asked.
    Attempts,
    /// Why the gateway answered itself, or why the response is incomplete.
    Reason,
    /// The trace that the request belongs to.
    TraceId,
    /// Its span.
    SpanId,
    /// Both, as other programs are told.
    Traceparent,
    /// Whether the trace is kept: 0 or 1.
    Sampled,
    /// The Service as ingress-nginx names it: `namespace-service-port`.
    UpstreamName,
    /// The status that the backend gave.
    UpstreamStatus,
    /// The bytes of the body that came from it.
    UpstreamLength,
    /// Seconds until the head of its response.
    UpstreamHead,
    /// Seconds until the end of its response.
    UpstreamDuration,
}

/// What a field says.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'l> {
    /// It is not known, or there is none.
    Nothing,
    /// A text.
    Text(Cow<'l, str>),
    /// A number.
    Number(u64),
    /// A time in seconds.
    Seconds(f64),
}

/// What is known about a request.
pub trait Line {
    /// What `field` says.
    fn value(&self, field: Field) -> Value<'_>;
}

impl<'l> Value<'l> {
    /// A text that is made for the line.
    pub fn own(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'l> From<&'l str> for Value<'l> {
    fn from(text: &'l str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

/// Bytes that are no text are replaced.
impl<'l> From<&'l HeaderValue> for Value<'l> {
    fn from(value: &'l HeaderValue) -> Self {
        let text = std::str::from_utf8(value.as_bytes());
        // Nearly every value is a text, and finding that out first is cheaper.
        Self::Text(text.map_or_else(|_| String::from_utf8_lossy(value.as_bytes()), Cow::Borrowed))
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl<'l, T: Into<Value<'l>>> From<Option<T>> for Value<'l> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
    }
}
