//! Annotations over real sockets, as far as they concern routes as such.

use http::StatusCode;
use serde_json::json;

use crate::backend::Backend;
use crate::client::Http;
use crate::harness::{Gateway, annotated, ingress, secure_ingress, service_of};

#[tokio::test]
async fn redirects_to_https_are_as_annotations_ask() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![
        secure_ingress("plain", "plain.org", "s", "x"),
        annotated(
            secure_ingress("off", "off.org", "s", "x"),
            &[("ssl-redirect", "false")],
        ),
        annotated(
            ingress("on", &[("on.org", "/", "s")]),
            &[("force-ssl-redirect", "true")],
        ),
        annotated(
            ingress("odd", &[("odd.org", "/", "s")]),
            &[("force-ssl-redirect", "perhaps")],
        ),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let rows = [
        ("plain.org", 308),
        ("off.org", 200),
        ("on.org", 308),
        ("odd.org", 200),
    ];
    for (host, expected) in rows {
        let answer = Http::connect(gateway.http).await.get(host, "/x?y").await;
        assert_eq!(answer.status, expected, "{host}");
        if expected == 308 {
            assert_eq!(answer.headers["location"], format!("https://{host}/x?y"));
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_annotation_is_told_and_takes_no_route_away() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let mut gateway = Gateway::start(&objects, &[]);
    let odd = annotated(
        ingress("i", &[("a.org", "/", "s")]),
        &[("server-snippet", "return 418;"), ("ssl-redirects", "true")],
    );
    let report = gateway.apply(odd).unwrap();
    let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    let expected = [
        "metadata.annotations[nginx.ingress.kubernetes.io/server-snippet]: text is never made part of a configuration; \
         there are annotations for what snippets are mostly used for",
        "metadata.annotations[nginx.ingress.kubernetes.io/ssl-redirects]: no such annotation; is ssl-redirect meant?",
    ];
    assert_eq!(told, expected);
    let answer = Http::connect(gateway.http).await.get("a.org", "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["backend"], json!("b"));
}
