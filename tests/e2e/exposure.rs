//! How a Service is exposed, and what changes about that while it is in use (semantics 2.1, 2.4 and 2.5).

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use harness::{Cluster, eventually};

use crate::Scenario;
use crate::objects::{
    From, Objects, answered_by, ask_datagram, node_port, outside_socket, patch, pod_ip, ready,
    refused, silent,
};

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[
    ("an_external_ip_that_no_node_has_is_answered", external_ip),
    (
        "source_ranges_bind_the_load_balancers_address_only",
        source_ranges,
    ),
    ("a_service_changes_its_type_while_it_is_used", types),
    ("tcp_and_udp_on_one_port_come_and_go_apart", protocols),
    ("labels_hand_a_service_to_another_proxy_and_back", labels),
    ("without_endpoints_everybody_is_refused_at_once", nobody),
];

fn server_and_client<'a>(cluster: &'a Cluster, app: &str) -> Result<Objects<'a>> {
    let mut objects = Objects::of(cluster);
    objects.server(app, &format!("{app}-1"), "node-1")?;
    objects.client(&format!("{app}-client"), "node-2")?;
    ready(cluster, &[&format!("{app}-1"), &format!("{app}-client")])?;
    Ok(objects)
}

/// A way of the machine outside to an address that is no node's, gone when dropped.
struct Route<'a>(&'a Cluster, IpAddr);

impl<'a> Route<'a> {
    fn via_node(cluster: &'a Cluster, address: IpAddr, node: &str) -> Result<Self> {
        let node = cluster.node_ip(node)?.to_string();
        let route = Self(cluster, address);
        route.ip("replace", &["via", &node])?;
        Ok(route)
    }

    fn ip(&self, action: &str, rest: &[&str]) -> Result<()> {
        let mut ip: Command = self.0.host().command("ip");
        let status = ip
            .args(["route", action, &self.1.to_string()])
            .args(rest)
            .status()?;
        ensure!(status.success(), "ip route {action} {}", self.1);
        Ok(())
    }
}

impl Drop for Route<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.ip("del", &[]) {
            eprintln!("{error:#}");
        }
    }
}

/// "should be possible to connect to a service via ExternalIP when the external IP is not assigned to a node" (row 2.3).
fn external_ip(cluster: &Cluster) -> Result<()> {
    let mut objects = server_and_client(cluster, "extra")?;
    let address: SocketAddr = "198.51.100.80:80".parse()?;
    objects.service(
        "extra",
        "selector: {app: extra}, externalIPs: [198.51.100.80], ports: [{port: 80, targetPort: 9376}]",
    )?;
    cluster.endpoints("extra", 1)?;
    let _route = Route::via_node(cluster, address.ip(), "node-2")?;
    for from in [
        From::Outside,
        From::Pod("extra-client"),
        From::Node("node-1"),
        From::Node("node-2"),
    ] {
        answered_by(cluster, from, address, &["extra-1"])?;
    }
    Ok(())
}

/// Rows 2.5.1, 2.5.3 and 2.5 of "only allow access from source ranges"; a drop, never a refusal (row 2.4.5).
fn source_ranges(cluster: &Cluster) -> Result<()> {
    let mut objects = server_and_client(cluster, "ranged")?;
    let address: SocketAddr = "198.51.100.81:80".parse()?;
    objects.service(
        "ranged",
        "type: LoadBalancer, selector: {app: ranged}, ports: [{port: 80, targetPort: 9376}]",
    )?;
    let status = r#"{"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.81"}]}}}"#;
    let arguments = [
        "patch",
        "service",
        "ranged",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ];
    cluster.kubectl(&arguments)?;
    cluster.endpoints("ranged", 1)?;
    let _route = Route::via_node(cluster, address.ip(), "node-1")?;
    let outside_by = node_port(cluster, "ranged", "node-1", 0)?;
    let (outside, pod) = (From::Outside, From::Pod("ranged-client"));
    answered_by(cluster, outside, address, &["ranged-1"])?;
    answered_by(cluster, pod, address, &["ranged-1"])?;

    let allow = |range: &str| {
        let ranges = format!(r#"{{"spec": {{"loadBalancerSourceRanges": ["{range}"]}}}}"#);
        patch(cluster, "ranged", &ranges)
    };
    allow(&format!("{}/32", pod_ip(cluster, "ranged-client")?))?;
    silent(cluster, outside, address)?;
    answered_by(cluster, pod, address, &["ranged-1"])?;
    answered_by(cluster, outside, outside_by, &["ranged-1"])?;
    answered_by(
        cluster,
        outside,
        cluster.cluster_ip("ranged")?,
        &["ranged-1"],
    )?;

    allow("172.30.0.0/24")?;
    answered_by(cluster, outside, address, &["ranged-1"])?;
    silent(cluster, pod, address)?;

    patch(
        cluster,
        "ranged",
        r#"{"spec": {"loadBalancerSourceRanges": null}}"#,
    )?;
    answered_by(cluster, pod, address, &["ranged-1"])
}

/// "should be able to change the type": ClusterIP, NodePort, ExternalName and back (rows 2.1.2 and 2.9.1).
fn types(cluster: &Cluster) -> Result<()> {
    let mut objects = server_and_client(cluster, "typed")?;
    objects.service(
        "typed",
        "selector: {app: typed}, ports: [{port: 80, targetPort: 9376}]",
    )?;
    cluster.endpoints("typed", 1)?;
    let pod = From::Pod("typed-client");
    answered_by(cluster, pod, cluster.cluster_ip("typed")?, &["typed-1"])?;

    patch(cluster, "typed", r#"{"spec": {"type": "NodePort"}}"#)?;
    let service = cluster.cluster_ip("typed")?;
    let outside_by = node_port(cluster, "typed", "node-2", 0)?;
    answered_by(cluster, From::Outside, outside_by, &["typed-1"])?;
    answered_by(cluster, pod, service, &["typed-1"])?;

    let named = r#"{"spec": {"type": "ExternalName", "externalName": "elsewhere.test", "clusterIP": null, "clusterIPs": null, "ports": null}}"#;
    patch(cluster, "typed", named)?;
    refused(cluster, From::Outside, outside_by)?;
    unanswered(cluster, pod, service)?;

    let again = r#"{"spec": {"type": "NodePort", "externalName": null, "ports": [{"port": 80, "targetPort": 9376}]}}"#;
    patch(cluster, "typed", again)?;
    answered_by(
        cluster,
        From::Outside,
        node_port(cluster, "typed", "node-1", 0)?,
        &["typed-1"],
    )?;

    patch(cluster, "typed", named)?;
    patch(
        cluster,
        "typed",
        r#"{"spec": {"type": "ClusterIP", "externalName": null, "ports": [{"port": 80, "targetPort": 9376}]}}"#,
    )?;
    answered_by(cluster, pod, cluster.cluster_ip("typed")?, &["typed-1"])
}

fn unanswered(cluster: &Cluster, from: From<'_>, address: SocketAddr) -> Result<()> {
    eventually(
        &format!("{address} has nobody"),
        || match crate::objects::ask(cluster, from, address) {
            Ok(answer) => bail!("{answer} answered"),
            Err(_) => Ok(()),
        },
    )
}

/// "should serve endpoints on same port and different protocols": one may go, the other stays; node ports as well.
fn protocols(cluster: &Cluster) -> Result<()> {
    let mut objects = server_and_client(cluster, "twofold")?;
    let (tcp, udp) = (
        r#"{"name": "t", "protocol": "TCP", "port": 80, "targetPort": 9376, "nodePort": 30777}"#,
        r#"{"name": "u", "protocol": "UDP", "port": 80, "targetPort": 9376, "nodePort": 30777}"#,
    );
    objects.service(
        "twofold",
        &format!("type: NodePort, selector: {{app: twofold}}, ports: [{tcp}, {udp}]"),
    )?;
    cluster.endpoints("twofold", 1)?;
    let service = cluster.cluster_ip("twofold")?;
    let outside_by = node_port(cluster, "twofold", "node-2", 0)?;
    let socket = outside_socket(cluster, 0)?;
    let by_tcp = || {
        answered_by(cluster, From::Outside, outside_by, &["twofold-1"])?;
        answered_by(
            cluster,
            From::Pod("twofold-client"),
            service,
            &["twofold-1"],
        )
    };
    let by_udp = || {
        for address in [service, outside_by] {
            eventually("UDP is answered", || ask_datagram(&socket, address))?;
        }
        anyhow::Ok(())
    };
    by_tcp()?;
    by_udp()?;
    let only = |port: &str| {
        patch(
            cluster,
            "twofold",
            &format!(r#"{{"spec": {{"ports": [{port}]}}}}"#),
        )
    };
    only(tcp)?;
    eventually("UDP is gone", || {
        match ask_datagram(&outside_socket(cluster, 0)?, service) {
            Ok(answer) => bail!("{answer} answered"),
            Err(_) => Ok(()),
        }
    })?;
    by_tcp()?;
    only(udp)?;
    refused(cluster, From::Pod("twofold-client"), service)?;
    by_udp()?;
    only(&format!("{tcp}, {udp}"))?;
    by_tcp()?;
    by_udp()
}

/// "should implement service.kubernetes.io/service-proxy-name" and "…/headless", toggled live (row 2.1.1).
fn labels(cluster: &Cluster) -> Result<()> {
    let mut objects = server_and_client(cluster, "labelled")?;
    objects.service(
        "labelled",
        "selector: {app: labelled}, ports: [{port: 80, targetPort: 9376}]",
    )?;
    cluster.endpoints("labelled", 1)?;
    let (pod, service) = (
        From::Pod("labelled-client"),
        cluster.cluster_ip("labelled")?,
    );
    answered_by(cluster, pod, service, &["labelled-1"])?;
    for label in [
        "service.kubernetes.io/service-proxy-name=another",
        "service.kubernetes.io/headless=",
    ] {
        cluster.kubectl(&["label", "service", "labelled", label])?;
        unanswered(cluster, pod, service)?;
        let (name, _) = label.split_once('=').context("a label has a value")?;
        cluster.kubectl(&["label", "service", "labelled", &format!("{name}-")])?;
        answered_by(cluster, pod, service, &["labelled-1"])?;
    }
    Ok(())
}

/// "should be rejected when no endpoints exist", from pod, node and outside, by TCP and UDP (row 2.4.1); the same for a port
/// that the Service does not have (row 2.4.3).
fn nobody(cluster: &Cluster) -> Result<()> {
    let mut objects = Objects::of(cluster);
    objects.client("nobody-client", "node-1")?;
    objects.service(
        "nobody",
        "type: NodePort, selector: {app: nobody}, ports: [{name: t, port: 80}, {name: u, protocol: UDP, port: 80}]",
    )?;
    ready(cluster, &["nobody-client"])?;
    let service = cluster.cluster_ip("nobody")?;
    let outside_by = node_port(cluster, "nobody", "node-2", 0)?;
    for from in [
        From::Pod("nobody-client"),
        From::Node("node-1"),
        From::Outside,
    ] {
        for address in [service, outside_by, SocketAddr::new(service.ip(), 81)] {
            refused(cluster, from, address)?;
        }
    }
    for address in [service, node_port(cluster, "nobody", "node-1", 1)?] {
        let socket = outside_socket(cluster, 0)?;
        socket.connect(address)?;
        eventually("a datagram is refused", || {
            socket.send(b"who is there?")?;
            let error = socket
                .recv(&mut [0; 64])
                .err()
                .context("somebody answered")?;
            ensure!(
                error.kind() == std::io::ErrorKind::ConnectionRefused,
                "{error}"
            );
            Ok(())
        })?;
    }
    Ok(())
}
