//! Pod addresses: which are taken, and which comes next. No I/O.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// No address is left in a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to allocate for range {0}: no IP addresses available in range")]
pub(crate) struct Exhausted(pub(crate) IpNetwork);

/// The node's pod ranges, one per family.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    pools: Vec<Pool>,
}

impl Pools {
    /// Nothing is taken yet in these ranges.
    pub(crate) fn new(ranges: &[IpNetwork]) -> Self {
        Self {
            pools: ranges
                .iter()
                .map(|&range| Pool {
                    range,
                    taken: BTreeSet::new(),
                    last: 1,
                })
                .collect(),
        }
    }

    /// Takes an address from every range; none is taken if any range has none.
    pub(crate) fn take(&mut self) -> Result<Vec<IpAddr>, Exhausted> {
        let mut addresses = Vec::with_capacity(self.pools.len());
        for pool in &mut self.pools {
            match pool.take() {
                Some(address) => addresses.push(address),
                None => {
                    let range = pool.range;
                    self.give_back(&addresses);
                    return Err(Exhausted(range));
                }
            }
        }
        Ok(addresses)
    }

    /// Notes that a pod of an earlier agent has these addresses.
    pub(crate) fn reserve(&mut self, addresses: &[IpAddr]) {
        self.each(addresses, |pool, address| {
            pool.taken.insert(address);
        });
    }

    /// Makes addresses free again.
    pub(crate) fn give_back(&mut self, addresses: &[IpAddr]) {
        self.each(addresses, |pool, address| {
            pool.taken.remove(&address);
        });
    }

    fn each(&mut self, addresses: &[IpAddr], mut change: impl FnMut(&mut Pool, IpAddr)) {
        for &address in addresses {
            if let Some(pool) = self
                .pools
                .iter_mut()
                .find(|pool| pool.range.contains(address))
            {
                change(pool, address);
            }
        }
    }
}

#[derive(Debug)]
struct Pool {
    range: IpNetwork,
    taken: BTreeSet<IpAddr>,
    /// Offset of the address given last: the next search starts behind it, so that an address rests before it is
    /// given again, while others may still believe it to be the old pod's.
    last: u128,
}

impl Pool {
    fn take(&mut self) -> Option<IpAddr> {
        // The network's own address, a gateway's by habit, and IPv4's broadcast stay free.
        let size = match self.range {
            IpNetwork::V4(range) => 1u128 << (32 - range.prefix()),
            IpNetwork::V6(range) => 1u128
                .checked_shl(u32::from(128 - range.prefix()))
                .unwrap_or(u128::MAX),
        };
        let end = if self.range.is_ipv4() {
            size.saturating_sub(1)
        } else {
            size
        };
        if end <= 2 {
            return None;
        }
        // One more try than there are addresses taken finds a free one, if there is one.
        let tries = (self.taken.len() as u128 + 1).min(end - 2);
        for _ in 0..=tries {
            self.last = if self.last + 1 >= end {
                2
            } else {
                self.last + 1
            };
            let address = self.at(self.last);
            if self.taken.insert(address) {
                return Some(address);
            }
        }
        None
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.range {
            IpNetwork::V4(range) => {
                // An offset within an IPv4 range has at most 32 bits.
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                Ipv4Addr::from_bits(range.network().to_bits().wrapping_add(offset)).into()
            }
            IpNetwork::V6(range) => {
                Ipv6Addr::from_bits(range.network().to_bits().wrapping_add(offset)).into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

    use super::*;

    fn pools(ranges: &[&str]) -> Pools {
        Pools::new(
            &ranges
                .iter()
                .map(|range| range.parse().unwrap())
                .collect::<Vec<_>>(),
        )
    }

    fn take(pools: &mut Pools) -> String {
        match pools.take() {
            Ok(addresses) => addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_pod_gets_an_address_of_every_family() {
        let mut pools = pools(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
        assert_eq!(take(&mut pools), "10.244.1.2 fd00:10:244:1::2");
        assert_eq!(take(&mut pools), "10.244.1.3 fd00:10:244:1::3");
    }

    #[test]
    fn addresses_rest_before_they_are_given_again() {
        let mut pools = pools(&["10.0.0.0/29"]);
        pools.reserve(&["10.0.0.3".parse().unwrap(), "192.168.0.1".parse().unwrap()]);
        assert_eq!(take(&mut pools), "10.0.0.2");
        pools.give_back(&["10.0.0.2".parse().unwrap()]);
        assert_eq!(take(&mut pools), "10.0.0.4");
        assert_eq!(take(&mut pools), "10.0.0.5");
        assert_eq!(take(&mut pools), "10.0.0.6");
        assert_eq!(take(&mut pools), "10.0.0.2");
        assert_eq!(
            take(&mut pools),
            "failed to allocate for range 10.0.0.0/29: no IP addresses available in range"
        );
        pools.give_back(&["10.0.0.5".parse().unwrap()]);
        assert_eq!(take(&mut pools), "10.0.0.5");
    }

    #[test]
    fn a_failure_takes_nothing() {
        let mut pools = pools(&["10.0.0.0/24", "10.1.0.0/31"]);
        assert!(pools.take().is_err());
        assert_eq!(pools.pools[0].taken.len(), 0);
    }
}
