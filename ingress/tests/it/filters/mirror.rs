//! Copies of requests.

use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::backend::{Backend, read_head};
use crate::backend_tls::backend as tls_backend;
use crate::client::Http;
use crate::harness::eventually;
use crate::one_route::{gateway, get};
use crate::tls::authority;

#[tokio::test]
async fn requests_are_copied_with_their_bodies_and_answered_by_the_backend_alone() {
    let backend = Backend::echo("b").await;
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let log = seen.clone();
    let mirror = Backend::serve(move |mut stream, requests| {
        let log = log.clone();
        async move {
            while let Some(head) = read_head(&mut stream).await {
                let mut body = [0; 5];
                if head.contains("content-length: 5") {
                    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body)
                        .await
                        .unwrap();
                }
                log.lock()
                    .unwrap()
                    .push(format!("{head}{}", String::from_utf8_lossy(&body)));
                requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let answer = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let target = format!("http://{}$request_uri", mirror.address);
    let gateway = gateway(
        &backend,
        &[("mirror-target", &target), ("mirror-host", "test.org")],
        &[],
        &[],
    );
    let request = Request::post("/x?y=1")
        .header("host", "a.org")
        .body(Full::from("hello"))
        .unwrap();
    let answer = Http::connect(gateway.http)
        .await
        .send(request)
        .await
        .unwrap();
    assert_eq!(
        (answer.status, &answer.json()["body"]),
        (StatusCode::OK, &json!("hello"))
    );
    eventually("the copy", async || (mirror.requests() == 1).then_some(())).await;
    let copy = seen.lock().unwrap()[0].clone();
    assert!(copy.starts_with("POST /x?y=1 HTTP/1.1\r\n"), "{copy}");
    assert!(
        copy.contains("host: test.org\r\n") && copy.ends_with("hello"),
        "{copy}"
    );
}

#[tokio::test]
async fn a_mirror_that_is_gone_harms_nobody() {
    let backend = Backend::echo("b").await;
    let gone = Backend::echo("gone").await.address;
    let target = format!("http://{gone}$request_uri");
    let gateway = gateway(&backend, &[("mirror-target", &target)], &[], &[]);
    for _ in 0..5 {
        assert_eq!(get(&gateway, &[]).await.status, 200);
    }
}

#[tokio::test]
async fn copies_go_over_tls_to_a_target_that_proves_who_it_is() {
    let (backend, authority) = (Backend::echo("b").await, authority());
    let target = tls_backend(&authority, "localhost", None).await;
    let root = authority.file();
    let trusting = format!("--backend-ca-file={}", root.path().display());
    let url = format!("https://localhost:{}$request_uri", target.address.port());
    let gateway = gateway(&backend, &[("mirror-target", &url)], &[], &[&trusting]);
    assert_eq!(get(&gateway, &[]).await.backend(), "b");
    eventually("the copy", async || (target.requests() == 1).then_some(())).await;
}
