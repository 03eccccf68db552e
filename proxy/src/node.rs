//! What the programs know about the node they run on: its addresses, its network namespace, its ports.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use dataplane_ebpf::abi::{Node, NodeAddress};
use dataplane_ebpf::addr::Addr;
use model::Algorithm;

use crate::addresses::{NodeAddresses, NodePortAddresses};
use crate::maps::{Error, Maps};
use crate::sys;

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of this node.
    pub node_name: String,
    /// Where NodePorts answer.
    pub node_port_addresses: NodePortAddresses,
    /// The algorithm for Services that ask for none.
    pub algorithm: Algorithm,
    /// The ports for translated sources.
    pub masquerade_ports: (u16, u16),
    /// The cookie of this network namespace.
    pub netns_cookie: u64,
}

/// Writes what the programs know about the node, as far as it differs. New addresses come before old ones go.
pub(crate) fn write(
    settings: &Settings,
    addresses: &NodeAddresses,
    maps: &mut impl Maps,
) -> Result<(), Error> {
    let old = maps.node()?;
    let new = node(settings, addresses, old.seed);
    if new != old {
        maps.write_node(new)?;
    }
    let installed: BTreeMap<IpAddr, NodeAddress> = maps.node_addresses()?.into_iter().collect();
    for address in &addresses.node_port {
        let flags = if address.is_loopback() {
            NodeAddress::LOOPBACK
        } else {
            0
        };
        let value = NodeAddress { flags };
        if installed.get(address) != Some(&value) {
            maps.insert_node_address(*address, value)?;
        }
    }
    for address in installed
        .keys()
        .filter(|address| !addresses.node_port.contains(address))
    {
        maps.remove_node_address(*address)?;
    }
    Ok(())
}

/// The seed is drawn once and then kept, so that flows without a connection entry keep their backend.
fn node(settings: &Settings, addresses: &NodeAddresses, seed: u32) -> Node {
    let source = |address: Option<IpAddr>| address.map_or(Addr::UNSPECIFIED, Addr::from);
    let [v4, v6] = addresses.primary;
    Node {
        source_v4: source(v4),
        source_v6: source(v6),
        netns_cookie: settings.netns_cookie,
        seed: if seed == 0 { random_seed() } else { seed },
        first_port: settings.masquerade_ports.0,
        last_port: settings.masquerade_ports.1,
        ..Node::default()
    }
}

/// A number that differs from daemon to daemon: the standard library seeds its hash maps at random.
fn random_seed() -> u32 {
    let hash = RandomState::new().hash_one(0u8);
    u32::try_from(hash & u64::from(u32::MAX))
        .unwrap_or(1)
        .max(1)
}

/// The cookie of the network namespace that the calling thread is in.
pub fn netns_cookie() -> io::Result<u64> {
    sys::netns_cookie(&UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?)
}
