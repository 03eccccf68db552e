//! A client's connection: what comes before HTTP, and the choice of protocol.
//!
//! [`opening`] reads what tells protocols apart, [`h1`] and [`h2`] serve what follows on a [`socket`].

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::Service;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

pub mod flood;
pub mod framing;
pub mod h1;
pub mod h2;
pub mod opening;
pub mod passthrough;
pub mod proxy_protocol;
pub mod socket;

pub use h2::LocalExecutor;

use crate::answer::Reason;
use crate::body::ResponseBody;
use crate::client_certificate::ClientCertificate;
use crate::forwarding::Via;
use crate::request;
use crate::routes::{Host, Route};
use crate::tls;
use crate::worker::{Peer, Worker};
use opening::{Hello, Opening};
use socket::Socket;

/// How long a connection may be silent before its client is probed.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How a client that knows the server speaks HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whose connection it is.
#[derive(Debug, Clone, Copy)]
struct Client {
    address: SocketAddr,
    /// The port that it connected to.
    port: u16,
}

/// Serves one connection to its end.
pub async fn serve(worker: &Rc<Worker>, stream: TcpStream, address: SocketAddr, is_secure: bool) {
    if let Err(error) = tune(&stream, worker.settings().client_timeout) {
        return tracing::debug!(%address, %error, "connection lost at once");
    }
    let port = stream.local_addr().map_or(0, |address| address.port());
    let mut opening = Opening::new(stream);
    let client = match client(worker, &mut opening, address, port).await {
        Ok(client) => client,
        Err(error) => {
            worker.metrics().count_reason(Reason::BadProxyHeader);
            return tracing::debug!(%address, %error, "no telling whose connection this is");
        }
    };
    let served = match is_secure {
        true => serve_tls(worker, opening, client).await,
        false => serve_plain(worker, opening, client).await,
    };
    if let Err(error) = served {
        tracing::debug!(address = %client.address, %error, "connection did not begin");
    }
}

/// Whose connection it is: the peer's, or that of whom a load balancer names that is to name one.
async fn client(
    worker: &Worker,
    opening: &mut Opening,
    address: SocketAddr,
    port: u16,
) -> io::Result<Client> {
    let own = Client { address, port };
    let (sources, ip) = (
        &worker.settings().proxy_protocol_from,
        address.ip().to_canonical(),
    );
    if !sources.iter().any(|range| range.contains(ip)) {
        return Ok(own);
    }
    let named = begin(worker, opening.proxy_header()).await?;
    Ok(named.map_or(own, |ends| Client {
        address: ends.source,
        port: ends.destination.port(),
    }))
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

async fn serve_tls(worker: &Rc<Worker>, mut opening: Opening, client: Client) -> io::Result<()> {
    let begun = async {
        let hello = Box::pin(begin(worker, opening.hello())).await?;
        let routes = worker.routes();
        let host = routes.host(hello.server_name.as_deref()).cloned();
        match host.as_deref().and_then(Host::passthrough) {
            Some(route) => Ok(Begun::Passed(opening, route.clone())),
            None if host.is_none() && worker.settings().ssl_reject_handshake => {
                opening.refuse_name().await?;
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            None => {
                let config = tls_config(worker, host.as_deref()).map_err(io::Error::other)?;
                Box::pin(begin(worker, handshake(opening, hello, config))).await
            }
        }
    };
    let begun = begun.await;
    if begun.is_err() {
        worker.metrics().failed_handshakes.count();
    }
    let (stream, server_name) = match begun? {
        Begun::Secured(stream, server_name) => (stream, server_name),
        Begun::Passed(opening, route) => {
            return Box::pin(passthrough::serve(worker, opening, &route)).await;
        }
    };
    let session = stream.get_ref().1;
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    let certificate = session.peer_certificates();
    let certificate = certificate.map(|chain| Rc::new(ClientCertificate::new(chain)));
    let peer = peer(worker, client, true, server_name, certificate);
    match is_h2 {
        true => h2::serve(worker, peer, stream).await,
        false => h1::serve(worker, peer, Socket::new(*stream, Bytes::new())).await,
    }
    Ok(())
}

/// What has become of the beginning of TLS.
enum Begun {
    /// It ends here; the connection was opened for that host.
    Secured(Box<TlsStream<Socket<TcpStream>>>, Option<Box<str>>),
    /// It ends at the backend of that route.
    Passed(Opening, Arc<Route>),
}

/// The TLS settings for a connection to `host`.
fn tls_config(worker: &Worker, host: Option<&Host>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let shared = worker.shared();
    match host.and_then(Host::authority) {
        Some(authority) => authority.config(|clients| {
            tls::server_config(shared.certificates.clone(), clients, &shared.settings.tls)
        }),
        None => Ok(shared.tls.clone()),
    }
}

async fn handshake(
    opening: Opening,
    mut hello: Hello,
    config: Arc<ServerConfig>,
) -> io::Result<Begun> {
    let server_name = hello.server_name.take();
    let stream = opening.into_handshake(hello).into_stream(config).await?;
    Ok(Begun::Secured(Box::new(stream), server_name))
}

async fn serve_plain(worker: &Rc<Worker>, mut opening: Opening, client: Client) -> io::Result<()> {
    let is_h2 = begin(worker, opening.begins_with(PREFACE)).await?;
    let peer = peer(worker, client, false, None, None);
    match is_h2 {
        true => h2::serve(worker, peer, opening.into_socket()).await,
        false => h1::serve(worker, peer, opening.into_socket()).await,
    }
    Ok(())
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

fn peer(
    worker: &Worker,
    client: Client,
    is_secure: bool,
    server_name: Option<Box<str>>,
    certificate: Option<Rc<ClientCertificate>>,
) -> Rc<Peer> {
    let trusted = &worker.settings().trusted_proxies;
    let via = Via::new(client.address.ip(), client.port, is_secure, trusted);
    let is_strict = |name: &str| is_secure && worker.routes().is_secure(name);
    let is_strict = server_name.as_deref().is_some_and(is_strict);
    Rc::new(Peer::new(
        client.address,
        is_secure,
        server_name,
        is_strict,
        via,
        certificate,
    ))
}

/// What answers the requests of a connection.
struct Answerer {
    worker: Rc<Worker>,
    peer: Rc<Peer>,
}

/// An answer on its way. It is boxed so that an idle connection has no room for one.
type Answering = LocalBoxFuture<'static, Result<Response<ResponseBody>, Infallible>>;

impl Answerer {
    fn new(worker: &Rc<Worker>, peer: &Rc<Peer>) -> Self {
        let (worker, peer) = (worker.clone(), peer.clone());
        Self { worker, peer }
    }
}

impl Service<Request<Incoming>> for Answerer {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let (worker, peer) = (self.worker.clone(), self.peer.clone());
        peer.asks(&request);
        Box::pin(async move {
            let is_last = peer.requests() >= worker.settings().keep_alive_requests;
            let version = request.version();
            let mut response = request::serve(worker, peer, request).await;
            let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if is_last && version < Version::HTTP_2 && !is_switch {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok(response)
        })
    }
}

/// Connections end in many ways, most of them the client's business. A head that the parser refused was answered by it,
/// so it is only counted.
fn report(worker: &Worker, peer: &Peer, ended: hyper::Result<()>) {
    let Err(error) = ended else { return };
    if error.is_parse_too_large() {
        worker.metrics().count_reason(Reason::HeadTooLarge);
    } else if error.is_parse() {
        worker.metrics().count_reason(Reason::BadHead);
    }
    tracing::debug!(peer = %peer.address, %error, "connection ended");
}
