//! Answers: values and ready bytes to HTTP, YAML on request, gzip when it is large and welcome.

use std::convert::Infallible;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::Stream;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY,
};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use crate::accept::{Accept, Encoding};
use crate::error::ApiError;

/// Why a streamed body ends early; whole bodies never fail.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Any body we answer with.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;
/// Any answer.
pub(crate) type Answer = Response<Body>;

/// Answers at least this long are compressed for clients that ask.
const GZIP_FROM: usize = 128 << 10;

/// A body of bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A body that comes as it is made.
pub(crate) fn streamed(
    chunks: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
) -> Body {
    use futures::TryStreamExt as _;
    StreamBody::new(chunks.map_ok(Frame::data)).boxed_unsync()
}

/// JSON bytes in the negotiated encoding.
pub(crate) fn bytes(code: StatusCode, accept: Accept, json: Bytes) -> Answer {
    let body = match accept.encoding {
        Encoding::Json => json,
        Encoding::Yaml => to_yaml(&json),
    };
    let mut answer = Response::new(full(body));
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    let content_type = accept.content_type();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_str(&content_type).expect("our own types are plain ASCII"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer
}

/// A value in the negotiated encoding.
pub(crate) fn value(code: StatusCode, accept: Accept, value: &Value) -> Answer {
    bytes(
        code,
        accept,
        serde_json::to_vec(value)
            .expect("a value is serialised into memory")
            .into(),
    )
}

/// A `Status` for an error, always JSON.
pub(crate) fn error(error: &ApiError) -> Answer {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = value(code, Accept::JSON, &error.status());
    if let Some(seconds) = error.retry_after() {
        answer
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// Plain text.
pub(crate) fn text(code: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(full(text));
    *answer.status_mut() = code;
    answer.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

/// Adds a `Warning` header per text.
pub(crate) fn warn(answer: &mut Answer, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(header) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            answer.headers_mut().append(http::header::WARNING, header);
        }
    }
}

/// Bytes, compressed if that is worth it and the client can read it.
pub(crate) fn compressed(request: &HeaderMap, accept: Accept, json: Bytes) -> Answer {
    let wants = request
        .get(ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok());
    if json.len() < GZIP_FROM
        || !wants.is_some_and(|wants| wants.contains("gzip"))
        || accept.encoding != Encoding::Json
    {
        return bytes(StatusCode::OK, accept, json);
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 8), Compression::fast());
    let squeezed = encoder
        .write_all(&json)
        .and_then(|()| encoder.finish())
        .expect("compression into memory");
    let mut answer = bytes(StatusCode::OK, accept, squeezed.into());
    answer
        .headers_mut()
        .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    answer
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    answer
}

fn to_yaml(json: &[u8]) -> Bytes {
    let value: Value = serde_json::from_slice(json).expect("our own JSON can be read");
    serde_norway::to_string(&value)
        .expect("any JSON value is a YAML value")
        .into()
}
