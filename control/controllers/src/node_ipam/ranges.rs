//! A cluster CIDR cut into equal ranges, of which some are taken. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::error::Error;

/// The ranges of one cluster CIDR.
#[derive(Debug)]
pub(super) struct Ranges {
    cidr: IpNetwork,
    mask: u8,
    taken: BTreeSet<u64>,
    /// Where to look first: a range given back is not handed out again at once.
    next: u64,
}

impl Ranges {
    /// Cuts the CIDR into ranges of this prefix length.
    pub(super) fn new(cidr: IpNetwork, mask: u8) -> Result<Self, Error> {
        let longest = if cidr.is_ipv4() { 32 } else { 128 };
        if mask < cidr.prefix() || mask > longest || mask - cidr.prefix() > 32 {
            return Err(Error::NodeMask { cidr, mask });
        }
        Ok(Self {
            cidr,
            mask,
            taken: BTreeSet::new(),
            next: 0,
        })
    }

    fn count(&self) -> u64 {
        1 << (self.mask - self.cidr.prefix())
    }

    /// How far apart neighbouring ranges are, as power of two.
    fn shift(&self) -> u32 {
        let longest = if self.cidr.is_ipv4() { 32 } else { 128 };
        longest - u32::from(self.mask)
    }

    /// Whether the range is of this CIDR's family.
    pub(super) fn same_family(&self, range: &IpNetwork) -> bool {
        range.is_ipv4() == self.cidr.is_ipv4()
    }

    /// Takes the next free range.
    pub(super) fn allocate(&mut self) -> Result<IpNetwork, Error> {
        let count = self.count();
        if self.taken.len() as u64 >= count {
            return Err(Error::RangesExhausted(self.cidr));
        }
        let free = (0..count)
            .map(|step| (self.next + step) % count)
            .find(|index| !self.taken.contains(index));
        let index = free.ok_or(Error::RangesExhausted(self.cidr))?;
        self.taken.insert(index);
        self.next = (index + 1) % count;
        Ok(self.range(index))
    }

    /// Notes a range as taken, and every one of ours that it overlaps. What lies outside is nothing to us.
    pub(super) fn occupy(&mut self, range: &IpNetwork) {
        let indices = self.indices(range);
        self.taken.extend(indices);
    }

    /// Gives a range back.
    pub(super) fn release(&mut self, range: &IpNetwork) {
        for index in self.indices(range) {
            self.taken.remove(&index);
        }
    }

    fn range(&self, index: u64) -> IpNetwork {
        let offset = u128::from(index).checked_shl(self.shift()).unwrap_or(0);
        let address: IpAddr = match self.cidr.network() {
            IpAddr::V4(base) => {
                Ipv4Addr::from(u32::from(base) | u32::try_from(offset).expect("within the CIDR"))
                    .into()
            }
            IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) | offset).into(),
        };
        IpNetwork::new(address, self.mask).expect("the mask was checked at construction")
    }

    /// The numbers of our ranges that overlap this one.
    fn indices(&self, range: &IpNetwork) -> std::ops::Range<u64> {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let overlaps = self.same_family(range)
            && (self.cidr.contains(range.network()) || range.contains(self.cidr.network()));
        if !overlaps {
            return 0..0;
        }
        let base = number(self.cidr.network());
        let index = |address: IpAddr| {
            let offset = number(address).saturating_sub(base);
            u64::try_from(offset.checked_shr(self.shift()).unwrap_or(0)).unwrap_or(u64::MAX)
        };
        let last = index(range.broadcast()).min(self.count() - 1);
        index(range.network())..last + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(cidr: &str, mask: u8) -> Ranges {
        Ranges::new(cidr.parse().expect("a CIDR"), mask).expect("it fits")
    }

    fn take(ranges: &mut Ranges) -> Option<String> {
        ranges.allocate().ok().map(|range| range.to_string())
    }

    #[test]
    fn ranges_are_handed_out_in_order_until_none_is_left() {
        let mut four = ranges("10.244.0.0/22", 24);
        let got: Vec<_> = std::iter::from_fn(|| take(&mut four)).collect();
        assert_eq!(
            got,
            [
                "10.244.0.0/24",
                "10.244.1.0/24",
                "10.244.2.0/24",
                "10.244.3.0/24"
            ]
        );
        four.release(&"10.244.1.0/24".parse().expect("a CIDR"));
        assert_eq!(take(&mut four).as_deref(), Some("10.244.1.0/24"));
        assert_eq!(take(&mut four), None);
    }

    #[test]
    fn both_families_work() {
        let mut six = ranges("fd00:10:244::/48", 64);
        assert_eq!(take(&mut six).as_deref(), Some("fd00:10:244::/64"));
        assert_eq!(take(&mut six).as_deref(), Some("fd00:10:244:1::/64"));
        let mut whole = ranges("::/0", 32);
        assert_eq!(take(&mut whole).as_deref(), Some("::/32"));
        assert_eq!(
            take(&mut ranges("0.0.0.0/0", 0)).as_deref(),
            Some("0.0.0.0/0")
        );
    }

    #[test]
    fn occupied_ranges_are_skipped_whatever_their_size() {
        let mut four = ranges("10.244.0.0/22", 24);
        four.occupy(&"10.244.0.0/23".parse().expect("a CIDR"));
        four.occupy(&"10.244.2.128/25".parse().expect("a CIDR"));
        four.occupy(&"192.168.0.0/24".parse().expect("a CIDR"));
        four.occupy(&"fd00::/64".parse().expect("a CIDR"));
        assert_eq!(take(&mut four).as_deref(), Some("10.244.3.0/24"));
        assert_eq!(take(&mut four), None);
        let mut covered = ranges("10.244.0.0/22", 24);
        covered.occupy(&"10.0.0.0/8".parse().expect("a CIDR"));
        assert_eq!(take(&mut covered), None);
    }

    #[test]
    fn masks_that_do_not_fit_are_refused() {
        for (cidr, mask) in [
            ("10.244.0.0/16", 12),
            ("10.244.0.0/16", 33),
            ("fd00::/16", 64),
        ] {
            assert!(
                Ranges::new(cidr.parse().expect("a CIDR"), mask).is_err(),
                "{cidr} {mask}"
            );
        }
    }
}
