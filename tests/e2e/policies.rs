//! Which endpoints a client may reach: traffic policies, and endpoints that are not ready or on their way out (semantics 2.2
//! and 2.3).

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, Connection, Host, eventually, same};

use crate::Scenario;
use crate::objects::{
    From, NODES, Objects, TARGET, answered, answered_by, endpoints, node_port, on_node, patch,
    pod_ip, ready, refused, silent,
};

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[
    (
        "an_internal_policy_keeps_clients_on_their_node",
        internal_local,
    ),
    (
        "an_external_policy_binds_clients_outside_only",
        external_local,
    ),
    (
        "terminating_endpoints_serve_when_none_is_ready",
        terminating,
    ),
    (
        "unready_endpoints_are_published_where_that_is_wanted",
        unready,
    ),
];

/// One server and one client on each node.
fn both_nodes<'a>(cluster: &'a Cluster, spec: &str) -> Result<Objects<'a>> {
    let mut objects = Objects::of(cluster);
    for (node, (server, client)) in NODES
        .iter()
        .zip([("near-1", "asks-1"), ("near-2", "asks-2")])
    {
        objects.server("near", server, node)?;
        objects.client(client, node)?;
    }
    objects.service("near", spec)?;
    ready(cluster, &["near-1", "near-2", "asks-1", "asks-2"])?;
    cluster.endpoints("near", 2)?;
    Ok(objects)
}

/// Rows 2.2.2, 2.2.6 and 2.4.2: "should respect internalTrafficPolicy=Local Pod to Pod", and from a process of the node.
fn internal_local(cluster: &Cluster) -> Result<()> {
    let spec = "selector: {app: near}, internalTrafficPolicy: Local, ports: [{port: 80, targetPort: 9376}]";
    let _objects = both_nodes(cluster, spec)?;
    let service = cluster.cluster_ip("near")?;
    for (from, server) in [
        (From::Pod("asks-1"), "near-1"),
        (From::Pod("asks-2"), "near-2"),
        (From::Node("node-1"), "near-1"),
        (From::Node("node-2"), "near-2"),
    ] {
        answered_by(cluster, from, service, &[server])?;
    }
    cluster.kubectl(&["delete", "pod", "near-1", "--grace-period=0", "--force"])?;
    cluster.endpoints("near", 1)?;
    silent(cluster, From::Pod("asks-1"), service)?;
    answered_by(cluster, From::Pod("asks-2"), service, &["near-2"])?;
    patch(
        cluster,
        "near",
        r#"{"spec": {"internalTrafficPolicy": "Cluster"}}"#,
    )?;
    answered_by(cluster, From::Pod("asks-1"), service, &["near-2"])
}

/// Rows 2.3 (all of the table under eTP=Local), 2.4.2 and 2.7: "should implement NodePort and HealthCheckNodePort correctly
/// when ExternalTrafficPolicy changes", and what a pod gets at another node's port.
fn external_local(cluster: &Cluster) -> Result<()> {
    let spec = "type: LoadBalancer, selector: {app: near}, externalTrafficPolicy: Local, ports: [{port: 80, targetPort: 9376}]";
    let _objects = both_nodes(cluster, spec)?;
    let [first, second] = NODES.map(|node| node_port(cluster, "near", node, 0));
    let (first, second) = (first?, second?);
    answered_by(cluster, From::Outside, first, &["near-1"])?;
    answered_by(cluster, From::Outside, second, &["near-2"])?;
    // Clients on a node are not bound at its own port; another node's port sees them as any client outside.
    for from in [From::Pod("asks-1"), From::Node("node-1")] {
        answered_by(cluster, from, first, &["near-1", "near-2"])?;
        answered_by(cluster, from, second, &["near-2"])?;
    }
    let spec = cluster.object(&["service", "near"])?["spec"].clone();
    let port = spec["healthCheckNodePort"]
        .as_u64()
        .context("no healthCheckNodePort")?;
    let [health_1, health_2] = NODES.map(|node| health_check(cluster, node, port));
    health_1("200", 1)?;
    health_2("200", 1)?;

    cluster.kubectl(&["delete", "pod", "near-1", "--grace-period=0", "--force"])?;
    cluster.endpoints("near", 1)?;
    silent(cluster, From::Outside, first)?;
    silent(cluster, From::Pod("asks-2"), first)?;
    answered_by(cluster, From::Pod("asks-1"), first, &["near-2"])?;
    answered_by(cluster, From::Outside, second, &["near-2"])?;
    health_1("503", 0)?;

    patch(
        cluster,
        "near",
        r#"{"spec": {"externalTrafficPolicy": "Cluster"}}"#,
    )?;
    answered_by(cluster, From::Outside, first, &["near-2"])?;
    let address = SocketAddr::new(cluster.node_ip("node-1")?, u16::try_from(port)?);
    eventually("nobody checks health any more", || {
        let connected = Host::inside(cluster.host().name(), move || Ok(Connection::open(address)));
        ensure!(connected?.is_err(), "still answered");
        Ok(())
    })
}

/// Waits until a node's health check says so, with as many endpoints (rows 2.7.1 and 2.7.2).
fn health_check(cluster: &Cluster, node: &str, port: u64) -> impl Fn(&str, u64) -> Result<()> {
    let address = cluster.node_ip(node);
    let node = node.to_owned();
    move |status, count| {
        let address = address
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error:#}"))?;
        eventually(&format!("{node}'s health check says {status}"), || {
            let url = format!("http://{address}:{port}/");
            let mut curl = cluster.host().command("curl");
            let output = curl
                .args(["--silent", "--include", "--max-time", "3", &url])
                .output()?;
            let answer = String::from_utf8(output.stdout)?;
            let head = answer.lines().next().unwrap_or_default();
            ensure!(head.contains(status), "{answer:?}");
            let weight = format!("x-load-balancing-endpoint-weight: {count}\r\n");
            ensure!(answer.to_lowercase().contains(&weight), "{answer:?}");
            ensure!(
                answer.contains(&format!("\"localEndpoints\":{count}"))
                    || answer.contains(&format!("\"localEndpoints\": {count}")),
                "{answer:?}"
            );
            Ok(())
        })
    }
}

/// Row 2.2.1 and the four "should fallback to (local) terminating endpoints when there are no ready endpoints with
/// {internal,external}TrafficPolicy={Cluster,Local}"; the health check fails all the same (row 2.7.3).
fn terminating(cluster: &Cluster) -> Result<()> {
    let mut objects = Objects::of(cluster);
    objects.stubborn_server("ending", "ends-1", "node-1")?;
    objects.server("ending", "stays-2", "node-2")?;
    objects.client("watches-1", "node-1")?;
    objects.client("watches-2", "node-2")?;
    objects.service(
        "ending",
        "type: LoadBalancer, selector: {app: ending}, externalTrafficPolicy: Local, internalTrafficPolicy: Local, \
         ports: [{port: 80, targetPort: 9376}]",
    )?;
    ready(cluster, &["ends-1", "stays-2", "watches-1", "watches-2"])?;
    cluster.endpoints("ending", 2)?;
    let service = cluster.cluster_ip("ending")?;
    let [first, second] = NODES.map(|node| node_port(cluster, "ending", node, 0));
    let (first, second) = (first?, second?);
    answered_by(cluster, From::Outside, first, &["ends-1"])?;

    cluster.kubectl(&["delete", "pod", "ends-1", "--wait=false"])?;
    eventually("one endpoint is terminating", || {
        let found = endpoints(cluster, "ending")?;
        let ends = found.iter().filter(|endpoint| {
            let conditions = &endpoint["conditions"];
            conditions["terminating"] == true
                && conditions["serving"] == true
                && conditions["ready"] == false
        });
        same("terminating endpoints that serve", ends.count(), 1)
    })?;
    // Local policies fall back to the node's terminating endpoint.
    answered_by(cluster, From::Outside, first, &["ends-1"])?;
    answered_by(cluster, From::Pod("watches-1"), service, &["ends-1"])?;
    let port = cluster.object(&["service", "ending"])?["spec"]["healthCheckNodePort"].as_u64();
    health_check(cluster, "node-1", port.context("no healthCheckNodePort")?)("503", 0)?;
    // Without a local policy, the ready endpoint has precedence, and the terminating one is the last resort.
    patch(
        cluster,
        "ending",
        r#"{"spec": {"externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster"}}"#,
    )?;
    answered_by(cluster, From::Outside, first, &["stays-2"])?;
    answered_by(cluster, From::Pod("watches-1"), service, &["stays-2"])?;
    cluster.kubectl(&["delete", "pod", "stays-2", "--grace-period=0", "--force"])?;
    answered_by(cluster, From::Outside, second, &["ends-1"])?;
    answered_by(cluster, From::Pod("watches-2"), service, &["ends-1"])
}

/// "should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is true", and not if it is
/// false (rows 2.2.1 and 2.4.1).
fn unready(cluster: &Cluster) -> Result<()> {
    let mut objects = Objects::of(cluster);
    objects.server("moody", "moody-1", "node-1")?;
    objects.client("moody-client", "node-2")?;
    objects.service(
        "quiet",
        "selector: {app: moody}, ports: [{port: 80, targetPort: 9376}]",
    )?;
    objects.service(
        "eager",
        "selector: {app: moody}, publishNotReadyAddresses: true, ports: [{port: 80, targetPort: 9376}]",
    )?;
    ready(cluster, &["moody-1", "moody-client"])?;
    let (quiet, eager) = (cluster.cluster_ip("quiet")?, cluster.cluster_ip("eager")?);
    answered(cluster, From::Pod("moody-client"), quiet)?;
    let server = SocketAddr::new(pod_ip(cluster, "moody-1")?, TARGET);
    let set = |ready: &str| {
        let url = format!("http://{server}/ready/{ready}");
        on_node(
            cluster,
            "node-1",
            &["curl", "--silent", "--fail", "--request", "POST", &url],
        )
    };
    set("false")?;
    cluster.endpoints("quiet", 0)?;
    refused(cluster, From::Pod("moody-client"), quiet)?;
    refused(cluster, From::Node("node-1"), quiet)?;
    answered_by(cluster, From::Pod("moody-client"), eager, &["moody-1"])?;
    set("true")?;
    answered_by(cluster, From::Pod("moody-client"), quiet, &["moody-1"])
}
