//! Clients: raw bytes over a socket, and proper ones over TCP or TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::PATIENCE;
use crate::tls::Identity;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) version: http::Version,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
    /// The body as it came.
    pub(crate) bytes: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The name of the backend that answered.
    pub(crate) fn backend(&self) -> String {
        self.json()["backend"].as_str().unwrap().to_owned()
    }
}

/// A connection for one request at a time.
pub(crate) enum Http {
    /// HTTP/1.1.
    One(http1::SendRequest<Full<Bytes>>),
    /// HTTP/2.
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Http {
    /// Connects in the clear, for HTTP/1.1.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    /// HTTP/1.1 over `stream`.
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self::One(sender)
    }

    /// HTTP/2 over `stream`.
    pub(crate) async fn two_over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self::Two(sender)
    }

    /// Whether the other side has closed it.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Two(sender) => sender.is_closed(),
        }
    }

    /// Sends `request` and reads the whole answer.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Answer> {
        let exchange = async {
            let response = match self {
                Self::One(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Self::Two(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await?.to_bytes();
            Ok(Answer {
                status: parts.status,
                version: parts.version,
                headers: parts.headers,
                body: String::from_utf8_lossy(&bytes).into_owned(),
                bytes,
            })
        };
        timeout(PATIENCE, exchange)
            .await
            .expect("an answer in time")
    }

    /// Gets `path` at `host`.
    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Answer {
        let target = match self {
            Self::One(_) => path.to_owned(),
            Self::Two(_) => format!("https://{host}{path}"),
        };
        let request = Request::get(target);
        let request = match self {
            Self::One(_) => request.header("host", host),
            Self::Two(_) => request,
        };
        self.send(request.body(Full::default()).unwrap())
            .await
            .unwrap()
    }
}

/// Gets `path` at `host` over a connection of its own.
pub(crate) async fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    Http::connect(address).await.get(host, path).await
}

/// Connects with TLS, asking for `server_name` and trusting `root`.
pub(crate) async fn tls(
    address: SocketAddr,
    server_name: &str,
    root: &CertificateDer<'static>,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    tls_over(stream, server_name, root, alpn).await
}

/// The same over a connection that is open already.
pub(crate) async fn tls_over(
    stream: TcpStream,
    server_name: &str,
    root: &CertificateDer<'static>,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    handshake(stream, server_name, root, alpn, None).await
}

/// The same with a certificate of one's own.
pub(crate) async fn tls_with(
    address: SocketAddr,
    server_name: &str,
    root: &CertificateDer<'static>,
    alpn: &[u8],
    identity: Option<Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    handshake(stream, server_name, root, alpn, identity).await
}

async fn handshake(
    stream: TcpStream,
    server_name: &str,
    root: &CertificateDer<'static>,
    alpn: &[u8],
    identity: Option<Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = config(root, alpn, identity);
    let name = ServerName::try_from(server_name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// The settings of a client that trusts `root`.
pub(crate) fn config(
    root: &CertificateDer<'static>,
    alpn: &[u8],
    identity: Option<Identity>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// Sends `bytes` as they are and returns everything that comes back until the end of the connection. The client's own
/// side stays open, so what ends it is the gateway.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    match read.expect("the end of the connection in time") {
        Ok(_) => {}
        // Closing with bytes unread resets the connection, once the answer is through.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}
