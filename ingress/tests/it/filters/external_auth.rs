//! Who enters because another service says so.

use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::backend::{Backend, read_head};
use crate::backend_tls::backend as tls_backend;
use crate::one_route::{gateway, get, send};
use crate::tls::authority;

/// An authentication service that gives each request the answer that its `x-want` header asks for, and tells in
/// `x-user` what it was asked.
async fn authenticator() -> Backend {
    Backend::serve(|mut stream, requests| async move {
        while let Some(head) = read_head(&mut stream).await {
            requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let field = |name: &str| {
                let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                lines.find(|(found, _)| *found == name).map_or("", |(_, value)| value).to_owned()
            };
            let line = head.lines().next().unwrap_or_default();
            let (want, told) = (field("x-want"), format!("{line} {}", field("x-original-url")));
            let status = if want.is_empty() { "200" } else { &want };
            let answer = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: 2\r\nx-user: {told}\r\nset-cookie: seen=1\r\n\
                 www-authenticate: Custom\r\n\r\nok"
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn another_service_says_who_enters() {
    let (backend, service) = (Backend::echo("b").await, authenticator().await);
    let url = format!("http://{}/check", service.address);
    let gateway = gateway(
        &backend,
        &[
            ("auth-url", &url),
            ("auth-response-headers", "X-User, X-None"),
        ],
        &[],
        &["--workers=1"],
    );
    let answer = get(&gateway, &[("x-user", "admin"), ("x-none", "admin")]).await;
    assert_eq!(
        (answer.status, &answer.headers["set-cookie"]),
        (StatusCode::OK, &"seen=1".parse().unwrap())
    );
    let headers = &answer.json()["headers"];
    assert_eq!(
        headers["x-user"],
        json!(["GET /check HTTP/1.1 http://a.org/"])
    );
    assert_eq!(headers["x-none"], Value::Null);
    for (want, expected) in [
        ("401", 401),
        ("403", 403),
        ("404", 500),
        ("302", 500),
        ("503", 500),
    ] {
        let answer = get(&gateway, &[("x-want", want)]).await;
        assert_eq!(answer.status, expected, "{want}");
        assert_eq!(
            answer.headers.contains_key("www-authenticate"),
            expected < 500,
            "{want}"
        );
    }
    assert_eq!(backend.requests(), 1);
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn without_the_service_nobody_enters() {
    let backend = Backend::echo("b").await;
    let gone = authenticator().await.address;
    let url = format!("http://{gone}/");
    let gateway = gateway(&backend, &[("auth-url", &url)], &[], &[]);
    assert_eq!(
        get(&gateway, &[]).await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    let line = gateway.log_line(|line| line["status"] == 500).await;
    assert_eq!(line["reason"], "auth_failed");
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn browsers_are_sent_to_sign_in() {
    let (backend, service) = (Backend::echo("b").await, authenticator().await);
    let url = format!("http://{}/", service.address);
    let gateway = gateway(
        &backend,
        &[("auth-url", &url), ("auth-signin", "https://$host/start")],
        &[],
        &[],
    );
    let answer = send(&gateway, "GET", "/x?y=1", &[("x-want", "401")]).await;
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(
        answer.headers["location"],
        "https://a.org/start?rd=http://a.org%2Fx%3Fy%3D1"
    );
    assert_eq!(answer.headers["set-cookie"], "seen=1");
    assert_eq!(
        get(&gateway, &[("x-want", "403")]).await.status,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn answers_of_the_service_are_remembered_by_key() {
    let backend = Backend::echo("b").await;
    let service = Backend::script(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
    let url = format!("http://{}/", service.address);
    let annotations = [
        ("auth-url", &*url),
        ("auth-cache-key", "$cookie_session"),
        ("auth-cache-duration", "200 10m"),
    ];
    let gateway = gateway(&backend, &annotations, &[], &[]);
    for (session, asked) in [
        ("session=1", 1),
        ("session=1", 1),
        ("session=2", 2),
        ("session=1", 2),
    ] {
        assert_eq!(get(&gateway, &[("cookie", session)]).await.status, 200);
        assert_eq!(service.requests(), asked);
    }
}

#[tokio::test]
async fn what_is_asked_of_all_can_be_opted_out_of_or_replaced() {
    let (backend, service) = (Backend::echo("b").await, authenticator().await);
    let url = format!("--global-auth-url=http://{}/", service.address);
    let denied = [("x-want", "403")];
    let all = gateway(&backend, &[], &[], &[&url]);
    assert_eq!(get(&all, &denied).await.status, 403);
    assert_eq!(get(&all, &[]).await.status, 200);
    let out = gateway(&backend, &[("enable-global-auth", "false")], &[], &[&url]);
    assert_eq!(get(&out, &denied).await.status, 200);
    let other = Backend::script(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
    let own = format!("http://{}/", other.address);
    let own = gateway(&backend, &[("auth-url", &own)], &[], &[&url]);
    assert_eq!(get(&own, &denied).await.status, 200);
}

#[tokio::test]
async fn a_service_behind_tls_must_prove_who_it_is() {
    let (backend, trusted) = (Backend::echo("b").await, authority());
    let service = tls_backend(&trusted, "localhost", None).await;
    let root = trusted.file();
    let trusting = format!("--backend-ca-file={}", root.path().display());
    let port = service.address.port();
    let other = authority().file();
    let distrusting = format!("--backend-ca-file={}", other.path().display());
    for (host, argument, expected) in [
        ("localhost", &*trusting, 200),
        ("localhost", &*distrusting, 500),
        ("127.0.0.1", &*trusting, 500),
        ("127.0.0.1", "--no-backend-verify", 200),
    ] {
        let url = format!("https://{host}:{port}/check");
        let before = service.requests();
        let gateway = gateway(&backend, &[("auth-url", &url)], &[], &[argument]);
        assert_eq!(
            get(&gateway, &[]).await.status,
            expected,
            "{host} {argument}"
        );
        let asked = service.requests() - before;
        assert_eq!(asked, usize::from(expected == 200), "{host} {argument}");
    }
}
