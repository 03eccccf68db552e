//! TLS as the operator limits it, against clients that are as limited.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::backend::Backend;
use crate::client::Http;
use crate::harness::{Gateway, eventually, secure_ingress, service_of};
use crate::tls::{Authority, authority};

type Versions = &'static [&'static SupportedProtocolVersion];

static ONLY_12: Versions = &[&TLS12];
static ONLY_13: Versions = &[&TLS13];

/// Connects as a client that speaks these versions only.
async fn connect(
    address: SocketAddr,
    host: &str,
    root: &CertificateDer<'static>,
    versions: Versions,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await
}

/// A gateway with a certificate for `a.org`.
async fn gateway(arguments: &[&str]) -> (Gateway, Authority, Backend) {
    let (authority, backend) = (authority(), Backend::echo("b").await);
    let mut objects = vec![
        secure_ingress("a", "a.org", "s", "cert"),
        authority.secret("cert", &["a.org", "b.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    (Gateway::start(&objects, arguments), authority, backend)
}

#[tokio::test]
async fn versions_are_as_new_as_the_operator_wants() {
    for (arguments, versions, expected) in [
        (&[][..], ONLY_12, Some(ProtocolVersion::TLSv1_2)),
        (&[], ONLY_13, Some(ProtocolVersion::TLSv1_3)),
        (
            &["--tls-min-version=1.2"],
            ONLY_12,
            Some(ProtocolVersion::TLSv1_2),
        ),
        (&["--tls-min-version=1.3"], ONLY_12, None),
        (
            &["--tls-min-version=1.3"],
            ONLY_13,
            Some(ProtocolVersion::TLSv1_3),
        ),
    ] {
        let (gateway, authority, _backend) = gateway(arguments).await;
        let stream = connect(gateway.https, "a.org", &authority.der(), versions).await;
        let spoken = stream
            .as_ref()
            .ok()
            .map(|stream| stream.get_ref().1.protocol_version());
        assert_eq!(spoken, expected.map(Some), "{arguments:?} {versions:?}");
        if let Ok(stream) = stream {
            let answer = Http::over(stream).await.get("a.org", "/").await;
            assert_eq!(answer.status, 200);
        }
    }
}

#[tokio::test]
async fn suites_of_tls_12_are_those_the_operator_names() {
    // The first would be preferred, RSA's do not suit the certificate, and the last is not sound.
    const NAMED: &str =
        "--tls-ciphers=ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:AES128-SHA";
    let (gateway, authority, _backend) = gateway(&[NAMED]).await;
    let stream = connect(gateway.https, "a.org", &authority.der(), ONLY_12)
        .await
        .unwrap();
    let suite = stream
        .get_ref()
        .1
        .negotiated_cipher_suite()
        .unwrap()
        .suite();
    assert_eq!(
        suite,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
    );
    let newer = connect(gateway.https, "a.org", &authority.der(), ONLY_13).await;
    assert!(newer.is_ok());
}

#[tokio::test]
async fn versions_and_hsts_are_those_of_the_config_map_at_once() {
    let (mut gateway, authority, _backend) = gateway(&["--configmap=default/settings"]).await;
    let older = connect(gateway.https, "a.org", &authority.der(), ONLY_12).await;
    let answer = Http::over(older.unwrap()).await.get("a.org", "/").await;
    let hsts = &answer.headers["strict-transport-security"];
    assert_eq!(hsts, "max-age=31536000; includeSubDomains");
    let report = gateway.apply(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": "default"},
        "data": {"ssl-protocols": "TLSv1.3", "hsts-max-age": "60", "hsts-include-subdomains": "false"},
    }));
    assert_eq!(report.unwrap().problems, []);
    eventually("the older version to be refused", async || {
        let older = connect(gateway.https, "a.org", &authority.der(), ONLY_12).await;
        older.is_err().then_some(())
    })
    .await;
    eventually("the other time", async || {
        let newer = connect(gateway.https, "a.org", &authority.der(), ONLY_13).await;
        let answer = Http::over(newer.unwrap()).await.get("a.org", "/").await;
        (answer.headers["strict-transport-security"] == "max-age=60").then_some(())
    })
    .await;
}
