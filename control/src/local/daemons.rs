//! The daemons of a local cluster and the exact command line of each: what an operator would write by hand.

use std::path::PathBuf;

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;

use super::layout::{Layout, NodeLayout};
use super::place;

/// The class of Ingresses that the local cluster's gateway serves.
pub(crate) const INGRESS_CLASS: &str = "portolan";
/// The controller name behind [`INGRESS_CLASS`].
pub(crate) const INGRESS_CONTROLLER: &str = "portolan.dev/ingress";

/// Where each node's DNS server answers its own pods: the same link-local address on every node.
const DNS_ADDRESS: &str = "169.254.20.10";

/// A program to keep running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Daemon {
    /// What its log and pid file are named after.
    pub(crate) name: String,
    /// The whole command line.
    pub(crate) command: Vec<String>,
}

/// Where the three programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    portolan: PathBuf,
    proxy: PathBuf,
    ingress: PathBuf,
}

impl Programs {
    /// The proxy and the gateway are expected beside the running program.
    pub(crate) fn beside_this_one() -> Result<Programs> {
        let portolan = std::env::current_exe().context("finding this program's own path")?;
        let beside = |name: &str| {
            let path = portolan.with_file_name(name);
            path.is_file().then_some(path.clone()).with_context(|| {
                format!(
                    "{} is missing: build it with `cargo build --release`",
                    path.display()
                )
            })
        };
        Ok(Programs {
            proxy: beside("portolan-proxy")?,
            ingress: beside("portolan-ingress")?,
            portolan,
        })
    }
}

/// Every daemon of the cluster, in the order in which they should start.
pub(crate) fn of(layout: &Layout, programs: &Programs) -> Result<Vec<Daemon>> {
    let nodes = layout.node_layouts();
    let mut daemons = vec![server(layout, programs)];
    for node in &nodes {
        daemons.push(node_agent(layout, programs, node)?);
        daemons.push(proxy(layout, programs, node)?);
    }
    let gateway = nodes.first().context("a cluster has at least one node")?;
    daemons.push(ingress(layout, programs, gateway)?);
    Ok(daemons)
}

fn server(layout: &Layout, programs: &Programs) -> Daemon {
    let mut command = vec![text(&programs.portolan), "server".into()];
    command.extend(flag("data-dir", text(&layout.server_dir())));
    command.extend(flag("bind", format!("0.0.0.0:{}", layout.api_port)));
    command.extend(flag("advertise-address", layout.host_addresses()[0]));
    command.extend(flag("service-cidr", list(&layout.service_cidrs)));
    command.extend(flag("cluster-cidr", list(&layout.cluster_cidrs)));
    Daemon {
        name: "server".into(),
        command,
    }
}

fn node_agent(layout: &Layout, programs: &Programs, node: &NodeLayout) -> Result<Daemon> {
    let mut command = inside(programs, node)?;
    command.push(text(&programs.portolan));
    command.extend(node_agent_arguments(layout, node));
    Ok(Daemon {
        name: node.name.clone(),
        command,
    })
}

/// The node agent's own arguments.
pub(crate) fn node_agent_arguments(layout: &Layout, node: &NodeLayout) -> Vec<String> {
    let mut arguments = vec!["node".into()];
    arguments.extend(flag("name", &node.name));
    arguments.extend(flag("node-ip", node.address_list()));
    arguments.extend(flag("kubeconfig", text(&node.dir.join("kubeconfig"))));
    arguments.extend(flag("data-dir", text(&node.dir)));
    arguments.extend(flag("image-dir", text(&layout.image_dir())));
    arguments.extend(flag("cgroup-root", text(&node.cgroup)));
    arguments.extend(flag("cluster-dns", DNS_ADDRESS));
    arguments.extend(flag("dns-bind", format!("{DNS_ADDRESS}:53")));
    arguments.extend(flag("tls-cert-file", text(&node.dir.join("kubelet.crt"))));
    arguments.extend(flag(
        "tls-private-key-file",
        text(&node.dir.join("kubelet.key")),
    ));
    arguments.extend(flag(
        "client-ca-file",
        text(&layout.server_dir().join("pki/ca.crt")),
    ));
    if !layout.insecure_registries.is_empty() {
        arguments.extend(flag(
            "insecure-registry",
            layout.insecure_registries.join(","),
        ));
    }
    arguments
}

fn proxy(layout: &Layout, programs: &Programs, node: &NodeLayout) -> Result<Daemon> {
    let mut command = inside(programs, node)?;
    command.push(text(&programs.proxy));
    command.extend(flag(
        "kubeconfig",
        text(&layout.state_dir.join("proxy.kubeconfig")),
    ));
    command.extend(flag("hostname-override", &node.name));
    command.extend(flag("cgroup-root", text(&place::node_cgroup(node)?)));
    command.extend(flag("bpf-root", text(&node.bpf_root)));
    command.extend(flag("devices", "eth0"));
    Ok(Daemon {
        name: format!("proxy-{}", node.name),
        command,
    })
}

fn ingress(layout: &Layout, programs: &Programs, node: &NodeLayout) -> Result<Daemon> {
    let mut command = inside(programs, node)?;
    command.push(text(&programs.ingress));
    command.extend(flag(
        "kubeconfig",
        text(&layout.state_dir.join("ingress.kubeconfig")),
    ));
    command.extend(flag("ingress-class", INGRESS_CLASS));
    command.extend(flag("controller-class", INGRESS_CONTROLLER));
    command.extend(flag("publish-status-address", node.address_list()));
    Ok(Daemon {
        name: "ingress".into(),
        command,
    })
}

fn inside(programs: &Programs, node: &NodeLayout) -> Result<Vec<String>> {
    let mut command = vec![text(&programs.portolan), "enter".into()];
    command.extend(flag("netns", &node.netns));
    command.extend(flag("cgroup", text(&place::system_cgroup(node)?)));
    command.push("--".into());
    Ok(command)
}

fn flag(name: &str, value: impl ToString) -> [String; 2] {
    [format!("--{name}"), value.to_string()]
}

fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

fn list(networks: &[IpNetwork]) -> String {
    networks
        .iter()
        .map(IpNetwork::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
