//! A client's connection: handshake, choice of protocol, limits, and a graceful end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::body::ResponseBody;
use crate::forwarding::Via;
use crate::host::lower_case;
use crate::request;
use crate::strict::{MAX_HEADER_BYTES, MAX_HEADERS};
use crate::worker::{Peer, Worker};

/// Requests that an HTTP/2 client may have open at a time.
const MAX_STREAMS: u32 = 128;
/// Streams that a client may open and reset before its connection is closed (CVE-2023-44487), and streams that may be
/// reset because of its errors (CVE-2025-8671).
const MAX_RESETS: usize = 64;
/// What HTTP/2 may buffer of a response that the client does not take.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// How long a connection may be silent before its client is probed.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How a client that knows the server speaks HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves one connection to its end.
pub async fn serve(worker: &Rc<Worker>, stream: TcpStream, address: SocketAddr, is_secure: bool) {
    if let Err(error) = tune(&stream, worker.settings().client_timeout) {
        return tracing::debug!(%address, %error, "connection lost at once");
    }
    if is_secure {
        serve_tls(worker, stream, address).await;
    } else {
        serve_plain(worker, stream, address).await;
    }
}

/// Sets what the socket needs: no waiting for acknowledgements before the next response, probes that find out about
/// clients that are gone, and an end to connections whose client does not take what it is sent. The last is the kernel's
/// to count (`TCP_USER_TIMEOUT` covers a window that stays shut, too), so it costs nothing per response.
fn tune(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.set_tcp_user_timeout(Some(patience))
}

async fn serve_tls(worker: &Rc<Worker>, stream: TcpStream, address: SocketAddr) {
    let port = local_port(&stream);
    let acceptor = TlsAcceptor::from(worker.shared().tls.clone());
    let stream = match begin(worker, acceptor.accept(stream)).await {
        Ok(stream) => stream,
        Err(error) => {
            worker.metrics().failed_handshakes.count();
            return tracing::debug!(%address, %error, "TLS handshake failed");
        }
    };
    let session = stream.get_ref().1;
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    let server_name = session
        .server_name()
        .map(|name| Box::from(&*lower_case(name)));
    let peer = peer(worker, address, port, true, server_name);
    if is_h2 {
        serve_h2(worker, peer, stream).await;
    } else {
        serve_h1(worker, peer, stream).await;
    }
}

async fn serve_plain(worker: &Rc<Worker>, stream: TcpStream, address: SocketAddr) {
    let peer = peer(worker, address, local_port(&stream), false, None);
    match begin(worker, begins_http2(&stream)).await {
        Ok(true) => serve_h2(worker, peer, stream).await,
        Ok(false) => serve_h1(worker, peer, stream).await,
        Err(error) => tracing::debug!(%address, %error, "connection did not begin"),
    }
}

/// Waits for the `beginning` of a connection, until its time is up or the gateway is to end: a client that has not asked
/// for anything yet loses nothing.
async fn begin<T>(
    worker: &Worker,
    beginning: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::select! {
        begun = timeout(worker.settings().header_timeout, beginning) => begun?,
        () = worker.shutdown().cancelled() => Err(io::Error::other("shutting down")),
    }
}

fn local_port(stream: &TcpStream) -> u16 {
    stream.local_addr().map_or(0, |address| address.port())
}

fn peer(
    worker: &Worker,
    address: SocketAddr,
    port: u16,
    is_secure: bool,
    server_name: Option<Box<str>>,
) -> Rc<Peer> {
    let via = Via::new(
        address.ip(),
        port,
        is_secure,
        &worker.settings().trusted_proxies,
    );
    Rc::new(Peer::new(address, is_secure, server_name, via))
}

/// Whether the client begins with HTTP/2's preface. What it sent stays in the socket.
async fn begins_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0; PREFACE.len()];
    let mut before = 0;
    loop {
        let count = stream.peek(&mut seen).await?;
        if count == PREFACE.len() || count == 0 || !PREFACE.starts_with(&seen[..count]) {
            return Ok(seen == PREFACE);
        }
        // A beginning of the preface: the rest does not make the socket any more readable than it is.
        if count == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        before = count;
    }
}

async fn serve_h1<S>(worker: &Rc<Worker>, peer: Rc<Peer>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(handler(worker, &peer));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(worker.settings().header_timeout)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = worker.shutdown().cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    report(&peer, ended);
}

async fn serve_h2<S>(worker: &Rc<Worker>, peer: Rc<Peer>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(handler(worker, &peer));
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(worker.settings().header_timeout)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let idle = peer.idle(worker.settings().header_timeout);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = or(worker.shutdown().cancelled(), idle) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    report(&peer, ended);
}

/// Waits for the first of two.
async fn or(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! {
        () = one => {}
        () = other => {}
    }
}

/// An answer on its way. It is boxed so that an idle connection has no room for one.
type Answering = LocalBoxFuture<'static, Result<Response<ResponseBody>, Infallible>>;

/// What answers the requests of a connection.
fn handler(
    worker: &Rc<Worker>,
    peer: &Rc<Peer>,
) -> impl Fn(Request<Incoming>) -> Answering + use<> {
    let (worker, peer) = (worker.clone(), peer.clone());
    move |request| {
        let (worker, peer) = (worker.clone(), peer.clone());
        Box::pin(async move { Ok(request::serve(worker, peer, request).await) })
    }
}

/// Connections end in many ways, all of them the client's business.
fn report(peer: &Peer, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(peer = %peer.address, %error, "connection ended");
    }
}

/// Runs the tasks of a connection on its own thread.
#[derive(Debug, Clone)]
pub struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async { drop(task.await) });
    }
}
