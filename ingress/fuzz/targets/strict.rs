//! What clients send, through the same layers as in the gateway: the check of chunks, the parser, the check of heads.
#![no_main]

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ingress::connection::framing::Checked;
use ingress::message::path::{Slashes, normalise};
use ingress::request::strict::{self, Head, MAX_HEADER_BYTES, MAX_HEADERS, MAX_TARGET, Rules};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const RULES: Rules = Rules {
    slashes: Slashes::Merge,
    refuse_encoded_slashes: false,
    keep_underscores: false,
};

thread_local! {
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
}

/// A client that sends these bytes in pieces of some size and takes all answers.
struct Client {
    rest: Bytes,
    piece: usize,
}

fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else {
        return;
    };
    let client = Client {
        rest: Bytes::copy_from_slice(bytes),
        piece: usize::from(*piece) + 1,
    };
    RUNTIME.with(|runtime| runtime.block_on(serve(client)));
});

async fn serve(client: Client) {
    let connection = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(Checked::new(client)), service_fn(answer));
    // Most of it is no HTTP.
    drop(connection.await);
}

async fn answer(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (mut parts, body) = request.into_parts();
    if let Ok(head) = strict::check(&mut parts, RULES) {
        says_each_thing_once(&parts, &head);
        drop(body.collect().await);
    }
    Ok(Response::new(Empty::new()))
}

/// What every backend may rely on.
fn says_each_thing_once(parts: &Parts, head: &Head) {
    assert_eq!(parts.headers.get_all(HOST).iter().count(), 1, "{parts:?}");
    assert!(!head.host.is_empty(), "{parts:?}");
    assert_eq!(head.host.to_ascii_lowercase(), *head.host, "{parts:?}");
    assert!(
        parts.headers.get_all(CONTENT_LENGTH).iter().count() <= 1,
        "{parts:?}"
    );
    for gone in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        assert!(!parts.headers.contains_key(&gone), "{gone} in {parts:?}");
    }
    assert!(
        parts
            .headers
            .keys()
            .all(|name| !name.as_str().contains('_')),
        "{parts:?}"
    );
    let target = parts.uri.to_string();
    assert!(target.len() <= MAX_TARGET * 3, "{parts:?}");
    assert!(
        target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic()),
        "{parts:?}"
    );
    let path = parts.uri.path();
    assert_eq!(
        normalise(path, Slashes::Merge).as_deref(),
        Ok(path),
        "{parts:?}"
    );
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let most = self.piece.min(into.remaining()).min(self.rest.len());
        into.put_slice(&self.rest.split_to(most));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
