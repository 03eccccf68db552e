//! The pod network: a routed veth pair per pod, and routes to the other nodes' pods.
//!
//! ```text
//! pod netns                          node netns
//! eth0 10.244.1.7/32  ── veth ──     pt1a2b3c4d5e6   route 10.244.1.7/32 dev pt1a2b3c4d5e6
//!   default via 169.254.1.1                          route 10.244.2.0/24 via <node-2>
//!   default via fe80::1                              unreachable 10.244.1.0/24
//! ```
//! There is no bridge and no ARP: both ends know each other's hardware address from the start, so the first packet
//! leaves at once, and a pod cannot pretend to be another on the link. A pod address that nobody has is unreachable
//! here, instead of leaving the node by its default route.
//!
//! A socket, a link and `/proc/sys/net` belong to the network namespace of the thread that touches them. The agent's
//! threads never leave the node's namespace; what happens in a pod's namespace happens on a thread of its own.

mod ipam;
mod namespace;
mod pod;
mod routes;

use std::io;

use rtnetlink::Handle;

pub(crate) use ipam::{Exhausted, Pools};
pub(crate) use namespace::PodNamespaces;
pub(crate) use pod::PodLink;
pub(crate) use routes::{NodeRoute, Routes};

/// Our routes carry this protocol number, so that those of an earlier agent can be told from anyone else's.
const ROUTE_PROTOCOL: u8 = 112;

/// Why the pod network could not be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetError {
    /// A namespace, a sysctl or a file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The kernel refused a netlink request.
    #[error("{what}: {source}")]
    Netlink {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A link that should exist does not.
    #[error("there is no link {0}")]
    NoLink(String),
}

/// Names a netlink request that failed.
fn netlink(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> NetError {
    move |source| NetError::Netlink { what, source }
}

/// True if the kernel says that what was to be made exists already.
fn exists(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -libc::EEXIST)
}

/// The node's network namespace: the one this process is in.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    handle: Handle,
    /// MTU of pods' links.
    mtu: u32,
}

impl Node {
    /// Prepares the node's namespace: forwards packets, and learns the MTU of the link that has a node address.
    pub(crate) async fn open(addresses: &[std::net::IpAddr]) -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        for sysctl in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            namespace::set_sysctl(sysctl, "1")?;
        }
        let mtu = pod::mtu_of(&handle, addresses).await?;
        Ok(Self { handle, mtu })
    }
}
