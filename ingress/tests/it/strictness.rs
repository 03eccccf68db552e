//! What a client must not send, byte by byte: the table of the design, one row a line.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::{Http, raw};
use crate::harness::{Gateway, PATIENCE, eventually, ingress, service_of};

/// Every row is sent as it stands on a connection of its own; `{H}` stands for a good `Host` line. A refusal that makes
/// the rest of the connection doubtful must also end it, which [`raw`] waits for; the others get a second request that
/// asks for the end.
const REFUSED: &[(&str, &str, u16)] = &[
    (
        "TE gzip, chunked",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "TE chunked, chunked",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "two TE lines",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE not chunked",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip\r\n\r\n",
        400,
    ),
    (
        "TE in HTTP/1.0",
        "POST / HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "CL differs",
        "POST / HTTP/1.1\r\n{H}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        400,
    ),
    (
        "CL list differs",
        "POST / HTTP/1.1\r\n{H}Content-Length: 1, 2\r\n\r\nab",
        400,
    ),
    (
        "CL +1",
        "POST / HTTP/1.1\r\n{H}Content-Length: +1\r\n\r\na",
        400,
    ),
    (
        "CL -1",
        "POST / HTTP/1.1\r\n{H}Content-Length: -1\r\n\r\n",
        400,
    ),
    ("obs-fold", "GET / HTTP/1.1\r\n{H}X-A: 1\r\n 2\r\n\r\n", 400),
    (
        "bare CR in value",
        "GET / HTTP/1.1\r\n{H}X-A: 1\r2\r\n\r\n",
        400,
    ),
    (
        "NUL in value",
        "GET / HTTP/1.1\r\n{H}X-A: 1\x002\r\n\r\n",
        400,
    ),
    (
        "blank before colon",
        "GET / HTTP/1.1\r\n{H}X-A : 1\r\n\r\n",
        400,
    ),
    (
        "blank before first field",
        "GET / HTTP/1.1\r\n X-A: 1\r\n{H}\r\n",
        400,
    ),
    ("no Host", "GET / HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", "GET / HTTP/1.1\r\n{H}Host: b.org\r\n\r\n", 400),
    ("two equal Hosts", "GET / HTTP/1.1\r\n{H}{H}\r\n", 400),
    ("empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ("Host u@a", "GET / HTTP/1.1\r\nHost: u@a.org\r\n\r\n", 400),
    ("Host a/b", "GET / HTTP/1.1\r\nHost: a.org/b\r\n\r\n", 400),
    (
        "Host a b",
        "GET / HTTP/1.1\r\nHost: a.org b.org\r\n\r\n",
        400,
    ),
    (
        "chunk size 0x5",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunk size +5",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunk size ends in LF",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\nabcde\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunk spills over",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n0\r\n\r\n",
        400,
    ),
    (
        "Connection names Host",
        "GET / HTTP/1.1\r\n{H}Connection: Host\r\n\r\n",
        400,
    ),
    (
        "Connection names X-Forwarded-For",
        "GET / HTTP/1.1\r\n{H}Connection: close, X-Forwarded-For\r\n\r\n",
        400,
    ),
    ("CONNECT", "CONNECT a.org:443 HTTP/1.1\r\n{H}\r\n", 405),
    ("TRACE", "TRACE / HTTP/1.1\r\n{H}\r\n", 405),
    ("GET *", "GET * HTTP/1.1\r\n{H}\r\n", 400),
    ("HTTP/1.2", "GET / HTTP/1.2\r\n{H}\r\n", 400),
    (
        "raw UTF-8 in target",
        "GET /\u{fc} HTTP/1.1\r\n{H}\r\n",
        400,
    ),
    ("%00 in target", "GET /%00 HTTP/1.1\r\n{H}\r\n", 400),
    ("broken escape", "GET /%zz HTTP/1.1\r\n{H}\r\n", 400),
    ("junk", "\r\n\r\n\x16\x03\x01\x02", 400),
];

/// What is not refused, and what must reach the backend: a part of what the backend tells.
const FORWARDED: &[(&str, &str, &str)] = &[
    (
        "CL and TE",
        "POST / HTTP/1.1\r\n{H}Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        r#""body":"a""#,
    ),
    (
        "equal CLs",
        "POST / HTTP/1.1\r\n{H}Connection: close\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        r#""content-length":["1"]"#,
    ),
    (
        "bare LF",
        "GET /lf HTTP/1.1\nHost: a.org\nConnection: close\n\n",
        r#""target":"/lf""#,
    ),
    (
        "absolute target",
        "GET http://a.org:81/x HTTP/1.1\r\nHost: b.org\r\nConnection: close\r\n\r\n",
        r#""host":["a.org:81"]"#,
    ),
    (
        "target of absolute",
        "GET http://a.org/x?y HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        r#""target":"/x?y""#,
    ),
    (
        "fragment",
        "GET /a#b HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        r#""target":"/a""#,
    ),
    (
        "dot segments",
        "GET /a/../b HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        r#""target":"/b""#,
    ),
    (
        "escaped dots",
        "GET /a/%2e%2e/b HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        r#""target":"/b""#,
    ),
    (
        "slashes",
        "GET //a//b HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        r#""target":"/a/b""#,
    ),
    (
        "trailer",
        "POST / HTTP/1.1\r\n{H}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nHost: evil\r\n\r\n",
        r#""host":["a.org"]"#,
    ),
    (
        "100-continue",
        "POST / HTTP/1.1\r\n{H}Connection: close\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
        r#""body":"a""#,
    ),
];

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
        let bytes = bytes.replace("{H}", "Host: a.org\r\n");
        let answer = raw(gateway.http, bytes.as_bytes()).await;
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
        let bytes = bytes.replace("{H}", "Host: a.org\r\n");
        let answer = raw(gateway.http, bytes.as_bytes()).await;
        assert!(answer.contains(expected), "{name}: {answer}");
    }
}

#[tokio::test]
async fn an_expectation_that_cannot_be_met_is_417_and_no_reason_to_close() {
    let (gateway, _backend) = gateway().await;
    let answer = raw(
        gateway.http,
        b"GET / HTTP/1.1\r\nHost: a.org\r\nExpect: junk\r\n\r\n\
          GET / HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 417 "), "{answer}");
    assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn an_upgrade_without_101_is_followed_by_requests() {
    let (gateway, backend) = gateway().await;
    let answer = raw(
        gateway.http,
        b"GET /1 HTTP/1.1\r\nHost: a.org\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\
          GET /2 HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\n\r\n",
    )
    .await;
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
