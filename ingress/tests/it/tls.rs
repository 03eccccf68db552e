//! Certificates by name, verified by a client that trusts nothing else; and their change under open connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use crate::backend::Backend;
use crate::client::{Http, get, raw, tls};
use crate::harness::{Gateway, eventually, ingress, secure_ingress, service_of};

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A new one.
pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // One that has another's name would be taken for it with a broken signature.
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
    params.distinguished_name.push(DnType::CommonName, name);
    Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
}

impl Authority {
    /// Its own certificate.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// The Secret `name` with a certificate for `hosts`.
    pub(crate) fn secret(&self, name: &str, hosts: &[&str]) -> Value {
        let (cert, key) = self.issue(hosts);
        secret(name, &cert, &key)
    }

    /// The same as PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// The same in a file.
    pub(crate) fn file(&self) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), self.pem()).unwrap();
        file
    }

    /// A certificate for `hosts` and its key, as PEM.
    pub(crate) fn issue(&self, hosts: &[&str]) -> (String, String) {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(hosts)
            .unwrap()
            .signed_by(&key, &self.0)
            .unwrap();
        (cert.pem(), key.serialize_pem())
    }
}

impl Authority {
    /// The Secret `name` that names it as what clients' certificates are signed by.
    pub(crate) fn authority_secret(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": "default"},
            "data": {"ca.crt": STANDARD.encode(self.pem())},
        })
    }

    /// A certificate with the common name `name`, and its key.
    pub(crate) fn identity(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        (vec![certificate.der().clone()], key)
    }

    /// What ends TLS for `host`, to speak `protocol`.
    pub(crate) fn acceptor(&self, host: &str, protocol: &[u8]) -> TlsAcceptor {
        let (certificate, key) = self.issue(&[host]);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A certificate and its key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn secret(name: &str, cert: &str, key: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": "default"},
        "data": {"tls.crt": STANDARD.encode(cert), "tls.key": STANDARD.encode(key)},
    })
}

#[tokio::test]
async fn clients_that_ask_for_any_other_host_are_shown_the_default_certificate() {
    let authority = authority();
    let backend = Backend::echo("b").await;
    let mut objects = vec![
        secure_ingress("i", "a.org", "s", "own"),
        ingress("plain", &[("b.org", "/", "s")]),
        authority.secret("own", &["a.org"]),
        authority.secret("default", &["b.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let root = authority.der();
    let flag = "--default-ssl-certificate=default/default";
    let mut gateway = Gateway::start(&objects, &[flag]);
    for host in ["a.org", "b.org"] {
        let stream = tls(gateway.https, host, &root, b"http/1.1").await;
        let answer = Http::over(stream.unwrap()).await.get(host, "/").await;
        assert_eq!(answer.status, StatusCode::OK, "{host}");
    }
    // A new one is shown at once, though no Ingress names it.
    gateway.apply(authority.secret("default", &["c.net"]));
    assert!(tls(gateway.https, "b.org", &root, b"h2").await.is_err());
    let shown = tls(gateway.https, "c.net", &root, b"h2").await;
    assert!(shown.is_ok());
    // One that is there only later is taken then.
    let mut late = Gateway::start(&objects[..1], &[flag]);
    assert!(tls(late.https, "c.net", &root, b"h2").await.is_err());
    late.apply(authority.secret("default", &["c.net"]));
    assert!(tls(late.https, "c.net", &root, b"h2").await.is_ok());
}

#[tokio::test]
async fn clients_that_ask_for_an_unknown_host_are_refused_where_that_is_wanted() {
    let authority = authority();
    let backend = Backend::echo("b").await;
    let mut objects = vec![
        secure_ingress("i", "a.org", "s", "own"),
        ingress("plain", &[("b.org", "/", "s")]),
        authority.secret("own", &["a.org"]),
        authority.secret("default", &["b.org", "c.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let flags = [
        "--default-ssl-certificate=default/default",
        "--ssl-reject-handshake",
    ];
    let gateway = Gateway::start(&objects, &flags);
    let root = authority.der();
    for host in ["a.org", "b.org"] {
        assert!(tls(gateway.https, host, &root, b"h2").await.is_ok());
    }
    for host in ["c.org", "127.0.0.1"] {
        let refused = tls(gateway.https, host, &root, b"h2").await.unwrap_err();
        let refused = format!("{refused:?}");
        assert!(refused.contains("UnrecognisedName"), "{refused}");
    }
    let failed = &gateway.shared.metrics.failed_handshakes;
    eventually("both to be counted", async || {
        (failed.get() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_host_shows_its_own_certificate_over_both_protocols() {
    let authority = authority();
    let backend = Backend::echo("b").await;
    let mut objects = vec![
        secure_ingress("a", "a.org", "s", "cert-a"),
        secure_ingress("w", "*.b.org", "s", "cert-w"),
        authority.secret("cert-a", &["a.org"]),
        authority.secret("cert-w", &["*.b.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    for host in ["a.org", "x.b.org"] {
        let stream = tls(gateway.https, host, &authority.der(), b"http/1.1")
            .await
            .unwrap();
        let seen = Http::over(stream).await.get(host, "/").await.json();
        assert_eq!(seen["headers"]["x-forwarded-proto"], json!(["https"]));
        let stream = tls(gateway.https, host, &authority.der(), b"h2")
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let answer = Http::two_over(stream).await.get(host, "/").await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    // The default certificate is nobody's.
    assert!(
        tls(gateway.https, "other.org", &authority.der(), b"h2")
            .await
            .is_err()
    );
}

/// RFC 6797: only over TLS, and only where the operator has a certificate for the host.
#[tokio::test]
async fn hosts_with_a_certificate_are_to_be_reached_by_https_only() {
    let authority = authority();
    let backend = Backend::echo("b").await;
    let mut objects = vec![
        secure_ingress("a", "a.org", "s", "cert-a"),
        ingress("plain", &[("plain.org", "/", "s")]),
        authority.secret("cert-a", &["a.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    for (flags, expected) in [
        (&[][..], Some("max-age=31536000; includeSubDomains")),
        (
            &[
                "--hsts-max-age=1h",
                "--hsts-include-subdomains=false",
                "--hsts-preload",
            ],
            Some("max-age=3600; preload"),
        ),
        (&["--hsts=false"], None),
    ] {
        let gateway = Gateway::start(&objects, flags);
        let stream = tls(gateway.https, "a.org", &authority.der(), b"http/1.1")
            .await
            .unwrap();
        let answer = Http::over(stream).await.get("a.org", "/").await;
        let told = answer.headers.get("strict-transport-security");
        assert_eq!(told.map(|value| value.to_str().unwrap()), expected);
        let answer = get(gateway.http, "plain.org", "/").await;
        assert_eq!(answer.headers.get("strict-transport-security"), None);
    }
}

#[tokio::test]
async fn a_request_for_another_certificates_host_is_misdirected() {
    let authority = authority();
    let backend = Backend::echo("b").await;
    let mut objects = vec![
        secure_ingress("a", "a.org", "s", "cert-a"),
        secure_ingress("b", "b.org", "s", "cert-b"),
        secure_ingress("also-a", "also.a.org", "s", "cert-b"),
        authority.secret("cert-a", &["a.org", "*.a.org"]),
        authority.secret("cert-b", &["b.org", "also.a.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let stream = tls(gateway.https, "a.org", &authority.der(), b"h2")
        .await
        .unwrap();
    let mut client = Http::two_over(stream).await;
    for (host, expected) in [
        ("a.org", StatusCode::OK),
        ("also.a.org", StatusCode::OK),
        ("b.org", StatusCode::MISDIRECTED_REQUEST),
        ("c.org", StatusCode::MISDIRECTED_REQUEST),
        ("a.org", StatusCode::OK),
    ] {
        assert_eq!(client.get(host, "/").await.status, expected, "{host}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_closing_what_is_open() {
    let (old, new) = (authority(), authority());
    let backend = Backend::echo("b").await;
    let mut objects = vec![
        secure_ingress("a", "a.org", "s", "cert"),
        old.secret("cert", &["a.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let mut gateway = Gateway::start(&objects, &[]);
    let one = tls(gateway.https, "a.org", &old.der(), b"http/1.1")
        .await
        .unwrap();
    let two = tls(gateway.https, "a.org", &old.der(), b"h2")
        .await
        .unwrap();
    let mut open = [Http::over(one).await, Http::two_over(two).await];
    for client in &mut open {
        assert_eq!(client.get("a.org", "/").await.status, StatusCode::OK);
    }
    gateway.apply(new.secret("cert", &["a.org"]));
    assert!(
        tls(gateway.https, "a.org", &old.der(), b"h2")
            .await
            .is_err()
    );
    assert!(tls(gateway.https, "a.org", &new.der(), b"h2").await.is_ok());
    for client in &mut open {
        assert_eq!(client.get("a.org", "/").await.status, StatusCode::OK);
    }
    // A bad one changes nothing but the report.
    let ((cert, _), (_, key)) = (old.issue(&["a.org"]), old.issue(&["a.org"]));
    let report = gateway.apply(secret("cert", &cert, &key)).unwrap();
    assert_eq!(report.problems[0].fault.reason(), "BadCertificate");
    assert!(tls(gateway.https, "a.org", &new.der(), b"h2").await.is_ok());
    for client in &mut open {
        assert_eq!(client.get("a.org", "/").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn plain_http_is_sent_to_https_where_there_is_a_tls_section() {
    let authority = authority();
    let backend = Backend::echo("b").await;
    let mut off = secure_ingress("off", "off.org", "s", "cert");
    off["metadata"]["annotations"]["nginx.ingress.kubernetes.io/ssl-redirect"] = json!("false");
    let mut objects = vec![
        secure_ingress("a", "a.org", "s", "cert"),
        off,
        ingress("plain", &[("plain.org", "/", "s")]),
        authority.secret("cert", &["a.org", "off.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    for (flag, redirected) in [
        ("--ssl-redirect=false", &[][..]),
        ("--force-ssl-redirect", &["a.org", "plain.org", "off.org"]),
    ] {
        let gateway = Gateway::start(&objects, &[flag]);
        for host in ["a.org", "plain.org", "off.org"] {
            let status = get(gateway.http, host, "/").await.status;
            let is_redirect = status == StatusCode::PERMANENT_REDIRECT;
            assert_eq!(is_redirect, redirected.contains(&host), "{flag} {host}");
        }
    }
    let gateway = Gateway::start(&objects, &[]);
    let redirect = get(gateway.http, "a.org:8080", "/x/../y?z=1").await;
    assert_eq!(redirect.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(redirect.headers["location"], "https://a.org/y?z=1");
    for (host, path) in [
        ("a.org", "/.well-known/acme-challenge/token"),
        ("off.org", "/"),
        ("plain.org", "/"),
    ] {
        assert_eq!(
            get(gateway.http, host, path).await.status,
            StatusCode::OK,
            "{host}{path}"
        );
    }
}

#[tokio::test]
async fn a_client_without_tls_or_with_an_old_one_gets_nowhere() {
    let gateway = Gateway::start(&[], &[]);
    let answer = raw(gateway.https, b"GET / HTTP/1.1\r\nHost: a.org\r\n\r\n").await;
    assert!(!answer.contains("HTTP/1.1"), "{answer}");
    // A ClientHello for TLS 1.0 that offers nothing newer.
    let hello = [
        &[0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 1][..],
        &[7; 32],
        &[0, 0, 2, 0xc0, 0x14, 1, 0],
    ]
    .concat();
    let answer = raw(gateway.https, &hello).await;
    assert!(answer.as_bytes().starts_with(&[0x15]), "{answer:?}");
}
