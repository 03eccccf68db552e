//! TLS to backends: verified unless somebody says otherwise, and never shared between Ingresses that ask for different
//! things.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::backend::Backend;
use crate::client::{Http, get, tls};
use crate::harness::{
    Gateway, ingress, secure_ingress, service, service_of, service_speaking, slice,
};
use crate::tls::{Authority, authority};

/// The name that a backend's certificate has by default.
const NAME: &str = "s.default.svc";

/// A backend behind TLS that says what it was asked for and by whom.
pub(crate) async fn backend(
    authority: &Authority,
    name: &str,
    clients: Option<&Authority>,
) -> Backend {
    let (chain, key) = authority.issue(&[name]);
    let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.der()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let mut config = config.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Backend::serve(move |stream, requests| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let session = stream.get_ref().1;
            let told = json!({
                "server_name": session.server_name(),
                "client": session.peer_certificates().map(<[_]>::len),
                "alpn": session.alpn_protocol().map(String::from_utf8_lossy),
                "version": format!("{:?}", session.protocol_version().unwrap()),
            });
            let service = service_fn(move |_: http::Request<hyper::body::Incoming>| {
                requests.fetch_add(1, Ordering::SeqCst);
                let body = http_body_util::Full::<Bytes>::from(told.to_string());
                async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        }
    })
    .await
}

fn annotated(name: &str, annotations: &[(&str, &str)]) -> Value {
    let mut ingress = ingress(name, &[(&format!("{name}.org"), "/", "s")]);
    for (key, value) in annotations {
        let key = format!("nginx.ingress.kubernetes.io/{key}");
        ingress["metadata"]["annotations"][key] = json!(value);
    }
    ingress
}

/// The Secret `trust`: what is trusted, and what we show.
fn trust(trusted: &Authority, shown: Option<&Authority>) -> Value {
    let mut data = json!({"ca.crt": STANDARD.encode(trusted.pem())});
    if let Some(shown) = shown {
        let (chain, key) = shown.issue(&["gateway"]);
        data["tls.crt"] = json!(STANDARD.encode(chain));
        data["tls.key"] = json!(STANDARD.encode(key));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": "trust", "namespace": "default"},
        "data": data,
    })
}

type Annotation<'a> = (&'a str, &'a str);

const HTTPS: (&str, &str) = ("backend-protocol", "HTTPS");
const TRUST: (&str, &str) = ("proxy-ssl-secret", "default/trust");

#[tokio::test]
async fn a_backend_must_prove_who_it_is() {
    let (trusted, other) = (authority(), authority());
    let good = backend(&trusted, NAME, None).await;
    let stranger = backend(&other, NAME, None).await;
    let misnamed = backend(&trusted, "t.default.svc", None).await;
    let named = ("proxy-ssl-name", "t.default.svc");
    let off = ("proxy-ssl-verify", "off");
    let rows: [(&str, &Backend, Vec<Annotation<'_>>, u16); 8] = [
        ("good", &good, vec![HTTPS, TRUST], 200),
        (
            "secure",
            &good,
            vec![("secure-backends", "true"), TRUST],
            200,
        ),
        ("system", &good, vec![HTTPS], 502),
        ("stranger", &stranger, vec![HTTPS, TRUST], 502),
        ("unverified", &stranger, vec![HTTPS, off], 200),
        ("misnamed", &misnamed, vec![HTTPS, TRUST], 502),
        ("named", &misnamed, vec![HTTPS, TRUST, named], 200),
        ("wrong", &good, vec![HTTPS, TRUST, named], 502),
    ];
    for (name, backend, annotations, status) in rows {
        let mut objects = vec![annotated(name, &annotations), trust(&trusted, None)];
        objects.extend(service_of("s", &[backend.address]));
        let gateway = Gateway::start(&objects, &[]);
        let answer = get(gateway.http, &format!("{name}.org"), "/").await;
        assert_eq!(answer.status.as_u16(), status, "{name}");
        if status == 200 {
            let expected = if name == "named" {
                "t.default.svc"
            } else {
                NAME
            };
            assert_eq!(answer.json()["server_name"], expected, "{name}");
            assert_eq!(answer.json()["alpn"], "http/1.1");
        } else {
            let line = gateway.log_line(|line| line["status"] == 502).await;
            assert_eq!(line["reason"], "backend_tls", "{name}");
        }
    }
}

#[tokio::test]
async fn the_settings_say_what_holds_by_default() {
    let trusted = authority();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), trusted.pem()).unwrap();
    let good = backend(&trusted, NAME, None).await;
    let stranger = backend(&authority(), NAME, None).await;
    let by_file = format!("--backend-ca-file={}", file.path().display());
    for (backend, arguments, status) in [
        (&good, vec![by_file.as_str()], 200),
        (&stranger, vec![by_file.as_str()], 502),
        (&stranger, vec!["--no-backend-verify"], 200),
    ] {
        // Also where it is the Service that says so.
        let objects = [
            ingress("i", &[("a.org", "/", "s")]),
            service_speaking("s", "https"),
            slice("s", "s-1", backend.address),
        ];
        let gateway = Gateway::start(&objects, &arguments);
        let answer = get(gateway.http, "a.org", "/").await;
        assert_eq!(answer.status.as_u16(), status, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_backend_that_wants_to_know_who_we_are_is_told() {
    let (trusted, clients) = (authority(), authority());
    let backend = backend(&trusted, NAME, Some(&clients)).await;
    for (shown, status) in [(Some(&clients), 200), (Some(&trusted), 502), (None, 502)] {
        let mut objects = vec![annotated("a", &[HTTPS, TRUST]), trust(&trusted, shown)];
        objects.extend(service_of("s", &[backend.address]));
        let gateway = Gateway::start(&objects, &[]);
        let answer = get(gateway.http, "a.org", "/").await;
        assert_eq!(answer.status.as_u16(), status);
        if status == 200 {
            assert_eq!(answer.json()["client"], 1);
        }
    }
}

#[tokio::test]
async fn what_is_asked_of_tls_is_carried_out() {
    let trusted = authority();
    let backend = backend(&trusted, NAME, None).await;
    for (annotation, field, expected) in [
        (
            ("proxy-ssl-protocols", "TLSv1.2"),
            "version",
            json!("TLSv1_2"),
        ),
        (
            ("proxy-ssl-protocols", "TLSv1 TLSv1.3"),
            "version",
            json!("TLSv1_3"),
        ),
        (("proxy-ssl-server-name", "off"), "server_name", json!(null)),
        (("proxy-ssl-verify-depth", "0"), "server_name", json!(NAME)),
        (("backend-protocol", "GRPCS"), "alpn", json!("h2")),
    ] {
        let mut objects = vec![
            annotated("a", &[HTTPS, TRUST, annotation]),
            trust(&trusted, None),
        ];
        objects.extend(service_of("s", &[backend.address]));
        let gateway = Gateway::start(&objects, &[]);
        let answer = get(gateway.http, "a.org", "/").await;
        assert_eq!(answer.status, StatusCode::OK, "{annotation:?}");
        assert_eq!(answer.json()[field], expected, "{annotation:?}");
    }
}

#[tokio::test]
async fn auto_http_does_as_the_client_does() {
    let (front, back) = (authority(), authority());
    let (plain, secure) = (
        Backend::echo("plain").await,
        backend(&back, NAME, None).await,
    );
    for (backend, is_secure) in [(&plain, false), (&secure, true)] {
        let mut ingress = secure_ingress("a", "a.org", "s", "cert");
        for (key, value) in [
            ("backend-protocol", "AUTO_HTTP"),
            ("ssl-redirect", "false"),
            TRUST,
        ] {
            let key = format!("nginx.ingress.kubernetes.io/{key}");
            ingress["metadata"]["annotations"][key] = json!(value);
        }
        let objects = [
            ingress,
            front.secret("cert", &["a.org"]),
            trust(&back, None),
            service("s"),
            slice("s", "s-1", backend.address),
        ];
        let gateway = Gateway::start(&objects, &[]);
        let mut client = match is_secure {
            false => Http::over(TcpStream::connect(gateway.http).await.unwrap()).await,
            true => {
                let stream = tls(gateway.https, "a.org", &front.der(), b"http/1.1").await;
                Http::over(stream.unwrap()).await
            }
        };
        assert_eq!(client.get("a.org", "/").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn ingresses_that_ask_for_different_things_share_no_connection() {
    let trusted = authority();
    let backend = backend(&trusted, NAME, None).await;
    for protocol in ["HTTPS", "GRPCS"] {
        let before = backend.connections();
        let asked = ("backend-protocol", protocol);
        let off = ("proxy-ssl-verify", "off");
        let mut objects = vec![
            annotated("a", &[asked, TRUST]),
            annotated("b", &[asked, TRUST]),
            annotated("c", &[asked, off]),
            annotated("d", &[asked, TRUST, off]),
            trust(&trusted, None),
        ];
        objects.extend(service_of("s", &[backend.address]));
        let gateway = Gateway::start(&objects, &["--workers=1"]);
        for _ in 0..3 {
            for host in ["a.org", "b.org", "c.org", "d.org"] {
                assert_eq!(get(gateway.http, host, "/").await.status, StatusCode::OK);
            }
        }
        // The first two ask for the same.
        assert_eq!(backend.connections() - before, 3, "{protocol}");
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_closes_the_route() {
    let trusted = authority();
    let backend = backend(&trusted, NAME, None).await;
    let mut objects = vec![annotated("a", &[HTTPS, TRUST])];
    objects.extend(service_of("s", &[backend.address]));
    let mut gateway = Gateway::start(&objects, &[]);
    assert_eq!(get(gateway.http, "a.org", "/").await.status.as_u16(), 503);
    gateway.apply(trust(&trusted, None));
    assert_eq!(get(gateway.http, "a.org", "/").await.status.as_u16(), 200);
    let mut empty = trust(&trusted, None);
    empty["data"] = json!({});
    gateway.apply(empty);
    assert_eq!(get(gateway.http, "a.org", "/").await.status.as_u16(), 503);
}
