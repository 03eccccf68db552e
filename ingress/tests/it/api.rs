//! A small Kubernetes API, and the whole program against it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::get;
use crate::harness::{arguments, eventually};

/// Objects by collection and name, those who watch them, and what was written.
#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    watchers: Vec<(String, UnboundedSender<Bytes>)>,
    statuses: Vec<(String, Value)>,
    events: Vec<Value>,
    leases: BTreeMap<String, Value>,
    requests: Vec<String>,
}

/// A Kubernetes API, as far as the gateway needs one.
#[derive(Clone)]
pub(crate) struct Api {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Who asks for a Secret waits for this.
    pub(crate) secrets: watch::Sender<bool>,
}

pub(crate) const INGRESSES: &str = "/apis/networking.k8s.io/v1/ingresses";
pub(crate) const CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";
pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const SECRETS: &str = "/api/v1/namespaces/default/secrets";

impl Api {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = Self {
            address,
            state: Arc::default(),
            secrets: watch::Sender::new(false),
        };
        let serving = api.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let api = serving.clone();
                let service = service_fn(move |request| {
                    let api = api.clone();
                    async move { Ok::<_, Infallible>(api.answer(request).await) }
                });
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        api
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A file that says how to reach it.
    pub(crate) fn kubeconfig(&self) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), kubeconfig_for(self)).unwrap();
        file
    }

    /// Puts an object and tells those who watch.
    pub(crate) fn put(&self, collection: &str, object: Value) {
        self.change(collection, object, "MODIFIED");
    }

    pub(crate) fn delete(&self, collection: &str, object: Value) {
        self.change(collection, object, "DELETED");
    }

    fn change(&self, collection: &str, mut object: Value, kind: &str) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let key = (
            collection.to_owned(),
            object["metadata"]["name"].to_string(),
        );
        let line = event_line(kind, &object);
        match kind {
            "DELETED" => state.objects.remove(&key),
            _ => state.objects.insert(key, object),
        };
        let watchers = state
            .watchers
            .iter()
            .filter(|(watched, _)| watched == collection);
        for (_, watcher) in watchers {
            drop(watcher.unbounded_send(line.clone()));
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let request = format!("{} {}", parts.method, parts.uri);
        self.state.lock().unwrap().requests.push(request);
        match parts.method {
            Method::GET if query.contains("watch=true") => self.watch(&path),
            Method::GET if path.contains("/leases/") => self.lease(&path),
            Method::GET => self.list(&path).await,
            Method::POST if path.ends_with("/leases") => self.write_lease(&body),
            Method::PUT => self.write_lease(&body),
            Method::POST => self.post_event(&body),
            Method::PATCH => self.patch_status(&path, &body),
            other => panic!("{other} {path}"),
        }
    }

    async fn list(&self, path: &str) -> Response<BoxBody<Bytes, Infallible>> {
        if path == SECRETS {
            self.secrets
                .subscribe()
                .wait_for(|open| *open)
                .await
                .unwrap();
        }
        let state = self.state.lock().unwrap();
        let all = state
            .objects
            .iter()
            .filter(|((collection, _), _)| collection == path);
        let items: Vec<&Value> = all.map(|(_, object)| object).collect();
        json_response(
            StatusCode::OK,
            &json!({"metadata": {"resourceVersion": "1"}, "items": items}),
        )
    }

    /// A watch begins with everything there is, so that nothing is lost after the list.
    fn watch(&self, path: &str) -> Response<BoxBody<Bytes, Infallible>> {
        let (sender, receiver) = unbounded();
        let mut state = self.state.lock().unwrap();
        for (_, object) in state
            .objects
            .iter()
            .filter(|((collection, _), _)| collection == path)
        {
            sender
                .unbounded_send(event_line("MODIFIED", object))
                .unwrap();
        }
        state.watchers.push((path.to_owned(), sender));
        let frames = receiver.map(|line| Ok(Frame::data(line)));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    }

    fn lease(&self, path: &str) -> Response<BoxBody<Bytes, Infallible>> {
        let (_, name) = path.rsplit_once('/').unwrap();
        match self.state.lock().unwrap().leases.get(name) {
            Some(lease) => json_response(StatusCode::OK, lease),
            None => failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    /// Creates or replaces a Lease, unless it has changed since the writer saw it.
    fn write_lease(&self, body: &[u8]) -> Response<BoxBody<Bytes, Infallible>> {
        let mut lease: Value = serde_json::from_slice(body).unwrap();
        let name = lease["metadata"]["name"].as_str().unwrap().to_owned();
        let mut state = self.state.lock().unwrap();
        let known = state.leases.get(&name).unwrap_or(&Value::Null);
        if lease["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"] {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        state.version += 1;
        lease["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.leases.insert(name, lease.clone());
        json_response(StatusCode::OK, &lease)
    }

    /// Puts a Lease as if somebody had written it.
    pub(crate) fn put_lease(&self, lease: Value) {
        let written = self.write_lease(lease.to_string().as_bytes());
        assert_eq!(written.status(), StatusCode::OK);
    }

    /// Who holds the Lease `name`, as far as anybody does.
    pub(crate) fn holder(&self, name: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        let holder = &state.leases.get(name)?["spec"]["holderIdentity"];
        holder.as_str().map(str::to_owned)
    }

    /// The requests so far, as `METHOD target`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    fn patch_status(&self, path: &str, body: &[u8]) -> Response<BoxBody<Bytes, Infallible>> {
        let patch: Value = serde_json::from_slice(body).unwrap();
        let name = path
            .strip_suffix("/status")
            .and_then(|path| path.rsplit('/').next())
            .unwrap();
        let key = (INGRESSES.to_owned(), json!(name).to_string());
        let object = {
            let mut state = self.state.lock().unwrap();
            state
                .statuses
                .push((name.to_owned(), patch["status"].clone()));
            let object = state.objects.get_mut(&key).unwrap();
            object["status"] = patch["status"].clone();
            object.clone()
        };
        self.put(INGRESSES, object.clone());
        json_response(StatusCode::OK, &object)
    }

    fn post_event(&self, body: &[u8]) -> Response<BoxBody<Bytes, Infallible>> {
        let event: Value = serde_json::from_slice(body).unwrap();
        self.state.lock().unwrap().events.push(event.clone());
        json_response(StatusCode::CREATED, &event)
    }

    pub(crate) fn statuses(&self) -> Vec<(String, Value)> {
        self.state.lock().unwrap().statuses.clone()
    }

    pub(crate) fn event(&self, reason: &str) -> Option<Value> {
        let state = self.state.lock().unwrap();
        state
            .events
            .iter()
            .find(|event| event["reason"] == reason)
            .cloned()
    }
}

fn event_line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

fn failure(status: StatusCode, reason: &str) -> Response<BoxBody<Bytes, Infallible>> {
    let code = status.as_u16();
    let body = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": reason});
    json_response(status, &body)
}

fn json_response(status: StatusCode, value: &Value) -> Response<BoxBody<Bytes, Infallible>> {
    let body = Full::from(value.to_string()).boxed();
    Response::builder().status(status).body(body).unwrap()
}

/// The program with its API. Dropping it stops it.
pub(crate) struct Program {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<Result<(), ingress::Error>>,
    _kubeconfig: tempfile::TempDir,
}

impl Program {
    pub(crate) async fn start(api: &Api, more: &[&str]) -> Self {
        let address = own_address();
        let http = free_port(address).await;
        let https = free_port(address).await;
        let admin = free_port(address).await;
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_for(api)).unwrap();
        let mut args = arguments(more);
        args.kubeconfig = Some(kubeconfig);
        args.gateway.http_bind = vec![http];
        args.gateway.https_bind = vec![https];
        args.gateway.admin_bind = admin;
        args.gateway.admin_socket = folder.path().join("admin.sock");
        let socket = args.gateway.admin_socket.clone();
        args.gateway.no_access_log = true;
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(ingress::run(args, shutdown.clone()));
        Self {
            http,
            https,
            admin,
            socket,
            shutdown,
            task,
            _kubeconfig: folder,
        }
    }
}

impl Program {
    /// Waits until it serves.
    pub(crate) async fn ready(&self) {
        eventually("readiness", async || {
            TcpStream::connect(self.admin).await.ok()?;
            (get(self.admin, "admin", "/readyz").await.status == 200).then_some(())
        })
        .await;
    }

    /// Ends it and waits for the end.
    pub(crate) async fn end(&self) {
        self.shutdown.cancel();
        eventually("the end", async || self.task.is_finished().then_some(())).await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A loopback address that no other program in these tests has, so that a port that is free there stays free until it
/// is bound.
pub(crate) fn own_address() -> IpAddr {
    static COUNT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let [_, _, _, process] = std::process::id().to_be_bytes();
    IpAddr::from([127, process.max(1), high, low])
}

/// A port of `address` that is free.
pub(crate) async fn free_port(address: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

fn kubeconfig_for(api: &Api) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", api.address)}}],
        "users": [{"name": "u", "user": {}}],
    })
    .to_string()
}

pub(crate) fn our_class() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": "ours"},
        "spec": {"controller": "portolan.dev/ingress"},
    })
}

pub(crate) fn of_class(mut ingress: Value, class: &str) -> Value {
    let annotations = ingress["metadata"]["annotations"].as_object_mut();
    annotations.unwrap().remove("kubernetes.io/ingress.class");
    ingress["spec"]["ingressClassName"] = json!(class);
    ingress
}
