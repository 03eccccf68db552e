//! Clients that everybody has: curl, h2load and wrk, in the clear and over TLS.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::process::Command;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::harness::{Gateway, PATIENCE, annotated, secure_ingress, service_of};
use crate::tls::authority;

/// A gateway for `localhost` in front of a backend that tells what it was sent, and the authority that it is trusted by.
async fn gateway() -> (Gateway, Backend, NamedTempFile) {
    let authority = authority();
    let backend = Backend::echo("b").await;
    let route = secure_ingress("i", "localhost", "s", "cert");
    let mut objects = vec![
        annotated(route, &[("ssl-redirect", "false")]),
        authority.secret("cert", &["localhost"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let mut root = NamedTempFile::new().unwrap();
    root.write_all(authority.pem().as_bytes()).unwrap();
    (Gateway::start(&objects, &[]), backend, root)
}

/// What `program` prints, which must succeed.
async fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE * 3, command.output()).await.unwrap();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: run ./setup.sh test"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}{complaint}");
    said
}

#[tokio::test]
async fn curl_gets_and_sends_in_every_protocol() {
    let (gateway, _backend, root) = gateway().await;
    let clear = format!("http://localhost:{}/", gateway.http.port());
    let secure = format!("https://localhost:{}/", gateway.https.port());
    let root = root.path().to_str().unwrap();
    let body = "x".repeat(100_000);
    for (url, protocol, version) in [
        (&clear, "--http1.0", "1"),
        (&clear, "--http1.1", "1.1"),
        (&clear, "--http2-prior-knowledge", "2"),
        (&secure, "--http1.1", "1.1"),
        (&secure, "--http2", "2"),
    ] {
        let common = [
            "--silent",
            "--show-error",
            "--fail",
            "--ipv4",
            "--cacert",
            root,
            protocol,
        ];
        let spoken = [
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version}",
            url,
        ];
        let said = run("curl", &[&common[..], &spoken].concat()).await;
        assert_eq!(said, version, "{url} {protocol}");
        // Of known length and not, with and without asking first.
        for more in [
            ["--header", "Expect:"],
            ["--header", "Expect: 100-continue"],
            ["--header", "Transfer-Encoding: chunked"],
        ] {
            if more[1].ends_with("chunked") && version != "1.1" {
                continue;
            }
            let sending = ["--data-binary", &body, url];
            let told = run("curl", &[&common[..], &more, &sending].concat()).await;
            let told: Value = serde_json::from_str(&told).unwrap();
            assert_eq!(told["method"], "POST", "{url} {protocol}");
            assert_eq!(told["body"], *body, "{url} {protocol} {more:?}");
        }
    }
    // Over one connection, the second request in TLS's own resumed session or not.
    let twice = run(
        "curl",
        &["--silent", "--ipv4", "--cacert", root, &secure, &secure],
    )
    .await;
    assert_eq!(twice.matches("\"backend\"").count(), 2, "{twice}");
}

#[tokio::test]
async fn h2load_loses_no_request() {
    let (gateway, backend, _root) = gateway().await;
    let clear = format!("http://localhost:{}/", gateway.http.port());
    let secure = format!("https://localhost:{}/", gateway.https.port());
    for (url, protocol) in [
        (&clear, "--no-tls-proto=h2c"),
        (&clear, "--h1"),
        (&secure, "--npn-list=h2"),
        (&secure, "--npn-list=http/1.1"),
    ] {
        let there = url
            .rsplit_once("//")
            .map_or("", |(_, rest)| rest.trim_end_matches("/"));
        let there = format!("--connect-to={}", there.replace("localhost", "127.0.0.1"));
        let arguments = ["-n", "400", "-c", "4", "-m", "10", protocol, &there, url];
        let said = run("h2load", &arguments).await;
        let all = "400 total, 400 started, 400 done, 400 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(said.contains(all), "{protocol}: {said}");
    }
    assert_eq!(backend.requests(), 1600);
}

#[tokio::test]
async fn wrk_sees_no_error() {
    let (gateway, _backend, _root) = gateway().await;
    for url in [
        format!("http://localhost:{}/", gateway.http.port()),
        format!("https://localhost:{}/", gateway.https.port()),
    ] {
        let arguments = ["-t", "1", "-c", "8", "-d", "1s", "--timeout", "20s", &url];
        let said = run("wrk", &arguments).await;
        assert!(said.contains("requests in"), "{said}");
        for complaint in ["Socket errors", "Non-2xx"] {
            assert!(!said.contains(complaint), "{said}");
        }
    }
}
