//! Copies of requests for another service, whose answers nobody reads.
//!
//! A copy never holds up its request: its body is handed on piece by piece as the backend takes it, and a copy that
//! cannot keep up is given up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::stream;
use http::Request;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::outbound::{Outgoing, empty};
use crate::message::variables::{Facts, UrlTemplate};

/// Pieces of a body that may wait for the other service. A piece is as large as a read, at most about 100 KB.
const MAX_WAITING: usize = 16;

/// Where copies go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The URL.
    pub url: UrlTemplate,
    /// The `Host` of the copy; by default that of the URL.
    pub host: Option<HeaderValue>,
    /// Whether the body is copied too.
    pub with_body: bool,
}

/// What takes the pieces of a body for a copy. Dropped before [`finish`](Self::finish), it breaks the copy off.
#[derive(Debug)]
pub struct BodyCopy {
    /// Nothing once the copy has been given up.
    pieces: Option<Sender<Bytes>>,
    is_whole: Arc<AtomicBool>,
}

impl Mirror {
    /// The copy of a request without its body, unless what the request says makes the URL none.
    pub fn copy(&self, facts: Facts<'_>) -> Option<Request<()>> {
        let url = self.url.fill(facts)?;
        let host = HeaderValue::from_str(url.authority()?.as_str()).ok()?;
        let mut request = Request::new(());
        *request.method_mut() = facts.method.clone();
        *request.uri_mut() = url;
        let headers = request.headers_mut();
        headers.clone_from(facts.headers);
        headers.insert(HOST, self.host.clone().unwrap_or(host));
        Some(request)
    }
}

/// `request` with its body, if it has one.
pub fn with_body(request: Request<()>, body: Option<Outgoing>) -> Request<Outgoing> {
    let (mut parts, ()) = request.into_parts();
    if body.is_none() {
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.remove(TRANSFER_ENCODING);
    }
    Request::from_parts(parts, body.unwrap_or_else(empty))
}

impl BodyCopy {
    /// What takes a body, and the body that comes of it.
    pub fn new() -> (Self, Outgoing) {
        let (pieces, receiver) = channel(MAX_WAITING);
        let is_whole = Arc::<AtomicBool>::default();
        let copy = Self {
            pieces: Some(pieces),
            is_whole: is_whole.clone(),
        };
        let source = Source { receiver, is_whole };
        let frames = stream::unfold(source, Source::next);
        (copy, StreamBody::new(frames).boxed_unsync())
    }

    /// Takes a piece of the body, unless the copy has been given up. One that is behind is.
    pub fn push(&mut self, data: &Bytes) {
        let taken = self
            .pieces
            .as_ref()
            .map(|pieces| pieces.try_send(data.clone()));
        if matches!(taken, Some(Err(_))) {
            self.pieces = None;
        }
    }

    /// The body is complete, and so is its copy, unless it has been given up.
    pub fn finish(&mut self) {
        if self.pieces.is_some() {
            self.is_whole.store(true, Ordering::Release);
        }
        self.pieces = None;
    }
}

/// Where a copied body comes from.
struct Source {
    receiver: Receiver<Bytes>,
    is_whole: Arc<AtomicBool>,
}

impl Source {
    /// The next piece. What is not whole ends with an error, so that the other service does not take it for whole.
    async fn next(mut self) -> Option<(io::Result<Frame<Bytes>>, Self)> {
        match self.receiver.recv().await {
            Some(data) => Some((Ok(Frame::data(data)), self)),
            None if self.is_whole.swap(true, Ordering::Acquire) => None,
            None => Some((Err(io::Error::other("the body broke off")), self)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use http::{HeaderMap, Method, Uri};
    use model::ObjectName;

    use super::*;

    fn copy(mirror: &Mirror) -> Option<Request<()>> {
        mirror.copy(Facts {
            method: &Method::POST,
            uri: &Uri::from_static("/x?y=1"),
            headers: &HeaderMap::from_iter([(HOST, HeaderValue::from_static("a.org"))]),
            host: "a.org",
            client: [192, 0, 2, 1].into(),
            is_secure: false,
            ingress: &ObjectName::new("ns", "i"),
            service: "s",
            rule_path: "/",
        })
    }

    #[test]
    fn a_copy_goes_to_the_target_under_its_name_or_another() {
        let mut mirror = Mirror {
            url: UrlTemplate::parse("https://test.env:8443$request_uri").unwrap(),
            host: None,
            with_body: true,
        };
        let request = copy(&mirror).unwrap();
        assert_eq!(
            (request.method(), request.uri().to_string().as_str()),
            (&Method::POST, "https://test.env:8443/x?y=1")
        );
        assert_eq!(request.headers()[HOST], "test.env:8443");
        mirror.host = Some(HeaderValue::from_static("b.org"));
        assert_eq!(copy(&mirror).unwrap().headers()[HOST], "b.org");
    }

    #[tokio::test]
    async fn a_body_is_copied_whole_or_breaks_off() {
        let piece = Bytes::from_static(b"abc");
        let (mut copy, body) = BodyCopy::new();
        copy.push(&piece);
        copy.push(&piece);
        copy.finish();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcabc");

        let (mut copy, body) = BodyCopy::new();
        copy.push(&piece);
        drop(copy);
        assert!(body.collect().await.is_err());

        let (mut slow, body) = BodyCopy::new();
        for _ in 0..=MAX_WAITING {
            slow.push(&piece);
        }
        slow.finish();
        assert!(body.collect().await.is_err());
    }
}
