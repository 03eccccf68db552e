//! Services of type ExternalName: served only where the operator allows it, at wherever DNS says, but not everywhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::api::{
    Api, CLASSES, INGRESSES, Program, SERVICES, free_port, of_class, our_class, own_address,
};
use crate::backend::Backend;
use crate::client::get;
use crate::harness::{Gateway, annotated, eventually, ingress, service_speaking};
use crate::tls::authority;

const NAME: &str = "shop.example";
/// Tests have no addresses but those of loopback.
const ALLOWED: [&str; 2] = [
    "--allow-external-name",
    "--external-name-except=127.0.0.0/8",
];

/// The Service `s` that stands for [`NAME`], with these ports.
fn service(ports: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": "default", "uid": "uid-of-s"},
        "spec": {"type": "ExternalName", "externalName": NAME, "ports": ports},
    })
}

/// An Ingress for `a.org` that names `port` of the Service.
fn to_port(port: Value) -> Value {
    let mut ingress = ingress("i", &[("a.org", "/", "s")]);
    ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"] = port;
    ingress
}

fn number(backend: &Backend) -> Value {
    json!({"number": backend.address.port()})
}

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

#[tokio::test]
async fn without_the_flag_they_are_refused() {
    let backend = Backend::echo("b").await;
    let objects = [to_port(number(&backend)), service(json!([]))];
    let mut gateway = Gateway::start(&objects, &["--external-name-except=127.0.0.0/8"]);
    gateway.resolve(NAME, &[loopback(1)]);
    let answer = get(gateway.http, "a.org", "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let report = gateway.apply(to_port(json!({"number": 81}))).unwrap();
    let faults = report.problems.iter().map(|problem| problem.fault.reason());
    assert_eq!(faults.collect::<Vec<_>>(), ["ExternalNameRefused"]);
}

#[tokio::test]
async fn the_port_is_that_of_the_ingress_or_of_the_service() {
    let backend = Backend::echo("b").await;
    let port = backend.address.port();
    let listed = json!([{"name": "web", "port": port}, {"name": "other", "port": 9}]);
    let moved = json!([{"name": "web", "port": 80, "targetPort": port}]);
    let rows = [
        (moved.clone(), json!({"number": 80}), 200),
        (moved, json!({"name": "web"}), 200),
        (json!([]), json!({"number": port}), 200),
        (listed.clone(), json!({"number": port}), 200),
        (listed.clone(), json!({"name": "web"}), 200),
        (listed.clone(), json!({"name": "missing"}), 503),
        (json!([]), json!({"name": "web"}), 503),
        (json!([{"port": 9}]), json!({"number": port}), 200),
    ];
    for (ports, named, status) in rows {
        let objects = [to_port(named.clone()), service(ports.clone())];
        let mut gateway = Gateway::start(&objects, &ALLOWED);
        gateway.resolve(NAME, &[loopback(1)]);
        let answer = get(gateway.http, "a.org", "/").await;
        assert_eq!(answer.status, status, "{ports} {named}");
        if status == 200 {
            // The client's own, as for any other backend.
            assert_eq!(answer.json()["headers"]["host"], json!(["a.org"]));
        }
    }
}

#[tokio::test]
async fn its_addresses_are_endpoints_like_any_others() {
    let backend = Backend::echo("b").await;
    let vhost = annotated(to_port(number(&backend)), &[("upstream-vhost", NAME)]);
    let objects = [vhost, service(json!([]))];
    let more = [ALLOWED[0], ALLOWED[1], "--eject-after=2"];
    let mut gateway = Gateway::start(&objects, &more);
    // Nobody listens at the second.
    gateway.resolve(NAME, &[loopback(1), loopback(99)]);
    for _ in 0..6 {
        let answer = get(gateway.http, "a.org", "/").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.json()["headers"]["host"], json!([NAME]));
    }
    let upstreams = gateway.shared.upstreams.all();
    let endpoints = upstreams[0].endpoints();
    let now = tokio::time::Instant::now();
    let ejected = endpoints.iter().map(|endpoint| endpoint.is_ejected(now));
    assert_eq!(ejected.collect::<Vec<_>>(), [false, true]);
    let before = endpoints[0].clone();
    gateway.resolve(NAME, &[loopback(1)]);
    let after = upstreams[0].endpoints();
    assert!(after.len() == 1 && Arc::ptr_eq(&after[0], &before));
}

#[tokio::test]
async fn behind_tls_it_must_prove_to_have_that_name() {
    let authority = authority();
    let named = crate::backend_tls::backend(&authority, NAME, None).await;
    let other = crate::backend_tls::backend(&authority, "s.default.svc", None).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let roots = format!("--backend-ca-file={}", file.path().display());
    let more = [ALLOWED[0], ALLOWED[1], &roots];
    for (backend, status) in [(&named, StatusCode::OK), (&other, StatusCode::BAD_GATEWAY)] {
        let port = backend.address.port();
        let ports = json!([{"port": port, "appProtocol": "https"}]);
        let mut gateway = Gateway::start(&[to_port(number(backend)), service(ports)], &more);
        gateway.resolve(NAME, &[loopback(1)]);
        let answer = get(gateway.http, "a.org", "/").await;
        assert_eq!(answer.status, status);
        if status == StatusCode::OK {
            assert_eq!(answer.json()["server_name"], NAME);
        }
    }
}

#[tokio::test]
async fn a_service_may_become_one_and_be_one_no_more() {
    let backend = Backend::echo("b").await;
    let objects = [
        to_port(json!({"number": 80})),
        service_speaking("s", "http"),
    ];
    let mut gateway = Gateway::start(&objects, &ALLOWED);
    assert_eq!(get(gateway.http, "a.org", "/").await.status, 503);
    gateway.apply(service(json!([])));
    gateway.apply(to_port(number(&backend)));
    gateway.resolve(NAME, &[loopback(1)]);
    assert_eq!(get(gateway.http, "a.org", "/").await.status, 200);
    gateway.apply(service_speaking("s", "http"));
    assert_eq!(get(gateway.http, "a.org", "/").await.status, 503);
}

/// What a name server says.
#[derive(Clone)]
enum Says {
    Address(Ipv4Addr),
    Failure,
}

/// A name server that says the same of every name, for a second.
struct NameServer {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    task: tokio::task::JoinHandle<()>,
}

impl NameServer {
    async fn start(says: Says) -> Self {
        let socket = UdpSocket::bind((own_address(), 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let says = Arc::new(Mutex::new(says));
        let said = says.clone();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let says = said.lock().unwrap().clone();
                let answer = answer(&question, &says).to_vec().unwrap();
                socket.send_to(&answer, client).await.unwrap();
            }
        });
        Self {
            address,
            says,
            task,
        }
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(question: &Message, says: &Says) -> Message {
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    let query = question.queries[0].clone();
    match says {
        Says::Failure => answer.metadata.response_code = ResponseCode::ServFail,
        Says::Address(ip) if query.query_type() == RecordType::A => {
            let record = Record::from_rdata(query.name().clone(), 1, RData::A(A(*ip)));
            answer.answers.push(record);
        }
        Says::Address(_) => {}
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_followed_from_one_address_to_the_next_and_its_last_good_one_is_kept() {
    let (first, second) = (own_address(), own_address());
    let one = Backend::echo_at(free_port(first).await, "one").await;
    let two = Backend::echo_at(SocketAddr::new(second, one.address.port()), "two").await;
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => Says::Address(ip),
        IpAddr::V6(_) => panic!("no such address here"),
    };
    let server = NameServer::start(v4(first)).await;
    let api = Api::start().await;
    api.put(CLASSES, our_class());
    api.put(INGRESSES, of_class(to_port(number(&one)), "ours"));
    api.put(SERVICES, service(json!([])));
    api.secrets.send_replace(true);
    let dns = format!("--external-name-dns={}", server.address);
    let program = Program::start(&api, &[ALLOWED[0], ALLOWED[1], &dns]).await;
    program.ready().await;
    // The first answer is already the right one.
    assert_eq!(get(program.http, "a.org", "/").await.backend(), "one");

    server.say(v4(two.address.ip()));
    eventually("the new address", async || {
        (get(program.http, "a.org", "/").await.backend() == "two").then_some(())
    })
    .await;

    server.say(Says::Failure);
    let event = eventually("an Event", async || api.event("ExternalNameUnresolved")).await;
    let message = event["message"].as_str().unwrap();
    assert!(message.contains(NAME), "{message}");
    assert_eq!(get(program.http, "a.org", "/").await.backend(), "two");
    let metrics = get(program.admin, "admin", "/metrics").await.body;
    let line = "portolan_ingress_problems{reason=\"ExternalNameUnresolved\"} 1";
    assert!(metrics.contains(line), "{metrics}");

    // It leads to the API server, and so to nobody.
    let IpAddr::V4(of_api) = api.address().ip() else {
        panic!("no such address here")
    };
    server.say(Says::Address(of_api));
    eventually("an Event", async || api.event("ExternalAddressRefused")).await;
    let answer = get(program.http, "a.org", "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}
