//! The settings of the DNS server.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// Settings of the node agent's DNS server.
///
/// The cluster's domain is not among them: the node agent has a flag for it, and both must agree.
#[derive(Args, Debug, Clone)]
pub struct DnsArgs {
    /// Where to serve the cluster's DNS. Addresses the node lacks are put on its loopback device.
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "169.254.20.10:53"
    )]
    pub dns_bind: Vec<SocketAddr>,

    /// Resolvers for names outside the cluster. Without it: those of the resolv.conf.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub dns_upstream: Vec<SocketAddr>,

    /// Where the node's resolvers are written.
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub dns_resolv_conf: PathBuf,
}

impl DnsArgs {
    /// The settings of a server for the cluster domain `domain`, like `cluster.local`.
    #[must_use]
    pub fn settings(self, domain: &str) -> DnsSettings {
        let upstreams = if self.dns_upstream.is_empty() {
            Upstreams::ResolvConf(self.dns_resolv_conf)
        } else {
            Upstreams::Fixed(self.dns_upstream)
        };
        DnsSettings {
            bind: self.dns_bind,
            domain: domain.to_owned(),
            upstreams,
        }
    }
}

/// What a DNS server needs to know.
#[derive(Debug, Clone)]
pub struct DnsSettings {
    /// Where to serve, over UDP and TCP.
    pub bind: Vec<SocketAddr>,
    /// The cluster's zone, like `cluster.local`.
    pub domain: String,
    /// Who answers for names outside the zone.
    pub upstreams: Upstreams,
}

/// Who answers for names outside the zone.
#[derive(Debug, Clone)]
pub enum Upstreams {
    /// These resolvers.
    Fixed(Vec<SocketAddr>),
    /// Those in this file, which is read again when it changes.
    ResolvConf(PathBuf),
}
