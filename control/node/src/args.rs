//! The settings of a node agent.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;

/// Settings of `portolan node`.
#[derive(Args, Debug, Clone)]
pub struct NodeArgs {
    /// Kubeconfig of user system:node:NAME. Without it: KUBECONFIG, ~/.kube/config or the pod's service account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Name of the Node object this agent registers and whose pods it runs.
    #[arg(long, value_name = "NODE")]
    pub name: String,

    /// The node's addresses (InternalIP), one per family; the first one is the primary.
    #[arg(long, value_name = "IP", value_delimiter = ',', required = true)]
    pub node_ip: Vec<IpAddr>,

    /// Where pods, their logs and their state live. Must not be on an overlay file system.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan/node")]
    pub data_dir: PathBuf,

    /// Where images live; several nodes of one machine may share it.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan/images")]
    pub image_dir: PathBuf,

    /// Cgroup of the node, relative to each controller's mount; pods live below it in `pods`.
    #[arg(long, value_name = "PATH", default_value = "/portolan")]
    pub cgroup_root: PathBuf,

    /// Address of the HTTPS API (logs, exec) that the API server calls.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10250")]
    pub bind: SocketAddr,

    /// Serving certificate of the HTTPS API (PEM). Without it the agent serves neither logs nor exec.
    #[arg(long, value_name = "FILE", requires_all = ["tls_private_key_file", "client_ca_file"])]
    pub tls_cert_file: Option<PathBuf>,

    /// Private key of the serving certificate (PEM).
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,

    /// CA that client certificates of the HTTPS API must come from (PEM); their O must be system:masters.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,

    /// Environment for every container besides the services': NAME=VALUE, comma-separated.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',', value_parser = parse_env)]
    pub cluster_service_env: Vec<(String, String)>,

    /// Address of the cluster's DNS server, for pods with dnsPolicy ClusterFirst. Without it they get the node's resolv.conf.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,

    /// DNS zone of the cluster.
    #[arg(long, value_name = "ZONE", default_value = "cluster.local")]
    pub cluster_domain: String,

    /// Registries that are spoken to without TLS (host or host:port), besides localhost and loopback addresses.
    #[arg(long, value_name = "REGISTRY", value_delimiter = ',')]
    pub insecure_registry: Vec<String>,

    /// How many pods the node takes.
    #[arg(long, value_name = "N", default_value_t = 110)]
    pub max_pods: u32,

    /// Labels of the Node besides the well-known ones: KEY=VALUE, comma-separated.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = parse_env)]
    pub node_labels: Vec<(String, String)>,

    /// Program that runs the hidden commands (see `hidden_command`); this program itself by default.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/proc/self/exe",
        hide = true
    )]
    pub shim: PathBuf,
}

impl NodeArgs {
    /// Where the pods' state directories are.
    #[must_use]
    pub fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("pods")
    }

    /// The TLS files, if the HTTPS API is to be served.
    #[must_use]
    pub fn tls_files(&self) -> Option<(&Path, &Path, &Path)> {
        Some((
            self.tls_cert_file.as_deref()?,
            self.tls_private_key_file.as_deref()?,
            self.client_ca_file.as_deref()?,
        ))
    }
}

fn parse_env(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("not of the form NAME=VALUE: {text:?}")),
    }
}
