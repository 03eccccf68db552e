//! Session affinity: who came back is served by who served before, for as long as it was asked for (semantics 2.6).

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use dataplane_ebpf::abi::{Affinity, AffinityKey, LAYOUT_VERSION, maps};
use harness::{Cluster, eventually, same};

use crate::Scenario;
use crate::objects::{
    From, NODES, Objects, answered, ask, ask_datagram, node_port, outside_socket, patch, ready,
};

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[
    ("session_affinity_holds_every_kind_of_client", holds),
    ("session_affinity_is_switched_and_times_out", switched),
];

const SERVERS: [&str; 3] = ["sticky-1", "sticky-2", "sticky-3"];
const SPEC: &str = "type: NodePort, selector: {app: sticky}, sessionAffinity: ClientIP, \
    ports: [{name: http, port: 80, targetPort: 9376}, {name: dns, protocol: UDP, port: 53, targetPort: 9376}]";

fn servers<'a>(cluster: &'a Cluster) -> Result<Objects<'a>> {
    let mut objects = Objects::of(cluster);
    for (server, node) in SERVERS.iter().zip(NODES.iter().cycle()) {
        objects.server("sticky", server, node)?;
    }
    objects.service("sticky", SPEC)?;
    ready(cluster, &SERVERS)?;
    cluster.endpoints("sticky", SERVERS.len())?;
    Ok(objects)
}

/// Fifteen answers of the same server, as the end-to-end tests of Kubernetes want (rows 2.6.1, 2.6.4).
fn sticks(mut ask: impl FnMut() -> Result<String>) -> Result<String> {
    let answers: BTreeSet<String> = (0..15).map(|_| ask()).collect::<Result<_>>()?;
    ensure!(answers.len() == 1, "{answers:?} answered one client");
    Ok(answers.into_iter().next().unwrap_or_default())
}

/// For how long a client is held, in seconds.
const TIMEOUT: u32 = 60;

/// Makes it longer than [`TIMEOUT`] ago that any client of any Service with affinity asked.
fn stay_away(cluster: &Cluster) -> Result<()> {
    for node in NODES {
        let pin = cluster
            .pins(node)
            .join(format!("v{LAYOUT_VERSION}/maps/{}", maps::AFFINITY));
        let map = MapData::from_pin(&pin).with_context(|| format!("opening {}", pin.display()))?;
        let mut map = HashMap::<_, AffinityKey, Affinity>::try_from(Map::LruHashMap(map))?;
        let entries: Vec<_> = map.iter().collect::<Result<_, _>>()?;
        for (client, mut affinity) in entries {
            affinity.since = affinity.since.saturating_sub(TIMEOUT + 1);
            map.insert(client, affinity, 0)?;
        }
    }
    Ok(())
}

/// Rows 2.6.1, 2.6.2 (an entry whose server is gone is a miss), 2.6.4 and 2.6.5.
fn holds(cluster: &Cluster) -> Result<()> {
    let mut objects = servers(cluster)?;
    objects.client("sticky-client", "node-2")?;
    ready(cluster, &["sticky-client"])?;
    let service = cluster.cluster_ip("sticky")?;
    let outside = node_port(cluster, "sticky", "node-1", 0)?;
    for (from, address) in [
        (From::Pod("sticky-client"), service),
        (From::Node("node-1"), service),
        (From::Node("node-1"), outside),
        (From::Outside, outside),
    ] {
        answered(cluster, from, address)?;
        sticks(|| ask(cluster, from, address))?;
    }
    // One key for all addresses of a Service port: its cluster IP is routed to node-1 too.
    let by_node_port = ask(cluster, From::Outside, outside)?;
    same(
        "by cluster IP",
        ask(cluster, From::Outside, service)?,
        by_node_port.clone(),
    )?;

    let datagrams = node_port(cluster, "sticky", "node-1", 1)?;
    let asked = || {
        let socket = outside_socket(cluster, 0)?;
        ask_datagram(&socket, datagrams)
    };
    eventually("UDP is answered", asked)?;
    sticks(asked)?;

    let delete = [
        "delete",
        "pod",
        &by_node_port,
        "--grace-period=0",
        "--force",
    ];
    cluster.kubectl(&delete)?;
    cluster.endpoints("sticky", SERVERS.len() - 1)?;
    eventually("another server takes over", || {
        let answer = ask(cluster, From::Outside, outside)?;
        ensure!(answer != by_node_port, "{answer} is gone");
        Ok(())
    })?;
    sticks(|| ask(cluster, From::Outside, outside)).map(drop)
}

/// Rows 2.6.2 and 2.6.4: affinity off, on and out of date, by cluster IP and by node port.
fn switched(cluster: &Cluster) -> Result<()> {
    let _objects = servers(cluster)?;
    let addresses = [
        cluster.cluster_ip("sticky")?,
        node_port(cluster, "sticky", "node-2", 0)?,
    ];
    for address in addresses {
        answered(cluster, From::Outside, address)?;
    }
    patch(
        cluster,
        "sticky",
        r#"{"spec": {"sessionAffinity": "None"}}"#,
    )?;
    for address in addresses {
        eventually("the client is no longer held", || {
            match sticks(|| ask(cluster, From::Outside, address)) {
                Ok(server) => bail!("{server} answered every time"),
                Err(_) => Ok(()),
            }
        })?;
    }
    let held = format!(
        r#"{{"spec": {{"sessionAffinity": "ClientIP", "sessionAffinityConfig": {{"clientIP": {{"timeoutSeconds": {TIMEOUT}}}}}}}}}"#
    );
    patch(cluster, "sticky", &held)?;
    for address in addresses {
        let held = eventually("the client is held again", || {
            sticks(|| ask(cluster, From::Outside, address))
        })?;
        eventually("another server answers who was away for a while", || {
            stay_away(cluster)?;
            let answer = ask(cluster, From::Outside, address)?;
            ensure!(answer != held, "{answer} again");
            Ok(())
        })?;
    }
    Ok(())
}
