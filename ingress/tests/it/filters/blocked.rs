//! Paths that nobody gets at, and answers in place of a backend.

use http::StatusCode;

use crate::backend::Backend;
use crate::harness::ingress;
use crate::one_route::{gateway, send};

#[tokio::test]
async fn denied_paths_are_refused_before_anything_else() {
    let backend = Backend::echo("b").await;
    let deny = ("portolan.dev/deny-paths", "404 /admin ~*\\.git(/|$)");
    let more = [
        deny,
        ("permanent-redirect", "https://b.org"),
        ("auth-type", "basic"),
        ("auth-secret", "missing"),
    ];
    // What else is asked for cannot be had, or sends everybody away.
    let gateway = gateway(&backend, &[deny], &[], &[]);
    for path in [
        "/admin",
        "/admin/x?y=z",
        "/x/../admin",
        "/%61dmin",
        "/x%2F..%2Fadmin",
        "/.GIT/config",
    ] {
        let answer = send(&gateway, "GET", path, &[]).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.headers["x-portolan-reason"], "path_denied");
    }
    assert_eq!(send(&gateway, "GET", "/", &[]).await.status, StatusCode::OK);
    assert_eq!(backend.requests(), 1);
    let redirecting = crate::one_route::gateway(&backend, &more[..2], &[], &[]);
    let answer = send(&redirecting, "GET", "/admin", &[]).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(send(&redirecting, "GET", "/", &[]).await.status, 301);
    // A guard that cannot be used keeps out everybody from everything, as ever.
    let closed = crate::one_route::gateway(&backend, &more, &[], &[]);
    let answer = send(&closed, "GET", "/admin", &[]).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_fixed_answer_comes_in_place_of_all_backends_of_its_ingress_alone() {
    let backend = Backend::echo("b").await;
    let rows = [
        ("403", 403, "403 Forbidden: fixed_answer\n", None),
        ("200 here I am", 200, "here I am", None),
        ("204", 204, "", None),
        (
            "307 https://b.org$request_uri",
            307,
            "",
            Some("https://b.org/x?y"),
        ),
    ];
    for (value, status, text, location) in rows {
        let fixed = [
            ("portolan.dev/return", value),
            ("force-ssl-redirect", "true"),
        ];
        let other = ingress("other", &[("a.org", "/other", "s")]);
        let gateway = gateway(&backend, &fixed, &[other], &[]);
        let answer = send(&gateway, "GET", "/x?y", &[]).await;
        assert_eq!(answer.status, status, "{value}");
        match location {
            Some(location) => assert_eq!(answer.headers["location"], location),
            None => assert_eq!(answer.body, text),
        }
        let answer = send(&gateway, "GET", "/other", &[]).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn what_cannot_be_understood_closes_the_route() {
    let backend = Backend::echo("b").await;
    for (name, value) in [
        ("portolan.dev/deny-paths", "admin"),
        ("portolan.dev/return", "no"),
    ] {
        let gateway = gateway(&backend, &[(name, value)], &[], &[]);
        let answer = send(&gateway, "GET", "/", &[]).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{name}");
        assert_eq!(answer.headers["x-portolan-reason"], "closed");
    }
}
