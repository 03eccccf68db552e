//! How much a client may ask for: sizes, times, requests of a connection, frames.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::{Http, raw};
use crate::harness::{Gateway, PATIENCE, annotated, eventually, ingress, service_of};

async fn gateway(more: &[&str]) -> (Gateway, Backend) {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    (Gateway::start(&objects, more), backend)
}

fn put(length: usize) -> Request<Full<Bytes>> {
    let body = Full::from(vec![b'a'; length]);
    let request = Request::put("http://a.org/").header("host", "a.org");
    request.body(body).unwrap()
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_reaches_no_backend() {
    let (gateway, backend) = gateway(&[]).await;
    for is_h2 in [false, true] {
        let stream = TcpStream::connect(gateway.http).await.unwrap();
        let mut client = match is_h2 {
            false => Http::over(stream).await,
            true => Http::two_over(stream).await,
        };
        let answer = client.send(put(1024 * 1024)).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{is_h2}");
        let answer = client.send(put(1024 * 1024 + 1)).await.unwrap();
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{is_h2}");
    }
    assert_eq!(backend.requests(), 2);
    let line = gateway.log_line(|line| line["status"] == 413).await;
    assert_eq!(line["reason"], "body_too_large");
}

#[tokio::test]
async fn a_body_that_does_not_say_is_counted_as_it_passes() {
    let (gateway, _backend) = gateway(&["--max-body-size=10"]).await;
    for (body, status) in [
        ("5\r\nabcde\r\n5\r\nabcde\r\n0\r\n\r\n", 200),
        ("5\r\nabcde\r\n6\r\nabcdef\r\n0\r\n\r\n", 413),
        ("ffffffffff\r\nabcdefghijk", 413),
    ] {
        let head = "PUT / HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\n";
        let bytes = format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}");
        let answer = raw(gateway.http, bytes.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{body}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_client_that_goes_on_sending_still_gets_its_answer() {
    let (gateway, _backend) = gateway(&[]).await;
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let head = b"PUT / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 3000000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    // More than the kernel buffers: were the socket closed at once, a write would fail and the answer be lost.
    stream.write_all(&[b'a'; 3_000_000]).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
}

#[tokio::test]
async fn zero_means_no_limit() {
    let (gateway, _backend) = gateway(&["--max-body-size=0"]).await;
    let mut client = Http::connect(gateway.http).await;
    let answer = client.send(put(3_000_000)).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn an_ingress_has_its_own_limit() {
    let backend = Backend::echo("b").await;
    let small = ingress("small", &[("small.org", "/", "s")]);
    let large = ingress("large", &[("large.org", "/", "s")]);
    let mut objects = vec![
        annotated(small, &[("proxy-body-size", "10")]),
        annotated(large, &[("proxy-body-size", "2m")]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    for (host, length, status) in [
        ("small.org", 10, 200),
        ("small.org", 11, 413),
        ("large.org", 2 << 20, 200),
        ("large.org", (2 << 20) + 1, 413),
    ] {
        let request = Request::put("/").header("host", host);
        let request = request.body(Full::from(vec![b'a'; length])).unwrap();
        let mut client = Http::connect(gateway.http).await;
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status, status, "{host} {length}");
    }
}

#[tokio::test]
async fn a_head_that_stops_halfway_gets_408_and_silence_gets_nothing() {
    let (gateway, _backend) = gateway(&["--header-timeout=200ms"]).await;
    let answer = raw(gateway.http, b"GET / HTTP/1.1\r\nHo").await;
    assert!(
        answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("408 Request Timeout: header_timeout\n"),
        "{answer}"
    );
    assert_eq!(raw(gateway.http, b"").await, "");
    // After a request the same holds for the next one.
    let first = "GET / HTTP/1.1\r\nHost: a.org\r\n\r\nGET / HT";
    let answer = raw(gateway.http, first.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn a_connection_ends_after_its_last_request() {
    let (gateway, backend) = gateway(&["--keep-alive-requests=3"]).await;
    let mut client = Http::connect(gateway.http).await;
    for (number, expected) in [(1, None), (2, None), (3, Some("close"))] {
        let answer = client.get("a.org", "/").await;
        let connection = answer
            .headers
            .get("connection")
            .map(|value| value.to_str().unwrap());
        assert_eq!(connection, expected, "{number}");
    }
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let mut client = Http::two_over(stream).await;
    for _ in 0..3 {
        assert_eq!(client.get("a.org", "/").await.status, StatusCode::OK);
    }
    eventually("the end of the connection", async || {
        client.is_closed().then_some(())
    })
    .await;
    assert_eq!(backend.requests(), 6);
}

#[tokio::test]
async fn a_flood_of_frames_ends_the_connection() {
    let (gateway, _backend) = gateway(&[]).await;
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    for flood in [&ping[..], &settings] {
        let stream = TcpStream::connect(gateway.http).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend_from_slice(&settings);
        write.write_all(&hello).await.unwrap();
        let frames = flood.repeat(100);
        let sending = async {
            for _ in 0..1_000 {
                if write.write_all(&frames).await.is_err() {
                    break;
                }
            }
        };
        let mut sink = tokio::io::sink();
        let answers = tokio::io::copy(&mut read, &mut sink);
        // Without a limit the gateway would answer all of them and go on waiting.
        let both = async { tokio::join!(sending, answers) };
        assert!(timeout(PATIENCE, both).await.is_ok(), "{flood:?}");
    }
    let text = gateway.shared.scrape();
    assert!(
        text.contains(r#"reasons_total{reason="flood"} 2"#),
        "{text}"
    );
}
