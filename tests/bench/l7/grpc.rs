//! gRPC: the backend that answers calls, and what clients send.
//!
//! The backend is our own: nginx, which answers everything else, can be made to send such answers, but does so before it
//! has the message that it was sent, as no server of gRPC does for a unary call.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Request, Response};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use super::load::ANSWER;
use super::peers::Peer;
use super::place::Files;
use super::process::Place;

/// The host for calls.
pub(crate) const HOST: &str = "grpc.bench.example";
/// Where the backend for calls listens.
pub(crate) const BACKEND: &str = "10.7.0.1:8081";
/// What is called.
const METHOD: &str = "/bench.Bench/Call";
/// The length of the message of a call.
const QUESTION: usize = 16;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The status of a call that went well.
const OK: HeaderValue = HeaderValue::from_static("0");
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client has to send to make calls.
#[derive(Debug)]
pub(crate) struct Question {
    /// Where `peer` takes them.
    pub(crate) url: String,
    pub(crate) headers: [String; 2],
    /// The file with the body.
    pub(crate) body: PathBuf,
}

impl Question {
    pub(crate) fn to(peer: &Peer, files: &Files) -> Result<Self> {
        let body = files.directory.join("call.grpc");
        fs::write(&body, message(QUESTION)?)?;
        Ok(Self {
            url: format!("https://{HOST}:{}{METHOD}", peer.https),
            headers: ["content-type: application/grpc", "te: trailers"].map(str::to_owned),
            body,
        })
    }
}

/// A message of this length with its prefix: not compressed, and how long it is.
fn message(length: usize) -> Result<Bytes> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(length)?.to_be_bytes());
    bytes.resize(bytes.len() + length, b'x');
    Ok(bytes.into())
}

fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

// The backend.

/// Starts the backend, on a thread that ends with the process.
pub(crate) fn serve() -> Result<()> {
    let listener = TcpListener::bind(BACKEND).with_context(|| format!("listening at {BACKEND}"))?;
    listener.set_nonblocking(true)?;
    let (runtime, answer) = (runtime()?, message(ANSWER)?);
    std::thread::spawn(move || {
        let served = Place::Beside
            .enter()
            .and_then(|()| runtime.block_on(accept(listener, answer)));
        if let Err(error) = served {
            eprintln!("measure: the backend for calls ended: {error:#}");
        }
    });
    Ok(())
}

async fn accept(listener: TcpListener, answer: Bytes) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(connection(stream, answer.clone()));
    }
}

/// A gateway's connection. If one breaks, the clients that wait for its answers say so.
async fn connection(stream: TcpStream, answer: Bytes) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        tokio::spawn(reply(request.into_body(), respond, answer.clone()));
    }
    Ok(())
}

/// Answers a call once all of it has come.
async fn reply(
    mut question: RecvStream,
    mut respond: SendResponse<Bytes>,
    answer: Bytes,
) -> Result<(), h2::Error> {
    length(&mut question).await?;
    let mut head = Response::new(());
    head.headers_mut().insert(CONTENT_TYPE, GRPC);
    let mut response = respond.send_response(head, false)?;
    response.send_data(answer, false)?;
    response.send_trailers(HeaderMap::from_iter([(STATUS, OK)]))
}

/// The length of a body, of which nothing is kept.
async fn length(body: &mut RecvStream) -> Result<usize, h2::Error> {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let more = data?.len();
        body.flow_control().release_capacity(more)?;
        length += more;
    }
    Ok(length)
}

// A client.

/// Calls through `peer`, whose certificate is given: a message and, in trailers, a good status must come back.
pub(crate) fn check(peer: &Peer, certificate: &[u8]) -> Result<()> {
    let called = runtime()?
        .block_on(async { tokio::time::timeout(PATIENCE, call(peer, certificate)).await });
    called
        .context("a call is not answered")
        .flatten()
        .with_context(|| format!("calling through {}", peer.name()))
}

async fn call(peer: &Peer, certificate: &[u8]) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate.to_vec()))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, peer.https)).await?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(HOST)?, stream)
        .await?;
    let (mut client, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    let request = Request::post(format!("https://{HOST}:{}{METHOD}", peer.https))
        .header(CONTENT_TYPE, GRPC)
        .header(TE, "trailers")
        .body(())?;
    let (response, mut question) = client.send_request(request, false)?;
    question.send_data(message(QUESTION)?, true)?;
    let (head, mut answer) = response.await?.into_parts();
    ensure!(head.status == 200, "answered {head:?}");
    let came = length(&mut answer).await?;
    let expected = message(ANSWER)?.len();
    ensure!(
        came == expected,
        "{came} bytes came instead of {expected}: {head:?}"
    );
    let trailers = answer.trailers().await?.unwrap_or_default();
    ensure!(
        trailers.get(STATUS) == Some(&OK),
        "the trailers are {trailers:?}"
    );
    Ok(())
}
