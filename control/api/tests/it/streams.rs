//! Logs and exec, through the server to a node agent that stands in for the real one.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use control_api::Pki;
use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};

use crate::support::{Server, Wire, furnish};

/// Listens as a node agent, for clients with a certificate of the cluster only; returns its port.
async fn start_agent(server: &Server) -> u16 {
    let pki = Pki::open(server.directory.path()).unwrap();
    let (certificate, key) = pki.serving_cert("node-1", &["127.0.0.1"]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap())
        .unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
        .build()
        .unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
                let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request)) });
                // The client may go away at any time.
                drop(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(stream, service)
                        .with_upgrades()
                        .await,
                );
            });
        }
    });
    port
}

/// Says back what it was asked: as a log, or as the output of a command that fails with 7.
fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let asked = request.uri().to_string();
    if asked.contains("/waits/") {
        let text = "container \"c\" in pod \"waits\" is waiting to start: ContainerCreating";
        return Response::builder()
            .status(StatusCode::BAD_REQUEST)
            .body(text.into())
            .unwrap();
    }
    let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
        return Response::new(format!("{asked}\n").into());
    };
    tokio::spawn(async move {
        let upgraded = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await;
        let channel =
            |number: u8, text: &str| Message::binary([&[number], text.as_bytes()].concat());
        socket
            .send(channel(1, &format!("{asked}\n")))
            .await
            .unwrap();
        if asked.contains("input=1") && !asked.contains("deaf") {
            let input = socket.next().await.unwrap().unwrap().into_data();
            socket
                .send(channel(1, std::str::from_utf8(&input[1..]).unwrap()))
                .await
                .unwrap();
        }
        let status = json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "it failed",
            "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}});
        socket.send(channel(3, &status.to_string())).await.unwrap();
        let done = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        drop(socket.close(Some(done)).await);
        // A socket that is closed before all in it is read resets the connection.
        while !asked.contains("deaf") && matches!(socket.next().await, Some(Ok(_))) {}
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(Full::default())
        .unwrap()
}

/// A server with a node, its agent, and pods of the given names and containers on it.
async fn with_pods(pods: &[(&str, &[&str])]) -> (Server, Wire) {
    let server = Server::start().await;
    let wire = server.wire().await;
    furnish(&wire, "default").await;
    let port = start_agent(&server).await;
    assert_eq!(
        wire.post("/api/v1/nodes", json!({"metadata": {"name": "node-1"}}))
            .await
            .code,
        201
    );
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    assert_eq!(
        wire.merge("/api/v1/nodes/node-1/status", status).await.code,
        200
    );
    for (name, containers) in pods {
        let containers: Vec<_> = containers
            .iter()
            .map(|name| json!({"name": name, "image": "i"}))
            .collect();
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": "node-1", "containers": containers}});
        let made = wire.post("/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(made.code, 201, "{}", made.text);
    }
    (server, wire)
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn logs_come_from_the_agent() {
    let (_server, wire) =
        with_pods(&[("one", &["c"]), ("two", &["a", "b"]), ("waits", &["c"])]).await;
    let logs = wire
        .get(&format!("{PODS}/one/log?tailLines=5&pretty=true"))
        .await;
    assert_eq!(
        (logs.code, logs.text.as_str()),
        (200, "/containerLogs/default/one/c?tailLines=5\n")
    );
    let logs = wire
        .get(&format!("{PODS}/two/log?container=b&follow=true"))
        .await;
    assert_eq!(logs.text, "/containerLogs/default/two/b?follow=true\n");
    for (path, refusal) in [
        (
            "two/log",
            "400 BadRequest: a container name must be specified for pod two, choose one of: [a b]",
        ),
        (
            "two/log?container=x",
            "400 BadRequest: container x is not valid for pod two",
        ),
        ("ghost/log", "404 NotFound: pods \"ghost\" not found"),
        (
            "waits/log",
            "400 BadRequest: container \"c\" in pod \"waits\" is waiting to start: ContainerCreating",
        ),
        (
            "one/exec?command=ls",
            "400 BadRequest: Upgrade request required",
        ),
    ] {
        assert_eq!(wire.get(&format!("{PODS}/{path}")).await.refusal(), refusal);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_is_passed_through_to_the_agent_and_back() {
    let (server, _wire) = with_pods(&[("one", &["c"])]).await;
    for program in crate::kubectl::programs() {
        let k = crate::kubectl::Kubectl::on(&program, &server);
        let outcome = k.outcome("exec one -- cat /etc/hosts", "", "true").await;
        assert_eq!(
            outcome.out,
            "/exec/default/one/c?command=cat&command=%2Fetc%2Fhosts&output=1&error=1\n",
            "{}",
            outcome.err
        );
        assert!(
            outcome.err.contains("command terminated with exit code 7"),
            "{}",
            outcome.err
        );
        let outcome = k.outcome("exec -i one -- cat", "hello", "true").await;
        assert!(
            outcome.out.ends_with("&error=1\nhello"),
            "{}{}",
            outcome.out,
            outcome.err
        );
        let logs = k.outcome("logs one", "", "true").await;
        assert_eq!(logs.out, "/containerLogs/default/one/c?\n", "{}", logs.err);
    }
}

/// What a program said last arrives also where it leaves its input unread, which resets the connection to the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_leaves_its_input_unread_is_heard_to_its_end() {
    let (server, _wire) = with_pods(&[("one", &["c"])]).await;
    let input = "x".repeat(4 << 20);
    for program in crate::kubectl::programs() {
        let k = crate::kubectl::Kubectl::on(&program, &server);
        let outcome = k.outcome("exec -i one -- deaf", &input, "true").await;
        assert!(
            outcome.err.contains("command terminated with exit code 7"),
            "{}",
            outcome.err
        );
    }
}
