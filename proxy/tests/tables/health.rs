//! What the daemon answers about itself: `/healthz`, `/livez`, `/metrics` and `/proxyMode`.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;
use model::{Event, Node, Service};
use proxy::health::{self, Health};
use proxy::maps::Fake;
use proxy::metrics::{Metrics, State};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::daemon::{Daemon, LATER, Objects, installed, parse, service, sizes};

/// An answer: its code, its headers in lower case, and its body.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

/// Asks for `path` at `address`.
pub(crate) async fn ask(address: SocketAddr, path: &str) -> Answer {
    try_ask(address, path).await.unwrap()
}

/// Asks for `path` at `address`, where perhaps nobody is.
pub(crate) async fn try_ask(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    Ok(Answer {
        code: head.split(' ').nth(1).unwrap().parse().unwrap(),
        headers: head.to_lowercase(),
        body: body.to_owned(),
    })
}

/// Both servers, answering for `daemon` as it is after a round.
struct Servers {
    health: SocketAddr,
    metrics: SocketAddr,
    counted: Metrics,
    _shutdown: DropGuard,
}

async fn serve(daemon: &mut Daemon) -> Servers {
    let mut state = Health::new();
    state.update(&daemon.reconciler.standing());
    serve_state(daemon, state).await
}

async fn serve_state(daemon: &mut Daemon, state: Health) -> Servers {
    let counted = Metrics::new();
    counted.state(&State {
        usage: daemon.reconciler.tables().usage(),
        waiting: daemon.reconciler.waiting(),
        without_local: daemon.reconciler.without_local(),
    });
    let shutdown = CancellationToken::new();
    let (_, state) = watch::channel(state);
    let listen = || TcpListener::bind("127.0.0.1:0");
    let (health, metrics) = (listen().await.unwrap(), listen().await.unwrap());
    let addresses = (health.local_addr().unwrap(), metrics.local_addr().unwrap());
    let stop = || shutdown.child_token();
    tokio::spawn(health::serve_health(health, state, counted.clone(), stop()));
    tokio::spawn(health::serve_metrics(metrics, counted.clone(), stop()));
    Servers {
        health: addresses.0,
        metrics: addresses.1,
        counted,
        _shutdown: shutdown.drop_guard(),
    }
}

#[tokio::test]
async fn a_proxy_that_has_just_started_is_healthy() {
    let mut daemon = Daemon::start(Fake::new(sizes()));
    let servers = serve(&mut daemon).await;
    let answer = ask(servers.health, "/healthz").await;
    assert_eq!(answer.code, 200);
    assert!(answer.headers.contains("content-type: application/json"));
    assert!(answer.headers.contains("x-content-type-options: nosniff"));
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["nodeEligible"], true);
    for time in ["lastUpdated", "currentTime"] {
        body[time].as_str().unwrap().parse::<Timestamp>().unwrap();
    }
    let answer = ask(servers.health, "/livez").await;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.code, body.get("nodeEligible")), (200, None));
    assert_eq!(ask(servers.health, "/").await.code, 404);
    let text = servers.counted.encode();
    for line in [
        "proxy_healthz_total{code=\"200\"} 1\n",
        "proxy_livez_total{code=\"200\"} 1\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test]
async fn a_node_that_is_leaving_is_not_eligible_though_its_proxy_is_alive() {
    let mut daemon = installed(&parse(&service(1, 1)));
    let leaving = Node {
        leaving: true,
        ..Node::default()
    };
    daemon.see(Event::Node(Some(leaving)));
    let servers = serve(&mut daemon).await;
    let answer = ask(servers.health, "/healthz").await;
    assert_eq!(answer.code, 503);
    assert!(answer.body.contains("\"nodeEligible\":false"));
    assert_eq!(ask(servers.health, "/livez").await.code, 200);

    // Nobody has said that it stays: an API server that is away does not.
    daemon.see(Event::Node(Some(Node::default())));
    let servers = serve(&mut daemon).await;
    assert_eq!(ask(servers.health, "/healthz").await.code, 200);
}

#[tokio::test]
async fn a_device_without_its_program_makes_the_proxy_unhealthy_after_a_while() {
    let mut daemon = installed(&parse(&service(1, 1)));
    let ago = |age| {
        Instant::now()
            .checked_sub(Duration::from_secs(age))
            .unwrap()
    };
    for (age, code) in [(50, 200), (70, 503)] {
        let mut state = Health::new();
        state.update(&daemon.reconciler.standing());
        assert!(state.update_attached(false, ago(age)));
        // The next try counts from the first.
        assert!(!state.update_attached(false, ago(1)));
        let servers = serve_state(&mut daemon, state.clone()).await;
        assert_eq!(ask(servers.health, "/livez").await.code, code, "{age} s");
        assert_eq!(ask(servers.health, "/healthz").await.code, code, "{age} s");
        assert!(state.update_attached(true, ago(0)));
        let servers = serve_state(&mut daemon, state).await;
        assert_eq!(ask(servers.health, "/healthz").await.code, 200);
    }
}

#[tokio::test]
async fn a_kernel_that_takes_no_writes_makes_the_proxy_unhealthy_after_a_while() {
    let mut daemon = installed(&parse(&service(1, 1)));
    daemon.fail(Some(Box::new(|_| true)));
    for (age, code) in [(50, 200), (70, 503)] {
        daemon.see(Event::Services(parse(&service(1, 1)).services));
        daemon.now = Instant::now()
            .checked_sub(Duration::from_secs(age))
            .unwrap();
        let other = parse(&service(2, 1)).services.remove(0);
        daemon.see(Event::Service(other));
        let servers = serve(&mut daemon).await;
        assert_eq!(ask(servers.health, "/livez").await.code, code, "{age} s");
        assert_eq!(ask(servers.health, "/healthz").await.code, code, "{age} s");
    }
}

#[tokio::test]
async fn the_proxy_mode_is_ours_and_every_metric_of_kube_proxy_is_there() {
    let mut objects = parse(&[service(1, 1), service(2, 0)].concat());
    objects.services[0].internal_policy = model::TrafficPolicy::Local;
    let mut daemon = installed(&objects);
    let servers = serve(&mut daemon).await;
    let answer = ask(servers.metrics, "/proxyMode").await;
    assert_eq!((answer.code, &*answer.body), (200, "ebpf"));
    assert_eq!(ask(servers.metrics, "/healthz").await.body, "ok");

    let counted = &servers.counted;
    counted.count_event(&Event::Service(objects.services[0].clone()));
    counted.count_event(&Event::Slices(objects.slices.clone()));
    let text = ask(servers.metrics, "/metrics").await.body;
    assert_line(
        &text,
        "kubeproxy_sync_proxy_rules_service_changes_pending 1",
    );
    assert_line(&text, "kubeproxy_sync_proxy_rules_service_changes_total 1");
    assert_line(
        &text,
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 2",
    );
    assert_line(&text, "kubeproxy_sync_proxy_rules_endpoint_changes_total 2");
    let no_local = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    assert_line(
        &text,
        &format!("{no_local}{{traffic_policy=\"internal\"}} 1"),
    );
    assert_line(
        &text,
        &format!("{no_local}{{traffic_policy=\"external\"}} 0"),
    );
    for name in [
        "sync_proxy_rules_duration_seconds_bucket{le=\"0.001\"}",
        "sync_full_proxy_rules_duration_seconds_bucket{le=\"16.384\"}",
        "sync_partial_proxy_rules_duration_seconds_count",
        "sync_proxy_rules_last_timestamp_seconds",
        "sync_proxy_rules_last_queued_timestamp_seconds",
        "network_programming_duration_seconds_bucket{le=\"0.25\"}",
        "network_programming_duration_seconds_bucket{le=\"59.0\"}",
        "network_programming_duration_seconds_bucket{le=\"115.0\"}",
        "network_programming_duration_seconds_bucket{le=\"300.0\"}",
    ] {
        assert!(
            text.contains(&format!("\nkubeproxy_{name} ")),
            "{name} in {text}"
        );
    }
}

#[track_caller]
fn assert_line(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "{line} in {text}");
}

#[test]
fn rounds_are_told_apart_by_whether_every_service_was_due() {
    let objects = parse(&service(1, 1));
    let mut daemon = Daemon::start(Fake::new(sizes()));
    let counted = Metrics::new();
    let round = |daemon: &mut Daemon| {
        let round = daemon.reconciler.round(daemon.now);
        counted.round(&round, Duration::from_millis(1), &[]);
        (round.full, round.applied)
    };
    daemon
        .reconciler
        .see(Event::Services(objects.services.clone()), daemon.now);
    daemon
        .reconciler
        .see(Event::Slices(objects.slices.clone()), daemon.now);
    assert_eq!(round(&mut daemon), (false, 0));
    daemon.reconciler.see(Event::Node(None), daemon.now);
    assert_eq!(round(&mut daemon), (true, 1));
    let other = parse(&service(2, 1)).services.remove(0);
    daemon.reconciler.see(Event::Service(other), daemon.now);
    assert_eq!(round(&mut daemon), (false, 1));
    let text = counted.encode();
    assert_line(
        &text,
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count 1",
    );
    assert_line(
        &text,
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count 1",
    );
    assert_line(&text, "kubeproxy_sync_proxy_rules_duration_seconds_count 2");
}

#[test]
fn a_failure_is_counted_once_and_not_if_growth_heals_it() {
    let mut small = sizes();
    small.backends = 2;
    let mut daemon = Daemon::start(Fake::new(small));
    let counted = Metrics::new();
    let round = |daemon: &mut Daemon| {
        daemon.now += LATER;
        let round = daemon.reconciler.round(daemon.now);
        counted.round(&round, Duration::from_millis(1), &[]);
        (round.failed, counted.encode())
    };
    let failures = "portolan_service_failures_total";
    daemon.see_all(&Objects::default());
    for slice in parse(&service(1, 3)).slices {
        daemon.reconciler.see(Event::Slice(slice), daemon.now);
    }
    for service in parse(&service(1, 3)).services {
        daemon.reconciler.see(Event::Service(service), daemon.now);
    }
    let (failed, text) = round(&mut daemon);
    assert_eq!(failed, 1);
    assert_line(&text, &format!("{failures} 0"));
    let larger = daemon.reconciler.tables().maps().copy_to(sizes());
    daemon.reconciler.grow(larger, daemon.now);
    let (failed, text) = round(&mut daemon);
    assert_eq!(failed, 0);
    assert_line(&text, &format!("{failures} 0"));

    for count in 1..=2 {
        daemon.fail(Some(Box::new(|_| true)));
        for slice in parse(&service(1, 3 + count)).slices {
            daemon.reconciler.see(Event::Slice(slice), daemon.now);
        }
        for _ in 0..3 {
            let (failed, text) = round(&mut daemon);
            assert_eq!(failed, 1);
            assert_line(&text, &format!("{failures} {count}"));
        }
        daemon.fail(None);
        assert_eq!(round(&mut daemon).0, 0);
    }
}

#[test]
fn programming_is_measured_from_triggers_since_the_start_to_when_they_are_in_the_kernel() {
    let mut daemon = installed(&parse(&service(1, 1)));
    daemon.reconciler.take_news();
    let mut slice = parse(&service(1, 1)).slices.remove(0);
    let mut trigger = |daemon: &mut Daemon, at: SystemTime, endpoints: u8| {
        slice.endpoints = parse(&service(1, endpoints)).slices.remove(0).endpoints;
        slice.triggered = Some(at);
        daemon.see(Event::Slice(slice.clone()));
        daemon.reconciler.take_news().programmed
    };
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    assert_eq!(trigger(&mut daemon, now - hour, 2), []);
    assert_eq!(trigger(&mut daemon, now, 3), [now]);
    // What fails is measured when it is in.
    daemon.fail(Some(Box::new(|_| true)));
    assert_eq!(trigger(&mut daemon, now + hour, 4), []);
    daemon.fail(None);
    daemon.settle();
    assert_eq!(daemon.reconciler.take_news().programmed, [now + hour]);
    daemon.see(Event::SliceGone(slice.name.clone()));
    assert_eq!(daemon.reconciler.take_news().programmed, []);
}

#[test]
fn the_owner_of_a_service_that_does_not_fit_is_told() {
    let mut small = sizes();
    small.backends = 2;
    let objects = parse(&[service(1, 1), service(2, 2)].concat());
    let uid = Some("u2".into());
    let second = Service {
        uid: uid.clone(),
        ..objects.services[1].clone()
    };
    let mut daemon = Daemon::start(Fake::new(small));
    daemon.see_all(&objects);
    // Not at once: the maps may grow.
    assert_eq!(daemon.reconciler.take_news().notes, []);
    daemon.see(Event::Service(second));
    let notes = daemon.reconciler.take_news().notes;
    assert_eq!(notes.len(), 1);
    assert_eq!(
        (&notes[0].uid, notes[0].reason),
        (&uid, "FailedToInstallService")
    );
    assert_eq!(
        notes[0].message,
        "node here could not install it: BACKENDS is full"
    );
    assert_eq!(daemon.reconciler.waiting(), 1);
}
