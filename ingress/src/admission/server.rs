//! The admission webhook's side of the network: HTTPS, one review a connection, everything bounded.
//!
//! Whoever is in the cluster's network can connect, so a connection has a few seconds for its handshake, its request and
//! its answer together, and only some are open at a time; others wait to be accepted. The API server asks for a few
//! reviews a second at most, to which a handshake for each is little.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::PATH;
use super::certificate::Files;
use super::review::BadReview;

/// How long a connection may take. The API server waits ten seconds unless it is told otherwise.
const TIME: Duration = Duration::from_secs(10);
/// Most connections at a time.
const MAX_CONNECTIONS: usize = 16;
/// Longest review: twice what etcd takes for an object, and some more.
const MAX_REVIEW: usize = 4 << 20;
/// How long accepting, or binding, rests after a failure.
const REST: Duration = Duration::from_secs(1);

/// Answers reviews at `address` by `answer`. Where that cannot be listened on yet, as while a predecessor still does, it
/// is tried again; requests are served all the same.
pub(super) async fn run<A>(address: SocketAddr, mut files: Files, answer: A)
where
    A: Fn(&[u8]) -> Result<Vec<u8>, BadReview> + Send + Sync + 'static,
{
    let listener = listen(address).await;
    let answer = Arc::new(answer);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for an admission review");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let Some(config) = files.config().await else {
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let conversation = converse(stream, config, &*answer);
            if tokio::time::timeout(TIME, conversation).await.is_err() {
                tracing::debug!("a connection for an admission review took too long");
            }
            drop(permit);
        });
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => tracing::warn!(%address, %error, "no admission webhook yet"),
        }
        tokio::time::sleep(REST).await;
    }
}

async fn converse<A>(stream: TcpStream, config: Arc<ServerConfig>, answer: &A)
where
    A: Fn(&[u8]) -> Result<Vec<u8>, BadReview>,
{
    let stream = match TlsAcceptor::from(config).accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "no TLS for an admission review"),
    };
    let service = service_fn(async |request| Ok::<_, Infallible>(respond(request, answer).await));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "the connection of an admission review ended early");
    }
}

async fn respond<A>(request: Request<Incoming>, answer: &A) -> Response<Full<Bytes>>
where
    A: Fn(&[u8]) -> Result<Vec<u8>, BadReview>,
{
    if request.uri().path() != PATH {
        return refuse(StatusCode::NOT_FOUND, format!("try {PATH}"));
    }
    if request.method() != Method::POST {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "try POST".to_owned());
        let post = HeaderValue::from_static("POST");
        response.headers_mut().insert(ALLOW, post);
        return response;
    }
    let body = match Limited::new(request.into_body(), MAX_REVIEW)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let status = match error.is::<LengthLimitError>() {
                true => StatusCode::PAYLOAD_TOO_LARGE,
                false => StatusCode::BAD_REQUEST,
            };
            return refuse(status, error.to_string());
        }
    };
    match answer(&body) {
        Ok(review) => {
            let mut response = Response::new(Full::from(review));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

fn refuse(status: StatusCode, why: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{why}\n")));
    *response.status_mut() = status;
    response
}
