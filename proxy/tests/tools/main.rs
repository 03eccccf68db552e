//! The operator's tools on real pinned maps, as a user runs them: what they print and their exit codes. Needs root.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod node;
mod trace;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use dataplane_ebpf::abi::{Backend, Connection, DropRecord, Kind, Run, Service, Stats, maps};
use dataplane_ebpf::addr::{Addr, Port, Protocol};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Uid;
use node::{Node, run};
use proxy::metrics::Metrics;
use proxy::service_metrics::KernelCounters;
use serde_json::{Value, json};

/// Whether the test has the right to make BPF maps.
fn is_root() -> bool {
    let is_root = Uid::effective().is_root();
    if !is_root {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("skipped: this test needs root, for BPF maps");
    }
    is_root
}

/// A node with two services, or nothing without the right to make one.
fn node() -> Option<Node> {
    if !is_root() {
        return None;
    }
    let mut node = Node::small();
    let runs = Backend::IN_CLUSTER_RUN | Backend::IN_LOCAL_RUN;
    node.add_backend(1, 1, "10.244.1.5", Backend::LOCAL | Backend::SERVING | runs);
    node.add_backend(
        2,
        1,
        "10.244.2.6",
        Backend::SERVING | Backend::IN_CLUSTER_RUN,
    );
    node.add_backend(3, 1, "10.244.2.7", 0);
    node.add_service(1, "default/web:http", &[1, 2], &[1]);
    node.add_service(2, "default/empty", &[], &[]);
    node.add_frontend(1, "10.96.0.10", 80, Kind::CLUSTER_IP);
    node.add_frontend(0, "10.96.0.10", 0, Kind::ADDRESS);
    node.add_frontend(1, "203.0.113.80", 80, Kind::LOAD_BALANCER);
    node.add_node_port(1, 30080);
    node.add_frontend(2, "fd00:10:96::b", 80, Kind::CLUSTER_IP);
    Some(node)
}

fn stats(connections: u64) -> Stats {
    Stats {
        connections,
        packets: 10,
        bytes: 1000,
        drops: 1,
    }
}

fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

fn flow(client: &str, client_port: u16, server: &str, port: u16) -> Flow {
    let end = |text, port| (addr(text), Port::new(port));
    Flow::new(end(client, client_port), end(server, port), Protocol::TCP)
}

#[test]
fn services_are_listed_with_all_that_leads_to_them() {
    let Some(mut node) = node() else { return };
    let cpus = node.set_on_all_cpus(maps::STATS, 1, stats(3)) as u64;
    let (document, code) = node.json(&["services"]);
    assert_eq!(code, 0);
    let names = document["services"].as_array().unwrap().iter();
    let names: Vec<&Value> = names.map(|service| &service["name"]).collect();
    assert_eq!(names, ["default/empty", "default/web:http"]);

    let (document, code) = node.json(&["services", "default/web"]);
    assert_eq!(code, 0);
    let frontend = |kind, address: Value, port| json!({"kind": kind, "family": "IPv4", "address": address, "port": port, "protocol": "TCP"});
    let expected = json!({"services": [{
        "id": 1,
        "name": "default/web:http",
        "frontends": [
            frontend("cluster-ip", json!("10.96.0.10"), 80),
            frontend("load-balancer", json!("203.0.113.80"), 80),
            frontend("node-port", Value::Null, 30080),
        ],
        "internalTrafficPolicy": "Cluster",
        "externalTrafficPolicy": "Cluster",
        "algorithm": "random",
        "directServerReturn": false,
        "affinitySeconds": 0,
        "sourceRanges": null,
        "cluster": {"verdict": "forward", "backends": 2},
        "local": {"verdict": "forward", "backends": 1},
        "connections": 3 * cpus,
        "packets": 10 * cpus,
        "bytes": 1000 * cpus,
        "drops": cpus,
    }]});
    assert_eq!(document, expected);
    let text = node.text(&["services", "default/empty"]);
    let line = "default/empty 2 cluster-ip [fd00:10:96::b]:80/TCP refuse refuse 0 0 0 0";
    assert_eq!(text.lines().nth(1), Some(line));
    assert_eq!(node.json(&["services", "default/nothing"]).1, 4);
    assert_eq!(node.json(&["services", "2"]).1, 0, "by its id");
}

#[test]
fn options_of_services_are_shown_and_a_table_counts_each_backend_once() {
    let Some(mut node) = node() else { return };
    let table = node.add_run(&[1, 2, 1, 2, 1]);
    let flags = Service::SOURCE_RANGES | Service::MAGLEV | Service::DSR | Service::EXTERNAL_LOCAL;
    node.set_service(1, table, Run::DROP, flags);
    node.add_source_range(1, "192.0.2.0", 96 + 24);
    node.add_source_range(1, "2001:db8::", 32);
    let (document, _) = node.json(&["services", "default/web:http"]);
    let service = &document["services"][0];
    assert_eq!(service["algorithm"], "maglev");
    assert_eq!(service["directServerReturn"], true);
    assert_eq!(service["externalTrafficPolicy"], "Local");
    assert_eq!(
        service["sourceRanges"],
        json!(["192.0.2.0/24", "2001:db8::/32"])
    );
    let forward = json!({"verdict": "forward", "backends": 2});
    assert_eq!(service["cluster"], forward);
    assert_eq!(service["local"], json!({"verdict": "drop", "backends": 0}));
    let text = node.text(&["services", "default/web"]);
    let options = "2 drop external-local maglev dsr from=192.0.2.0/24,2001:db8::/32";
    assert!(text.contains(options), "{text}");
}

#[test]
fn backends_are_listed_with_their_standing() {
    let Some(node) = node() else { return };
    let (document, code) = node.json(&["backends", "--service", "default/web"]);
    assert_eq!(code, 0);
    let backends = document["backends"].as_array().unwrap();
    assert_eq!(backends.len(), 3);
    let expected = json!({
        "id": 2,
        "serviceId": 1,
        "service": "default/web:http",
        "address": "10.244.2.6",
        "port": 8080,
        "protocol": "TCP",
        "local": false,
        "serving": true,
        "inClusterRun": true,
        "inLocalRun": false,
        "generation": 5,
    });
    assert_eq!(backends[1], expected);
    let text = node.text(&["backends"]);
    assert!(
        text.contains("3 default/web:http 10.244.2.7:8080/TCP 5\n"),
        "{text}"
    );
    assert_eq!(node.json(&["backends", "--service", "default/empty"]).1, 4);
}

/// Both directions of a connection to backend `backend` of service 1, last used at `seen`.
fn connect(node: &mut Node, client: Flow, to: Flow, backend: u32, seen: u32) {
    let connection = Connection {
        to,
        service: 1,
        service_generation: 1,
        backend,
        backend_generation: 5,
        seen,
        flags: Connection::REMOTE | Connection::FIN,
    };
    let reply = Connection {
        to: client.reversed(),
        flags: Connection::REMOTE | Connection::REPLY,
        ..connection
    };
    let mut conntrack = node.hash(maps::CONNTRACK);
    conntrack.insert(client, connection, 0).unwrap();
    conntrack.insert(to.reversed(), reply, 0).unwrap();
}

#[test]
fn connections_are_listed_by_service_and_client_and_those_used_last_first() {
    let Some(mut node) = node() else { return };
    let client = |port| flow("203.0.113.9", port, "192.0.2.1", 30080);
    let sent = |port| flow("192.0.2.1", port, "10.244.2.6", 8080);
    for port in 1..=5u16 {
        connect(&mut node, client(port), sent(60_000 + port), 2, port.into());
    }
    let other = flow("203.0.113.10", 1, "192.0.2.1", 30080);
    connect(&mut node, other, sent(60_006), 3, 6);

    let list = |arguments: &[&str]| {
        let (document, _) = node.json(&[&["conntrack"], arguments].concat());
        let clients = document["connections"].as_array().unwrap().iter();
        let clients: Vec<String> = clients.map(|c| c["client"].to_string()).collect();
        (document["matched"].as_u64().unwrap(), clients)
    };
    assert_eq!(list(&[]).1.len(), 6);
    assert_eq!(list(&["--service", "default/empty"]), (0, vec![]));
    let (matched, clients) = list(&["--client", "203.0.113.9", "--limit", "2"]);
    assert_eq!(matched, 5);
    assert_eq!(clients, [r#""203.0.113.9:5""#, r#""203.0.113.9:4""#]);

    let (document, _) = node.json(&["conntrack", "--client", "203.0.113.10"]);
    let connection = &document["connections"][0];
    assert_eq!(connection["destination"], "192.0.2.1:30080");
    assert_eq!(connection["backend"], "10.244.2.6:8080");
    assert_eq!(connection["source"], "192.0.2.1:60006");
    assert_eq!(connection["service"], "default/web:http");
    assert_eq!(connection["backendState"], "not-serving");
    assert_eq!(connection["clientFlags"], json!(["FIN"]));
    assert_eq!(connection["backendFlags"], json!([]));
    let text = node.text(&["conntrack", "--limit", "1"]);
    assert!(
        text.ends_with("and 5 that were used longer ago; --limit 0 shows all\n"),
        "{text}"
    );
}

#[test]
fn drops_are_counted_explained_and_listed_in_order_of_time() {
    let Some(mut node) = node() else { return };
    let cpus = node.set_on_all_cpus(maps::DROPS, Drop::NoBackend as u32, 4u64);
    for (index, time, client) in [(0, 300u64, "203.0.113.2"), (1, 100, "203.0.113.1")] {
        let record = DropRecord {
            time,
            flow: flow(client, 1, "10.96.0.10", 80),
            reason: Drop::NoBackend as u32,
            device: 1,
        };
        node.set_on_all_cpus(maps::RECENT_DROPS, index, record);
    }
    let (document, code) = node.json(&["drops"]);
    assert_eq!(code, 0);
    assert_eq!(document["total"], 4 * cpus);
    let reasons = document["reasons"].as_array().unwrap();
    assert_eq!(reasons.len(), Drop::ALL.len());
    assert_eq!(reasons[Drop::NoBackend as usize]["reason"], "no-backend");
    assert_eq!(reasons[Drop::NoBackend as usize]["refused"], true);
    let recent = document["recent"].as_array().unwrap();
    assert_eq!(recent.len(), 2 * cpus);
    assert_eq!(recent[0]["source"], "203.0.113.1");
    assert_eq!(recent[0]["device"], "lo");
    assert_eq!(recent[2 * cpus - 1]["source"], "203.0.113.2");
    let text = node.text(&["drops"]);
    assert!(
        text.contains("no-backend lo 203.0.113.2:1 > 10.96.0.10:80/TCP"),
        "{text}"
    );
}

#[test]
fn what_the_programs_count_is_in_the_metrics() {
    let Some(mut node) = node() else { return };
    let cpus = node.set_on_all_cpus(maps::STATS, 1, stats(3)) as u64;
    node.set_on_all_cpus(maps::STATS, 2, stats(1));
    // The other family of the first service, one that says of itself what it is not, and an id that nobody has.
    node.add_service(3, "default/web:http", &[], &[]);
    node.set_on_all_cpus(maps::STATS, 3, stats(2));
    node.add_service(4, "not \"a\" name\n", &[], &[]);
    node.set_on_all_cpus(maps::STATS, 4, stats(9));
    node.set_on_all_cpus(maps::STATS, 5, stats(100));
    node.set_on_all_cpus(maps::DROPS, Drop::NoRoute as u32, 7u64);

    let text = |limit| {
        let counters = KernelCounters::new(node.root.clone(), limit);
        Metrics::with_counters(counters).encode()
    };
    let says = |text: &str, line: String| {
        let found = text.lines().any(|found| found == line);
        assert!(found, "{line}\n{text}");
    };
    let web = r#"namespace="default",service="web",port="http""#;
    let others = r#"namespace="",service="_other",port="""#;
    let all = text(1000);
    says(
        &all,
        format!("portolan_service_connections_total{{{web}}} {}", 5 * cpus),
    );
    says(
        &all,
        format!("portolan_service_bytes_total{{{web}}} {}", 2000 * cpus),
    );
    says(
        &all,
        format!(
            "portolan_service_connections_total{{{others}}} {}",
            9 * cpus
        ),
    );
    says(
        &all,
        format!(r#"portolan_drops_total{{reason="no-route"}} {}"#, 7 * cpus),
    );
    says(&all, r#"portolan_map_entries{map="SERVICES"} 2"#.to_owned());
    says(&all, r#"portolan_map_size{map="SERVICES"} 256"#.to_owned());
    let one = text(1);
    says(
        &one,
        format!("portolan_service_connections_total{{{web}}} {}", 5 * cpus),
    );
    says(
        &one,
        format!(
            "portolan_service_connections_total{{{others}}} {}",
            10 * cpus
        ),
    );
    assert_eq!(one.matches("portolan_service_drops_total{").count(), 2);
    let nothing = KernelCounters::new("/sys/fs/bpf/portolan-nobody".into(), 1);
    assert!(
        Metrics::with_counters(nothing)
            .encode()
            .contains("kubeproxy_")
    );
}

/// A program that is ended with the test.
struct Running(Child);

impl std::ops::Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn drops_are_followed_as_they_happen() {
    let Some(mut node) = node() else { return };
    let program = Command::new(env!("CARGO_BIN_EXE_portolan-proxy"))
        .args(["drops", "--watch", "-o", "json", "--bpf-root"])
        .arg(&node.root)
        .stdout(Stdio::piped())
        .spawn();
    let mut program = Running(program.unwrap());
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().tv_sec();
    // Later than whenever the program begins to look.
    let time = (u64::try_from(now).unwrap() + 3600) * 1_000_000_000;
    for (index, client) in [(3, "203.0.113.1"), (4, "203.0.113.2")] {
        let record = DropRecord {
            time: time + u64::from(index),
            flow: flow(client, 1, "10.96.0.10", 80),
            reason: Drop::SourceRange as u32,
            device: 0,
        };
        let cpus = node.set_on_all_cpus(maps::RECENT_DROPS, index, record);
        for _ in 0..cpus {
            let line = lines.next().unwrap().unwrap();
            let drop: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(drop["reason"], "source-range");
            assert_eq!(drop["source"], client);
        }
    }
}

#[test]
fn fifty_thousand_services_are_read_in_little_memory() {
    const SERVICES: u32 = 50_000;
    if !is_root() {
        return;
    }
    let mut node = Node::new(&[(maps::FRONTENDS, 1 << 17)]);
    for id in 0..SERVICES {
        let address = format!("10.96.{}.{}", id >> 8, id & 0xff);
        node.add_service(id, &format!("default/service-{id}:http"), &[id], &[]);
        node.add_backend(id, id, &address, Backend::SERVING);
        node.add_frontend(id, &address, 80, Kind::CLUSTER_IP);
        node.add_frontend(0, &address, 0, Kind::ADDRESS);
    }
    for (arguments, lines) in [
        (&["services"][..], 50_001),
        (&["backends"], 50_001),
        (&["services", "default/service-49999"], 2),
        (&["status"], 0),
        (&["trace", "203.0.113.9:1", "10.96.0.7:80"], 0),
    ] {
        let start = Instant::now();
        let output = node.run(arguments);
        println!("{arguments:?} took {:?}", start.elapsed());
        let found = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        assert!(lines == 0 || lines == found, "{output:?}");
    }
    let (document, _) = node.json(&["services"]);
    assert_eq!(
        document["services"].as_array().unwrap().len(),
        SERVICES as usize
    );
    let start = Instant::now();
    let counters = KernelCounters::new(node.root.clone(), 1000);
    let text = Metrics::with_counters(counters).encode();
    println!("metrics took {:?}", start.elapsed());
    let series = text.matches("portolan_service_connections_total{").count();
    assert_eq!(series, 1001);
}

#[test]
fn status_says_what_is_missing() {
    let Some(node) = node() else { return };
    // Port 9 is nobody's here.
    let (document, code) = node.json(&["status", "--healthz-address", "127.0.0.1:9"]);
    assert_eq!(code, 4);
    let missing = document["missing"].as_array().unwrap();
    let says = |text: &str| {
        missing
            .iter()
            .any(|line| line.as_str().unwrap().contains(text))
    };
    assert!(says("no daemon answers on 127.0.0.1:9"), "{missing:?}");
    assert!(says("program connect4 is not attached"), "{missing:?}");
    assert!(says("program ingress is not attached"), "{missing:?}");
    let maps = document["maps"].as_array().unwrap();
    let services = maps.iter().find(|map| map["map"] == "SERVICES").unwrap();
    assert_eq!(services["entries"], 2);
}

#[test]
fn without_a_dataplane_the_error_says_what_to_do() {
    let Some(node) = node() else { return };
    for command in ["status", "services", "backends", "conntrack", "drops"] {
        let output = run(Path::new("/sys/fs/bpf/portolan-nobody"), &[command]);
        assert_eq!(output.status.code(), Some(3), "{command}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("no dataplane is pinned under"), "{error}");
    }
    let directory = node.root.join("other");
    std::fs::create_dir_all(directory.join("v1/maps")).unwrap();
    let output = run(&directory, &["services"]);
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("has the layout v1"), "{error}");
}
