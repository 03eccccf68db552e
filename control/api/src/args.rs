//! The settings of the API server.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

/// Settings of the API server.
#[derive(clap::Args, Debug, Clone)]
pub struct ServerArgs {
    /// Directory of the store, the certificate authority and the administrator's kubeconfig; made if missing.
    #[arg(long, default_value = "/var/lib/portolan")]
    pub data_dir: PathBuf,

    /// Address and port to listen on with TLS.
    #[arg(long, default_value = "0.0.0.0:6443")]
    pub bind: SocketAddr,

    /// Address under which nodes and pods reach this server. Default: the bound address if it is a single one,
    /// otherwise that of the default route.
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,

    /// More addresses and names the serving certificate is to be valid for.
    #[arg(long = "tls-san", value_delimiter = ',')]
    pub tls_sans: Vec<String>,

    /// Ranges that cluster addresses of Services are taken from, at most one of each family; the first one's family is
    /// the default.
    #[arg(
        long = "service-cidr",
        value_delimiter = ',',
        default_value = "10.96.0.0/16,fd00:10:96::/112"
    )]
    pub service_cidrs: Vec<IpNetwork>,

    /// Range of ports that node ports of Services are taken from, first and last.
    #[arg(long, default_value = "30000-32767", value_parser = parse_port_range)]
    pub node_port_range: RangeInclusive<u16>,

    /// File of static tokens, a line each: token,user,uid,"group,group".
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,

    /// How long Events are kept, in seconds.
    #[arg(long, default_value_t = 3600)]
    pub event_ttl: u64,
}

fn parse_port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text
        .split_once('-')
        .ok_or("expected two ports joined by a dash")?;
    let port = |text: &str| {
        text.parse::<u16>()
            .map_err(|error| format!("port {text:?}: {error}"))
    };
    let (first, last) = (port(first)?, port(last)?);
    if first == 0 || first > last {
        return Err("the first port is above the last, or zero".into());
    }
    Ok(first..=last)
}
