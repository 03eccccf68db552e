//! WebSocket: a switch of protocols, and a tunnel after it.

use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::HeaderValue;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::backend::{Backend, read_head};
use crate::harness::{Gateway, PATIENCE, ingress, service_of};

const HANDSHAKE: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A backend that switches and then sends back in upper case what it gets.
async fn shouting() -> Backend {
    Backend::serve(async |mut stream, _| {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("connection: upgrade\r\n"), "{head}");
        assert!(head.contains("upgrade: websocket\r\n"), "{head}");
        assert!(
            head.contains("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            "{head}"
        );
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nWELCOME ";
        stream.write_all(answer).await.unwrap();
        let mut bytes = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut bytes).await {
            bytes[..count].make_ascii_uppercase();
            stream.write_all(&bytes[..count]).await.unwrap();
        }
    })
    .await
}

async fn open(gateway: &Gateway, early: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    stream
        .write_all(&[HANDSHAKE, early].concat())
        .await
        .unwrap();
    let head = read_head(&mut stream).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{head}"
    );
    stream
}

async fn expect(stream: &mut TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

#[tokio::test]
async fn after_the_switch_bytes_go_both_ways() {
    let backend = shouting().await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let mut gateway = Gateway::start(&objects, &[]);
    // What the client sends before it has the answer is not lost, nor what the backend sends with it.
    let mut stream = open(&gateway, b"early ").await;
    expect(&mut stream, "WELCOME EARLY ").await;
    // Routes may change, even away from it.
    gateway.apply(ingress("i", &[("other.org", "/", "s")]));
    stream.write_all(b"late").await.unwrap();
    expect(&mut stream, "LATE").await;
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    let line = gateway.log_line(|line| line["target"] == "/chat").await;
    assert_eq!(line["status"], 101);
    assert_eq!(line["bytes_sent"], 18);
    assert_eq!(line["reason"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_backend_that_hangs_up_ends_the_tunnel() {
    let backend = shouting().await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let mut stream = open(&gateway, b"").await;
    expect(&mut stream, "WELCOME ").await;
    drop(backend);
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
}

/// A backend that speaks WebSocket, and sends back what it gets. One that does not prove it has understood is told apart.
async fn echo(is_honest: bool) -> Backend {
    Backend::serve(move |stream, _| async move {
        #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
        let answer = |request: &Request, mut response: Response| {
            assert_eq!(request.method(), "GET");
            if let Some(protocol) = request.headers().get("sec-websocket-protocol") {
                let name = "sec-websocket-protocol";
                response.headers_mut().insert(name, protocol.clone());
            }
            if !is_honest {
                let accept = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
                response
                    .headers_mut()
                    .insert("sec-websocket-accept", accept);
            }
            Ok(response)
        };
        let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, answer).await else {
            return;
        };
        while let Some(Ok(message)) = socket.next().await {
            if !message.is_close() && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Asks for WebSocket over HTTP/2.
async fn extended_connect(
    gateway: &Gateway,
    protocol: &'static str,
) -> http::Response<hyper::body::Incoming> {
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    // Whether the gateway allows it is known once its settings are here, that is with the first answer.
    let other = http::Request::get("http://nowhere.org/").body(Empty::<Bytes>::new());
    drop(sender.send_request(other.unwrap()).await.unwrap());
    let request = http::Request::connect("http://a.org/chat")
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "talk");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn websocket_goes_through_a_stream_of_http2() {
    let backend = echo(true).await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let response = extended_connect(&gateway, "websocket").await;
    assert_eq!(response.status(), 200);
    let headers = response.headers();
    assert_eq!(headers["sec-websocket-protocol"], "talk");
    for field in ["sec-websocket-accept", "upgrade", "connection"] {
        assert!(!headers.contains_key(field), "{field}");
    }
    let stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    for message in [
        Message::text("hello"),
        Message::binary(vec![7; 300_000]),
        Message::text(""),
    ] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    socket.get_mut().shutdown().await.unwrap();
    let line = gateway.log_line(|line| line["target"] == "/chat").await;
    assert_eq!(
        (&line["status"], &line["method"]),
        (&200.into(), &"CONNECT".into())
    );
    assert_eq!(line["reason"], serde_json::Value::Null);
}

#[tokio::test]
async fn only_websocket_is_connected_and_only_to_those_who_understand() {
    let backend = echo(false).await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    assert_eq!(extended_connect(&gateway, "websocket").await.status(), 502);
    assert_eq!(
        extended_connect(&gateway, "connect-udp").await.status(),
        405
    );
}

/// npm's `ws` as `setup.sh test` puts it there, run as `arguments` say.
fn ws(arguments: &[String]) -> Command {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = manifest.join("../target/tools/node/node_modules");
    let package = modules.join("ws");
    assert!(
        package.exists(),
        "{} is missing: run ./setup.sh test",
        package.display()
    );
    let mut node = Command::new("node");
    node.arg(manifest.join("tests/it/websocket.cjs"))
        .args(arguments);
    node.env("NODE_PATH", modules)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    node
}

#[tokio::test]
async fn ws_of_npm_agrees() {
    let mut server = ws(&["server".to_owned()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(server.stdout.take().unwrap()).lines();
    let port: u16 = said.next_line().await.unwrap().unwrap().parse().unwrap();
    let mut objects = vec![ingress("i", &[("localhost", "/", "s")])];
    objects.extend(service_of("s", &[([127, 0, 0, 1], port).into()]));
    let gateway = Gateway::start(&objects, &[]);
    let client = ws(&["client".to_owned(), gateway.http.port().to_string()]).output();
    let output = timeout(PATIENCE * 3, client).await.unwrap().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        ["text", "binary", "compressed", "ping", "close", "refused"]
    );
    server.kill().await.unwrap();
}
