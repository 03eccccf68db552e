//! Sets of address ranges, made for one question: is this client in it?
//!
//! Lists in annotations run to hundreds of entries, and the question is asked with every request. So ranges are kept
//! sorted and merged, and a question is a binary search. IPv4 addresses count as their IPv4-mapped IPv6 form.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// A set of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    /// First and last address of each range: sorted, without overlaps.
    ranges: Box<[(u128, u128)]>,
}

impl Ranges {
    /// Whether `address` is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = number(address);
        let after = self.ranges.partition_point(|(first, _)| *first <= address);
        let before = after.checked_sub(1).map(|at| self.ranges[at]);
        before.is_some_and(|(_, last)| address <= last)
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromIterator<IpNetwork> for Ranges {
    fn from_iter<I: IntoIterator<Item = IpNetwork>>(networks: I) -> Self {
        let mut ranges: Vec<(u128, u128)> = networks.into_iter().map(bounds).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, range| {
            let overlaps = next.0 <= range.1;
            if overlaps {
                range.1 = range.1.max(next.1);
            }
            overlaps
        });
        Self {
            ranges: ranges.into(),
        }
    }
}

fn bounds(network: IpNetwork) -> (u128, u128) {
    let first = number(network.network());
    match network {
        IpNetwork::V4(network) => (first, number(network.broadcast().into())),
        IpNetwork::V6(network) => (first, number(network.broadcast().into())),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_hold_what_their_networks_hold() {
        let set: Ranges = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32", "fd00::/8"]
            .map(|text| text.parse().unwrap())
            .into_iter()
            .collect();
        for (address, expected) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("::ffff:192.0.2.1", true),
            ("fdff::1", true),
            ("fc00::1", false),
            ("::1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(set.contains(address), expected, "{address}");
        }
        assert!(!Ranges::default().contains([10, 0, 0, 1].into()));
    }

    #[test]
    fn the_whole_of_a_family_is_a_range() {
        let all4: Ranges = ["0.0.0.0/0".parse().unwrap()].into_iter().collect();
        assert!(all4.contains([255, 255, 255, 255].into()));
        assert!(!all4.contains("2001:db8::1".parse().unwrap()));
        let all6: Ranges = ["::/0".parse().unwrap()].into_iter().collect();
        assert!(all6.contains("ffff::1".parse().unwrap()));
    }

    /// Networks and addresses close to each other, so that they meet.
    fn network() -> impl Strategy<Value = IpNetwork> {
        let v4 = (0u32..64, 26u8..=32).prop_map(|(host, prefix)| {
            IpNetwork::new(Ipv4Addr::from_bits(0x0a00_0000 | host).into(), prefix).unwrap()
        });
        let v6 = (0u128..64, 122u8..=128).prop_map(|(host, prefix)| {
            IpNetwork::new(Ipv6Addr::from_bits(host).into(), prefix).unwrap()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn a_set_holds_what_any_of_its_networks_holds(networks in proptest::collection::vec(network(), 0..8)) {
            let set: Ranges = networks.iter().copied().collect();
            let v4 = (0..80).map(|host| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 | host)));
            let v6 = (0..80).map(|host| IpAddr::from(Ipv6Addr::from_bits(host)));
            for address in v4.chain(v6) {
                let expected = networks.iter().any(|network| network.contains(address));
                prop_assert_eq!(set.contains(address), expected, "{}", address);
            }
        }
    }
}
