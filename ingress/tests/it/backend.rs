//! Backends: one that tells what it was sent, and one that does what a script says, byte by byte.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Any port of loopback.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A backend. Dropping it closes its socket and all its connections.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Backend {
    /// A backend that answers with its name and the request, as JSON.
    pub(crate) async fn echo(name: &'static str) -> Self {
        Self::echo_at(LOOPBACK, name).await
    }

    /// The same at `address`.
    pub(crate) async fn echo_at(address: SocketAddr, name: &'static str) -> Self {
        Self::serve_at(address, move |stream, requests| async move {
            let service = service_fn(move |request| {
                requests.fetch_add(1, Ordering::SeqCst);
                answer(name, request)
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            drop(connection.with_upgrades().await);
        })
        .await
    }

    /// A backend that reads up to the end of each request's head, then writes `response` and, if told so, closes.
    pub(crate) async fn script(response: &'static [u8], closes: bool) -> Self {
        Self::serve(move |mut stream, requests| async move {
            while read_head(&mut stream).await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
                if stream.write_all(response).await.is_err() || closes {
                    return;
                }
            }
        })
        .await
    }

    /// A backend with the given way to treat connections.
    pub(crate) async fn serve<F>(
        treat: impl Fn(TcpStream, Arc<AtomicUsize>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::serve_at(LOOPBACK, treat).await
    }

    async fn serve_at<F>(
        address: SocketAddr,
        treat: impl Fn(TcpStream, Arc<AtomicUsize>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let stop = CancellationToken::new();
        let (opened, counter, stopped) = (connections.clone(), requests.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                opened.fetch_add(1, Ordering::SeqCst);
                let task = treat(stream, counter.clone());
                tokio::spawn(stopped.clone().run_until_cancelled_owned(task));
            }
        }));
        Self {
            address,
            connections,
            requests,
            _stop: stop.drop_guard(),
        }
    }

    /// How many connections were opened to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// How many requests it has seen.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Reads up to the end of a head and returns it, or nothing at the end of the stream.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

async fn answer(
    name: &str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => format!("error: {error}"),
    };
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (field, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(field.as_str()).or_default().push(value);
    }
    let told = json!({
        "backend": name,
        "method": parts.method.as_str(),
        "protocol": format!("{:?}", parts.version),
        "target": parts.uri.to_string(),
        "headers": headers,
        "body": body,
    });
    let response = Response::builder().header("content-type", "application/json");
    Ok(response.body(Full::from(told.to_string())).unwrap())
}
