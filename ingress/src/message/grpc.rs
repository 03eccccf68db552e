//! gRPC, as far as a gateway has to know it: which requests are calls, how long they may take, and how an answer of ours
//! says what went wrong. The rest is HTTP/2 with trailers.
//!
//! A call's result is its status, carried in trailers under HTTP's 200. A client that gets another status of HTTP makes up
//! one of its own, so our answers to calls are results.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use http_body_util::Full;
use tokio::time::{Instant, timeout_at};

use crate::message::answer::Reason;
use crate::message::trailers::is_grpc;

/// How long the two ends of a call may pause: as long as they like, since a stream may be silent for hours. That they are
/// still there is known from their connections, and a client that cannot wait says so by a deadline.
pub const PATIENCE: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The trailer with the result.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A result that the gateway gives, with gRPC's number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// Something else went wrong.
    Unknown = 2,
    /// The time that the client gave is up.
    DeadlineExceeded = 4,
    /// The client may not do this.
    PermissionDenied = 7,
    /// There is nothing that implements this.
    Unimplemented = 12,
    /// Somebody broke the protocol.
    Internal = 13,
    /// Nobody can do it now; it may be tried again.
    Unavailable = 14,
    /// It is not known who the client is.
    Unauthenticated = 16,
}

impl Status {
    /// What `status` of HTTP comes to (the mapping in gRPC's `http-grpc-status-mapping.md`).
    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502..=504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    fn value(self) -> HeaderValue {
        HeaderValue::from(self as u16)
    }
}

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// When its client will have waited long enough, if it says so.
    pub deadline: Option<Instant>,
}

impl Call {
    /// The call that a request is, if it is one.
    pub fn of(parts: &Parts) -> Option<Self> {
        is_call(parts).then(|| Self {
            deadline: timeout(&parts.headers).map(|limit| Instant::now() + limit),
        })
    }
}

/// `exchange`, unless it takes longer than the client of `call` allows.
pub async fn within<T>(
    call: Option<Call>,
    exchange: impl Future<Output = Result<T, Reason>>,
) -> Result<T, Reason> {
    match call.and_then(|call| call.deadline) {
        None => exchange.await,
        Some(deadline) => timeout_at(deadline, exchange)
            .await
            .unwrap_or(Err(Reason::DeadlineExceeded)),
    }
}

/// Whether a request is a call.
pub fn is_call(parts: &Parts) -> bool {
    parts.version == Version::HTTP_2 && parts.headers.get(CONTENT_TYPE).is_some_and(is_grpc)
}

/// How long the client of a call is going to wait, if it says so: at most eight digits and a unit.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// An answer of ours with `status`, given for `reason`, as the client of a call understands it.
pub fn answer(status: StatusCode, reason: Reason) -> Response<Full<Bytes>> {
    let status = match reason {
        Reason::DeadlineExceeded => Status::DeadlineExceeded,
        _ => Status::of(status),
    };
    let mut response = Response::new(Full::default());
    *response.headers_mut() = result(status, reason.name());
    let content_type = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// What ends a call that takes longer than its client allows.
pub fn deadline_exceeded() -> HeaderMap {
    result(Status::DeadlineExceeded, Reason::DeadlineExceeded.name())
}

/// The result `status`, with the reason for it.
fn result(status: Status, reason: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, status.value());
    trailers.insert(MESSAGE, HeaderValue::from_static(reason));
    trailers
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn timeouts_are_a_number_and_a_unit() {
        let parse = |text: &str| {
            timeout(&HeaderMap::from_iter([(
                TIMEOUT,
                HeaderValue::from_str(text).unwrap(),
            )]))
        };
        let rows = [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("40m", Duration::from_millis(40)),
            ("500u", Duration::from_micros(500)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        for bad in [
            "",
            "1",
            "S",
            "-1S",
            "+1S",
            "1 S",
            "100000000S",
            "1s",
            "1h",
            "1\u{b5}",
            "0x1S",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_status_of_ours_has_one_of_grpc() {
        let rows = [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (502, 14),
            (503, 14),
            (504, 14),
            (308, 2),
            (413, 2),
        ];
        for (http, grpc) in rows {
            let status = StatusCode::from_u16(http).unwrap();
            let answer = answer(status, Reason::NoRoute);
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()[STATUS], grpc.to_string(), "{http}");
            assert_eq!(answer.headers()[MESSAGE], "no_route");
        }
        let late = answer(StatusCode::GATEWAY_TIMEOUT, Reason::DeadlineExceeded);
        assert_eq!(late.headers()[STATUS], "4");
    }
}
