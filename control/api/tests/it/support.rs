//! A server for a test, and the clients to ask it with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Parser;
use control_api::{Pki, ServerArgs};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

/// A running server and its data.
pub(crate) struct Server {
    pub(crate) directory: TempDir,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), control_api::Error>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(args: &[&str]) -> Self {
        Self::start_on(tempfile::tempdir().unwrap(), args).await
    }

    /// On data that may be there already.
    pub(crate) async fn start_on(directory: TempDir, args: &[&str]) -> Self {
        // Another test may have been first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let data = directory.path().to_str().unwrap();
        let fixed = ["server", "--data-dir", data, "--bind", "127.0.0.1:0"];
        let args = Args::parse_from(fixed.iter().chain(args)).server;
        let (ready, is_ready) = oneshot::channel();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(control_api::run(args, ready, shutdown.clone()));
        if is_ready.await.is_err() {
            panic!("the server did not start: {:?}", task.await);
        }
        Self {
            directory,
            shutdown,
            task,
        }
    }

    /// Stops it and hands back its data.
    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        self.directory
    }

    pub(crate) fn kubeconfig_path(&self) -> PathBuf {
        self.directory.path().join("admin.kubeconfig")
    }

    pub(crate) fn url(&self) -> String {
        self.kubeconfig().clusters[0]
            .cluster
            .as_ref()
            .unwrap()
            .server
            .clone()
            .unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.url().trim_start_matches("https://").parse().unwrap()
    }

    /// The administrator's, by way of the loopback whatever address is advertised.
    fn kubeconfig(&self) -> Kubeconfig {
        let mut kubeconfig = Kubeconfig::read_from(self.kubeconfig_path()).unwrap();
        let cluster = kubeconfig.clusters[0].cluster.as_mut().unwrap();
        let port = cluster
            .server
            .as_deref()
            .unwrap()
            .rsplit(':')
            .next()
            .unwrap();
        cluster.server = Some(format!("https://127.0.0.1:{port}"));
        kubeconfig
    }

    /// A client of the administrator.
    pub(crate) async fn client(&self) -> Client {
        client_of(self.kubeconfig()).await
    }

    /// A client of a user with a certificate.
    pub(crate) async fn client_as(&self, user: &str, groups: &[&str]) -> Client {
        let pki = Pki::open(self.directory.path()).unwrap();
        let kubeconfig = pki.client_kubeconfig(&self.url(), user, groups).unwrap();
        client_of(Kubeconfig::from_yaml(&kubeconfig).unwrap()).await
    }

    /// A client with a bearer token, or without anything.
    pub(crate) async fn client_with(&self, token: Option<&str>) -> Client {
        let mut kubeconfig = self.kubeconfig();
        let auth = kubeconfig.auth_infos[0].auth_info.as_mut().unwrap();
        auth.client_certificate_data = None;
        auth.client_key_data = None;
        auth.token = token.map(|token| token.to_owned().into());
        client_of(kubeconfig).await
    }

    /// A client for plain requests.
    pub(crate) async fn wire(&self) -> Wire {
        Wire(self.client().await)
    }
}

async fn client_of(kubeconfig: Kubeconfig) -> Client {
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    // Tests want to see refusals, not outlast them.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// Requests as bytes, answers as status code, headers and text.
pub(crate) struct Wire(pub(crate) Client);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// `code reason: message` of a Status.
    pub(crate) fn refusal(&self) -> String {
        let status = self.json();
        format!(
            "{} {}: {}",
            self.code,
            status["reason"].as_str().unwrap_or("-"),
            status["message"].as_str().unwrap_or("-")
        )
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

impl Wire {
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(kube::client::Body::from(body.into())).unwrap();
        let answer = tokio::time::timeout(PATIENCE, self.0.send(request))
            .await
            .unwrap()
            .unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = body.collect_bytes().await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            text,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, object: Value) -> Answer {
        self.send(Method::POST, path, &[], object.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, object: Value) -> Answer {
        self.send(Method::PUT, path, &[], object.to_string()).await
    }

    pub(crate) async fn merge(&self, path: &str, patch: Value) -> Answer {
        let headers = [("content-type", "application/merge-patch+json")];
        self.send(Method::PATCH, path, &headers, patch.to_string())
            .await
    }

    pub(crate) async fn apply(&self, path: &str, manager: &str, config: Value) -> Answer {
        let headers = [("content-type", "application/apply-patch+yaml")];
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}fieldManager={manager}");
        self.send(Method::PATCH, &path, &headers, config.to_string())
            .await
    }

    pub(crate) async fn delete(&self, path: &str, options: Value) -> Answer {
        self.send(Method::DELETE, path, &[], options.to_string())
            .await
    }
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a program to its end with a home of its own.
pub(crate) async fn run(
    program: &Path,
    args: &[&str],
    home: &Path,
    env: &[(&str, &str)],
    stdin: &str,
) -> Outcome {
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env("HOME", home)
        .envs(env.iter().copied())
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // A program that does not read its input may be gone already.
    drop(input.write_all(stdin.as_bytes()).await);
    drop(input);
    let output = tokio::time::timeout(4 * PATIENCE, child.wait_with_output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("{} {args:?} did not end", program.display()))
        .unwrap();
    Outcome {
        success: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A namespace with its default service account, which a controller would make.
pub(crate) async fn furnish(wire: &Wire, namespace: &str) {
    if namespace != "default" {
        let made = wire
            .post(
                "/api/v1/namespaces",
                serde_json::json!({"metadata": {"name": namespace}}),
            )
            .await;
        assert_eq!(made.code, 201, "{}", made.text);
    }
    let account = serde_json::json!({"metadata": {"name": "default"}});
    let made = wire
        .post(
            &format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
            account,
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.text);
}
