//! A gateway of its own for each test: ephemeral ports, objects from JSON, and its access log within reach.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use ingress::annotations::referenced::{config_map_data, secret_data};
use ingress::annotations::{Reference, Seen};
use ingress::api::controller::{Controller, Report};
use ingress::api::objects::{Change, Delta};
use ingress::config::IngressArgs;
use ingress::observe::access_log;
use ingress::routes::class::Classes;
use ingress::server::gateway::{Serving, Shared};
use ingress::server::listener::Listener;
use ingress::server::worker::Outlets;
use ingress::trace;
use ingress::upstream::external::Resolution;
use model::ObjectName;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long anything may take to come true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running gateway. Dropping it stops it.
pub(crate) struct Gateway {
    controller: Controller,
    pub(crate) shared: Arc<Shared>,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: Option<Serving>,
    log: Log,
    /// What was given, the newest first.
    objects: Vec<Value>,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

#[derive(clap::Parser)]
#[command(args_override_self = true)]
struct Cli {
    #[command(flatten)]
    args: IngressArgs,
}

/// Arguments as from a command line, on ephemeral ports of loopback.
pub(crate) fn arguments(more: &[&str]) -> IngressArgs {
    let ports = [
        "portolan-ingress",
        "--http-bind=127.0.0.1:0",
        "--https-bind=127.0.0.1:0",
        "--admin-bind=127.0.0.1:0",
        "--workers=2",
    ];
    Cli::try_parse_from(ports.iter().chain(more))
        .unwrap_or_else(|error| panic!("{error}"))
        .args
}

impl Gateway {
    /// Starts a gateway that serves `objects`, with `more` arguments.
    pub(crate) fn start(objects: &[Value], more: &[&str]) -> Self {
        Self::start_with(objects, more, Vec::new()).0
    }

    /// The same with sockets that are `inherited`. Returns all of its sockets once more.
    pub(crate) fn start_with(
        objects: &[Value],
        more: &[&str],
        inherited: Vec<Listener>,
    ) -> (Self, Vec<Listener>) {
        let shared = Shared::new(arguments(more).gateway).unwrap();
        let classes = Classes::new("portolan.dev/ingress", "portolan");
        let settings = arguments(more).configmap;
        let mut controller = Controller::new(shared.clone(), classes, settings, Vec::new());
        controller.apply(Change::Ingress(Delta::All(of_kind(objects, "Ingress"))));
        controller.apply(Change::Class(Delta::All(vec![])));
        controller.apply(Change::Service(Delta::All(of_kind(objects, "Service"))));
        controller.apply(Change::Slice(Delta::All(of_kind(objects, "EndpointSlice"))));
        let published = publish(&mut controller, objects);
        assert!(published.is_some(), "nothing was published");
        let log = Log::default();
        let (sink, _) = access_log::start(log.clone()).unwrap();
        let tracing = trace::start(&shared.settings().trace, shared.metrics.clone());
        let tracer = tracing.unwrap().map(|(tracer, _)| tracer);
        let outlets = Outlets { log: sink, tracer };
        let shutdown = CancellationToken::new();
        let listeners = shared.bind(inherited).unwrap();
        let offered = listeners.duplicate().unwrap();
        let serving = shared.serve(listeners, &outlets, &shutdown).unwrap();
        let last = |addresses: &[SocketAddr]| *addresses.last().unwrap();
        let (http, https) = (last(serving.http()), last(serving.https()));
        let gateway = Self {
            controller,
            shared,
            http,
            https,
            shutdown,
            serving: Some(serving),
            log,
            objects: objects.to_vec(),
        };
        (gateway, offered)
    }

    /// Applies an object, new or changed.
    pub(crate) fn apply(&mut self, object: Value) -> Option<Report> {
        let change = match object["kind"].as_str().unwrap() {
            "Ingress" => Change::Ingress(Delta::Applied(parse(object))),
            "Service" => Change::Service(Delta::Applied(parse(object))),
            "EndpointSlice" => Change::Slice(Delta::Applied(parse(object))),
            "Secret" => return self.show(Reference::Secret(object_name(&object)), object),
            "ConfigMap" => return self.show(Reference::ConfigMap(object_name(&object)), object),
            other => panic!("what is a {other}?"),
        };
        self.controller.apply(change);
        publish(&mut self.controller, &self.objects)
    }

    /// Keeps `object`, and shows it if an Ingress names it.
    fn show(&mut self, reference: Reference, object: Value) -> Option<Report> {
        self.objects.insert(0, object);
        if self.controller.references().contains(&reference) {
            self.controller.apply(look(&self.objects, reference));
        }
        publish(&mut self.controller, &self.objects)
    }

    /// Lets `name` lead to `addresses`.
    pub(crate) fn resolve(&mut self, name: &str, addresses: &[IpAddr]) -> Option<Report> {
        let resolution = Resolution {
            addresses: addresses.to_vec(),
            failure: None,
        };
        self.controller
            .apply(Change::Resolved(name.into(), resolution));
        self.controller.publish()
    }

    /// Deletes an EndpointSlice.
    pub(crate) fn delete_slice(&mut self, slice: Value) {
        self.controller
            .apply(Change::Slice(Delta::Deleted(parse(slice))));
        self.controller.publish();
    }

    /// The same where the access log is not JSON.
    pub(crate) async fn log_text(&self, wanted: impl Fn(&str) -> bool) -> String {
        eventually("a line of the access log", async || {
            let log = self.log.0.lock().unwrap().clone();
            let log = String::from_utf8(log).unwrap();
            let mut lines = log.lines().map(str::to_owned);
            lines.find(|line| wanted(line))
        })
        .await
    }

    /// How often the gateway answered itself, or something failed, for `reason`.
    pub(crate) fn reasons(&self, reason: &str) -> u64 {
        let metrics = self.shared.scrape();
        let name = format!("portolan_ingress_reasons_total{{reason=\"{reason}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&name));
        count.unwrap().parse().unwrap()
    }

    /// The first line of the access log that `wanted` accepts.
    pub(crate) async fn log_line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually("a line of the access log", async || {
            let log = self.log.0.lock().unwrap().clone();
            let lines = log
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty());
            let mut lines = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
            lines.find(&wanted)
        })
        .await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Tries until something comes of it.
pub(crate) async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let started = tokio::time::Instant::now();
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn object_name(object: &Value) -> ObjectName {
    let text = |field: &str| object["metadata"][field].as_str().unwrap();
    ObjectName::new(text("namespace"), text("name"))
}

/// Publishes. What is named and not among `objects` does not exist.
fn publish(controller: &mut Controller, objects: &[Value]) -> Option<Report> {
    let report = controller.publish();
    for reference in controller.awaited().clone() {
        controller.apply(look(objects, reference));
    }
    controller.publish().or(report)
}

/// What there is of `reference` among `objects`. Of names outside the cluster nothing is known.
fn look(objects: &[Value], reference: Reference) -> Change {
    let (kind, name) = match &reference {
        Reference::Secret(name) => ("Secret", name),
        Reference::ConfigMap(name) => ("ConfigMap", name),
        Reference::ExternalName(name) => {
            let resolution = Resolution {
                addresses: Vec::new(),
                failure: Some("nobody has said".to_owned()),
            };
            return Change::Resolved(name.clone(), resolution);
        }
    };
    let is_it =
        |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == *name.name;
    let Some(object) = objects.iter().find(is_it) else {
        return Change::Referenced(reference, Seen::Absent);
    };
    let object = object.clone();
    let data = match kind {
        "Secret" => secret_data(&serde_json::from_value(object).unwrap()),
        _ => config_map_data(&serde_json::from_value(object).unwrap()),
    };
    Change::Referenced(reference, Seen::Present(data))
}

fn of_kind<T: serde::de::DeserializeOwned>(objects: &[Value], kind: &str) -> Vec<T> {
    let fitting = objects.iter().filter(|object| object["kind"] == kind);
    fitting
        .map(|object| serde_json::from_value(object.clone()).unwrap())
        .collect()
}

fn parse<T: serde::de::DeserializeOwned>(object: Value) -> Box<T> {
    Box::new(serde_json::from_value(object).unwrap())
}

// Objects.

/// `ingress` with annotations, ingress-nginx's by name and all others by key.
pub(crate) fn annotated(mut ingress: Value, annotations: &[(&str, &str)]) -> Value {
    for (name, value) in annotations {
        let key = ingress::annotations::known::key(name);
        ingress["metadata"]["annotations"][key] = json!(value);
    }
    ingress
}

/// An Ingress of our class with prefix paths to port 80 of Services: `(host, path, service)`.
pub(crate) fn ingress(name: &str, rules: &[(&str, &str, &str)]) -> Value {
    let rules: Vec<Value> = rules
        .iter()
        .map(|(host, path, service)| {
            let backend = json!({"service": {"name": service, "port": {"number": 80}}});
            let path = json!({"path": path, "pathType": "Prefix", "backend": backend});
            json!({"host": host, "http": {"paths": [path]}})
        })
        .collect();
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": format!("uid-of-{name}"),
            "annotations": {"kubernetes.io/ingress.class": "portolan"},
        },
        "spec": {"rules": rules},
    })
}

/// The same with a TLS section for `host` and the certificate in `secret`.
pub(crate) fn secure_ingress(name: &str, host: &str, service: &str, secret: &str) -> Value {
    let mut ingress = ingress(name, &[(host, "/", service)]);
    ingress["spec"]["tls"] = json!([{"hosts": [host], "secretName": secret}]);
    ingress
}

/// A Service with port 80.
pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ports": [{"port": 80}]},
    })
}

/// The same whose port speaks `protocol`.
pub(crate) fn service_speaking(name: &str, protocol: &str) -> Value {
    let mut service = service(name);
    service["spec"]["ports"][0]["appProtocol"] = json!(protocol);
    service
}

/// A slice of `service` with one ready endpoint.
pub(crate) fn slice(service: &str, name: &str, endpoint: SocketAddr) -> Value {
    slice_with(service, name, endpoint, json!({"ready": true}))
}

/// A slice of `service` with one endpoint in the given conditions.
pub(crate) fn slice_with(
    service: &str,
    name: &str,
    endpoint: SocketAddr,
    conditions: Value,
) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [endpoint.ip()], "conditions": conditions}],
        "ports": [{"name": "", "port": endpoint.port(), "protocol": "TCP"}],
    })
}

/// The Service `name` with one endpoint each for `backends`.
pub(crate) fn service_of(name: &str, backends: &[SocketAddr]) -> Vec<Value> {
    let slices = backends
        .iter()
        .map(|backend| slice(name, &format!("{name}-{}", backend.port()), *backend));
    std::iter::once(service(name)).chain(slices).collect()
}
