//! Who enters by address, and which guards count.

use serde_json::json;

use super::{BASIC, basic, users};
use crate::backend::Backend;
use crate::harness::{Gateway, annotated, ingress, service_of};
use crate::one_route::{gateway, get, send};

#[tokio::test]
async fn addresses_decide_who_enters() {
    let backend = Backend::echo("b").await;
    for (annotations, expected) in [
        (&[("allowlist-source-range", "127.0.0.0/8")][..], 200),
        (&[("whitelist-source-range", "10.0.0.0/8")], 403),
        (&[("denylist-source-range", "127.0.0.1")], 403),
        (
            &[
                ("allowlist-source-range", "127.0.0.0/8"),
                ("denylist-source-range", "127.0.0.1"),
            ],
            403,
        ),
        (&[("allowlist-source-range", "localhost")], 503),
    ] {
        let gateway = gateway(&backend, annotations, &[], &[]);
        assert_eq!(get(&gateway, &[]).await.status, expected, "{annotations:?}");
    }
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn behind_a_trusted_proxy_its_client_decides() {
    let backend = Backend::echo("b").await;
    let annotations = [("allowlist-source-range", "192.0.2.0/24")];
    let trusting = gateway(
        &backend,
        &annotations,
        &[],
        &["--trusted-proxies=127.0.0.0/8"],
    );
    let gateway = gateway(&backend, &annotations, &[], &[]);
    for (path, expected) in [
        ("192.0.2.1", 200),
        ("192.0.2.1, 1.1.1.1", 403),
        ("192.0.2.1, 127.0.0.2", 200),
    ] {
        let field = [("x-forwarded-for", path)];
        assert_eq!(get(&trusting, &field).await.status, expected, "{path}");
        assert_eq!(get(&gateway, &field).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn one_guard_is_enough_where_that_is_asked_for() {
    let backend = Backend::echo("b").await;
    let right = basic("ann:pa55");
    for (satisfy, allowed, password, expected) in [
        ("all", "127.0.0.0/8", true, 200),
        ("all", "127.0.0.0/8", false, 401),
        ("all", "10.0.0.0/8", true, 403),
        ("any", "127.0.0.0/8", false, 200),
        ("any", "10.0.0.0/8", true, 200),
        ("any", "10.0.0.0/8", false, 401),
    ] {
        let guards = [
            &BASIC[..],
            &[("satisfy", satisfy), ("allowlist-source-range", allowed)],
        ]
        .concat();
        let gateway = gateway(&backend, &guards, &[users()], &[]);
        let fields = [("authorization", &*right)];
        let answer = get(&gateway, &fields[..usize::from(password)]).await;
        assert_eq!(answer.status, expected, "{satisfy} {allowed} {password}");
    }
}

#[tokio::test]
async fn rules_for_acme_challenges_are_not_guarded() {
    let backend = Backend::echo("b").await;
    let mut guarded = annotated(
        ingress(
            "i",
            &[
                ("a.org", "/", "s"),
                ("a.org", "/.well-known/acme-challenge/x", "s"),
            ],
        ),
        &BASIC,
    );
    guarded["metadata"]["annotations"]["nginx.ingress.kubernetes.io/denylist-source-range"] =
        json!("10.0.0.0/8");
    let mut objects = vec![guarded, users()];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &["--trusted-proxies=127.0.0.0/8"]);
    let challenge = "/.well-known/acme-challenge/x";
    for (path, client, expected) in [
        ("/", "192.0.2.1", 401),
        (challenge, "192.0.2.1", 200),
        (challenge, "10.0.0.1", 403),
    ] {
        let answer = send(&gateway, "GET", path, &[("x-forwarded-for", client)]).await;
        assert_eq!(answer.status, expected, "{path} {client}");
    }
}
