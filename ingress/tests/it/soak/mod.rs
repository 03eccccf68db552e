//! Clients and backends that close, reset and stall in the middle of everything; in the end nothing of it is left.
//!
//! Runs for `PORTOLAN_SOAK_SECONDS` (a few by default) from `PORTOLAN_SOAK_SEED`.

mod backends;
mod clients;
mod shaky;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::apart::{Held, alone};
use crate::client::get;
use crate::harness::{
    Gateway, PATIENCE, annotated, eventually, ingress, service, service_speaking, slice,
};
use crate::tls::authority;
use shaky::Dice;

/// How much memory may grow once everything has been used.
const GROWTH: u64 = 64 << 20;
/// Requests at a time of one client to the Service that limits them.
const AT_A_TIME: usize = 24;
/// What each Service is reached by.
const PATHS: [&str; 3] = ["/one", "/two", "/three"];

/// What has happened so far.
#[derive(Debug, Default)]
struct Tally {
    connections: AtomicUsize,
    whole: AtomicUsize,
    cut: AtomicUsize,
    refused: AtomicUsize,
    messages: AtomicUsize,
    /// What must not happen.
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

#[test]
fn nothing_is_left_of_clients_and_backends_that_break_off() {
    alone(
        "soak::nothing_is_left_of_clients_and_backends_that_break_off",
        soak,
    );
}

async fn soak() {
    let length = Duration::from_secs(setting("PORTOLAN_SOAK_SECONDS", 4));
    let dice = Dice::new(setting("PORTOLAN_SOAK_SEED", 1));
    let before = Held::now();
    let tally: &Tally = Box::leak(Box::default());
    let authority = authority();
    let tls = authority.acceptor("three.default.svc", b"http/1.1");
    let backends = [
        backends::start(&dice, None, tally).await,
        backends::start(&dice, None, tally).await,
        backends::start(&dice, Some(tls), tally).await,
    ];
    let mut objects = objects(&backends.each_ref().map(|backend| backend.address));
    objects.push(authority.secret("cert", &["a.org"]));
    let mut gateway = Gateway::start(
        &objects,
        &[
            "--client-timeout=1s",
            "--header-timeout=1s",
            "--keep-alive-timeout=1s",
            "--backend-timeout=1s",
            "--no-backend-verify",
            "--eject-for=100ms",
            "--drain-timeout=10s",
            "--keep-alive-requests=20",
        ],
    );
    let clients = clients::Clients::start(&gateway, &dice, &authority.der(), tally);
    let warm = watch(length / 4).await;
    watch(length - length / 4).await;
    eventually("everything to have happened", async || {
        let counters = [&tally.whole, &tally.cut, &tally.refused, &tally.messages];
        let happened = |counter: &AtomicUsize| counter.load(Ordering::Relaxed) > 0;
        counters.into_iter().all(happened).then_some(())
    })
    .await;
    let hot = Held::now();
    clients.stop().await;
    println!("{tally:?}\n{before:?} before, {warm:?} warm, {hot:?} hot");

    assert_eq!(*tally.wrong.lock().unwrap(), [] as [String; 0]);
    assert!(hot.memory < warm.memory + GROWTH, "{warm:?} {hot:?}");
    is_idle(&gateway).await;
    dice.calm();
    serves(&gateway).await;
    is_idle(&gateway).await;

    gateway.shutdown.cancel();
    let finished = gateway.serving.take().unwrap().finished();
    timeout(PATIENCE, finished).await.unwrap().unwrap();
    drop((gateway, backends));
    eventually("descriptors and threads to go", async || {
        let now = Held::now();
        (now.descriptors <= before.descriptors && now.threads <= before.threads).then_some(())
    })
    .await;
}

/// Lets it go on for `length`.
async fn watch(length: Duration) -> Held {
    let begun = Instant::now();
    while begun.elapsed() < length {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Held::now()
}

/// A Service for each way to speak to a backend, each by a path of its own.
fn objects(addresses: &[std::net::SocketAddr; 3]) -> Vec<Value> {
    let services = ["one", "two", "three"];
    let mut objects = vec![
        service("one"),
        service_speaking("two", "kubernetes.io/h2c"),
        service_speaking("three", "https"),
    ];
    for ((name, path), address) in services.into_iter().zip(PATHS).zip(addresses) {
        let mut route = ingress(name, &[("a.org", path, name)]);
        route["spec"]["tls"] = serde_json::json!([{"hosts": ["a.org"], "secretName": "cert"}]);
        let at_a_time = AT_A_TIME.to_string();
        let mut asked = vec![
            ("ssl-redirect", "false"),
            // Else the log of a long run is all that memory holds.
            ("enable-access-log", "false"),
        ];
        if name == "one" {
            asked.push(("limit-connections", &at_a_time));
        }
        objects.push(annotated(route, &asked));
        objects.push(slice(name, name, *address));
    }
    objects
}

/// Waits until no connection is open and no request under way.
async fn is_idle(gateway: &Gateway) {
    let metrics = &gateway.shared.metrics;
    eventually("clients' connections to end", async || {
        (metrics.accepted.get() == metrics.closed.get()).then_some(())
    })
    .await;
    assert_eq!(metrics.parked(), 0);
    for upstream in gateway.shared.upstreams.all() {
        for endpoint in upstream.endpoints() {
            eventually("requests to end", async || {
                (endpoint.in_flight() == 0).then_some(())
            })
            .await;
        }
    }
}

/// Waits until every Service answers, and one has as many places for requests as it ever had.
async fn serves(gateway: &Gateway) {
    for path in PATHS {
        eventually("an answer", async || {
            let answer = get(gateway.http, "a.org", path).await;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    let mut waiting = Vec::new();
    for _ in 0..AT_A_TIME {
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        let head =
            b"POST /one HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\nContent-Length: 1\r\n\r\n";
        client.write_all(head).await.unwrap();
        waiting.push(client);
    }
    let upstreams = gateway.shared.upstreams.all();
    let endpoints = || upstreams.iter().flat_map(|upstream| upstream.endpoints());
    eventually("all requests at a time", async || {
        let total: u32 = endpoints().map(|endpoint| endpoint.in_flight()).sum();
        (total as usize == AT_A_TIME).then_some(())
    })
    .await;
    for mut client in waiting {
        client.write_all(b"x").await.unwrap();
        let mut answer = String::new();
        let read = client.read_to_string(&mut answer);
        timeout(PATIENCE, read).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}
