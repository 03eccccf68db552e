//! Health check node ports: what load balancers are told, and where.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use model::{Event, ServiceName};
use proxy::events::{Events, Notes};
use proxy::health::Health;
use proxy::health_check::{self, Change, Check};
use proxy::maps::Fake;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::daemon::{Daemon, Objects, installed, parse, sizes};
use crate::health::{ask, try_ask};

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server that does what it is told.
struct Server {
    changes: mpsc::UnboundedSender<Change>,
    health: watch::Sender<Health>,
    notes: Notes,
    _shutdown: DropGuard,
}

impl Server {
    fn start() -> Self {
        let (changes, seen) = mpsc::unbounded_channel();
        let (health, health_seen) = watch::channel(Health::new());
        let (events, notes) = Events::channel();
        let shutdown = CancellationToken::new();
        let node = "here".to_owned();
        let stop = shutdown.child_token();
        tokio::spawn(health_check::run(seen, node, health_seen, events, stop));
        let addresses = Change::Addresses(BTreeSet::from([HOME]));
        changes.send(addresses).unwrap();
        Self {
            changes,
            health,
            notes,
            _shutdown: shutdown.drop_guard(),
        }
    }

    fn set(&self, name: &str, port: u16, local_endpoints: usize) {
        let check = Check {
            port: NonZeroU16::new(port).unwrap(),
            uid: Some("u".into()),
            local_endpoints,
        };
        let name = ServiceName::new("shop", name);
        self.changes
            .send(Change::Service(name, Some(check)))
            .unwrap();
    }

    fn remove(&self, name: &str) {
        let name = ServiceName::new("shop", name);
        self.changes.send(Change::Service(name, None)).unwrap();
    }
}

/// A port that is free at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind((HOME, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Waits until `port` is listened to, or no longer.
async fn until_open(port: u16, open: bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while tokio::net::TcpStream::connect((HOME, port)).await.is_ok() != open {
        assert!(Instant::now() < deadline, "port {port}, open: {open}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until what is answered on `port` has `code`.
async fn until_code(port: u16, code: u16) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let address = SocketAddr::new(HOME, port);
    while try_ask(address, "/").await.map_or(0, |answer| answer.code) != code {
        assert!(Instant::now() < deadline, "port {port}, code {code}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_node_with_endpoints_says_so_whatever_the_path() {
    let server = Server::start();
    let port = free_port();
    server.set("web", port, 3);
    until_open(port, true).await;
    for path in ["/", "/healthz", "/any/thing?else"] {
        let answer = ask(SocketAddr::new(HOME, port), path).await;
        assert_eq!(answer.code, 200);
        for header in [
            "content-type: application/json",
            "x-content-type-options: nosniff",
            "x-load-balancing-endpoint-weight: 3",
        ] {
            assert!(answer.headers.contains(header), "{}", answer.headers);
        }
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        let expected = json!({
            "service": {"namespace": "shop", "name": "web"},
            "localEndpoints": 3,
            "serviceProxyHealthy": true,
        });
        assert_eq!(body, expected);
    }
}

#[tokio::test]
async fn without_endpoints_or_a_healthy_proxy_the_node_is_to_be_avoided() {
    let server = Server::start();
    let port = free_port();
    server.set("web", port, 0);
    until_open(port, true).await;
    let answer = ask(SocketAddr::new(HOME, port), "/").await;
    assert_eq!(answer.code, 503);
    assert!(
        answer
            .headers
            .contains("x-load-balancing-endpoint-weight: 0")
    );
    server.set("web", port, 1);
    until_code(port, 200).await;

    // A kernel that has not taken a change for longer than a minute.
    let mut daemon = installed(&parse(SERVICE));
    daemon.fail(Some(Box::new(|_| true)));
    daemon.now = Instant::now().checked_sub(Duration::from_secs(70)).unwrap();
    daemon.see(Event::Services(Vec::new()));
    server
        .health
        .send_modify(|health| health.update(&daemon.reconciler.standing()));
    let answer = ask(SocketAddr::new(HOME, port), "/").await;
    assert_eq!(answer.code, 503);
    assert!(
        answer
            .headers
            .contains("x-load-balancing-endpoint-weight: 1")
    );
    assert!(answer.body.contains("\"serviceProxyHealthy\":false"));
}

#[tokio::test]
async fn listeners_follow_the_port_and_the_addresses_and_go_with_the_service() {
    let server = Server::start();
    let (first, second) = (free_port(), free_port());
    server.set("web", first, 1);
    until_open(first, true).await;
    server.set("web", second, 1);
    until_open(second, true).await;
    until_open(first, false).await;
    // The port passes to another Service.
    server.set("other", second, 0);
    server.remove("web");
    until_code(second, 503).await;
    let nowhere = Change::Addresses(BTreeSet::new());
    server.changes.send(nowhere).unwrap();
    until_open(second, false).await;
    let home = Change::Addresses(BTreeSet::from([HOME]));
    server.changes.send(home).unwrap();
    until_open(second, true).await;
    server.remove("other");
    until_open(second, false).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_and_the_others_go_on() {
    let mut server = Server::start();
    let taken = TcpListener::bind((HOME, 0)).unwrap();
    let (taken_port, port) = (taken.local_addr().unwrap().port(), free_port());
    server.set("unlucky", taken_port, 1);
    server.set("web", port, 1);
    let note = server.notes.next().await.unwrap();
    assert_eq!(note.reason, "FailedToStartServiceHealthcheck");
    assert_eq!(
        (&*note.service.name, note.uid.as_deref()),
        ("unlucky", Some("u"))
    );
    let start =
        format!("node here failed to start healthcheck \"shop/unlucky\" on port {taken_port}: ");
    assert!(note.message.starts_with(&start), "{}", note.message);
    until_code(port, 200).await;
    // Any change is an occasion to try again.
    drop(taken);
    server.set("web", port, 2);
    until_code(taken_port, 200).await;
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web, uid: u1}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  clusterIPs: [10.96.0.9, 'fd00:10:96::9']
  ports: [{name: a, port: 80}, {name: b, port: 81}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: a, port: 80}, {name: b, port: 81}]
endpoints:
  - {addresses: [10.244.0.1], nodeName: here}
  - {addresses: [10.244.0.2], nodeName: here}
  - {addresses: [10.244.0.3], nodeName: here, conditions: {ready: false, serving: true, terminating: true}}
  - {addresses: [10.244.1.1], nodeName: there}
  - {addresses: [10.244.1.2]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: a, port: 80}]
endpoints: [{addresses: ['fd00::1'], nodeName: here}]
";

/// What is to be answered for the only Service after `objects` were seen.
fn last_check(daemon: &mut Daemon, objects: &Objects) -> Option<Check> {
    daemon.see_all(objects);
    let changes = daemon.reconciler.take_news().checks.into_iter().rev();
    let mut checks = changes.filter_map(|change| match change {
        Change::Service(_, check) => Some(check),
        Change::Addresses(_) => None,
    });
    checks.next().expect("a change")
}

#[test]
fn each_ready_endpoint_on_this_node_counts_once() {
    let mut daemon = Daemon::start(Fake::new(sizes()));
    let mut objects = parse(SERVICE);
    let check = last_check(&mut daemon, &objects).unwrap();
    assert_eq!((check.port.get(), check.local_endpoints), (32_000, 2));
    assert_eq!(check.uid.as_deref(), Some("u1"));
    // Terminating endpoints are still served, but none is promised to new clients.
    objects.slices[0].endpoints.drain(..2);
    objects.slices.truncate(1);
    assert_eq!(
        last_check(&mut daemon, &objects).unwrap().local_endpoints,
        0
    );
    assert!(
        daemon.dump().contains("local=10.244.0.3:80*"),
        "{}",
        daemon.dump()
    );
}

#[test]
fn only_balanced_services_with_a_local_policy_are_checked() {
    let mut daemon = Daemon::start(Fake::new(sizes()));
    assert!(last_check(&mut daemon, &parse(SERVICE)).is_some());
    for other in [
        SERVICE.replace("Policy: Local", "Policy: Cluster"),
        SERVICE.replace("LoadBalancer", "NodePort"),
        SERVICE.replace("healthCheckNodePort: 32000", "healthCheckNodePort: 0"),
        SERVICE.replace("LoadBalancer", "ExternalName"),
    ] {
        assert_eq!(last_check(&mut daemon, &parse(&other)), None, "{other}");
        assert!(last_check(&mut daemon, &parse(SERVICE)).is_some());
    }
    let moved = SERVICE.replace("32000", "32001");
    let check = last_check(&mut daemon, &parse(&moved)).unwrap();
    assert_eq!(check.port.get(), 32_001);
    assert_eq!(last_check(&mut daemon, &Objects::default()), None);
}
