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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        dns: DnsArgs,
    }

    fn parse(arguments: &[&str]) -> DnsSettings {
        let arguments = ["node"].iter().chain(arguments);
        Command::parse_from(arguments).dns.settings("cluster.local")
    }

    #[test]
    fn without_flags_it_serves_on_the_link_local_address_and_asks_the_nodes_resolvers() {
        let settings = parse(&[]);
        assert_eq!(
            settings.bind,
            ["169.254.20.10:53".parse().expect("an address")]
        );
        assert_eq!(settings.domain, "cluster.local");
        assert!(
            matches!(settings.upstreams, Upstreams::ResolvConf(path) if path.ends_with("resolv.conf"))
        );
    }

    #[test]
    fn addresses_may_be_listed() {
        let settings = parse(&[
            "--dns-bind",
            "10.0.0.1:53,[fd00::1]:53",
            "--dns-upstream",
            "192.0.2.1:53",
        ]);
        assert_eq!(settings.bind.len(), 2);
        assert!(matches!(settings.upstreams, Upstreams::Fixed(servers) if servers.len() == 1));
    }
}
