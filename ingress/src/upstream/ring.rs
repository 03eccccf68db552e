//! Consistent hashing: which endpoints a key belongs to, the same in every gateway and changing little when one comes or
//! goes (ketama, as nginx's `hash ... consistent`).
//!
//! Each endpoint has points on a ring of hashes; a key belongs to the endpoint of the next point, and to those after it
//! when that one is out.

use std::net::{IpAddr, SocketAddr};

use xxhash_rust::xxh64::Xxh64;

/// Points of each endpoint. Their shares then differ by about eight percent (one by the root of it).
const POINTS: u32 = 160;

/// The points of all endpoints in order.
#[derive(Debug)]
pub(crate) struct Ring {
    points: Box<[Point]>,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    hash: u64,
    /// Where in the list the endpoint is.
    place: u32,
}

impl Ring {
    /// The ring of `addresses`.
    pub(crate) fn new(addresses: impl Iterator<Item = SocketAddr>) -> Self {
        let places = (0..).zip(addresses);
        let points = places.flat_map(|(place, address)| {
            (0..POINTS).map(move |number| Point {
                hash: hash(address, number),
                place,
            })
        });
        let mut points: Box<[Point]> = points.collect();
        points.sort_unstable_by_key(|point| point.hash);
        Self { points }
    }

    /// The places of the endpoints that `key` belongs to, the best one first; they repeat.
    pub(crate) fn places(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.points.partition_point(|point| point.hash < key);
        let (before, after) = self.points.split_at(start);
        let points = after.iter().chain(before);
        points.map(|point| point.place as usize)
    }
}

/// The hash of a point. It depends on nothing but the address, or gateways would not agree.
fn hash(address: SocketAddr, number: u32) -> u64 {
    let mut hasher = Xxh64::new(u64::from(number));
    match address.ip() {
        IpAddr::V4(ip) => hasher.update(&ip.octets()),
        IpAddr::V6(ip) => hasher.update(&ip.octets()),
    }
    hasher.update(&address.port().to_be_bytes());
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(ports: impl IntoIterator<Item = u16>) -> Vec<SocketAddr> {
        let ports = ports.into_iter();
        ports
            .map(|port| SocketAddr::from(([10, 0, 0, 1], port)))
            .collect()
    }

    /// Keys that are spread like hashes.
    fn key(number: u64) -> u64 {
        Xxh64::new(number).digest()
    }

    fn owner(addresses: &[SocketAddr], key: u64) -> Option<SocketAddr> {
        let ring = Ring::new(addresses.iter().copied());
        ring.places(key).next().map(|place| addresses[place])
    }

    #[test]
    fn shares_are_about_equal() {
        let ring = Ring::new(addresses(1..=10).into_iter());
        let mut shares = [0; 10];
        for number in 0..100_000 {
            shares[ring.places(key(number)).next().unwrap_or_default()] += 1;
        }
        assert!(
            shares.iter().all(|share| (7_000..13_000).contains(share)),
            "{shares:?}"
        );
    }

    #[test]
    fn nobody_has_a_key_where_there_is_nobody() {
        assert_eq!(owner(&[], 1), None);
    }

    proptest! {
        #[test]
        fn only_the_keys_of_those_that_go_move(
            ports in proptest::collection::hash_set(any::<u16>(), 2..20),
            number in any::<u64>(),
        ) {
            let all = addresses(ports);
            let before = owner(&all, key(number));
            for gone in &all {
                let left: Vec<_> = all.iter().copied().filter(|address| address != gone).collect();
                let after = owner(&left, key(number));
                prop_assert!(before == Some(*gone) || before == after);
            }
            // The order of the list does not matter.
            let reversed: Vec<_> = all.iter().rev().copied().collect();
            prop_assert_eq!(owner(&reversed, key(number)), before);
        }
    }
}
