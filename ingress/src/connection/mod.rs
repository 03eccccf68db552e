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
use futures::FutureExt;
use futures::future::{Either, LocalBoxFuture};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

pub mod cork;
pub mod flood;
pub mod framing;
pub mod h1;
pub mod h2;
pub mod opening;
pub mod passthrough;
pub mod proxy_protocol;
pub mod socket;

pub use h2::LocalExecutor;

use crate::message::answer::Reason;
use crate::message::body::ResponseBody;
use crate::request;
use crate::request::forwarding::Via;
use crate::routes::{Host, Route};
use crate::server::worker::{Peer, Worker};
use crate::tls;
use crate::tls::client_certificate::ClientCertificate;
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

/// Streams in the clear and in TLS. The latter is boxed, since what serves it moves it about.
type Plain = Socket<TcpStream>;
type Secure = Socket<Box<TlsStream<Socket<TcpStream>>>>;

/// What a connection has turned out to be.
enum Opened {
    Plain(Rc<Peer>, Plain),
    Secure(Rc<Peer>, Secure),
    PlainH2(Rc<Peer>, Plain),
    SecureH2(Rc<Peer>, Secure),
    /// TLS that ends at the backend of that route.
    Passed(Opening, Arc<Route>),
}

/// Serves one connection to its end.
///
/// Most connections are idle most of the time, and their tasks are as large as the largest of what they can be at, so
/// whatever is large is boxed: all but waiting for the first byte and what [`h1`] does between requests. For the same
/// reason this is no `async fn`, which would keep room for what it is given and for what becomes of it, and what has been
/// opened is no longer there while it is served.
pub fn serve(
    worker: &Rc<Worker>,
    stream: TcpStream,
    address: SocketAddr,
    is_secure: bool,
) -> impl Future<Output = ()> {
    let tuned = tune(&stream, worker.settings().client_timeout);
    let mut opening = Opening::new(stream);
    async move {
        if let Err(error) = tuned {
            return tracing::debug!(%address, %error, "connection lost at once");
        }
        if let Err(error) = begin(worker, opening.read()).await {
            count_silence(worker, address, is_secure);
            return tracing::debug!(%address, %error, "connection without a word");
        }
        let serving = match Box::pin(open(worker, opening, address, is_secure)).await {
            Ok(Opened::Plain(peer, socket)) => {
                Either::Left(Either::Left(h1::serve(worker, peer, socket)))
            }
            Ok(Opened::Secure(peer, socket)) => {
                Either::Left(Either::Right(h1::serve(worker, peer, socket)))
            }
            Ok(Opened::PlainH2(peer, socket)) => {
                Either::Right(h2::serve(worker, peer, socket).boxed_local())
            }
            Ok(Opened::SecureH2(peer, socket)) => {
                Either::Right(h2::serve(worker, peer, socket).boxed_local())
            }
            Ok(Opened::Passed(opening, route)) => {
                Either::Right(pass(worker, opening, route, address).boxed_local())
            }
            Err(error) => {
                return tracing::debug!(%address, %error, "connection did not begin");
            }
        };
        serving.await;
    }
}

async fn pass(worker: &Rc<Worker>, opening: Opening, route: Arc<Route>, address: SocketAddr) {
    if let Err(error) = passthrough::serve(worker, opening, &route).await {
        tracing::debug!(%address, %error, "connection was not passed on");
    }
}

/// A connection without a word lacks whatever it was to begin with.
fn count_silence(worker: &Worker, address: SocketAddr, is_secure: bool) {
    if has_proxy_header(worker, address) {
        worker.metrics().count_reason(Reason::BadProxyHeader);
    } else if is_secure {
        worker.metrics().failed_handshakes.count();
    }
}

/// Finds out whose connection it is and what it is to be.
async fn open(
    worker: &Rc<Worker>,
    mut opening: Opening,
    address: SocketAddr,
    is_secure: bool,
) -> io::Result<Opened> {
    let port = opening.port();
    let client = client(worker, &mut opening, address, port).await;
    let client = client.inspect_err(|_| worker.metrics().count_reason(Reason::BadProxyHeader))?;
    match is_secure {
        true => open_tls(worker, opening, client).await,
        false => open_plain(worker, opening, client).await,
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
    if !has_proxy_header(worker, address) {
        return Ok(own);
    }
    let named = begin(worker, opening.proxy_header()).await?;
    Ok(named.map_or(own, |ends| Client {
        address: ends.source,
        port: ends.destination.port(),
    }))
}

/// Whether a connection from `address` begins with a PROXY protocol header.
fn has_proxy_header(worker: &Worker, address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let settings = worker.settings();
    let mut sources = settings.proxy_protocol_from.iter();
    sources.any(|range| range.contains(ip))
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

async fn open_tls(worker: &Rc<Worker>, opening: Opening, client: Client) -> io::Result<Opened> {
    let begun = begin_tls(worker, opening).await;
    if begun.is_err() {
        worker.metrics().failed_handshakes.count();
    }
    let (stream, server_name) = match begun? {
        Begun::Secured(stream, server_name) => (stream, server_name),
        Begun::Passed(opening, route) => return Ok(Opened::Passed(opening, route)),
    };
    let session = stream.get_ref().1;
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    let certificate = session.peer_certificates();
    let certificate = certificate.map(|chain| Rc::new(ClientCertificate::new(chain)));
    let peer = peer(worker, client, true, server_name, certificate);
    let socket = Socket::new(stream, Bytes::new());
    Ok(match is_h2 {
        true => Opened::SecureH2(peer, socket),
        false => Opened::Secure(peer, socket),
    })
}

/// What has become of the beginning of TLS.
enum Begun {
    /// It ends here; the connection was opened for that host.
    Secured(Box<TlsStream<Socket<TcpStream>>>, Option<Box<str>>),
    /// It ends at the backend of that route.
    Passed(Opening, Arc<Route>),
}

async fn begin_tls(worker: &Worker, mut opening: Opening) -> io::Result<Begun> {
    let hello = begin(worker, opening.hello()).await?;
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
            begin(worker, handshake(opening, hello, config)).await
        }
    }
}

/// The TLS settings for a connection to `host`.
fn tls_config(worker: &Worker, host: Option<&Host>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let shared = worker.shared();
    match host.and_then(Host::authority) {
        Some(authority) => authority.config(|clients| {
            tls::server_config(shared.certificates.clone(), clients, &worker.settings().tls)
        }),
        None => Ok(worker.settings().without_certificate.clone()),
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

async fn open_plain(
    worker: &Rc<Worker>,
    mut opening: Opening,
    client: Client,
) -> io::Result<Opened> {
    let is_h2 = begin(worker, opening.begins_with(PREFACE)).await?;
    let peer = peer(worker, client, false, None, None);
    let socket = opening.into_socket();
    Ok(match is_h2 {
        true => Opened::PlainH2(peer, socket),
        false => Opened::Plain(peer, socket),
    })
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
    let settings = worker.settings();
    let trusted = &settings.trusted_proxies;
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
        Box::pin(request::serve(worker, peer, request))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle connection may take, in bytes; tests/heap counts what there is beside it.
    const MOST: usize = 576;

    fn size_of_serving<'w, F: Future>(
        _: impl FnOnce(&'w Rc<Worker>, TcpStream, SocketAddr, bool) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_has_no_room_for_what_it_does_not_do() {
        let size = size_of_serving(serve);
        assert!(size <= MOST, "{size} bytes");
    }
}
