//! The answers that the gateway gives itself, each with the reason that its log line and metric carry.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER, SERVER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// What the gateway calls itself where a backend does not say what it is.
pub const SERVER_NAME: HeaderValue = HeaderValue::from_static("portolan");
/// The header that says why the gateway answered itself, also where the body is somebody's own page.
pub const REASON: HeaderName = HeaderName::from_static("x-portolan-reason");

/// Why the gateway answered a request itself, or what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// `Transfer-Encoding` says something other than one `chunked`.
    BadTransferEncoding,
    /// `Transfer-Encoding` names a coding that we do not have.
    UnknownTransferCoding,
    /// There is no host.
    NoHost,
    /// There are two hosts, or `:authority` and `Host` disagree.
    AmbiguousHost,
    /// The host has a form that nobody should send.
    BadHost,
    /// The target is not one of ours to serve.
    BadTarget,
    /// An encoded slash or backslash stands in the path where that is refused.
    EncodedSlash,
    /// The target is too long.
    TargetTooLong,
    /// The method is `CONNECT` or `TRACE`.
    MethodRefused,
    /// `OPTIONS *`: the client asks what the server itself can do.
    ServerOptions,
    /// `Expect` asks for what we do not have.
    ExpectationFailed,
    /// `Connection` names a header that must not be removed.
    BadConnectionOption,
    /// The route wants a certificate, and the client has shown none.
    NoClientCertificate,
    /// The client's certificate is not one that the route takes.
    BadClientCertificate,
    /// The client's certificate is good, and for somebody else.
    ClientCertificateRefused,
    /// The connection was opened for another host.
    Misdirected,
    /// Plain HTTP to a host with a TLS section.
    HttpsRedirect,
    /// The Ingress sends its clients elsewhere.
    Redirect,
    /// The Ingress has an answer for all requests.
    FixedAnswer,
    /// The Ingress wants another answer in place of the backend's.
    Intercepted,
    /// No rule matches.
    NoRoute,
    /// The rule names a Service or port that is not there.
    NoBackend,
    /// The object guards the route in a way that cannot be carried out.
    Closed,
    /// The path is one that nobody gets at.
    PathDenied,
    /// A browser asks whether it may send a request for another origin.
    CorsPreflight,
    /// The client, or what it says it is or where it comes from, is one of those that nobody wants.
    Blocked,
    /// The client's address is not one that may use the route.
    SourceDenied,
    /// The client sends more requests than it may.
    RateLimited,
    /// The client has more requests under way than it may.
    ConnectionLimited,
    /// The client has not sent a password that is right.
    PasswordWanted,
    /// Too many passwords wait to be verified.
    AuthBusy,
    /// The authentication service does not know the client.
    AuthUnauthorized,
    /// The authentication service refuses the client.
    AuthForbidden,
    /// The authentication service does not know the client, who is sent to sign in.
    SigninRedirect,
    /// The authentication service does not answer, or with something else.
    AuthFailed,
    /// The Service has no endpoint.
    NoEndpoint,
    /// All endpoints have as many requests in flight as they may.
    Overloaded,
    /// No endpoint could be connected to.
    ConnectFailed,
    /// Connecting took too long.
    ConnectTimeout,
    /// The backend did not prove who it is, or refused who we are.
    BackendTls,
    /// The backend closed the connection in place of a response.
    BackendClosed,
    /// The backend's response breaks the protocol.
    BadResponse,
    /// The backend took too long.
    BackendTimeout,
    /// The time that the client of a gRPC call gave is up.
    DeadlineExceeded,
    /// The backend's response broke off.
    Truncated,
    /// All together took too long.
    RequestTimeout,
    /// The client's body is broken.
    BadBody,
    /// The client's body is larger than it may be.
    BodyTooLarge,
    /// The head of a request is none.
    BadHead,
    /// The head of a request is too large.
    HeadTooLarge,
    /// The head of a request took too long.
    HeaderTimeout,
    /// A load balancer did not say in the PROXY protocol whose connection it is.
    BadProxyHeader,
    /// The client sent too many frames that serve no request.
    Flood,
    /// The client took too long to send its body.
    ClientTimeout,
    /// The client went away.
    ClientGone,
}

impl Reason {
    /// All reasons.
    pub const ALL: &'static [Self] = &[
        Self::BadTransferEncoding,
        Self::UnknownTransferCoding,
        Self::NoHost,
        Self::AmbiguousHost,
        Self::BadHost,
        Self::BadTarget,
        Self::EncodedSlash,
        Self::TargetTooLong,
        Self::MethodRefused,
        Self::ServerOptions,
        Self::ExpectationFailed,
        Self::BadConnectionOption,
        Self::NoClientCertificate,
        Self::BadClientCertificate,
        Self::ClientCertificateRefused,
        Self::Misdirected,
        Self::HttpsRedirect,
        Self::Redirect,
        Self::FixedAnswer,
        Self::Intercepted,
        Self::NoRoute,
        Self::NoBackend,
        Self::Closed,
        Self::PathDenied,
        Self::CorsPreflight,
        Self::Blocked,
        Self::SourceDenied,
        Self::RateLimited,
        Self::ConnectionLimited,
        Self::PasswordWanted,
        Self::AuthBusy,
        Self::AuthUnauthorized,
        Self::AuthForbidden,
        Self::SigninRedirect,
        Self::AuthFailed,
        Self::NoEndpoint,
        Self::Overloaded,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::BackendTls,
        Self::BackendClosed,
        Self::BadResponse,
        Self::BackendTimeout,
        Self::DeadlineExceeded,
        Self::Truncated,
        Self::RequestTimeout,
        Self::BadBody,
        Self::BodyTooLarge,
        Self::BadHead,
        Self::HeadTooLarge,
        Self::HeaderTimeout,
        Self::BadProxyHeader,
        Self::Flood,
        Self::ClientTimeout,
        Self::ClientGone,
    ];

    /// The reason's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadTransferEncoding => "bad_transfer_encoding",
            Self::UnknownTransferCoding => "unknown_transfer_coding",
            Self::NoHost => "no_host",
            Self::AmbiguousHost => "ambiguous_host",
            Self::BadHost => "bad_host",
            Self::BadTarget => "bad_target",
            Self::EncodedSlash => "encoded_slash",
            Self::TargetTooLong => "target_too_long",
            Self::MethodRefused => "method_refused",
            Self::ServerOptions => "server_options",
            Self::ExpectationFailed => "expectation_failed",
            Self::BadConnectionOption => "bad_connection_option",
            Self::NoClientCertificate => "no_client_certificate",
            Self::BadClientCertificate => "bad_client_certificate",
            Self::ClientCertificateRefused => "client_certificate_refused",
            Self::Misdirected => "misdirected",
            Self::HttpsRedirect => "https_redirect",
            Self::Redirect => "redirect",
            Self::FixedAnswer => "fixed_answer",
            Self::Intercepted => "intercepted",
            Self::NoRoute => "no_route",
            Self::NoBackend => "no_backend",
            Self::Closed => "closed",
            Self::PathDenied => "path_denied",
            Self::CorsPreflight => "cors_preflight",
            Self::Blocked => "blocked",
            Self::SourceDenied => "source_denied",
            Self::RateLimited => "rate_limited",
            Self::ConnectionLimited => "connection_limited",
            Self::PasswordWanted => "password_wanted",
            Self::AuthBusy => "auth_busy",
            Self::AuthUnauthorized => "auth_unauthorized",
            Self::AuthForbidden => "auth_forbidden",
            Self::SigninRedirect => "signin_redirect",
            Self::AuthFailed => "auth_failed",
            Self::NoEndpoint => "no_endpoint",
            Self::Overloaded => "overloaded",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::BackendTls => "backend_tls",
            Self::BackendClosed => "backend_closed",
            Self::BadResponse => "bad_response",
            Self::BackendTimeout => "backend_timeout",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Truncated => "truncated",
            Self::RequestTimeout => "request_timeout",
            Self::BadBody => "bad_body",
            Self::BodyTooLarge => "body_too_large",
            Self::BadHead => "bad_head",
            Self::HeadTooLarge => "head_too_large",
            Self::HeaderTimeout => "header_timeout",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::Flood => "flood",
            Self::ClientTimeout => "client_timeout",
            Self::ClientGone => "client_gone",
        }
    }

    /// The status of the answer; for what can no longer be answered, the one that is logged.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadTransferEncoding
            | Self::NoHost
            | Self::AmbiguousHost
            | Self::BadHost
            | Self::BadTarget
            | Self::EncodedSlash
            | Self::BadConnectionOption
            | Self::BadHead
            | Self::BadProxyHeader
            | Self::NoClientCertificate
            | Self::BadClientCertificate
            | Self::Flood
            | Self::BadBody => StatusCode::BAD_REQUEST,
            Self::UnknownTransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::MethodRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::ServerOptions | Self::FixedAnswer => StatusCode::OK,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::ClientCertificateRefused => StatusCode::FORBIDDEN,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::HttpsRedirect => StatusCode::PERMANENT_REDIRECT,
            Self::Redirect => StatusCode::FOUND,
            Self::Intercepted => StatusCode::BAD_GATEWAY,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend | Self::Closed | Self::NoEndpoint | Self::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::CorsPreflight => StatusCode::NO_CONTENT,
            Self::PathDenied | Self::Blocked | Self::SourceDenied | Self::AuthForbidden => {
                StatusCode::FORBIDDEN
            }
            Self::RateLimited | Self::ConnectionLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::PasswordWanted | Self::AuthUnauthorized => StatusCode::UNAUTHORIZED,
            Self::AuthBusy => StatusCode::SERVICE_UNAVAILABLE,
            Self::SigninRedirect => StatusCode::FOUND,
            Self::AuthFailed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ConnectFailed
            | Self::BackendTls
            | Self::BackendClosed
            | Self::BadResponse
            | Self::Truncated => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout
            | Self::BackendTimeout
            | Self::DeadlineExceeded
            | Self::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeaderTimeout | Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::ClientGone => client_closed_request(),
        }
    }

    /// Whether it shows that the endpoint that was tried does not work.
    pub fn is_backends_fault(self) -> bool {
        matches!(
            self,
            Self::ConnectFailed
                | Self::ConnectTimeout
                | Self::BackendTls
                | Self::BackendClosed
                | Self::BadResponse
                | Self::BackendTimeout
        )
    }

    /// Whether nothing more can be believed of what the client sends on this connection.
    fn closes(self) -> bool {
        matches!(
            self,
            Self::BadTransferEncoding
                | Self::UnknownTransferCoding
                | Self::NoHost
                | Self::AmbiguousHost
                | Self::BadHost
                | Self::BadTarget
                | Self::EncodedSlash
                | Self::TargetTooLong
                | Self::MethodRefused
                | Self::BadConnectionOption
                | Self::BadBody
                | Self::BodyTooLarge
                | Self::BadHead
                | Self::HeadTooLarge
                | Self::HeaderTimeout
                | Self::ClientTimeout
        )
    }

    /// The answer. `Connection` is meant for HTTP/1 only.
    pub fn answer(self, protocol: http::Version) -> Response<Full<Bytes>> {
        self.answer_with(self.status(), protocol)
    }

    /// The answer with another `status`.
    pub fn answer_with(self, status: StatusCode, protocol: http::Version) -> Response<Full<Bytes>> {
        let text = status.canonical_reason().unwrap_or_default();
        let body = match status {
            StatusCode::NO_CONTENT => String::new(),
            _ => format!("{} {text}: {}\n", status.as_u16(), self.name()),
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(SERVER, SERVER_NAME);
        headers.insert(REASON, HeaderValue::from_static(self.name()));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if self.closes() && protocol < http::Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        match self {
            Self::MethodRefused | Self::ServerOptions => {
                let methods = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";
                headers.insert(ALLOW, HeaderValue::from_static(methods));
            }
            Self::NoBackend | Self::NoEndpoint | Self::Overloaded | Self::AuthBusy => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// The answer for `reason` that sends the client to a page about it.
pub fn error_page(
    reason: Reason,
    page: &HeaderValue,
    protocol: http::Version,
) -> Response<Full<Bytes>> {
    let mut response = reason.answer(protocol);
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().insert(LOCATION, page.clone());
    response
}

/// The answer for `reason` as HTTP/1.1 writes it, for a connection that has no parser to write it.
pub fn in_bytes(reason: Reason) -> Vec<u8> {
    let (parts, body) = reason.answer(http::Version::HTTP_11).into_parts();
    let body = body.into_inner().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {}\r\n", parts.status).into_bytes();
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
    let date = date.unwrap_or_default();
    let length = body.len().to_string();
    let own = [
        ("date", date.as_bytes()),
        ("content-length", length.as_bytes()),
    ];
    let given = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    for (name, value) in given.chain(own) {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    bytes
}

/// nginx's 499, which no standard knows.
fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}
