//! Sending requests again: when, where to, how often, and what becomes of their bodies.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::backend::{Backend, read_head};
use crate::client::{Answer, Http, get, raw};
use crate::harness::{Gateway, annotated, ingress, service_of};

/// How long connecting on this machine never takes.
const MOMENT: Duration = Duration::from_millis(250);

/// A gateway where requests for `a.org` go to `backends`, on one thread so that turns are certain.
fn gateway(backends: &[&Backend], annotations: &[(&str, &str)], more: &[&str]) -> Gateway {
    let mut objects = vec![annotated(ingress("i", &[("a.org", "/", "s")]), annotations)];
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    objects.extend(service_of("s", &addresses));
    let more: Vec<_> = ["--workers=1", "--eject-after=0"]
        .iter()
        .chain(more)
        .copied()
        .collect();
    Gateway::start(&objects, &more)
}

async fn send(gateway: &Gateway, method: Method, body: impl Into<Bytes>) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri("/")
        .header("host", "a.org")
        .body(Full::new(body.into()));
    let mut client = Http::connect(gateway.http).await;
    client.send(request.unwrap()).await.unwrap()
}

/// A backend that reads heads, and all of every body, and closes in place of an answer.
async fn closes() -> Backend {
    Backend::serve(|mut stream, requests| async move {
        let Some(head) = read_head(&mut stream).await else {
            return;
        };
        requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        drop(stream.read_exact(&mut body).await);
    })
    .await
}

#[tokio::test]
async fn what_may_be_repeated_goes_to_another_endpoint_with_its_body() {
    let (bad, good) = (closes().await, Backend::echo("good").await);
    let gateway = gateway(&[&bad, &good], &[], &[]);
    let body = "x".repeat(20_000);
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        for _ in 0..2 {
            let answer = send(&gateway, method.clone(), body.clone()).await;
            assert_eq!(answer.status, StatusCode::OK, "{method}");
            assert_eq!(answer.json()["body"], body, "{method}");
        }
    }
    assert_eq!((bad.requests(), good.requests()), (3, 6));
}

#[tokio::test]
async fn what_may_not_be_repeated_is_sent_once() {
    for method in [Method::POST, Method::PATCH] {
        let (bad, good) = (closes().await, Backend::echo("good").await);
        let gateway = gateway(&[&bad, &good], &[], &[]);
        let mut statuses = [0; 2];
        for status in &mut statuses {
            *status = send(&gateway, method.clone(), "x").await.status.as_u16();
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 502], "{method}");
        assert_eq!((bad.requests(), good.requests()), (1, 1));
    }
}

#[tokio::test]
async fn non_idempotent_requests_are_repeated_where_that_is_asked_for() {
    let (bad, good) = (closes().await, Backend::echo("good").await);
    let asked = [("proxy-next-upstream", "error non_idempotent")];
    let gateway = gateway(&[&bad, &good], &asked, &[]);
    for _ in 0..2 {
        let answer = send(&gateway, Method::POST, "hello").await;
        assert_eq!(
            (answer.status, answer.json()["body"].as_str()),
            (StatusCode::OK, Some("hello"))
        );
    }
    assert_eq!((bad.requests(), good.requests()), (1, 2));
}

#[tokio::test]
async fn a_body_too_large_to_be_kept_is_sent_once() {
    let (bad, good) = (closes().await, Backend::echo("good").await);
    let gateway = gateway(&[&bad, &good], &[], &[]);
    let mut statuses = [0; 2];
    for status in &mut statuses {
        let body = vec![b'x'; 100_000];
        *status = send(&gateway, Method::PUT, body).await.status.as_u16();
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
}

#[tokio::test]
async fn statuses_are_followed_as_asked_and_the_last_answer_is_passed_on() {
    let bad = Backend::script(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", false).await;
    let worse = Backend::script(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", false).await;
    let good = Backend::echo("good").await;
    let asked = [("proxy-next-upstream", "http_503")];
    let some = gateway(&[&bad, &worse, &good], &asked, &[]);
    for _ in 0..6 {
        assert_eq!(get(some.http, "a.org", "/").await.status, StatusCode::OK);
    }
    let none = gateway(&[&bad, &worse], &asked, &[]);
    let answer = get(none.http, "a.org", "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let line = none.log_line(|line| line["status"] == 503).await;
    assert_eq!(line["attempts"], 2);
    let unasked = gateway(&[&bad], &[], &[]);
    assert_eq!(
        get(unasked.http, "a.org", "/").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn tries_are_counted_and_may_be_turned_off() {
    let backends = [
        closes().await,
        closes().await,
        closes().await,
        closes().await,
    ];
    let all: Vec<_> = backends.iter().collect();
    for (asked, expected) in [
        (&[][..], 3),
        (&[("proxy-next-upstream-tries", "2")], 2),
        (&[("proxy-next-upstream-tries", "0")], 4),
        (&[("proxy-next-upstream", "off")], 1),
        (&[("proxy-next-upstream", "timeout")], 1),
    ] {
        let gateway = gateway(&all, asked, &[]);
        assert_eq!(
            get(gateway.http, "a.org", "/").await.status,
            StatusCode::BAD_GATEWAY
        );
        let line = gateway.log_line(|line| line["status"] == 502).await;
        assert_eq!(
            (&line["attempts"], &line["reason"]),
            (&expected.into(), &"backend_closed".into()),
            "{asked:?}"
        );
    }
}

#[tokio::test]
async fn retries_end_when_the_time_for_them_is_over() {
    let slow = Backend::serve(|mut stream, _| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    let other = Backend::serve(|mut stream, _| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    let (slow, other) = tokio::join!(slow, other);
    let gateway = gateway(
        &[&slow, &other],
        &[("proxy-next-upstream-timeout", "200ms")],
        &[],
    );
    assert_eq!(
        get(gateway.http, "a.org", "/").await.status,
        StatusCode::BAD_GATEWAY
    );
    let line = gateway.log_line(|line| line["status"] == 502).await;
    assert_eq!(line["attempts"], 1);
}

#[tokio::test]
async fn a_service_that_only_fails_is_not_stormed() {
    let backends = [closes().await, closes().await];
    let gateway = gateway(&[&backends[0], &backends[1]], &[], &[]);
    let mut client = Http::connect(gateway.http).await;
    for _ in 0..300 {
        assert_eq!(
            client.get("a.org", "/").await.status,
            StatusCode::BAD_GATEWAY
        );
    }
    let sent = backends.iter().map(Backend::requests).sum::<usize>();
    // One of each, the reserve, a fifth of all and ten a second.
    assert!((390..590).contains(&sent), "{sent}");
}

#[tokio::test]
async fn a_request_that_times_out_goes_elsewhere() {
    let (silent, good) = (
        Backend::script(b"", false).await,
        Backend::echo("good").await,
    );
    let gateway = gateway(&[&silent, &good], &[("proxy-read-timeout", "200ms")], &[]);
    for _ in 0..2 {
        assert_eq!(get(gateway.http, "a.org", "/").await.backend(), "good");
    }
    assert_eq!(silent.requests(), 1);
}

#[tokio::test]
async fn timeouts_are_those_of_the_ingress() {
    let silent = Backend::script(b"", false).await;
    let read = gateway(&[&silent], &[("proxy-read-timeout", "100ms")], &[]);
    assert_eq!(
        get(read.http, "a.org", "/").await.status,
        StatusCode::GATEWAY_TIMEOUT
    );
    let line = read.log_line(|line| line["status"] == 504).await;
    assert_eq!(line["reason"], "backend_timeout");
    let total = gateway(
        &[&silent],
        &[("portolan.dev/request-timeout", "100ms")],
        &[],
    );
    assert_eq!(
        get(total.http, "a.org", "/").await.status,
        StatusCode::GATEWAY_TIMEOUT
    );
    let line = total.log_line(|line| line["status"] == 504).await;
    assert_eq!(line["reason"], "request_timeout");
    // A backend that reads nothing: what it does not take is its fault.
    let deaf = Backend::serve(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let asked = [("proxy-send-timeout", "200ms"), ("proxy-body-size", "0")];
    let send_limit = gateway(&[&deaf], &asked, &[]);
    let answer = send(&send_limit, Method::POST, vec![b'x'; 16 << 20]).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
}

/// A socket at which connecting comes to no end, as Linux drops what its queue has no room for. It lasts as long as what
/// is returned with its address.
async fn full_queue() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(connected) = timeout(MOMENT, TcpStream::connect(address)).await {
        waiting.push(connected.unwrap());
        assert!(waiting.len() < 16, "the queue has no end");
    }
    (address, listener, waiting)
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_connected_to_in_time_is_passed_over() {
    let (full, _listener, _waiting) = full_queue().await;
    let backend = Backend::echo("b").await;
    let asked = [("proxy-connect-timeout", "100ms")];
    let mut objects = vec![
        annotated(ingress("one", &[("one.org", "/", "one")]), &asked),
        annotated(ingress("two", &[("two.org", "/", "two")]), &asked),
    ];
    objects.extend(service_of("one", &[full]));
    objects.extend(service_of("two", &[full, backend.address]));
    let gateway = Gateway::start(&objects, &["--workers=1", "--eject-after=0"]);
    let answer = get(gateway.http, "one.org", "/").await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    let line = gateway.log_line(|line| line["status"] == 504).await;
    assert_eq!(line["reason"], "connect_timeout");
    assert!(line["duration"].as_f64().unwrap() < 4.0, "{line}");
    for _ in 0..2 {
        let answer = get(gateway.http, "two.org", "/").await;
        assert_eq!(answer.backend(), "b");
    }
    // Nothing of a request that found no connection was sent, so any method goes elsewhere.
    for _ in 0..2 {
        let request = Request::post("/").header("host", "two.org");
        let request = request.body(Full::from("body")).unwrap();
        let answer = Http::connect(gateway.http).await.send(request).await;
        assert_eq!(answer.unwrap().json()["body"], "body");
    }
}

#[tokio::test]
async fn a_slow_client_is_not_the_backends_fault() {
    let backend = Backend::echo("b").await;
    let gateway = gateway(
        &[&backend],
        &[("proxy-send-timeout", "50ms"), ("proxy-read-timeout", "5s")],
        &[],
    );
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\nContent-Length: 2\r\n\r\na",
        )
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.write_all(b"b").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_response_that_takes_too_long_in_all_is_cut_off() {
    let endless = Backend::serve(|mut stream, _| async move {
        read_head(&mut stream).await;
        drop(
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await,
        );
        while stream.write_all(b"1\r\na\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let gateway = gateway(&[&endless], &[], &["--request-timeout=300ms"]);
    let answer = raw(gateway.http, b"GET / HTTP/1.1\r\nHost: a.org\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && !answer.ends_with("0\r\n\r\n"),
        "{answer}"
    );
}
