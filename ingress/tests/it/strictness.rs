//! What a client must not send, byte by byte: the table of the design, one row a line.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::cases::filled;
use crate::cases::strictness::{BAD_EXPECTATION, CHANGED, FORWARDED, REFUSED, UPGRADE_REFUSED};
use crate::client::{Http, raw};
use crate::harness::{Gateway, PATIENCE, eventually, ingress, service_of};

async fn gateway() -> (Gateway, Backend) {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    (Gateway::start(&objects, &[]), backend)
}

#[tokio::test]
async fn refused_requests_get_the_right_status_and_the_connection_ends() {
    let (gateway, backend) = gateway().await;
    for (name, bytes, status) in REFUSED {
        let bytes = filled(bytes.as_bytes());
        let answer = raw(gateway.http, &bytes).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{name}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{name}: {answer}");
    }
    // Only bodies that turned out broken after a good head may have been begun.
    assert!(backend.requests() <= 4, "{}", backend.requests());
}

#[tokio::test]
async fn what_is_forwarded_says_each_thing_once() {
    let (gateway, _backend) = gateway().await;
    for (name, bytes, expected) in FORWARDED {
        let bytes = filled(bytes.as_bytes());
        let answer = raw(gateway.http, &bytes).await;
        assert!(answer.contains(expected), "{name}: {answer}");
    }
}

#[tokio::test]
async fn what_nobody_may_say_of_the_client_or_of_this_connection_goes_no_further() {
    let (gateway, _backend) = gateway().await;
    for (name, bytes, forbidden) in CHANGED {
        let answer = raw(gateway.http, &filled(bytes.as_bytes())).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
        assert!(!answer.contains(forbidden), "{name}: {answer}");
    }
}

#[tokio::test]
async fn an_expectation_that_cannot_be_met_is_417_and_no_reason_to_close() {
    let (gateway, _backend) = gateway().await;
    let answer = raw(gateway.http, &filled(BAD_EXPECTATION.as_bytes())).await;
    assert!(answer.starts_with("HTTP/1.1 417 "), "{answer}");
    assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn an_upgrade_without_101_is_followed_by_requests() {
    let (gateway, backend) = gateway().await;
    let answer = raw(gateway.http, &filled(UPGRADE_REFUSED.as_bytes())).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert!(answer.contains(r#""target":"/2""#), "{answer}");
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn too_much_head_is_refused() {
    let (gateway, _backend) = gateway().await;
    let head = |target: &str, fields: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: a.org\r\n{fields}\r\n")
    };
    let many: String = (0..120).map(|n| format!("X-{n}: 1\r\n")).collect();
    let large = format!("X-A: {}\r\n", "a".repeat(70_000));
    for (name, bytes, status) in [
        (
            "long target",
            head(&format!("/{}", "a".repeat(9_000)), ""),
            414,
        ),
        ("many fields", head("/", &many), 431),
        ("large fields", head("/", &large), 431),
    ] {
        let answer = raw(gateway.http, bytes.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{name}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &["--header-timeout=100ms"]);
    for (address, bytes) in [
        (gateway.http, &b""[..]),
        (gateway.http, b"GET / HT"),
        (gateway.http, b"PRI * HT"),
        (gateway.https, b""),
        (gateway.https, b"\x16\x03\x01"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_in_both_protocols() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &["--keep-alive-timeout=200ms"]);
    for is_h2 in [false, true] {
        let stream = TcpStream::connect(gateway.http).await.unwrap();
        let mut client = match is_h2 {
            false => Http::over(stream).await,
            true => Http::two_over(stream).await,
        };
        assert_eq!(client.get("a.org", "/").await.status, 200);
        eventually("the end of an idle connection", async || {
            client.is_closed().then_some(())
        })
        .await;
    }
}
