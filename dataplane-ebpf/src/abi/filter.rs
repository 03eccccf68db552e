//! Which addresses may be ours at all.

use super::maps;
use crate::addr::Addr;
use crate::flow;

/// Where `ADDRESS_FILTER` keeps the slot of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterPlace {
    /// The entry.
    pub entry: u32,
    /// The byte in it.
    pub byte: u32,
}

impl FilterPlace {
    /// The slot of `address`.
    #[inline(always)]
    pub const fn of(address: Addr) -> Self {
        const SLOTS: u32 = maps::ADDRESS_FILTER_SIZE * 8;
        let words = address.words();
        let high = (words[0] as u64) << 32 | words[1] as u64;
        let low = (words[2] as u64) << 32 | words[3] as u64;
        // Addresses are close to one another, so one multiplication would leave them in rows.
        let mut hash =
            (high.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let slot = flow::index((hash >> 32) as u32, SLOTS);
        Self {
            entry: slot / 8,
            byte: slot % 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_addresses_have_slots_of_their_own() {
        let ranges: [fn(u32) -> core::net::IpAddr; 3] = [
            |i| core::net::Ipv4Addr::from_bits(0x0a60_0000 + i).into(),
            |i| core::net::Ipv6Addr::from_bits(0xfd00_0010_0096 << 80 | u128::from(i)).into(),
            |i| core::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(i) << 64 | 1).into(),
        ];
        for range in ranges {
            let places = (0..10_000).map(|i| FilterPlace::of(range(i).into()));
            let places: std::collections::BTreeSet<_> =
                places.map(|place| (place.entry, place.byte)).collect();
            assert!(places.len() > 9_900, "{}", places.len());
        }
    }
}
