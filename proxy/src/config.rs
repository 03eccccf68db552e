//! The daemon's flags. Those that kube-proxy has too are called the same and mean the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use model::Algorithm;

use crate::addresses::NodePortAddresses;
use crate::handover::Forwarding;
use crate::pins::MapSizes;
use crate::xdp::Xdp;

/// The settings of the daemon.
#[derive(Args, Debug, Clone)]
pub struct Config {
    /// The kubeconfig file to reach the API server with. Without it, the daemon uses KUBECONFIG, ~/.kube/config, or the
    /// service account of the pod it runs in.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The name of this node. Without it, the host's name.
    #[arg(long, value_name = "NODE", env = "NODE_NAME")]
    pub hostname_override: Option<String>,

    /// The cgroup v2 directory whose processes, and those of all cgroups below it, get services translated when they
    /// connect: the root of the hierarchy on a real node.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,

    /// The directory in a BPF file system that maps and links are pinned under. Each node needs its own.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/portolan")]
    pub bpf_root: PathBuf,

    /// The devices towards the outside, where traffic of clients that are not on this node arrives. Without it, the
    /// devices of the default routes, and those that are hardware (or bonds, teams and VLANs) with an address that is
    /// valid beyond the link.
    #[arg(long, value_name = "DEVICE,..", value_delimiter = ',')]
    pub devices: Vec<String>,

    /// The uplinks whose drivers forward connections to other nodes by themselves (native XDP): "auto" for those that are
    /// hardware, "off", or names. Where a driver cannot, it is done later on the packet's way, as it is for all else.
    #[arg(long, value_name = "auto|off|DEVICE,..", default_value = "auto")]
    pub xdp: Xdp,

    /// The way of packets between clients outside, or pods, and backends on this node: "direct" from device to device, or
    /// "stack" through the node's network stack. Direct is faster, but passes by the FORWARD rules of netfilter: where
    /// NetworkPolicies are rules of iptables or nftables, choose stack.
    #[arg(
        long,
        value_name = "direct|stack",
        value_enum,
        default_value = "direct"
    )]
    pub forwarding: Forwarding,

    /// For how long, from the very first start on this node, connections that were established through another proxy are
    /// left alone. Zero for not at all.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub migration_seconds: u32,

    /// Where NodePorts answer: "primary" for the node's primary address of each family, and localhost on the node itself;
    /// or ranges, for every address of the node that lies in one of them.
    #[arg(long, value_name = "CIDR,..", default_value = "primary")]
    pub nodeport_addresses: NodePortAddresses,

    /// Where /healthz and /livez are served.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = any(10256))]
    pub healthz_bind_address: SocketAddr,

    /// Where /metrics and /proxyMode are served.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = local(10249))]
    pub metrics_bind_address: SocketAddr,

    /// The ports that this node may use as the source of connections it forwards to another node. They should lie
    /// outside net.ipv4.ip_local_port_range, so that no connection of the node itself uses them.
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535", value_parser = ports)]
    pub masquerade_ports: (u16, u16),

    /// How backends are chosen for Services without the annotation portolan.dev/load-balancing-algorithm: "random", or
    /// "maglev" for a choice that all nodes share and that changes little when a backend comes or goes.
    #[arg(long, value_name = "ALGORITHM", default_value = "random", value_parser = algorithm)]
    pub load_balancing_algorithm: Algorithm,

    /// How many addresses and ports of services may fit. The maps begin with room for 50,000 Services of five endpoints each,
    /// and grow up to this and the next three when they are full, while everything goes on. Zero stands for the default, a
    /// million, or sixteen million places.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub max_frontends: u32,

    /// How many service ports fit, each once a family.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub max_services: u32,

    /// How many backends fit, over all services.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub max_backends: u32,

    /// How many places in the sets of backends there are; a change needs room for the old and the new set.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub max_slots: u32,

    /// How many connections of clients outside can be tracked, two entries each. It counts when the map is made; one that an
    /// earlier daemon left keeps its size until --cleanup.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub max_connections: u32,

    /// How many Service ports have metrics of their own: those with the most connections. All others are counted together.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub metrics_service_limit: usize,

    /// How much is written to the log: 4 and more for what matters when looking for a fault. RUST_LOG says it more exactly.
    #[arg(long, value_name = "LEVEL", default_value_t = 2)]
    pub v: u8,

    /// Remove all programs and maps from the kernel, and exit.
    #[arg(long)]
    pub cleanup: bool,
}

impl Config {
    /// How large maps may become.
    pub fn map_sizes(&self) -> MapSizes {
        MapSizes {
            frontends: self.max_frontends,
            services: self.max_services,
            slots: self.max_slots,
            backends: self.max_backends,
            conntrack: self.max_connections.saturating_mul(2),
        }
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    match text {
        "random" => Ok(Algorithm::Random),
        "maglev" => Ok(Algorithm::Maglev),
        other => Err(format!("{other:?} is not an algorithm")),
    }
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text
        .split_once('-')
        .ok_or("expected two ports with a dash between them")?;
    let port = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a port"));
    let (first, last) = (port(first)?, port(last)?);
    if first == 0 || first > last {
        return Err(format!("{first}-{last} is not a range of ports"));
    }
    Ok((first, last))
}
