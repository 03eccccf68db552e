//! Trailers over HTTP/1.1: those that were announced pass, both ways, and nothing else.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::backend::{Backend, read_head};
use crate::client::raw;
use crate::harness::{Gateway, ingress, service_of};

const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nTrailer: X-Sum, Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n\
    2\r\nok\r\n0\r\nX-Sum: 7\r\nX-Other: 8\r\nContent-Length: 9\r\n\r\n";

/// A backend that keeps what it was sent and answers with trailers, and the gateway before it.
async fn gateway() -> (Gateway, Backend, Arc<Mutex<String>>) {
    let seen = Arc::<Mutex<String>>::default();
    let kept = seen.clone();
    let backend = Backend::serve(move |mut stream, _| {
        let kept = kept.clone();
        async move {
            while let Some(mut request) = read_head(&mut stream).await {
                let mut byte = [0];
                while request.contains("chunked") && !request.ends_with("\r\n\r\n0\r\n\r\n") {
                    let count = stream.read(&mut byte).await.unwrap_or(0);
                    request.push_str(&String::from_utf8_lossy(&byte[..count]));
                    let body = request.split_once("\r\n\r\n").unwrap().1;
                    if count == 0 || body.contains("0\r\n") && body.ends_with("\r\n\r\n") {
                        break;
                    }
                }
                *kept.lock().unwrap() = request;
                stream.write_all(RESPONSE).await.unwrap();
            }
        }
    })
    .await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    (Gateway::start(&objects, &["--workers=1"]), backend, seen)
}

#[tokio::test]
async fn announced_trailers_of_a_request_pass() {
    let (gateway, _backend, seen) = gateway().await;
    let request = b"POST / HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
        Trailer: X-Sum, Host, X-Real-IP\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 5\r\nX-Other: 6\r\nHost: evil\r\n\
        X-Real-IP: 6.6.6.6\r\n\r\n";
    let answer = raw(gateway.http, request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = seen.lock().unwrap().to_lowercase();
    assert!(seen.contains("\r\ntrailer: x-sum\r\n"), "{seen}");
    assert!(seen.ends_with("0\r\nx-sum: 5\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn announced_trailers_of_a_response_pass_to_clients_that_take_them() {
    let (gateway, backend, _seen) = gateway().await;
    let request = |te: &str| format!("GET / HTTP/1.1\r\nHost: a.org\r\n{te}\r\n\r\n");
    for _ in 0..3 {
        let answer = raw(
            gateway.http,
            request("TE: trailers\r\nConnection: te, close").as_bytes(),
        )
        .await;
        let answer = answer.to_lowercase();
        assert!(answer.contains("\r\ntrailer: x-sum\r\n"), "{answer}");
        assert!(
            answer.ends_with("\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"),
            "{answer}"
        );
        let answer = raw(gateway.http, request("Connection: close").as_bytes()).await;
        assert!(answer.ends_with("\r\nok\r\n0\r\n\r\n"), "{answer}");
    }
    // Trailers end a response, so the connection is good for the next.
    assert_eq!(backend.connections(), 1);
}
