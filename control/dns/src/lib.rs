//! The cluster's DNS server. Every node agent runs one, on an address that only its own node's pods can reach.
//!
//! It answers for the cluster's zone by Kubernetes DNS specification 1.1.0 and passes every other name on to the node's
//! resolvers. It keeps no state but what it watches, so there is nothing to agree on between nodes.
//!
//! A change's way: [`watch`] (Services and EndpointSlices) -> [`cluster`] (as much of them as DNS needs) -> [`records`]
//! (the names of one Service, replaced as a whole). A question's way: [`server`] (sockets) -> [`message`] (bytes to
//! request) -> [`resolver`] -> [`answer`] (pure: look-up in the records), and only for names outside the zone [`upstream`].
//!
//! It does not validate or sign (DNSSEC), transfer zones or take updates.

mod address;
mod answer;
mod cache;
mod cluster;
mod message;
mod records;
mod resolv_conf;
mod resolver;
mod server;
mod settings;
mod upstream;
mod watch;
mod zone;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLock};

use kube::Client;
use tokio_util::sync::CancellationToken;

pub use settings::{DnsArgs, DnsSettings, Upstreams};

use records::Records;
use resolver::Resolver;
use server::Server;
use upstream::Upstream;
use zone::Zone;

/// Why the DNS server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's domain is no domain name.
    #[error("cluster domain {domain:?} is not a domain name: {reason}")]
    Domain {
        /// What was given.
        domain: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An address to serve on is not the node's, and could not be made so.
    #[error("put {address} on the loopback device (this takes CAP_NET_ADMIN)")]
    Address {
        /// The address that is missing.
        address: IpAddr,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The kernel gave no netlink socket.
    #[error("open a netlink socket")]
    Netlink(#[source] io::Error),
    /// A socket could not be opened.
    #[error("serve DNS on {address}")]
    Bind {
        /// Where it should have listened.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Serves DNS until `shutdown`, then drops what is in flight.
///
/// Names of the zone fail (SERVFAIL) until Services and EndpointSlices have been listed once; a watch that breaks later
/// leaves the last known records in place. The addresses put on the loopback device stay there.
pub async fn run(
    client: Client,
    settings: DnsSettings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let zone = Zone::new(&settings.domain)?;
    address::ensure(&settings.bind).await?;
    let server = Server::bind(&settings.bind).await?;
    let own: Vec<IpAddr> = settings.bind.iter().map(SocketAddr::ip).collect();
    let records = Arc::new(RwLock::new(Records::new(zone.clone(), &own)));
    let upstream = Upstream::new(settings.upstreams, own);
    let resolver = Arc::new(Resolver::new(Arc::clone(&records), upstream));
    tracing::info!(bind = ?settings.bind, domain = settings.domain, "serving DNS");
    tokio::join!(
        watch::run(client, &zone, &records, shutdown.clone()),
        server.run(resolver, shutdown),
    );
    Ok(())
}
