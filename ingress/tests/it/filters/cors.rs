//! Requests from other origins.

use http::StatusCode;

use super::{BASIC, users};
use crate::backend::Backend;
use crate::one_route::{gateway, get, send};

#[tokio::test]
async fn preflights_are_answered_before_anything_is_asked() {
    let backend = Backend::echo("b").await;
    let guarded = [
        &BASIC[..],
        &[
            ("enable-cors", "true"),
            ("cors-allow-origin", "https://b.org"),
            ("force-ssl-redirect", "true"),
        ],
    ]
    .concat();
    let gateway = gateway(&backend, &guarded, &[users()], &[]);
    let answer = send(&gateway, "OPTIONS", "/", &[("origin", "https://b.org")]).await;
    assert_eq!((answer.status, &*answer.body), (StatusCode::NO_CONTENT, ""));
    assert_eq!(
        answer.headers["access-control-allow-origin"],
        "https://b.org"
    );
    assert_eq!(answer.headers["access-control-allow-credentials"], "true");
    assert_eq!(answer.headers["access-control-max-age"], "1728000");
    let other = send(&gateway, "OPTIONS", "/", &[("origin", "https://evil.org")]).await;
    assert_eq!(other.status, StatusCode::PERMANENT_REDIRECT);
    assert!(!other.headers.contains_key("access-control-allow-origin"));
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn all_answers_are_marked_for_the_origin_ours_too() {
    let backend = Backend::script(
        b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\nvary: Accept\r\ncontent-length: 0\r\n\r\n",
        false,
    )
    .await;
    let annotations = [
        ("enable-cors", "true"),
        ("cors-allow-origin", "https://*.b.org"),
        ("denylist-source-range", "10.0.0.0/8"),
    ];
    let gateway = gateway(
        &backend,
        &annotations,
        &[],
        &["--trusted-proxies=127.0.0.0/8"],
    );
    for (client, status) in [("192.0.2.1", 200), ("10.0.0.1", 403)] {
        let fields = [("origin", "https://x.b.org"), ("x-forwarded-for", client)];
        let answer = get(&gateway, &fields).await;
        assert_eq!(answer.status, status);
        let allowed: Vec<_> = answer
            .headers
            .get_all("access-control-allow-origin")
            .iter()
            .collect();
        assert_eq!(allowed, ["https://x.b.org"]);
        let varies = answer
            .headers
            .get_all("vary")
            .iter()
            .any(|vary| vary == "Origin");
        assert!(varies);
    }
}
