//! WebSocket: a switch of protocols, and a tunnel after it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::{Backend, read_head};
use crate::harness::{Gateway, ingress, service_of};

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
