//! What ingress-nginx's Grafana dashboards and the alerts of its chart ask Prometheus for, asked of this gateway.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::api::{
    Api, CLASSES, INGRESSES, Program, SECRETS, SERVICES, SLICES, of_class, our_class,
};
use crate::backend::Backend;
use crate::client::{Http, get};
use crate::harness::{eventually, ingress, secure_ingress, service, slice};
use crate::tls::authority;

const PREFIX: &str = "nginx_ingress_controller_";

/// Labels that Prometheus itself adds, by what it knows of the target.
const TARGET: [&str; 2] = ["instance", "kubernetes_pod_name"];

/// The metrics in the queries of dashboard "NGINX Ingress controller" (nginx.json), each with the labels that are asked for in
/// one query or another. A label of ours that the target has too is called `exported_...` there.
const OVERVIEW: &[(&str, &[&str])] = &[
    (
        "requests",
        &[
            "controller_pod",
            "controller_class",
            "controller_namespace",
            "namespace",
            "exported_namespace",
            "ingress",
            "status",
        ],
    ),
    (
        "nginx_process_connections",
        &[
            "controller_pod",
            "controller_class",
            "controller_namespace",
            "state",
        ],
    ),
    (
        "success",
        &["controller_pod", "controller_class", "controller_namespace"],
    ),
    (
        "config_last_reload_successful",
        &["controller_pod", "controller_namespace"],
    ),
    (
        "config_last_reload_successful_timestamp_seconds",
        &["instance", "controller_class"],
    ),
    (
        "config_hash",
        &["controller_namespace", "controller_class", "controller_pod"],
    ),
    (
        "response_size_sum",
        &[
            "ingress",
            "controller_pod",
            "controller_class",
            "controller_namespace",
            "exported_namespace",
        ],
    ),
    (
        "request_size_sum",
        &[
            "ingress",
            "controller_pod",
            "controller_class",
            "controller_namespace",
            "exported_namespace",
        ],
    ),
    (
        "nginx_process_resident_memory_bytes",
        &["controller_pod", "controller_class", "controller_namespace"],
    ),
    (
        "nginx_process_cpu_seconds_total",
        &["controller_pod", "controller_class", "controller_namespace"],
    ),
    (
        "request_duration_seconds_bucket",
        &[
            "ingress",
            "controller_pod",
            "controller_class",
            "controller_namespace",
            "exported_namespace",
            "le",
        ],
    ),
    // It also asks for `ingress`, which ingress-nginx does not have here either; a choice of all lets that pass.
    (
        "ssl_expire_time_seconds",
        &["kubernetes_pod_name", "namespace", "host"],
    ),
];

/// The same of "Request handling performance" (request-handling-performance.json).
const PERFORMANCE: &[(&str, &[&str])] = &[
    ("requests", &["ingress"]),
    ("request_duration_seconds_bucket", &["ingress", "le"]),
    (
        "request_duration_seconds_count",
        &["ingress", "method", "host", "path", "status"],
    ),
    (
        "response_duration_seconds_bucket",
        &["ingress", "le", "method", "host", "path"],
    ),
    (
        "response_duration_seconds_sum",
        &["ingress", "method", "host", "path"],
    ),
    ("response_size_sum", &["ingress", "method", "host", "path"]),
    (
        "response_size_count",
        &["ingress", "method", "host", "path"],
    ),
    ("response_size_bucket", &["ingress", "le"]),
];

/// The same of the alerts that the chart proposes (values.yaml, `prometheusRule`).
const ALERTS: &[(&str, &[&str])] = &[
    ("config_last_reload_successful", &[]),
    ("ssl_expire_time_seconds", &["host"]),
    ("requests", &["status"]),
];

/// A gateway that has something to say about everything.
async fn gateway(backend: &Backend) -> Program {
    let api = Api::start().await;
    api.secrets.send_replace(true);
    api.put(CLASSES, our_class());
    for object in [
        secure_ingress("web", "a.org", "s", "web-tls"),
        ingress("lost", &[("b.org", "/", "nothing")]),
        ingress("empty", &[("c.org", "/", "empty")]),
    ] {
        api.put(INGRESSES, of_class(object, "ours"));
    }
    api.put(SECRETS, authority().secret("web-tls", &["a.org"]));
    api.put(SERVICES, service("s"));
    api.put(SERVICES, service("empty"));
    api.put(SLICES, slice("s", "s-1", backend.address));
    let arguments = [
        "--pod-name=p",
        "--election-namespace=n",
        "--publish-status-address=192.0.2.1",
        "--ssl-redirect=false",
    ];
    let program = Program::start(&api, &arguments).await;
    program.ready().await;
    program
}

/// The samples of a scrape: names, labels and values.
struct Scrape(Vec<(String, BTreeMap<String, String>, f64)>);

impl Scrape {
    async fn of(program: &Program) -> (Self, String) {
        let text = get(program.admin, "admin", "/metrics").await.body;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}').split("\",");
            let labels = labels.filter_map(|label| label.split_once("=\""));
            let labels = labels
                .map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
            (name.to_owned(), labels.collect(), value.parse().unwrap())
        });
        (Self(samples.collect()), text.clone())
    }

    /// The value of the one sample of `name` with all of `labels`.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let name = format!("{PREFIX}{name}");
        let has = |all: &BTreeMap<String, String>| {
            let mut wanted = labels.iter();
            wanted.all(|(name, value)| all.get(*name).is_some_and(|found| found == value))
        };
        let mut fitting = self
            .0
            .iter()
            .filter(|sample| sample.0 == name && has(&sample.1));
        let (_, _, value) = fitting.next()?;
        assert!(fitting.next().is_none(), "{name} {labels:?} is not one");
        Some(*value)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboards_and_alerts_of_ingress_nginx_find_what_they_ask_for() {
    let backend = Backend::echo("b").await;
    let program = gateway(&backend).await;
    get(program.http, "a.org", "/").await;
    get(program.http, "b.org", "/").await;
    let (Scrape(samples), text) = Scrape::of(&program).await;
    for (metric, labels) in [OVERVIEW, PERFORMANCE, ALERTS].concat() {
        let name = format!("{PREFIX}{metric}");
        let wanted = labels.iter().filter(|label| !TARGET.contains(label));
        let wanted: Vec<_> = wanted
            .map(|label| label.strip_prefix("exported_").unwrap_or(label))
            .collect();
        let fits = |labels: &BTreeMap<String, String>| {
            let mut wanted = wanted.iter();
            wanted.all(|label| labels.contains_key(*label))
        };
        let mut samples = samples.iter();
        let is_there = samples.any(|(found, labels, _)| *found == name && fits(labels));
        assert!(is_there, "{name} with {wanted:?} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_table_is_there_and_means_what_it_says() {
    let backend = Backend::echo("b").await;
    let program = gateway(&backend).await;
    let mut client = Http::connect(program.http).await;
    for _ in 0..2 {
        let request = Request::post("/").header("host", "a.org");
        let body = Full::from(Bytes::from_static(b"seven b"));
        let answer = client.send(request.body(body).unwrap()).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    get(program.http, "b.org", "/").await;
    let leads = [("name", "portolan-ingress-leader")];
    eventually("the election", async || {
        let (scrape, _) = Scrape::of(&program).await;
        scrape
            .value("leader_election_status", &leads)
            .filter(|leads| *leads == 1.0)
    })
    .await;
    let (scrape, text) = Scrape::of(&program).await;
    let posts = [("method", "POST"), ("status", "200"), ("ingress", "web")];
    let orphan =
        |ingress, kind| scrape.value("orphan_ingress", &[("ingress", ingress), ("type", kind)]);
    assert_eq!(scrape.value("requests", &posts), Some(2.0));
    assert_eq!(scrape.value("request_size_sum", &posts), Some(14.0));
    // The second went over the connection of the first.
    let connects = "connect_duration_seconds_count";
    assert_eq!(scrape.value(connects, &posts), Some(2.0));
    let lost = [("method", "GET"), ("status", "503"), ("ingress", "lost")];
    assert_eq!(scrape.value("requests", &lost), Some(1.0));
    assert_eq!(scrape.value(connects, &lost), None);
    assert_eq!(orphan("lost", "no-service"), Some(1.0));
    assert_eq!(orphan("empty", "no-endpoint"), Some(1.0));
    assert_eq!(orphan("web", "no-service"), None);
    assert_eq!(scrape.value("nginx_process_requests_total", &[]), Some(3.0));
    let certificate = [
        ("host", "a.org"),
        ("secret_name", "web-tls"),
        ("namespace", "default"),
    ];
    let expires = scrape
        .value("ssl_expire_time_seconds", &certificate)
        .unwrap();
    assert!(expires > 1e9, "{expires}");
    let info = [&certificate[..], &[("public_key_algorithm", "ECDSA")]].concat();
    assert_eq!(scrape.value("ssl_certificate_info", &info), Some(1.0));
    assert!(scrape.value("config_hash", &[]).unwrap() > 0.0);
    let started = scrape.value("nginx_process_oldest_start_time_seconds", &[]);
    let age = jiff::Timestamp::now().as_second() as f64 - started.unwrap();
    assert!((-2.0..3_600.0).contains(&age), "{age}");

    // The table says of each of ingress-nginx's metrics whether it is there.
    let families: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let rows = include_str!("../../METRICS.md").lines();
    let rows = rows.filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let (mut there, mut missing) = (0, 0);
    for (name, here) in rows {
        let is_there = families.contains(&*format!("{PREFIX}{name}"));
        assert_eq!(is_there, !here.starts_with("not there"), "{name}");
        *(if is_there { &mut there } else { &mut missing }) += 1;
    }
    let ours = families.iter().filter(|name| name.starts_with(PREFIX));
    assert_eq!(
        (there, missing),
        (ours.count(), 4),
        "not all are in the table"
    );
}
