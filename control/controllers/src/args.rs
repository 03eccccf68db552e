//! The controllers' settings.

use std::path::PathBuf;

use clap::Args;
use ipnetwork::IpNetwork;

/// Settings of the controllers and the scheduler.
#[derive(Debug, Clone, Args)]
pub struct ControllersArgs {
    /// Address ranges of the cluster's pods, at most one per IP family. Every node gets a part of each as its pod range.
    /// Without any, pod ranges are left to someone else
    #[arg(long, value_delimiter = ',', value_name = "CIDR,..")]
    pub cluster_cidr: Vec<IpNetwork>,

    /// Size of a node's IPv4 pod range, as prefix length
    #[arg(long, default_value_t = 24, value_name = "BITS")]
    pub node_cidr_mask_size_ipv4: u8,

    /// Size of a node's IPv6 pod range, as prefix length
    #[arg(long, default_value_t = 64, value_name = "BITS")]
    pub node_cidr_mask_size_ipv6: u8,

    /// Seconds without a heartbeat after which a node counts as unreachable
    #[arg(long, default_value_t = 50, value_name = "SECONDS")]
    pub node_monitor_grace_period: u64,

    /// Seconds a new node has for its first heartbeat
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub node_startup_grace_period: u64,

    /// Finished pods kept in the cluster before the oldest are deleted; 0 keeps all
    #[arg(long, default_value_t = 12500, value_name = "COUNT")]
    pub terminated_pod_gc_threshold: usize,

    /// File with the CA certificate that goes into every namespace as ConfigMap kube-root-ca.crt. Without it none is
    /// published
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,
}

impl Default for ControllersArgs {
    fn default() -> Self {
        Self {
            cluster_cidr: Vec::new(),
            node_cidr_mask_size_ipv4: 24,
            node_cidr_mask_size_ipv6: 64,
            node_monitor_grace_period: 50,
            node_startup_grace_period: 60,
            terminated_pod_gc_threshold: 12500,
            root_ca_file: None,
        }
    }
}
