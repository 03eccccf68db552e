//! Clients that show a certificate, and those that should.

use http::StatusCode;
use serde_json::Value;

use crate::backend::Backend;
use crate::client::{Answer, Http, get, tls, tls_with};
use crate::harness::{Gateway, annotated, secure_ingress, service_of};
use crate::tls::{Authority, authority};

/// A gateway with one host for each set of annotations: `a.org`, `b.org` and so on. All ask for certificates of
/// `clients`, and all are served with certificates of `servers`.
async fn gateway(
    servers: &Authority,
    clients: &Authority,
    annotations: &[&[(&str, &str)]],
) -> (Gateway, Backend) {
    let backend = Backend::echo("b").await;
    let mut objects = service_of("s", &[backend.address]);
    objects.push(clients.authority_secret("ca"));
    for (number, annotations) in annotations.iter().enumerate() {
        let host = host(number);
        let secret = format!("cert-{number}");
        let ingress = secure_ingress(&secret, &host, "s", &secret);
        let ingress = annotated(ingress, &[("auth-tls-secret", "default/ca")]);
        objects.push(annotated(ingress, annotations));
        objects.push(servers.secret(&secret, &[&host]));
    }
    (Gateway::start(&objects, &[]), backend)
}

fn host(number: usize) -> String {
    format!("{}.org", char::from(b'a' + number as u8))
}

/// Asks `host` with a certificate that `issuer` has signed, or without one.
async fn ask(
    gateway: &Gateway,
    servers: &Authority,
    host: &str,
    issuer: Option<&Authority>,
) -> Answer {
    let identity = issuer.map(|issuer| issuer.identity("client"));
    let root = servers.der();
    let stream = tls_with(gateway.https, host, &root, b"http/1.1", identity);
    let mut client = Http::over(stream.await.unwrap()).await;
    client.get(host, "/").await
}

fn header<'a>(seen: &'a Value, name: &str) -> Option<&'a str> {
    seen["headers"]
        .get(name)
        .map(|values| values[0].as_str().unwrap())
}

#[tokio::test]
async fn who_is_let_in_depends_on_what_the_ingress_asks_for() {
    let (servers, clients, strangers) = (authority(), authority(), authority());
    let (gateway, backend) = gateway(
        &servers,
        &clients,
        &[
            &[],
            &[("auth-tls-verify-client", "optional")],
            &[("auth-tls-verify-client", "optional_no_ca")],
            &[("auth-tls-verify-client", "off")],
            &[("auth-tls-match-cn", "CN=(client|other)")],
            &[("auth-tls-match-cn", "^CN=other$")],
        ],
    )
    .await;
    let mut passed = 0;
    for (host, issuer, status, verify) in [
        ("a.org", Some(&clients), 200, Some("SUCCESS")),
        ("a.org", None, 400, None),
        ("a.org", Some(&strangers), 400, None),
        ("b.org", Some(&clients), 200, Some("SUCCESS")),
        ("b.org", None, 200, Some("NONE")),
        ("b.org", Some(&strangers), 400, None),
        (
            "c.org",
            Some(&strangers),
            200,
            Some("FAILED:unable to get local issuer certificate"),
        ),
        ("c.org", None, 200, Some("NONE")),
        ("d.org", None, 200, None),
        ("e.org", Some(&clients), 200, Some("SUCCESS")),
        ("f.org", Some(&clients), 403, None),
    ] {
        let answer = ask(&gateway, &servers, host, issuer).await;
        assert_eq!(answer.status, status, "{host} {verify:?} {answer:?}");
        if status == 200 {
            passed += 1;
            let seen = answer.json();
            assert_eq!(header(&seen, "ssl-client-verify"), verify, "{host}");
            let subject = issuer.map(|_| "CN=client");
            assert_eq!(header(&seen, "ssl-client-subject-dn"), subject, "{host}");
            assert_eq!(seen["headers"].get("ssl-client-cert"), None, "{host}");
        }
    }
    assert_eq!(backend.requests(), passed);
}

#[tokio::test]
async fn a_connection_that_showed_none_is_no_way_in() {
    let (servers, clients) = (authority(), authority());
    let backend = Backend::echo("b").await;
    let guarded = secure_ingress("guarded", "a.org", "s", "cert");
    let mut objects = vec![
        annotated(guarded, &[("auth-tls-secret", "ca")]),
        secure_ingress("open", "b.org", "s", "cert"),
        servers.secret("cert", &["a.org", "b.org"]),
        clients.authority_secret("ca"),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let stream = tls(gateway.https, "b.org", &servers.der(), b"h2").await;
    let mut client = Http::two_over(stream.unwrap()).await;
    for (host, status) in [("b.org", 200), ("a.org", 421), ("b.org", 200)] {
        assert_eq!(client.get(host, "/").await.status, status, "{host}");
    }
    // In the clear neither, where nothing redirects.
    let open = annotated(
        secure_ingress("guarded", "a.org", "s", "cert"),
        &[("auth-tls-secret", "ca"), ("ssl-redirect", "false")],
    );
    let mut gateway = gateway;
    gateway.apply(open);
    let answer = get(gateway.http, "a.org", "/").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn backends_get_the_certificate_on_request_and_strangers_a_page() {
    let (servers, clients) = (authority(), authority());
    let annotations: &[(&str, &str)] = &[
        ("auth-tls-pass-certificate-to-upstream", "true"),
        ("auth-tls-error-page", "https://help.org/certificates"),
    ];
    let (gateway, _backend) = gateway(&servers, &clients, &[annotations]).await;
    let seen = ask(&gateway, &servers, "a.org", Some(&clients))
        .await
        .json();
    let certificate = header(&seen, "ssl-client-cert").unwrap();
    assert!(
        certificate.starts_with("-----BEGIN%20CERTIFICATE-----%0A"),
        "{certificate}"
    );
    let answer = ask(&gateway, &servers, "a.org", None).await;
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(answer.headers["location"], "https://help.org/certificates");
}

#[tokio::test]
async fn without_its_secret_the_route_is_closed() {
    let servers = authority();
    let backend = Backend::echo("b").await;
    let guarded = secure_ingress("guarded", "a.org", "s", "cert");
    let mut objects = vec![
        annotated(guarded, &[("auth-tls-secret", "missing")]),
        servers.secret("cert", &["a.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let mut gateway = Gateway::start(&objects, &[]);
    let answer = ask(&gateway, &servers, "a.org", None).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    // It opens once the Secret is there, and for its certificates only.
    let clients = authority();
    gateway.apply(clients.authority_secret("missing"));
    let answer = ask(&gateway, &servers, "a.org", None).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let answer = ask(&gateway, &servers, "a.org", Some(&clients)).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(backend.requests(), 1);
}
