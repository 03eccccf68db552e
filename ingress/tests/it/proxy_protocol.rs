//! Load balancers that say for whom they connect.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::Backend;
use crate::client::{raw, tls_over};
use crate::harness::{Gateway, ingress, secure_ingress, service_of};
use crate::tls::authority;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\n\r\n";
const TEXT: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 8443\r\n";
/// The same as TEXT, with an extension of three bytes.
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12\
    \xc0\0\x02\x07\xc6\x33\x64\x01\xc3\x50\x20\xfb\x04\0\x03abc";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[tokio::test]
async fn the_client_that_a_load_balancer_names_is_the_client() {
    let authority = authority();
    let backend = Backend::echo("b").await;
    let mut objects = vec![
        secure_ingress("a", "tls.org", "s", "cert"),
        ingress("i", &[("a.org", "/", "s")]),
        authority.secret("cert", &["tls.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &["--proxy-protocol-from=127.0.0.0/8"]);
    for (header, address, port) in [
        (TEXT, "192.0.2.7", "8443"),
        (BINARY, "192.0.2.7", "8443"),
        (LOCAL, "127.0.0.1", &gateway.http.port().to_string()),
    ] {
        let answer = raw(gateway.http, &[header, REQUEST].concat()).await;
        assert!(
            answer.contains(&format!(r#""x-real-ip":["{address}"]"#)),
            "{answer}"
        );
        assert!(
            answer.contains(&format!(r#""x-forwarded-for":["{address}"]"#)),
            "{answer}"
        );
        assert!(
            answer.contains(&format!(r#""x-forwarded-port":["{port}"]"#)),
            "{answer}"
        );
    }
    let line = gateway
        .log_line(|line| line["remote_addr"] == "192.0.2.7")
        .await;
    assert_eq!(line["remote_port"], json!(50000));
    // Byte by byte, and before a TLS handshake.
    let mut stream = TcpStream::connect(gateway.https).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in TEXT {
        stream.write_u8(*byte).await.unwrap();
    }
    let mut stream = tls_over(stream, "tls.org", &authority.der(), b"http/1.1")
        .await
        .unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: tls.org\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""x-real-ip":["192.0.2.7"]"#), "{answer}");
    assert!(
        answer.contains(r#""x-forwarded-proto":["https"]"#),
        "{answer}"
    );
}

#[tokio::test]
async fn without_its_header_a_load_balancer_gets_nothing() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let flags = [
        "--proxy-protocol-from=127.0.0.0/8",
        "--header-timeout=200ms",
    ];
    let gateway = Gateway::start(&objects, &flags);
    for bytes in [
        REQUEST,
        b"PROXY TCP4 192.0.2.7",
        b"PROXY TCP4 a b c d\r\n",
        b"",
    ] {
        assert_eq!(raw(gateway.http, bytes).await, "", "{bytes:?}");
    }
    assert_eq!(backend.requests(), 0);
    let text = gateway.shared.scrape();
    assert!(
        text.contains(r#"reasons_total{reason="bad_proxy_header"} 4"#),
        "{text}"
    );
}

#[tokio::test]
async fn nobody_else_may_name_a_client() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &["--proxy-protocol-from=10.0.0.0/8"]);
    for header in [TEXT, BINARY] {
        let answer = raw(gateway.http, &[header, REQUEST].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(backend.requests(), 0);
}
