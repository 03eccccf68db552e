//! Idle connections give their parser away, and nobody notices.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::{Backend, read_head};
use crate::client::{Http, tls};
use crate::harness::{Gateway, PATIENCE, eventually, ingress, secure_ingress, service_of};
use crate::tls::authority;

/// Waits until at least `count` connections are parked.
async fn parked(gateway: &Gateway, count: u64) {
    eventually("connections to be parked", async || {
        (gateway.shared.metrics.parked() >= count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_is_parked_and_goes_on_with_the_next_request() {
    let authority = authority();
    let backend = Backend::echo("b").await;
    let mut objects = vec![
        secure_ingress("a", "a.org", "s", "cert"),
        ingress("p", &[("plain.org", "/", "s")]),
        authority.secret("cert", &["a.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let root = authority.der();
    let secure = tls(gateway.https, "a.org", &root, b"http/1.1");
    let mut clients = [
        ("plain.org", Http::connect(gateway.http).await),
        ("a.org", Http::over(secure.await.unwrap()).await),
    ];
    // Of a connection in the clear the first bytes tell what it speaks, so it is no concern of a parser's before.
    for round in 0..3 {
        parked(&gateway, if round == 0 { 1 } else { 2 }).await;
        for (host, client) in &mut clients {
            let answer = client.get(host, "/").await;
            assert_eq!(answer.status, StatusCode::OK, "{host} {round}");
        }
    }
    parked(&gateway, 2).await;
    gateway.shutdown.cancel();
    for (host, client) in &clients {
        eventually("the end", async || client.is_closed().then_some(host)).await;
    }
}

#[tokio::test]
async fn among_many_a_connection_is_parked_after_each_request() {
    const MANY: usize = 128;
    const ROUNDS: u64 = 5;
    let backend = Backend::echo("b").await;
    let silent = Backend::serve(async |mut stream, _| {
        read_head(&mut stream).await;
        std::future::pending().await
    })
    .await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s"), ("b.org", "/", "t")])];
    objects.extend(service_of("s", &[backend.address]));
    objects.extend(service_of("t", &[silent.address]));
    let gateway = Gateway::start(&objects, &["--workers=1"]);
    let mut waiting = Vec::new();
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(gateway.http).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: b.org\r\n\r\n";
        stream.write_all(request).await.unwrap();
        waiting.push(stream);
    }
    eventually("all of them to wait", async || {
        (silent.connections() == MANY).then_some(())
    })
    .await;
    let mut client = Http::connect(gateway.http).await;
    for _ in 0..ROUNDS {
        let answer = client.get("a.org", "/").await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    eventually("a park for each request", async || {
        (gateway.shared.metrics.parked.get() >= ROUNDS).then_some(())
    })
    .await;
}

#[tokio::test]
async fn half_a_head_behind_a_request_is_not_lost() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &["--workers=1"]);
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    let sent =
        b"POST /1 HTTP/1.1\r\nHost: a.org\r\nContent-Length: 1\r\n\r\naGET /2 HTTP/1.1\r\nHo";
    client.write_all(sent).await.unwrap();
    eventually("the first request", async || {
        (backend.requests() == 1).then_some(())
    })
    .await;
    // Another connection of the same thread, quiet for no longer: once it is parked, the first one's second is over too.
    let mut other = Http::connect(gateway.http).await;
    let answer = other.get("other.org", "/").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    parked(&gateway, 1).await;
    client
        .write_all(b"st: a.org\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let read = client.read_to_string(&mut answer);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert!(answer.contains(r#""target":"/2""#), "{answer}");
}

#[tokio::test]
async fn a_response_that_waits_for_its_reader_is_not_cut() {
    const LENGTH: usize = 10_000_000;
    let backend = Backend::serve(async |mut stream, _| {
        while read_head(&mut stream).await.is_some() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            drop(stream.write_all(&vec![b'a'; LENGTH]).await);
        }
    })
    .await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &["--workers=1"]);
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a.org\r\n\r\n";
    client.write_all(request).await.unwrap();
    // Reads until the parser has all of the body but the kernel has not: the request is over then, the response is not.
    let mut left = LENGTH;
    // That is a matter of small steps, each with a little time for the gateway to follow.
    while !is_counted(&gateway) {
        left -= client.read(&mut vec![0; 50_000.min(left)]).await.unwrap();
        let followed = eventually("the end of the body", async || {
            is_counted(&gateway).then_some(())
        });
        drop(timeout(Duration::from_millis(20), followed).await);
    }
    let mut other = Http::connect(gateway.http).await;
    let answer = other.get("other.org", "/").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    parked(&gateway, 1).await;
    // The head was counted for a part of the body, so at least this much is left.
    let mut rest = vec![0; left];
    let read = timeout(PATIENCE, client.read_exact(&mut rest));
    read.await.unwrap().unwrap();
}

/// Whether a request has ended.
fn is_counted(gateway: &Gateway) -> bool {
    let text = gateway.shared.scrape();
    text.contains("status=\"200\"} 1")
}
