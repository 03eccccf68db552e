//! Cluster addresses: one pool per family. The lowest part of a range is left to those who ask for an address by name, until
//! the rest is used up.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use rand::Rng as _;

/// How many random picks are tried before the range is searched.
const PICKS: usize = 32;
/// Larger ranges are used up to here.
const MAX_SIZE: u64 = 1 << 20;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// An address cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("provided IP is already allocated")]
    Taken,
    #[error("the provided IP ({0}) is not in the valid range. The range of valid IPs is {1}")]
    OutOfRange(IpAddr, String),
    #[error("range is full")]
    Full,
    #[error("this cluster has no {0} service range")]
    NoRange(&'static str),
}

/// All pools, the first one's family being the default.
#[derive(Debug)]
pub(crate) struct Addresses {
    pools: Vec<Pool>,
}

#[derive(Debug)]
struct Pool {
    network: IpNetwork,
    /// Offsets 1 to this one may be handed out.
    last: u64,
    /// Offsets up to this one are left to those who ask.
    reserved: u64,
    taken: HashSet<u64>,
}

impl Addresses {
    pub(crate) fn new(networks: &[IpNetwork]) -> Self {
        Self {
            pools: networks.iter().map(|network| Pool::new(*network)).collect(),
        }
    }

    /// The families there are ranges for, the default first.
    pub(crate) fn families(&self) -> Vec<Family> {
        self.pools.iter().map(Pool::family).collect()
    }

    /// The first address of the first range, which is the API server's own.
    pub(crate) fn first(&self) -> Option<IpAddr> {
        self.pools.first().map(|pool| pool.at(1))
    }

    /// The ranges.
    pub(crate) fn networks(&self) -> Vec<IpNetwork> {
        self.pools.iter().map(|pool| pool.network).collect()
    }

    /// Takes any free address of a family.
    pub(crate) fn take(&mut self, family: Family) -> Result<IpAddr, AddressError> {
        let pool = self.pools.iter_mut().find(|pool| pool.family() == family);
        pool.ok_or(AddressError::NoRange(family.name()))?.take()
    }

    /// Takes the address asked for.
    pub(crate) fn take_this(&mut self, address: IpAddr) -> Result<(), AddressError> {
        let family = Family::of(address);
        let pool = self.pools.iter_mut().find(|pool| pool.family() == family);
        pool.ok_or(AddressError::NoRange(family.name()))?
            .take_this(address)
    }

    pub(crate) fn release(&mut self, address: IpAddr) {
        for pool in &mut self.pools {
            if let Some(offset) = pool.offset(address) {
                pool.taken.remove(&offset);
            }
        }
    }
}

impl Pool {
    fn new(network: IpNetwork) -> Self {
        let (bits, width) = match network {
            IpNetwork::V4(network) => (network.prefix(), 32),
            IpNetwork::V6(network) => (network.prefix(), 128),
        };
        let size = 1u64
            .checked_shl(u32::from(width - bits))
            .unwrap_or(MAX_SIZE)
            .min(MAX_SIZE);
        // The network's own address is never used, nor is the broadcast address of IPv4.
        let last = if network.is_ipv4() {
            size.saturating_sub(2)
        } else {
            size.saturating_sub(1)
        };
        let reserved = (last / 16).clamp(16, 256);
        let reserved = if reserved >= last { 0 } else { reserved };
        Self {
            network,
            last,
            reserved,
            taken: HashSet::new(),
        }
    }

    fn family(&self) -> Family {
        Family::of(self.network.network())
    }

    fn at(&self, offset: u64) -> IpAddr {
        match self.network.network() {
            IpAddr::V4(base) => {
                let offset =
                    u32::try_from(offset).expect("an offset is below the size of the range");
                IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() + offset))
            }
            IpAddr::V6(base) => {
                IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() + u128::from(offset)))
            }
        }
    }

    fn offset(&self, address: IpAddr) -> Option<u64> {
        if !self.network.contains(address) {
            return None;
        }
        let offset = match (address, self.network.network()) {
            (IpAddr::V4(address), IpAddr::V4(base)) => {
                u64::from(address.to_bits() - base.to_bits())
            }
            (IpAddr::V6(address), IpAddr::V6(base)) => {
                u64::try_from(address.to_bits() - base.to_bits()).ok()?
            }
            _ => return None,
        };
        (1..=self.last).contains(&offset).then_some(offset)
    }

    fn take(&mut self) -> Result<IpAddr, AddressError> {
        let mut random = rand::rng();
        let picks = (0..PICKS)
            .map(|_| random.random_range(self.reserved + 1..=self.last.max(self.reserved + 1)));
        let upper = self.reserved + 1..=self.last;
        let free = picks
            .chain(upper)
            .chain(1..=self.reserved)
            .find(|offset| !self.taken.contains(offset));
        let offset = free
            .filter(|offset| *offset <= self.last)
            .ok_or(AddressError::Full)?;
        self.taken.insert(offset);
        Ok(self.at(offset))
    }

    fn take_this(&mut self, address: IpAddr) -> Result<(), AddressError> {
        let offset = self.offset(address);
        let offset =
            offset.ok_or_else(|| AddressError::OutOfRange(address, self.network.to_string()))?;
        if self.taken.insert(offset) {
            Ok(())
        } else {
            Err(AddressError::Taken)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(network: &str) -> Addresses {
        Addresses::new(&[network.parse().expect("a network")])
    }

    #[test]
    fn every_address_is_handed_out_once_and_the_low_ones_last() {
        let mut addresses = pool("10.0.0.0/26");
        let all: Vec<IpAddr> = std::iter::from_fn(|| addresses.take(Family::V4).ok()).collect();
        assert_eq!(all.len(), 62);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 62);
        let low = |address: &IpAddr| *address <= "10.0.0.16".parse::<IpAddr>().expect("an address");
        assert!(all[..46].iter().all(|address| !low(address)));
        assert!(all[46..].iter().all(low));
    }

    #[test]
    fn an_address_asked_for_is_taken_until_it_is_released() {
        let mut addresses = pool("fd00::/112");
        let address = "fd00::5".parse().expect("an address");
        assert_eq!(addresses.take_this(address), Ok(()));
        assert_eq!(addresses.take_this(address), Err(AddressError::Taken));
        addresses.release(address);
        assert_eq!(addresses.take_this(address), Ok(()));
    }

    #[test]
    fn an_address_outside_of_the_range_is_refused() {
        let refused = pool("10.0.0.0/24").take_this("10.0.1.1".parse().expect("an address"));
        assert!(
            matches!(refused, Err(AddressError::OutOfRange(..))),
            "{refused:?}"
        );
    }
}
