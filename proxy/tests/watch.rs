//! The watches against an API server that says what it is told: lists, changes, a broken watch, and objects that make no
//! sense.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use model::{Event, ObjectName};
use proxy::events::Events;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const SERVICES: &str = "/api/v1/services";
/// What stands for the path where only the Services are asked for that have one of the labels.
const OF_OTHER_PROXY: &str = "/services-of-other-proxy";
const LABELLED_HEADLESS: &str = "/services-labelled-headless";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const NODES: &str = "/api/v1/nodes";
const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

/// What the server answers: to each path a sequence of lists, and of watches, each of which ends after its events.
#[derive(Default)]
struct Script {
    lists: BTreeMap<&'static str, VecDeque<Value>>,
    watches: BTreeMap<&'static str, VecDeque<Vec<Value>>>,
    queries: Vec<String>,
    /// What the server does not know at all.
    missing: BTreeSet<&'static str>,
    /// The objects that were made.
    created: Vec<Value>,
}

type Shared = Arc<Mutex<Script>>;

/// The daemon's watches on a server that follows a script.
struct Session {
    events: mpsc::Receiver<Event>,
    script: Shared,
    shutdown: CancellationToken,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Session {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(script));
        let shutdown = CancellationToken::new();
        tokio::spawn(
            shutdown
                .clone()
                .run_until_cancelled_owned(serve(listener, script.clone())),
        );
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        let (sender, events) = mpsc::channel(64);
        let (notes, left) = Events::channel();
        tokio::spawn(proxy::events::run(
            client.clone(),
            "here".to_owned(),
            left,
            shutdown.clone(),
        ));
        tokio::spawn(proxy::watch::run(
            client,
            "here".to_owned(),
            sender,
            notes,
            shutdown.clone(),
        ));
        Self {
            events,
            script,
            shutdown,
        }
    }

    /// The next `count` events, in an order of their own: three watches race.
    async fn next(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let event = tokio::time::timeout(Duration::from_secs(10), self.events.recv());
            seen.push(describe(&event.await.expect("an event in time").unwrap()));
        }
        seen.sort();
        seen
    }
}

fn describe(event: &Event) -> String {
    fn names<'a>(names: impl Iterator<Item = &'a ObjectName>) -> String {
        names.map(|name| &*name.name).collect::<Vec<_>>().join(" ")
    }
    match event {
        Event::Services(all) => format!(
            "services: {}",
            names(all.iter().map(|service| &service.name))
        ),
        Event::Service(service) => format!("service {}", service.name),
        Event::ServiceGone(name) => format!("service {name} gone"),
        Event::Slices(all) => format!("slices: {}", names(all.iter().map(|slice| &slice.name))),
        Event::Slice(slice) => format!("slice {}", slice.name),
        Event::SliceGone(name) => format!("slice {name} gone"),
        Event::ServiceCidrs(all) => {
            format!(
                "service cidrs: {}",
                names(all.iter().map(|cidr| &cidr.name))
            )
        }
        Event::ServiceCidr(cidr) => format!("service cidr {} {:?}", cidr.name.name, cidr.ranges),
        Event::ServiceCidrGone(name) => format!("service cidr {} gone", name.name),
        Event::UnservedAll(reason, all) => format!("unserved {reason:?}: {}", names(all.iter())),
        Event::Unserved(reason, name) => format!("unserved {reason:?} {name}"),
        Event::UnservedGone(reason, name) => format!("unserved {reason:?} {name} gone"),
        Event::Node(node) => format!("node {:?}", node.as_ref().map(|node| &*node.name)),
    }
}

async fn serve(listener: TcpListener, script: Shared) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let script = script.clone();
        let service = service_fn(move |request| answer(request, script.clone()));
        let connection = hyper::server::conn::http1::Builder::new();
        tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    script: Shared,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let uri = request.uri().clone();
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    if request.method() == Method::POST {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let object = serde_json::from_slice(&body).unwrap();
        script.lock().unwrap().created.push(object);
        return Ok(Response::builder().status(201).body(body.into()).unwrap());
    }
    let path = match (path, query) {
        (SERVICES, query) if query.contains("=service.kubernetes.io%2Fservice-proxy-name") => {
            OF_OTHER_PROXY
        }
        (SERVICES, query) if query.contains("=service.kubernetes.io%2Fheadless") => {
            LABELLED_HEADLESS
        }
        (path, _) => path,
    };
    if script.lock().unwrap().missing.contains(path) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
        let response = Response::builder().status(404);
        return Ok(response.body(status.to_string().into()).unwrap());
    }
    let body = {
        let mut script = script.lock().unwrap();
        script.queries.push(format!("{path}?{query}"));
        if query.contains("watch=true") {
            let events = script.watches.get_mut(path).and_then(VecDeque::pop_front);
            events.map(|events| {
                events
                    .iter()
                    .map(|event| format!("{event}\n"))
                    .collect::<String>()
            })
        } else {
            // The last list is what stays true.
            let lists = script.lists.get_mut(path);
            lists.map(|lists| {
                if lists.len() > 1 {
                    lists.pop_front().unwrap()
                } else {
                    lists[0].clone()
                }
                .to_string()
            })
        }
    };
    match body {
        Some(body) => Ok(Response::builder()
            .header("content-type", "application/json")
            .body(body.into())
            .unwrap()),
        // Nothing more happens on this watch.
        None => std::future::pending().await,
    }
}

fn list(items: &[Value]) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
}

fn service(name: &str, spec: Value) -> Value {
    let metadata = json!({"namespace": "d", "name": name, "resourceVersion": "2"});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

fn slice(name: &str, labels: Value) -> Value {
    let metadata =
        json!({"namespace": "d", "name": name, "resourceVersion": "2", "labels": labels});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": "IPv4", "endpoints": [],
    })
}

fn change(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn owned() -> Value {
    json!({"kubernetes.io/service-name": "a"})
}

/// A script with one object of each kind, and nothing happening.
fn script() -> Script {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "here"}});
    let lists = [
        (
            SERVICES,
            list(&[service("a", json!({"clusterIP": "10.96.0.1"}))]),
        ),
        (SLICES, list(&[slice("s", owned())])),
        (NODES, list(&[node])),
    ];
    Script {
        lists: lists
            .into_iter()
            .map(|(path, list)| (path, VecDeque::from([list])))
            .collect(),
        ..Script::default()
    }
}

const LISTED: [&str; 3] = ["node Some(\"here\")", "services: a", "slices: s"];

#[tokio::test]
async fn each_source_is_listed_with_its_selector() {
    let mut session = Session::start(script()).await;
    assert_eq!(session.next(3).await, LISTED);
    let queries = session.script.lock().unwrap().queries.join("\n");
    let ours = "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name%2C%21service.kubernetes.io%2Fheadless";
    for path in [SERVICES, SLICES] {
        let asked = queries
            .lines()
            .any(|query| query.starts_with(path) && query.contains(ours));
        assert!(asked, "{path} in {queries}");
    }
    assert!(
        queries.lines().any(|query| query.starts_with(NODES)
            && query.contains("fieldSelector=metadata.name%3Dhere"))
    );
}

#[tokio::test]
async fn changes_are_passed_on_and_what_cannot_be_used_counts_as_gone() {
    let mut script = script();
    script.watches.insert(
        SERVICES,
        VecDeque::from([vec![
            change("ADDED", service("b", json!({"clusterIP": "10.96.0.2"}))),
            change("DELETED", service("a", json!({"clusterIP": "10.96.0.1"}))),
            change("MODIFIED", service("b", Value::Null)),
        ]]),
    );
    script.watches.insert(
        SLICES,
        VecDeque::from([vec![change("MODIFIED", slice("s", json!({})))]]),
    );
    let mut session = Session::start(script).await;
    let expected = [
        "service d/a gone",
        "service d/b",
        "service d/b gone",
        "slice d/s gone",
    ];
    let seen = session.next(7).await;
    let changes: Vec<&String> = seen
        .iter()
        .filter(|event| !LISTED.contains(&event.as_str()))
        .collect();
    assert_eq!(changes, expected);
}

#[tokio::test]
async fn a_watch_that_has_expired_leads_to_a_new_list() {
    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old"});
    let mut script = script();
    script
        .watches
        .insert(SERVICES, VecDeque::from([vec![change("ERROR", gone)]]));
    let later = list(&[service("b", json!({"clusterIP": "10.96.0.2"}))]);
    script.lists.entry(SERVICES).or_default().push_back(later);
    let mut session = Session::start(script).await;
    let mut expected: Vec<&str> = LISTED.to_vec();
    expected.push("services: b");
    expected.sort_unstable();
    assert_eq!(session.next(4).await, expected);
}

#[tokio::test]
async fn a_label_that_takes_a_service_away_makes_it_go_and_come_again_while_we_watch() {
    // The server keeps to the selector: what no longer matches is deleted for us, and what matches again is added.
    let labelled = |label: &str| {
        let mut object = service("a", json!({"clusterIP": "10.96.0.1"}));
        object["metadata"]["labels"] = json!({ label: "" });
        object
    };
    let mut script = script();
    script.watches.insert(
        SERVICES,
        VecDeque::from([vec![
            change(
                "DELETED",
                labelled("service.kubernetes.io/service-proxy-name"),
            ),
            change("ADDED", service("a", json!({"clusterIP": "10.96.0.1"}))),
            change("DELETED", labelled("service.kubernetes.io/headless")),
        ]]),
    );
    let mut session = Session::start(script).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let next = session.next(1).await.remove(0);
        if !LISTED.contains(&next.as_str()) {
            seen.push(next);
        }
    }
    assert_eq!(
        seen,
        ["service d/a gone", "service d/a", "service d/a gone"]
    );
}

fn service_cidr(name: &str, cidrs: &[&str]) -> Value {
    let metadata = json!({"name": name, "resourceVersion": "2"});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": metadata, "spec": {"cidrs": cidrs}})
}

#[tokio::test]
async fn service_cidrs_are_watched_where_the_server_has_them() {
    let mut script = script();
    let all = list(&[service_cidr("kubernetes", &["10.96.0.0/12", "fd00::/108"])]);
    script.lists.insert(SERVICE_CIDRS, VecDeque::from([all]));
    script.watches.insert(
        SERVICE_CIDRS,
        VecDeque::from([vec![
            change(
                "ADDED",
                service_cidr("more", &["10.112.0.0/16", "nonsense"]),
            ),
            change("DELETED", service_cidr("more", &[])),
        ]]),
    );
    let mut session = Session::start(script).await;
    let seen = session.next(6).await;
    let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
    let expected = [
        "service cidr more [V4(Ipv4Network { addr: 10.112.0.0, prefix: 16 })]",
        "service cidr more gone",
        "service cidrs: kubernetes",
    ];
    assert!(
        expected.iter().all(|event| seen.contains(event)),
        "{seen:?}"
    );
}

#[tokio::test]
async fn of_services_that_are_not_ours_those_with_a_cluster_address_are_known() {
    let mut script = script();
    let with = |name| service(name, json!({"clusterIP": "10.96.0.9"}));
    let without = |name| service(name, json!({"clusterIP": "None"}));
    for (path, first) in [(OF_OTHER_PROXY, "x"), (LABELLED_HEADLESS, "y")] {
        let all = list(&[with(first), without("h")]);
        script.lists.insert(path, VecDeque::from([all]));
        let changes = vec![
            change("ADDED", with("z")),
            change("MODIFIED", without(first)),
            change("DELETED", with("z")),
        ];
        script.watches.insert(path, VecDeque::from([changes]));
    }
    let mut session = Session::start(script).await;
    let mut seen = session.next(11).await;
    seen.retain(|event| event.starts_with("unserved"));
    let expected = [
        "unserved Headless d/y gone",
        "unserved Headless d/z",
        "unserved Headless d/z gone",
        "unserved Headless: y",
        "unserved OtherProxy d/x gone",
        "unserved OtherProxy d/z",
        "unserved OtherProxy d/z gone",
        "unserved OtherProxy: x",
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_server_without_service_cidrs_is_nobodys_trouble() {
    let mut script = script();
    script.missing.insert(SERVICE_CIDRS);
    let mut session = Session::start(script).await;
    let seen = session.next(4).await;
    assert!(seen.contains(&"service cidrs: ".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn the_owner_of_a_service_is_told_what_is_not_understood() {
    let mut script = script();
    let mut odd = service("odd", json!({"clusterIP": "10.96.0.7"}));
    odd["metadata"]["uid"] = json!("u7");
    odd["metadata"]["annotations"] = json!({
        "portolan.dev/load-balancing-algorithm": "roundrobin",
    });
    // Twice: the second time is not worth another event.
    let changes = vec![change("ADDED", odd.clone()), change("MODIFIED", odd)];
    script.watches.insert(SERVICES, VecDeque::from([changes]));
    let mut session = Session::start(script).await;
    session.next(5).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let created = loop {
        let created = session.script.lock().unwrap().created.clone();
        if !created.is_empty() {
            break created;
        }
        assert!(std::time::Instant::now() < deadline, "no event");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let event = &created[0];
    let object = &event["involvedObject"];
    assert_eq!(
        (&object["kind"], &object["name"], &object["uid"]),
        (&json!("Service"), &json!("odd"), &json!("u7"))
    );
    assert_eq!(
        (&event["type"], &event["count"]),
        (&json!("Warning"), &json!(1))
    );
    assert_eq!(
        event["message"],
        "metadata.annotations[portolan.dev/load-balancing-algorithm]: \"roundrobin\" is not known, the default holds"
    );
    assert_eq!(
        event["source"],
        json!({"component": "portolan-proxy", "host": "here"})
    );
    assert_eq!(created.len(), 1);
}
