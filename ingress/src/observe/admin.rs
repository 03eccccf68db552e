//! What operators ask: is it alive, is it ready, what has it counted.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::net::Listener;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::server::gateway::{Phase, Shared};

/// How long accepting rests after a failure.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Binds `address`.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| Error::Bind { address, source })
}

/// Answers on `listener` until `shutdown`.
pub async fn run(shared: Arc<Shared>, listener: TcpListener, shutdown: CancellationToken) {
    serve(listener, shutdown, move |request| answer(&shared, request)).await;
}

/// Answers by `answer` whoever asks at `listener` until `shutdown`.
pub(crate) async fn serve<L, F>(mut listener: L, shutdown: CancellationToken, answer: F)
where
    L: Listener<Io: Send + Unpin + 'static>,
    F: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, answer.clone()))),
            // Out of descriptors, most likely: a pause lets some be closed.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of an operator");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn converse<F>(stream: impl AsyncRead + AsyncWrite + Unpin, answer: F)
where
    F: Fn(&Request<Incoming>) -> Response<Full<Bytes>>,
{
    let service = service_fn(|request| {
        let response = answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "the connection of an operator ended early");
    }
}

fn answer<B>(shared: &Shared, request: &Request<B>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match shared.phase() {
            Phase::Serving => text(StatusCode::OK, "ok\n"),
            Phase::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            Phase::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        },
        "/metrics" => text(StatusCode::OK, shared.scrape()),
        _ => text(StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
