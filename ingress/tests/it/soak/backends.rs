//! Backends that answer what they are asked for as far as their luck goes.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::Ordering;

use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::Tally;
use super::shaky::{Body, Dice, Shaky, a_while, body};
use crate::backend::Backend;

/// A backend for HTTP/1.1, HTTP/2 and WebSocket, in the clear or behind TLS.
pub(super) async fn start(dice: &Dice, tls: Option<TlsAcceptor>, tally: &'static Tally) -> Backend {
    let dice = dice.clone();
    Backend::serve(move |stream, requests| {
        let (dice, tls) = (dice.clone(), tls.clone());
        async move {
            let mut random = dice.draw();
            let stream = Shaky::new(stream, &dice, &mut random);
            let answering = service_fn(move |request| {
                requests.fetch_add(1, Ordering::Relaxed);
                answer(request, dice.clone(), tally)
            });
            match tls {
                None => serve(stream, answering).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, answering).await;
                    }
                }
            }
        }
    })
    .await
}

async fn serve<S>(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, service: S)
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = io::Error>
        + 'static,
    S::Future: Send,
{
    let builder = auto::Builder::new(TokioExecutor::new());
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    // It broke, as it was meant to.
    drop(served.await);
}

async fn answer(
    request: Request<Incoming>,
    dice: Dice,
    tally: &'static Tally,
) -> io::Result<Response<Body>> {
    let mut random = dice.draw();
    if request.headers().contains_key(UPGRADE) {
        return Ok(switch(request, &mut random));
    }
    let (parts, incoming) = request.into_parts();
    let number = |name: &str| number(&parts.headers, name);
    if dice.is_calm() || random.random_bool(0.8) {
        // A body that passes for whole must be whole.
        if let Ok(all) = incoming.collect().await {
            let length = all.to_bytes().len();
            if number("x-sent").is_some_and(|sent| sent != length) {
                tally.wrong(format!("a body of {length} passed for whole: {parts:?}"));
            }
        }
    }
    if dice.is_calm() {
        let empty = http_body_util::Empty::new().map_err(|never: Infallible| match never {});
        return Ok(Response::new(empty.boxed()));
    }
    if random.random_bool(0.1) {
        tokio::time::sleep(a_while(&mut random)).await;
    }
    if random.random_bool(0.05) {
        return Err(io::Error::other("no answer"));
    }
    let id = number("x-id").unwrap_or(0);
    let length = number("x-wanted").unwrap_or(0);
    let status = match random.random_bool(0.05) {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::OK,
    };
    let response = Response::builder().status(status).header("x-id", id);
    let filler = u8::try_from(id % 251).unwrap();
    let body = body(&mut random, filler, length, true);
    response.body(body).map_err(io::Error::other)
}

fn number(headers: &HeaderMap, name: &str) -> Option<usize> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Switches to WebSocket and sends back what comes, for as long as it likes.
fn switch(mut request: Request<Incoming>, random: &mut StdRng) -> Response<Body> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
    let key = key.map(|key| derive_accept_key(key.as_bytes()));
    let switched = hyper::upgrade::on(&mut request);
    let patience = a_while(random);
    tokio::spawn(async move {
        let Ok(stream) = switched.await else { return };
        let stream = TokioIo::new(stream);
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        let echo = async {
            while let Some(Ok(message)) = socket.next().await {
                if !message.is_close() && socket.send(message).await.is_err() {
                    return;
                }
            }
        };
        // What is not over by then ends without a word.
        drop(tokio::time::timeout(patience, echo).await);
    });
    let empty = http_body_util::Empty::new().map_err(|never: Infallible| match never {});
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let response = response
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, key.unwrap_or_default());
    response.body(empty.boxed()).unwrap()
}
