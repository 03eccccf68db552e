//! The whole program against a small Kubernetes API: lists, watches, status patches, Events.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
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

use crate::backend::Backend;
use crate::client::get;
use crate::harness::{arguments, eventually, ingress, secure_ingress, service, slice};
use crate::tls::authority;

/// Objects by collection and name, those who watch them, and what was written.
#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    watchers: Vec<(String, UnboundedSender<Bytes>)>,
    statuses: Vec<(String, Value)>,
    events: Vec<Value>,
    queries: Vec<String>,
}

/// A Kubernetes API, as far as the gateway needs one.
#[derive(Clone)]
struct Api {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Who asks for a Secret waits for this.
    secrets: watch::Sender<bool>,
}

const INGRESSES: &str = "/apis/networking.k8s.io/v1/ingresses";
const CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";
const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

impl Api {
    async fn start() -> Self {
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

    /// Puts an object and tells those who watch.
    fn put(&self, collection: &str, object: Value) {
        self.change(collection, object, "MODIFIED");
    }

    fn delete(&self, collection: &str, object: Value) {
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
        match parts.method {
            Method::GET if query.contains("watch=true") => self.watch(&path),
            Method::GET => self.list(&path, &query).await,
            Method::POST => self.post_event(&body),
            Method::PATCH => self.patch_status(&path, &body),
            other => panic!("{other} {path}"),
        }
    }

    async fn list(&self, path: &str, query: &str) -> Response<BoxBody<Bytes, Infallible>> {
        if path == SECRETS {
            self.secrets
                .subscribe()
                .wait_for(|open| *open)
                .await
                .unwrap();
        }
        let mut state = self.state.lock().unwrap();
        state.queries.push(format!("{path}?{query}"));
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

    fn statuses(&self) -> Vec<(String, Value)> {
        self.state.lock().unwrap().statuses.clone()
    }

    fn event(&self, reason: &str) -> Option<Value> {
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

fn json_response(status: StatusCode, value: &Value) -> Response<BoxBody<Bytes, Infallible>> {
    let body = Full::from(value.to_string()).boxed();
    Response::builder().status(status).body(body).unwrap()
}

/// The program with its API. Dropping it stops it.
struct Program {
    http: SocketAddr,
    admin: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), ingress::Error>>,
    _kubeconfig: tempfile::TempDir,
}

impl Program {
    async fn start(api: &Api, more: &[&str]) -> Self {
        let (http, https, admin) = (free_port().await, free_port().await, free_port().await);
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_for(api)).unwrap();
        let mut args = arguments(more);
        args.kubeconfig = Some(kubeconfig);
        args.gateway.http_bind = vec![http];
        args.gateway.https_bind = vec![https];
        args.gateway.admin_bind = admin;
        args.gateway.no_access_log = true;
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(ingress::run(args, shutdown.clone()));
        Self {
            http,
            admin,
            shutdown,
            task,
            _kubeconfig: folder,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A port that was free a moment ago.
async fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
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

fn our_class() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": "ours"},
        "spec": {"controller": "portolan.dev/ingress"},
    })
}

fn of_class(mut ingress: Value, class: &str) -> Value {
    ingress["metadata"]["annotations"] = json!({});
    ingress["spec"]["ingressClassName"] = json!(class);
    ingress
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_api_to_an_answer_and_back_to_the_api() {
    let backend = Backend::echo("b").await;
    let api = Api::start().await;
    api.put(CLASSES, our_class());
    api.put(
        INGRESSES,
        of_class(ingress("web", &[("a.org", "/", "s")]), "ours"),
    );
    api.put(
        INGRESSES,
        of_class(ingress("foreign", &[("f.org", "/", "s")]), "nginx"),
    );
    api.put(
        INGRESSES,
        of_class(secure_ingress("safe", "safe.org", "s", "cert"), "ours"),
    );
    api.put(SERVICES, service("s"));
    api.put(SLICES, slice("s", "s-1", backend.address));
    let addresses = "--publish-status-address=192.0.2.1,gateway.example";
    let program = Program::start(&api, &[addresses, "--clear-status-on-shutdown"]).await;

    // Nothing listens, and it says so, before everything has come, up to the last Secret that is named.
    let starting = eventually("the admin port", async || {
        TcpStream::connect(program.admin).await.ok()?;
        Some(get(program.admin, "admin", "/readyz").await)
    })
    .await;
    assert_eq!(
        (starting.status.as_u16(), starting.body.as_str()),
        (503, "starting\n")
    );
    assert!(TcpStream::connect(program.http).await.is_err());
    api.secrets.send_replace(true);
    eventually("readiness", async || {
        (get(program.admin, "admin", "/readyz").await.status == 200).then_some(())
    })
    .await;

    // The first answer is already the right one.
    assert_eq!(get(program.http, "a.org", "/").await.backend(), "b");
    assert_eq!(get(program.http, "f.org", "/").await.status, 404);
    let queries = api.state.lock().unwrap().queries.clone();
    let secrets: Vec<_> = queries
        .iter()
        .filter(|query| query.contains("/secrets"))
        .collect();
    let named = format!("{SECRETS}?&fieldSelector=metadata.name%3Dcert");
    assert!(
        matches!(secrets[..], [only] if only.starts_with(&named)),
        "{secrets:?}"
    );
    let event = eventually("an Event", async || api.event("SecretNotFound")).await;
    assert_eq!(event["involvedObject"]["name"], "safe");

    // The status is written, once, and only ours.
    eventually("the status", async || {
        (api.statuses().len() == 2).then_some(())
    })
    .await;
    let points = json!([{"ip": "192.0.2.1"}, {"hostname": "gateway.example"}]);
    let status = json!({"loadBalancer": {"ingress": points}});
    let of = |name: &str, status: &Value| (name.to_owned(), status.clone());
    assert_eq!(api.statuses(), [of("safe", &status), of("web", &status)]);

    // Changes arrive: a new rule, a Service that is not there, which is told where its owner looks.
    let more = ingress(
        "web",
        &[
            ("a.org", "/", "s"),
            ("new.org", "/", "s"),
            ("b.org", "/", "missing"),
        ],
    );
    let mut more = of_class(more, "ours");
    more["status"] = json!({"loadBalancer": {"ingress": points}});
    api.put(INGRESSES, more);
    eventually("the new rule", async || {
        (get(program.http, "new.org", "/").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(get(program.http, "b.org", "/").await.status, 503);
    let event = eventually("an Event", async || api.event("ServiceNotFound")).await;
    assert_eq!(event["involvedObject"]["uid"], "uid-of-web");
    assert_eq!(event["involvedObject"]["kind"], "Ingress");
    assert_eq!(event["metadata"]["namespace"], "default");
    assert_eq!(event["type"], "Warning");
    assert_eq!(
        event["message"],
        "spec.rules[2].http.paths[0].backend.service.name: Service default/missing does not exist; \
         requests are answered with 503"
    );
    let metrics = get(program.admin, "admin", "/metrics").await.body;
    assert!(
        metrics.contains("portolan_ingress_problems{reason=\"ServiceNotFound\"} 1"),
        "{metrics}"
    );

    // The Service appears, the endpoint goes.
    api.put(SERVICES, service("missing"));
    api.put(SLICES, slice("missing", "missing-1", backend.address));
    eventually("the Service", async || {
        (get(program.http, "b.org", "/").await.status == 200).then_some(())
    })
    .await;
    api.delete(SLICES, slice("s", "s-1", backend.address));
    eventually("the end of the endpoint", async || {
        (get(program.http, "a.org", "/").await.status == 503).then_some(())
    })
    .await;
    assert_eq!(api.statuses().len(), 2);

    // A Secret is served as soon as it is there.
    api.put(SECRETS, authority().secret("cert", &["safe.org"]));
    eventually("the certificate", async || {
        let metrics = get(program.admin, "admin", "/metrics").await.body;
        metrics.contains("secret_name=\"cert\"").then_some(())
    })
    .await;

    // The end is clean.
    program.shutdown.cancel();
    eventually("the end", async || program.task.is_finished().then_some(())).await;
    let cleared = json!({"loadBalancer": {"ingress": []}});
    assert_eq!(
        api.statuses()[2..],
        [of("safe", &cleared), of("web", &cleared)]
    );
}
