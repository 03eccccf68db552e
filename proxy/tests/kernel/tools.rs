//! The operator's tools on a node whose daemon is dead: they say what the daemon installed and what clients have met.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use crate::namespace::Namespace;
use crate::node::Place;
use crate::world::{BACKENDS, EMPTY, LOOPBACK, NODE_PORT};
use crate::{OUTSIDE, TOWARDS_OUTSIDE};

/// What a command prints, and its exit code.
fn run(place: &Place, arguments: &[&str]) -> (Value, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_portolan-proxy"))
        .args(arguments)
        .args(["-o", "json", "--bpf-root"])
        .arg(&place.bpf)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error, "", "{arguments:?}");
    let document = serde_json::from_slice(&output.stdout).unwrap();
    (document, output.status.code().unwrap())
}

/// Clients outside whose packets the programs translate: processes of another cgroup, whose calls no program sees.
const CLIENTS: usize = 5;

fn ask_by_packets(place: &Place, outside: &Namespace) {
    let (address, port) = NODE_PORT.split_once(':').unwrap();
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec bash -c 'exec 3<>/dev/tcp/{address}/{port} && cat <&3'",
        place.home.display()
    );
    let client = move || Command::new("sh").arg("-c").arg(script).output().unwrap();
    let output = outside.run(client);
    let answer = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(BACKENDS.contains(&answer.as_str()), "{output:?}");
}

/// Looks at a node where clients on it have used the first Service over TCP, and some have been refused.
pub(crate) fn check(place: &Place, outside: &Namespace) {
    for _ in 0..CLIENTS {
        ask_by_packets(place, outside);
    }
    check_status(place);
    check_services(place);
    check_connections(place);
    check_drops(place);
    check_traces(place);
}

fn check_status(place: &Place) {
    let (status, code) = run(place, &["status", "--healthz-address", "127.0.0.1:9"]);
    assert_eq!(code, 4);
    let missing = status["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 1, "only the daemon: {missing:?}");
    let programs = status["programs"].as_array().unwrap();
    let find = |name: &str| {
        programs
            .iter()
            .find(|found| found["program"] == name)
            .unwrap()
    };
    let connect = find("connect4");
    let cgroup = format!("cgroup {}", place.cgroup.display());
    assert_eq!(connect["target"], cgroup);
    assert!(connect["verifiedInstructions"].as_u64().unwrap() > 100);
    assert_eq!(find("ingress")["target"], "device up0");
}

fn check_services(place: &Place) {
    let (found, code) = run(place, &["services", "default/web:tcp"]);
    assert_eq!(code, 0);
    let services = found["services"].as_array().unwrap();
    assert_eq!(services.len(), 2, "one in each family");
    let v4 = services.iter().find(|one| one["cluster"]["backends"] == 2);
    let v4 = v4.unwrap();
    assert!(v4["connections"].as_u64().unwrap() >= 100, "{v4:#}");
    let packets = v4["packets"].as_u64().unwrap();
    assert!(packets >= 8 * CLIENTS as u64, "{v4:#}");
    let kinds = v4["frontends"].as_array().unwrap().iter();
    let kinds: Vec<&Value> = kinds.map(|frontend| &frontend["kind"]).collect();
    assert_eq!(kinds, ["cluster-ip", "node-port"]);
    let (found, _) = run(place, &["services", "default/empty:tcp"]);
    assert_eq!(found["services"][0]["cluster"]["verdict"], "refuse");
}

fn check_connections(place: &Place) {
    let (found, _) = run(place, &["conntrack", "--client", OUTSIDE, "--limit", "2"]);
    assert_eq!(found["matched"], CLIENTS);
    let connections = found["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 2);
    let newest = &connections[0];
    assert_eq!(newest["service"], "default/web:tcp");
    assert_eq!(newest["destination"], NODE_PORT);
    assert!(BACKENDS.iter().any(|backend| newest["backend"] == *backend));
    assert_eq!(newest["backendState"], "serving");
    assert_eq!(
        newest["backendFlags"],
        json!(["FIN"]),
        "the server closes first"
    );
}

fn check_drops(place: &Place) {
    let (found, _) = run(place, &["drops"]);
    let reasons = found["reasons"].as_array().unwrap();
    for name in ["no-backend", "unknown-port"] {
        let reason = reasons.iter().find(|reason| reason["reason"] == name);
        assert!(reason.unwrap()["count"].as_u64().unwrap() >= 1, "{name}");
    }
    let recent = found["recent"].as_array().unwrap();
    let refused = recent.iter().find(|drop| drop["reason"] == "no-backend");
    let refused = refused.unwrap();
    let empty: SocketAddr = EMPTY.parse().unwrap();
    assert_eq!(refused["destination"], empty.ip().to_string());
    assert_eq!(refused["source"], Value::Null, "a call has no source yet");
    assert_eq!(refused["device"], Value::Null);
    assert!(refused["secondsAgo"].as_f64().unwrap() < 600.0);
}

fn check_traces(place: &Place) {
    let (said, code) = run(place, &["trace", &format!("{TOWARDS_OUTSIDE}:1"), LOOPBACK]);
    assert_eq!((&said["verdict"], code), (&"random".into(), 0));
    assert_eq!(said["rule"], "node-port");
    let (said, code) = run(place, &["trace", &format!("{OUTSIDE}:1"), LOOPBACK]);
    assert_eq!(
        said["rule"], "node-port-elsewhere",
        "loopback is the node's own"
    );
    assert_eq!((&said["verdict"], code), (&"left-alone".into(), 0));
    let (said, code) = run(place, &["trace", &format!("{OUTSIDE}:1"), EMPTY]);
    assert_eq!((&said["reason"], code), (&"no-backend".into(), 4));
}
