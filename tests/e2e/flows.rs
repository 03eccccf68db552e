//! Flows that outlive what they began with: backends that come and go under datagrams, and a proxy that is killed again and
//! again (semantics 2.10 and 2.11).

use std::fs::File;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::{Cluster, Connection, Loop, eventually, get, same};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Scenario;
use crate::objects::{
    From, NODES, Objects, answered_by, ask_datagram, node_command, node_port, outside_socket, ready,
};

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[
    ("a_pod_reaches_itself_through_its_service", hairpin),
    ("datagrams_of_one_socket_follow_the_servers", datagrams),
    ("connected_datagram_sockets_follow_the_servers", connected),
    ("a_proxy_killed_every_second_costs_no_connection", killed),
];

/// "should allow pods to hairpin back to themselves through services", by cluster IP and node port (row 2.10.1).
fn hairpin(cluster: &Cluster) -> Result<()> {
    let mut objects = Objects::of(cluster);
    // Serves and has a shell.
    objects.stubborn_server("narcissus", "narcissus-1", "node-1")?;
    objects.service(
        "narcissus",
        "type: NodePort, selector: {app: narcissus}, ports: [{port: 80, targetPort: 9376}]",
    )?;
    ready(cluster, &["narcissus-1"])?;
    cluster.endpoints("narcissus", 1)?;
    let own = From::Pod("narcissus-1");
    answered_by(
        cluster,
        own,
        cluster.cluster_ip("narcissus")?,
        &["narcissus-1"],
    )?;
    for node in NODES {
        answered_by(
            cluster,
            own,
            node_port(cluster, "narcissus", node, 0)?,
            &["narcissus-1"],
        )?;
    }
    Ok(())
}

/// "should be able to preserve UDP traffic when server pod cycles for a" NodePort and a ClusterIP "service": one client with
/// a fixed source port, servers on the same node and on another (row 2.11.1), none of them at first (row 2.11.2).
fn datagrams(cluster: &Cluster) -> Result<()> {
    let mut objects = Objects::of(cluster);
    objects.service(
        "cycled",
        "type: NodePort, selector: {app: cycled}, ports: [{protocol: UDP, port: 80, targetPort: 9376}]",
    )?;
    let addresses = [
        cluster.cluster_ip("cycled")?,
        node_port(cluster, "cycled", "node-1", 0)?,
        node_port(cluster, "cycled", "node-2", 0)?,
    ];
    let socket = outside_socket(cluster, 12345)?;
    for address in addresses {
        socket.send_to(b"anybody?", address)?;
    }
    for (server, node) in [
        ("cycled-1", "node-1"),
        ("cycled-2", "node-2"),
        ("cycled-3", "node-2"),
        ("cycled-4", "node-1"),
    ] {
        objects.server("cycled", server, node)?;
        ready(cluster, &[server])?;
        cluster.endpoints("cycled", 1)?;
        for address in addresses {
            eventually(&format!("{server} answers at {address}"), || {
                same(
                    "who answers",
                    ask_datagram(&socket, address)?.as_str(),
                    server,
                )
            })?;
        }
        cluster.kubectl(&["delete", "pod", server, "--grace-period=0", "--force"])?;
        cluster.endpoints("cycled", 0)?;
    }
    Ok(())
}

/// A `connect`ed UDP socket is translated once; nothing that its program does later tells the dataplane that the server is
/// no longer the Service's. Its server here goes on answering, so only the proxy can move it (row 2.11.1).
fn connected(cluster: &Cluster) -> Result<()> {
    let mut objects = Objects::of(cluster);
    objects.server("talked", "talked-1", "node-2")?;
    objects.service(
        "talked",
        "selector: {app: talked}, ports: [{protocol: UDP, port: 80, targetPort: 9376}]",
    )?;
    ready(cluster, &["talked-1"])?;
    cluster.endpoints("talked", 1)?;
    let service = cluster.cluster_ip("talked")?;
    eventually("the Service answers", || {
        let answer = ask_datagram(&outside_socket(cluster, 0)?, service)?;
        same("who answers", answer.as_str(), "talked-1")
    })?;
    // Bash opens a connected socket; the inner loop ends when that fails.
    let script = format!(
        "while exec 3<>/dev/udp/{}/{}; do while printf who >&3; do timeout 1 dd bs=512 count=1 status=none <&3; echo; sleep 0.1; \
         done; done",
        service.ip(),
        service.port()
    );
    let path = cluster.state_dir().join("talker");
    let mut talker = node_command(cluster, "node-1", &["bash", "-c", &script])?;
    // It complains when its socket is destroyed, which is the point.
    let mut talker = talker
        .stdout(File::create(&path)?)
        .stderr(Stdio::null())
        .spawn()
        .context("running bash")?;
    let heard = |server: &str| {
        eventually(&format!("{server} is heard"), || {
            let heard = std::fs::read_to_string(&path)?;
            let last = heard.split_whitespace().last().unwrap_or_default();
            same("who was heard last", last, server)
        })
    };
    let followed = heard("talked-1").and_then(|()| {
        objects.server("talked", "talked-2", "node-1")?;
        ready(cluster, &["talked-2"])?;
        cluster.kubectl(&["label", "pod", "talked-1", "app-"])?;
        heard("talked-2")
    });
    talker.kill()?;
    talker.wait()?;
    followed
}

/// How long the proxy has to die again and again.
const DYING: Duration = Duration::from_secs(15);

/// "should work after restarting kube-proxy", and never anything but work: old connections go on, new ones are made, and
/// every answer is of the right Service, while the proxy dies every second.
fn killed(cluster: &Cluster) -> Result<()> {
    let mut objects = Objects::of(cluster);
    let names = ["lives", "thrives"];
    let mut addresses = Vec::new();
    for name in names {
        for (number, node) in (1..).zip(NODES) {
            objects.server(name, &format!("{name}-{number}"), node)?;
        }
        let spec = format!(
            "type: NodePort, selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 9376}}]"
        );
        objects.service(name, &spec)?;
    }
    ready(cluster, &["lives-1", "lives-2", "thrives-1", "thrives-2"])?;
    let host = cluster.host().name();
    for name in names {
        cluster.endpoints(name, 2)?;
        for address in [
            node_port(cluster, name, "node-1", 0)?,
            cluster.cluster_ip(name)?,
        ] {
            eventually(&format!("{name} answers"), || get(host, address))?;
            addresses.push((name, address));
        }
    }
    let mut kept = Vec::new();
    for (_, address) in &addresses {
        let mut connection = Connection::open_in(host, *address)?;
        let server = connection.get("/")?;
        kept.push((connection, server));
    }
    let loops: Vec<(&str, Loop)> = addresses
        .iter()
        .map(|(name, address)| (*name, Loop::expecting(name, host, *address)))
        .collect();
    let begun = Instant::now();
    let mut deaths = 0;
    while begun.elapsed() < DYING {
        for node in NODES {
            let proxy = cluster.daemon(&format!("proxy-{node}"))?;
            // Between two lives there is nobody to kill.
            if kill(Pid::from_raw(proxy.pid), Signal::SIGKILL).is_ok() {
                deaths += 1;
            }
        }
        for (connection, server) in &mut kept {
            same(
                "who answers on the open connection",
                &connection.get("/")?,
                &*server,
            )?;
        }
        // The point is that a second later it dies again, whatever it has come to.
        sleep(Duration::from_secs(1));
    }
    let mut requests = 0;
    for (name, requester) in loops {
        let (good, failures) = requester.stop()?;
        ensure!(
            failures.is_empty(),
            "{name}: {} of {} failed: {failures:?}",
            failures.len(),
            good + failures.len()
        );
        requests += good;
    }
    println!("{requests} requests while proxies died {deaths} times");
    ensure!(
        requests > 100 && deaths > 5,
        "{requests} requests and {deaths} deaths say little"
    );
    Ok(())
}
