//! The cases of gRPC's interoperability tests, by their names, through the gateway: with tonic always, and with Python's
//! grpcio, which shares no code with it. Messages are bytes as they stand; what a call does is said by its path.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::backend::Backend;
use crate::harness::{Gateway, PATIENCE, ingress, service_speaking, slice};

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Messages as they stand.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The service: what it does with a stream of messages is the last element of the path.
#[derive(Clone)]
struct Interop;

impl tower_service::Service<http::Request<hyper::body::Incoming>> for Interop {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        let method = request.uri().path().to_owned();
        Box::pin(async move {
            let answer = Method(method);
            let mut server = tonic::server::Grpc::new(Raw);
            Ok(server.streaming(answer, request.map(Body::new)).await)
        })
    }
}

#[derive(Clone)]
struct Method(String);

impl tonic::server::StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(answer(self.0.clone(), request))
    }
}

async fn answer(
    path: String,
    request: Request<Streaming<Bytes>>,
) -> Result<Response<Messages>, Status> {
    let Some(method) = path.strip_prefix("/portolan.Interop/") else {
        return Err(Status::unimplemented("no such service"));
    };
    let metadata = request.metadata().clone();
    let mut sent = request.into_inner();
    let messages: Messages = match method {
        "Echo" | "Custom" => Box::pin(sent),
        "Sum" => {
            let mut sum = 0;
            while let Some(message) = sent.next().await {
                sum += message?.len();
            }
            Box::pin(stream::iter([Ok(Bytes::from(sum.to_string()))]))
        }
        "Count" => {
            let count = sent.next().await.transpose()?.unwrap_or_default();
            let count: usize = std::str::from_utf8(&count)
                .ok()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            Box::pin(stream::iter(
                (1..=count).map(|n| Ok(Bytes::from(vec![b'x'; n * 1000]))),
            ))
        }
        "Sleep" => Box::pin(stream::pending()),
        "First" => Box::pin(sent.chain(stream::pending())),
        "Status" => {
            let message = sent.next().await.transpose()?.unwrap_or_default();
            return Err(Status::new(
                Code::Unknown,
                String::from_utf8_lossy(&message).into_owned(),
            ));
        }
        "Fail" => Box::pin(stream::iter([
            Ok(Bytes::from_static(b"one")),
            Err(Status::new(Code::DataLoss, "after one")),
        ])),
        _ => return Err(Status::unimplemented("no such method")),
    };
    let mut response = Response::new(messages);
    if let Some(initial) = metadata.get("x-grpc-test-echo-initial") {
        response
            .metadata_mut()
            .insert("x-grpc-test-echo-initial", initial.clone());
    }
    if let Some(trailing) = metadata.get_bin("x-grpc-test-echo-trailing-bin") {
        // A result with metadata of its own, after everything that was sent.
        let mut trailers = MetadataMap::new();
        trailers.insert_bin("x-grpc-test-echo-trailing-bin", trailing.clone());
        let end = Status::with_metadata(Code::Ok, "", trailers);
        response = response
            .map(|messages| -> Messages { Box::pin(messages.chain(stream::iter([Err(end)]))) });
    }
    Ok(response)
}

async fn backend() -> Backend {
    Backend::serve(async |stream, _| {
        let service = TowerToHyperService::new(Interop);
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        drop(connection.await);
    })
    .await
}

/// A gateway before the service, with whatever must outlive it.
async fn gateway(arguments: &[&str]) -> (Gateway, Backend) {
    let backend = backend().await;
    let objects = [
        ingress(
            "i",
            &[
                ("localhost", "/portolan.Interop", "s"),
                ("localhost", "/gone", "gone"),
            ],
        ),
        service_speaking("s", "grpc"),
        service_speaking("gone", "grpc"),
        slice("s", "s-1", backend.address),
    ];
    (Gateway::start(&objects, arguments), backend)
}

async fn client(gateway: &Gateway) -> Grpc<Channel> {
    let endpoint = format!("http://localhost:{}", gateway.http.port());
    let endpoint = Endpoint::from_shared(endpoint).unwrap().timeout(PATIENCE);
    let mut client = Grpc::new(endpoint.connect().await.unwrap());
    client.ready().await.unwrap();
    client
}

fn path(path: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(path)
}

async fn unary(
    client: &mut Grpc<Channel>,
    method: &'static str,
    message: impl Into<Bytes>,
) -> Result<Bytes, Status> {
    client.ready().await.unwrap();
    let answer = client
        .unary(Request::new(message.into()), path(method), Raw)
        .await;
    answer.map(Response::into_inner)
}

#[tokio::test]
async fn empty_unary_and_large_unary() {
    let (gateway, _backend) = gateway(&[]).await;
    let mut client = client(&gateway).await;
    assert_eq!(
        unary(&mut client, "/portolan.Interop/Echo", "")
            .await
            .unwrap(),
        ""
    );
    let large = Bytes::from(vec![7; 314_159]);
    assert_eq!(
        unary(&mut client, "/portolan.Interop/Echo", large.clone())
            .await
            .unwrap(),
        large
    );
}

#[tokio::test]
async fn client_streaming_and_server_streaming() {
    let (gateway, _backend) = gateway(&[]).await;
    let mut client = client(&gateway).await;
    let sizes = [27_182, 8, 1_828, 45_904];
    let sent = stream::iter(sizes.map(|size| Bytes::from(vec![0; size])));
    let sum = client
        .client_streaming(Request::new(sent), path("/portolan.Interop/Sum"), Raw)
        .await;
    assert_eq!(sum.unwrap().into_inner(), "74922");
    client.ready().await.unwrap();
    let count = Request::new(Bytes::from_static(b"50"));
    let received = client
        .server_streaming(count, path("/portolan.Interop/Count"), Raw)
        .await
        .unwrap();
    let received: Vec<_> = received
        .into_inner()
        .map(|message| message.unwrap().len())
        .collect()
        .await;
    assert_eq!(received, (1..=50).map(|n| n * 1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn ping_pong_and_empty_stream() {
    // Streams outlive every limit on pauses: these two hold for messages of HTTP, not for calls.
    let (gateway, _backend) = gateway(&["--backend-timeout=100ms", "--client-timeout=1s"]).await;
    let mut client = client(&gateway).await;
    let (say, said) = tokio::sync::mpsc::channel::<Bytes>(1);
    let said = stream::unfold(said, async |mut said| Some((said.recv().await?, said)));
    let call = client.streaming(Request::new(said), path("/portolan.Interop/Echo"), Raw);
    let mut heard = call.await.unwrap().into_inner();
    for message in ["one", "two", "three"] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        say.send(Bytes::from(message)).await.unwrap();
        assert_eq!(heard.next().await.unwrap().unwrap(), message);
    }
    drop(say);
    assert!(heard.next().await.is_none());
    client.ready().await.unwrap();
    let nothing = stream::iter(Vec::<Bytes>::new());
    let call = client.streaming(Request::new(nothing), path("/portolan.Interop/Echo"), Raw);
    assert!(call.await.unwrap().into_inner().next().await.is_none());
}

#[tokio::test]
async fn timeout_on_sleeping_server() {
    let (gateway, _backend) = gateway(&[]).await;
    let mut client = client(&gateway).await;
    let mut request = Request::new(Bytes::new());
    // Told to the gateway only: the client's own patience is longer.
    request
        .metadata_mut()
        .insert("grpc-timeout", "100m".parse().unwrap());
    let call = client
        .server_streaming(request, path("/portolan.Interop/Sleep"), Raw)
        .await;
    let status = match call {
        Ok(response) => response.into_inner().next().await.unwrap().unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn status_code_and_message_and_special_status_message() {
    let (gateway, _backend) = gateway(&[]).await;
    let mut client = client(&gateway).await;
    for message in [
        "test status message",
        "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n",
    ] {
        let status = unary(&mut client, "/portolan.Interop/Status", message)
            .await
            .unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unknown, message));
    }
    // Also after messages.
    client.ready().await.unwrap();
    let call = client.server_streaming(
        Request::new(Bytes::new()),
        path("/portolan.Interop/Fail"),
        Raw,
    );
    let mut heard = call.await.unwrap().into_inner();
    assert_eq!(heard.next().await.unwrap().unwrap(), "one");
    let status = heard.next().await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::DataLoss, "after one")
    );
}

#[tokio::test]
async fn unimplemented_method_and_unimplemented_service() {
    let (gateway, _backend) = gateway(&[]).await;
    let mut client = client(&gateway).await;
    let status = unary(&mut client, "/portolan.Interop/Missing", "")
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unimplemented, "no such method")
    );
    // No route: the answer is the gateway's, in gRPC's terms.
    let status = unary(&mut client, "/other.Service/Method", "")
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unimplemented, "no_route")
    );
    // A route without an endpoint.
    let status = unary(&mut client, "/gone/Method", "").await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "no_endpoint")
    );
}

#[tokio::test]
async fn custom_metadata() {
    let (gateway, _backend) = gateway(&[]).await;
    let mut client = client(&gateway).await;
    let mut request = Request::new(stream::iter([Bytes::from_static(b"x")]));
    let bytes = MetadataValue::from_bytes(b"\x0a\x0b\x0a\x0b\x0a\x0b");
    request.metadata_mut().insert(
        "x-grpc-test-echo-initial",
        "test_initial_metadata_value".parse().unwrap(),
    );
    request
        .metadata_mut()
        .insert_bin("x-grpc-test-echo-trailing-bin", bytes.clone());
    let response = client
        .streaming(request, path("/portolan.Interop/Custom"), Raw)
        .await
        .unwrap();
    assert_eq!(
        response.metadata().get("x-grpc-test-echo-initial").unwrap(),
        "test_initial_metadata_value"
    );
    let mut heard = response.into_inner();
    assert_eq!(heard.message().await.unwrap().unwrap(), "x");
    assert!(heard.message().await.unwrap().is_none());
    let trailers = heard.trailers().await.unwrap().unwrap();
    assert_eq!(
        trailers.get_bin("x-grpc-test-echo-trailing-bin"),
        Some(&bytes)
    );
}

#[tokio::test]
async fn cancel_after_begin_and_cancel_after_first_response() {
    let (gateway, _backend) = gateway(&["--workers=1"]).await;
    let mut client = client(&gateway).await;
    for (method, answers) in [
        ("/portolan.Interop/Sleep", 0),
        ("/portolan.Interop/First", 1),
    ] {
        client.ready().await.unwrap();
        let request = Request::new(Bytes::from_static(b"x"));
        let call = client.server_streaming(request, path(method), Raw);
        let mut heard = call.await.unwrap().into_inner();
        for _ in 0..answers {
            assert_eq!(heard.next().await.unwrap().unwrap(), "x");
        }
        drop(heard);
        let line = gateway.log_line(|line| line["target"] == method).await;
        assert_eq!(line["reason"], "client_gone");
        // The connection is none the worse for it.
        assert_eq!(
            unary(&mut client, "/portolan.Interop/Echo", "y")
                .await
                .unwrap(),
            "y"
        );
    }
}

/// Python of its own, with what `setup.sh test` puts there.
fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/python");
    let grpcio = python.join("has-grpcio");
    assert!(
        grpcio.exists(),
        "{} is missing: run ./setup.sh test",
        grpcio.display()
    );
    python.join("bin/python3")
}

#[tokio::test]
async fn grpcio_agrees() {
    let (gateway, _backend) = gateway(&[]).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/grpc_interop.py");
    let client = tokio::process::Command::new(python())
        .arg(script)
        .arg(format!("localhost:{}", gateway.http.port()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE * 3, client)
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    assert_eq!(said.lines().count(), 14, "{said}");
}
