//! Which of the node's addresses take NodePort traffic, and which stand for the node when a source is translated.
//! Pure: the addresses come from [`crate::devices`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use model::Family;

/// An address of one of this node's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address.
    pub ip: IpAddr,
    /// The index of its device.
    pub device: u32,
    /// Whether it is valid beyond its link and this host.
    pub global: bool,
}

/// The addresses that take NodePort traffic, as `--nodeport-addresses` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The node's primary address of each family, and those of loopback for the node's own processes.
    Primary,
    /// Every address of the node within one of these ranges.
    Ranges(Vec<IpNetwork>),
}

/// What the node's addresses are used for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeAddresses {
    /// All of them.
    pub own: BTreeSet<IpAddr>,
    /// Those that take NodePort traffic.
    pub node_port: BTreeSet<IpAddr>,
    /// The primary address of each family, in the order of [`Family::ALL`].
    pub primary: [Option<IpAddr>; 2],
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "primary" || text.is_empty() {
            return Ok(Self::Primary);
        }
        let range = |part: &str| {
            model::parse::range(part).ok_or_else(|| format!("{part:?} is not an address range"))
        };
        text.split(',')
            .map(range)
            .collect::<Result<_, _>>()
            .map(Self::Ranges)
    }
}

/// Sorts out the node's `local` addresses. The primary ones are those that the Node object gives (`internal`), as far as
/// they are here; else the first global ones of the `uplinks`.
pub fn node_addresses(
    wanted: &NodePortAddresses,
    local: &[LocalAddress],
    uplinks: &BTreeSet<u32>,
    internal: &[IpAddr],
) -> NodeAddresses {
    let primary = Family::ALL.map(|family| primary(family, local, uplinks, internal));
    let node_port = match wanted {
        NodePortAddresses::Primary => primary
            .iter()
            .flatten()
            .copied()
            .chain(loopback(local))
            .collect(),
        NodePortAddresses::Ranges(ranges) => within(ranges, local).collect(),
    };
    NodeAddresses {
        own: local.iter().map(|address| address.ip).collect(),
        node_port,
        primary,
    }
}

fn primary(
    family: Family,
    local: &[LocalAddress],
    uplinks: &BTreeSet<u32>,
    internal: &[IpAddr],
) -> Option<IpAddr> {
    let mut named = internal.iter().filter(|ip| family.has(**ip));
    let mut usable = local
        .iter()
        .filter(|address| family.has(address.ip) && address.global);
    let is_here = |ip: &IpAddr| local.iter().any(|address| address.ip == *ip);
    let first = || {
        usable
            .find(|address| uplinks.contains(&address.device))
            .map(|address| address.ip)
    };
    named.find(|ip| is_here(ip)).copied().or_else(first)
}

fn loopback(local: &[LocalAddress]) -> impl Iterator<Item = IpAddr> {
    local
        .iter()
        .map(|address| address.ip)
        .filter(IpAddr::is_loopback)
}

fn within(ranges: &[IpNetwork], local: &[LocalAddress]) -> impl Iterator<Item = IpAddr> {
    let addresses = local.iter().map(|address| address.ip);
    addresses.filter(|ip| ranges.iter().any(|range| range.contains(*ip)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLINK: u32 = 2;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("tests name addresses")
    }

    fn local() -> Vec<LocalAddress> {
        let row = |text, device, global| LocalAddress {
            ip: ip(text),
            device,
            global,
        };
        vec![
            row("127.0.0.1", 1, false),
            row("192.168.0.7", UPLINK, true),
            row("192.168.0.8", UPLINK, true),
            row("fe80::1", UPLINK, false),
            row("2001:db8::7", UPLINK, true),
            row("10.1.0.1", 3, true),
        ]
    }

    #[track_caller]
    fn check(wanted: &str, internal: &[&str], node_port: &[&str]) {
        let wanted = wanted.parse().expect("tests name addresses");
        let internal: Vec<IpAddr> = internal.iter().map(|text| ip(text)).collect();
        let addresses = node_addresses(&wanted, &local(), &BTreeSet::from([UPLINK]), &internal);
        let found: Vec<IpAddr> = addresses.node_port.into_iter().collect();
        assert_eq!(
            found,
            node_port.iter().map(|text| ip(text)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn by_default_the_first_global_address_of_an_uplink_takes_node_ports_and_so_does_loopback() {
        check("primary", &[], &["127.0.0.1", "192.168.0.7", "2001:db8::7"]);
    }

    #[test]
    fn addresses_of_the_node_object_are_preferred_when_they_are_here() {
        check(
            "primary",
            &["10.1.0.1"],
            &["10.1.0.1", "127.0.0.1", "2001:db8::7"],
        );
        let both = ["192.168.0.8", "2001:db8::7"];
        check(
            "primary",
            &both,
            &["127.0.0.1", "192.168.0.8", "2001:db8::7"],
        );
        check(
            "primary",
            &["172.16.0.1"],
            &["127.0.0.1", "192.168.0.7", "2001:db8::7"],
        );
    }

    #[test]
    fn ranges_take_every_address_within() {
        check(
            "192.168.0.0/16,10.0.0.0/8",
            &[],
            &["10.1.0.1", "192.168.0.7", "192.168.0.8"],
        );
        check("127.0.0.0/8", &[], &["127.0.0.1"]);
        check("172.16.0.0/12", &[], &[]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!("192.168.0.0".parse::<NodePortAddresses>().is_err());
    }
}
