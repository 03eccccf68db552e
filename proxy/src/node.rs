//! What the programs know about the node they run on: its addresses, its network namespace, its ports.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use dataplane_ebpf::abi::{Node, NodeAddress, Prefix};
use dataplane_ebpf::addr::Addr;
use ipnetwork::IpNetwork;
use model::Algorithm;
use tracing::warn;

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

/// The ranges that cluster addresses are from, as far as there is room for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceCidrs(Vec<IpNetwork>);

impl ServiceCidrs {
    /// Those of `ranges` that lie in no other one. What does not fit is left out: unknown addresses in it are left alone.
    pub(crate) fn new(ranges: &BTreeSet<IpNetwork>) -> Self {
        let is_part = |of: &IpNetwork, range: &IpNetwork| {
            of != range && of.prefix() <= range.prefix() && of.contains(range.ip())
        };
        let whole = |range: &&IpNetwork| !ranges.iter().any(|other| is_part(other, range));
        let mut kept: Vec<IpNetwork> = ranges.iter().filter(whole).copied().collect();
        let room = Node::default().service_cidrs.len();
        if kept.len() > room {
            let left_out = kept.split_off(room);
            warn!(?left_out, "more ServiceCIDRs than there is room for");
        }
        Self(kept)
    }
}

fn prefix(range: IpNetwork) -> Prefix {
    let mask = match range.mask() {
        // The mapped form's own bits count too.
        IpAddr::V4(mask) => mask.to_ipv6_mapped().to_bits() | (u128::MAX << 32),
        IpAddr::V6(mask) => mask.to_bits(),
    };
    Prefix {
        address: range.network().into(),
        mask: Ipv6Addr::from_bits(mask).into(),
    }
}

/// Writes what the programs know about the node, as far as it differs. New addresses come before old ones go.
pub(crate) fn write(
    settings: &Settings,
    addresses: &NodeAddresses,
    service_cidrs: Option<&ServiceCidrs>,
    maps: &mut impl Maps,
) -> Result<(), Error> {
    let old = maps.node()?;
    let new = node(settings, addresses, service_cidrs, &old);
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

/// The seed is drawn once and then kept, so that flows without a connection entry keep their backend. What is the business
/// of others, and ServiceCIDRs as long as they are not given, stay as they are.
fn node(
    settings: &Settings,
    addresses: &NodeAddresses,
    service_cidrs: Option<&ServiceCidrs>,
    old: &Node,
) -> Node {
    let seed = old.seed;
    let mut new = Node {
        migration_end: old.migration_end,
        flags: old.flags,
        service_cidr_count: old.service_cidr_count,
        service_cidrs: old.service_cidrs,
        ..Node::default()
    };
    if let Some(cidrs) = service_cidrs {
        new.service_cidrs = [Prefix::default(); 4];
        new.service_cidr_count = 0;
        for (place, cidr) in new.service_cidrs.iter_mut().zip(&cidrs.0) {
            *place = prefix(*cidr);
            new.service_cidr_count += 1;
        }
    }
    let source = |address: Option<IpAddr>| address.map_or(Addr::UNSPECIFIED, Addr::from);
    let [v4, v6] = addresses.primary;
    Node {
        source_v4: source(v4),
        source_v6: source(v6),
        netns_cookie: settings.netns_cookie,
        seed: if seed == 0 { random_seed() } else { seed },
        first_port: settings.masquerade_ports.0,
        last_port: settings.masquerade_ports.1,
        ..new
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> ServiceCidrs {
        let ranges = texts.iter().map(|text| text.parse().expect("a range"));
        ServiceCidrs::new(&ranges.collect())
    }

    #[test]
    fn ranges_within_others_need_no_room_and_the_rest_is_left_out() {
        let kept = ranges(&["10.96.0.0/16", "10.96.3.0/24", "10.96.0.0/12", "fd00::/108"]);
        assert_eq!(kept, ranges(&["10.96.0.0/12", "fd00::/108"]));
        let many = ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"];
        let more = [&many[..], &["10.5.0.0/16"]].concat();
        assert_eq!(ranges(&more), ranges(&many));
    }

    #[test]
    fn a_prefix_holds_what_its_range_does() {
        let holds = |range: &str, address: &str| {
            let address: IpAddr = address.parse().expect("an address");
            prefix(range.parse().expect("a range")).contains(address.into())
        };
        assert!(holds("10.96.0.0/12", "10.111.255.255"));
        assert!(!holds("10.96.0.0/12", "10.112.0.0"));
        assert!(!holds("0.0.0.0/0", "fd00::1"));
        assert!(holds("fd00:10:96::/112", "fd00:10:96::ffff"));
        assert!(!holds("fd00:10:96::/112", "fd00:10:97::1"));
    }
}
