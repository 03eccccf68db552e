//! Where everything of a local cluster lives: names, addresses and paths, all derived from a few choices.
//!
//! Pure: nothing here touches the machine. What `up` creates and `down` removes is named here and nowhere else,
//! so a trace that is left behind has exactly one place to be looked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The IPv4 network that joins the host and the nodes; the host is `.1`, node *i* is `.(10 + i)`.
const UNDERLAY_V4: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 0);
/// The IPv6 counterpart of [`UNDERLAY_V4`].
const UNDERLAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 0);
/// Prefix lengths of the two underlay networks.
pub(crate) const UNDERLAY_PREFIXES: (u8, u8) = (24, 64);
/// More nodes would leave the underlay network.
pub(crate) const MAX_NODES: u8 = 64;
/// Interface names hold 15 characters, and ours are `pt-NAME-NN`.
const MAX_NAME: usize = 8;

/// A local cluster, as `up` was asked to build it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Layout {
    /// What tells this cluster's namespaces, links and directories from another's.
    pub(crate) name: String,
    /// Everything the cluster keeps on disk.
    pub(crate) state_dir: PathBuf,
    /// How many nodes it has.
    pub(crate) nodes: u8,
    /// Port of the API server.
    pub(crate) api_port: u16,
    /// Address ranges of pods, one per family.
    pub(crate) cluster_cidrs: Vec<IpNetwork>,
    /// Address ranges of ClusterIPs, one per family.
    pub(crate) service_cidrs: Vec<IpNetwork>,
    /// Registries that nodes speak to without TLS.
    pub(crate) insecure_registries: Vec<String>,
}

/// One simulated machine: a network namespace and a cgroup subtree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeLayout {
    /// The Node object's name.
    pub(crate) name: String,
    /// The namespace's name under `/run/netns`.
    pub(crate) netns: String,
    /// The host's end of the node's link; the other end is `eth0`.
    pub(crate) host_link: String,
    /// The node's address in each family.
    pub(crate) addresses: [IpAddr; 2],
    /// The node's cgroup, relative to the mount of each hierarchy.
    pub(crate) cgroup: PathBuf,
    /// Where the node's BPF maps and links are pinned.
    pub(crate) bpf_root: PathBuf,
    /// What the node keeps on disk.
    pub(crate) dir: PathBuf,
}

impl Layout {
    /// Checks what cannot be built before anything is touched.
    pub(crate) fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.chars().all(plain) {
            return Err(format!(
                "--name {:?}: a cluster's name is 1 to {MAX_NAME} lower-case letters and digits",
                self.name
            ));
        }
        if self.nodes == 0 || self.nodes > MAX_NODES {
            return Err(format!(
                "--nodes {}: a local cluster has 1 to {MAX_NODES} nodes",
                self.nodes
            ));
        }
        Ok(())
    }

    /// The bridge on the host.
    pub(crate) fn bridge(&self) -> String {
        format!("pt-{}", self.name)
    }

    /// The host's address in each family: the nodes' gateway, and where the API server listens.
    pub(crate) fn host_addresses(&self) -> [IpAddr; 2] {
        underlay(1)
    }

    /// The network that joins the host and the nodes.
    pub(crate) fn underlay_v4(&self) -> IpNetwork {
        IpNetwork::new(UNDERLAY_V4.into(), UNDERLAY_PREFIXES.0)
            .expect("the underlay's prefix is legal")
    }

    /// Every node, in order.
    pub(crate) fn node_layouts(&self) -> Vec<NodeLayout> {
        (1..=self.nodes).map(|index| self.node(index)).collect()
    }

    fn node(&self, index: u8) -> NodeLayout {
        let name = format!("node-{index}");
        NodeLayout {
            netns: format!("portolan-{}-{name}", self.name),
            host_link: format!("pt-{}-{index}", self.name),
            addresses: underlay(10 + u16::from(index)),
            cgroup: self.cgroup().join(&name),
            bpf_root: self.bpf_root().join(&name),
            dir: self.state_dir.join("nodes").join(&name),
            name,
        }
    }

    /// The cluster's cgroup, relative to the mount of each hierarchy.
    pub(crate) fn cgroup(&self) -> PathBuf {
        Path::new("/portolan").join(&self.name)
    }

    /// Where the cluster's BPF objects are pinned.
    pub(crate) fn bpf_root(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/portolan").join(&self.name)
    }

    /// The API server's data: store, keys, admin kubeconfig.
    pub(crate) fn server_dir(&self) -> PathBuf {
        self.state_dir.join("server")
    }

    /// The kubeconfig for people.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.server_dir().join("admin.kubeconfig")
    }

    /// The images, shared by all nodes of the machine.
    pub(crate) fn image_dir(&self) -> PathBuf {
        self.state_dir.join("images")
    }

    /// Where a daemon's output goes.
    pub(crate) fn log(&self, daemon: &str) -> PathBuf {
        self.state_dir.join("logs").join(format!("{daemon}.log"))
    }

    /// Which process a daemon is: its pid and start time.
    pub(crate) fn pid_file(&self, daemon: &str) -> PathBuf {
        self.state_dir.join("run").join(format!("{daemon}.pid"))
    }

    /// This layout, as `up` left it for the supervisor and for `down`.
    pub(crate) fn file(state_dir: &Path) -> PathBuf {
        state_dir.join("cluster.json")
    }

    /// Where the API server listens for its nodes.
    pub(crate) fn api_address(&self) -> SocketAddr {
        SocketAddr::new(self.host_addresses()[0], self.api_port)
    }

    /// The API server's URL.
    pub(crate) fn api_url(&self) -> String {
        format!("https://{}", self.api_address())
    }
}

impl NodeLayout {
    /// The node's addresses, separated by commas, as flags want them.
    pub(crate) fn address_list(&self) -> String {
        let [v4, v6] = self.addresses;
        format!("{v4},{v6}")
    }
}

fn underlay(host: u16) -> [IpAddr; 2] {
    let [a, b, c, _] = UNDERLAY_V4.octets();
    let v4 = Ipv4Addr::new(
        a,
        b,
        c,
        u8::try_from(host).expect("the underlay's hosts fit a /24"),
    );
    let mut v6 = UNDERLAY_V6.segments();
    v6[7] = host;
    [v4.into(), Ipv6Addr::from(v6).into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(name: &str, nodes: u8) -> Layout {
        Layout {
            name: name.into(),
            state_dir: "/var/lib/portolan/x".into(),
            nodes,
            api_port: 6443,
            cluster_cidrs: vec![],
            service_cidrs: vec![],
            insecure_registries: vec![],
        }
    }

    #[test]
    fn links_fit_the_kernels_fifteen_characters() {
        let layout = layout("eightchr", MAX_NODES);
        layout.check().expect("the longest name is legal");
        for node in layout.node_layouts() {
            assert!(node.host_link.len() <= 15, "{}", node.host_link);
        }
        assert!(layout.bridge().len() <= 15);
    }

    #[test]
    fn nodes_have_addresses_of_their_own() {
        let nodes = layout("a", 2).node_layouts();
        assert_eq!(nodes[0].address_list(), "172.30.0.11,fd00:172:30::b");
        assert_eq!(nodes[1].address_list(), "172.30.0.12,fd00:172:30::c");
    }

    #[test]
    fn names_that_would_escape_their_directory_are_refused() {
        for name in ["", "../x", "a/b", "UPPER", "toolongname"] {
            assert!(layout(name, 1).check().is_err(), "{name}");
        }
        assert!(layout("a", 0).check().is_err());
    }
}
