//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): nodes that share nothing choose the same backend for a
//! packet, so it does not matter by which of them a client's packets come.
//!
//! The daemon builds a service's table here and publishes it as the service's run; the kernel only hashes a packet's
//! flow with [`SEED`] and takes the slot. Each backend has an order of its own in which it would like the slots, and
//! backends take turns at choosing: all get the same share, and when one leaves, few slots change but its own.

/// Seed of the hash that chooses a packet's slot. The same on all nodes, so it can never change.
pub const SEED: u32 = 0x6d61_676c;

#[cfg(not(target_arch = "bpf"))]
pub use table::{Size, size_for, table};

#[cfg(not(target_arch = "bpf"))]
mod table {
    use crate::addr::{Addr, Port};
    use crate::flow::{index, mix};
    use alloc::vec;
    use alloc::vec::Vec;

    /// How many slots a table has: a prime, so that every step below it visits all of them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Size(u32);

    impl Size {
        /// The number of slots.
        pub const fn slots(self) -> u32 {
            self.0
        }
    }

    /// The largest primes below powers of two.
    const SIZES: [u32; 10] = [
        251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071,
    ];

    /// The size of a table for so many backends.
    ///
    /// A hundred slots for each let their shares differ by one percent at most (the paper's section 5.3), up to 1310
    /// backends; beyond, tables grow no more. Tables of different sizes have nothing in common, so there are few sizes.
    pub fn size_for(backends: usize) -> Size {
        let enough = |size: &u32| *size as usize >= backends.saturating_mul(100);
        Size(SIZES.into_iter().find(enough).unwrap_or(131_071))
    }

    /// The table for `backends`: for each slot, a position in `backends`. Empty if there is none.
    ///
    /// Which backend a slot has does not depend on the order they are given in.
    pub fn table(backends: &[(Addr, Port)], size: Size) -> Vec<u32> {
        let mut turns: Vec<Turn> = (0..)
            .zip(backends)
            .map(|(position, backend)| Turn::new(position, *backend, size))
            .collect();
        if turns.is_empty() {
            return Vec::new();
        }
        turns.sort_unstable_by_key(|turn| turn.backend);
        let mut slots = vec![None; size.0 as usize];
        let mut free = size.0;
        for turn in (0..turns.len()).cycle() {
            if free == 0 {
                break;
            }
            turns[turn].take(&mut slots);
            free -= 1;
        }
        slots.into_iter().flatten().collect()
    }

    /// A backend and the order in which it would like the slots: from one on, in steps of the same length.
    struct Turn {
        backend: (Addr, Port),
        position: u32,
        next: usize,
        step: usize,
    }

    impl Turn {
        fn new(position: u32, backend: (Addr, Port), Size(size): Size) -> Self {
            Self {
                backend,
                position,
                next: index(hash(backend, 1), size) as usize,
                step: 1 + index(hash(backend, 2), size - 1) as usize,
            }
        }

        /// Takes the first of `slots` in its order that is free; there is one.
        fn take(&mut self, slots: &mut [Option<u32>]) {
            loop {
                let wanted = self.next;
                self.next = (wanted + self.step) % slots.len();
                if slots[wanted].is_none() {
                    slots[wanted] = Some(self.position);
                    return;
                }
            }
        }
    }

    fn hash((address, port): (Addr, Port), seed: u64) -> u32 {
        let hash = address.words().into_iter().fold(mix(seed, 0), mix);
        (mix(mix(hash, u32::from(port.word())), 0) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Addr, Port};
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::vec::Vec;

    fn v4(count: u32) -> Vec<(Addr, Port)> {
        (0..count)
            .map(|i| (Ipv4Addr::from_bits(0x0af4_0105 + i).into(), Port::new(8080)))
            .collect()
    }

    fn v6(count: u32) -> Vec<(Addr, Port)> {
        let base = u128::from_str_radix("fd000010024400010000000000000005", 16);
        let base = base.expect("a hexadecimal number");
        (0..count)
            .map(|i| {
                let address = Ipv6Addr::from_bits(base + u128::from(i));
                (address.into(), Port::new(8080))
            })
            .collect()
    }

    /// Many ports of one address.
    fn ports(count: u32) -> Vec<(Addr, Port)> {
        let address = Addr::from(Ipv4Addr::new(10, 244, 1, 5));
        (0..count)
            .map(|i| (address, Port::new(8000 + i as u16)))
            .collect()
    }

    type Set = fn(u32) -> Vec<(Addr, Port)>;

    const SETS: [Set; 3] = [v4, v6, ports];

    /// The backend of each slot.
    fn chosen(backends: &[(Addr, Port)], size: Size) -> Vec<(Addr, Port)> {
        let slots = table(backends, size).into_iter();
        slots.map(|slot| backends[slot as usize]).collect()
    }

    #[test]
    fn a_size_is_a_prime_with_a_hundred_slots_for_each_backend() {
        for count in [0, 1, 2, 3, 5, 6, 100, 655, 656, 1310] {
            let slots = size_for(count).slots();
            assert!(slots as usize >= 100 * count, "{slots} for {count}");
            assert!(
                (2..)
                    .take_while(|d| d * d <= slots)
                    .all(|d| !slots.is_multiple_of(d))
            );
        }
        assert_eq!(size_for(2).slots(), 251);
        assert_eq!(size_for(usize::MAX).slots(), 131_071);
    }

    #[test]
    fn every_backend_gets_its_share_within_one_percent() {
        for set in SETS {
            for count in [1, 2, 3, 5, 10, 37, 100, 1310] {
                let slots = table(&set(count), size_for(count as usize));
                let mut shares = std::vec![0u32; count as usize];
                for slot in &slots {
                    shares[*slot as usize] += 1;
                }
                let (least, most) = (shares.iter().min(), shares.iter().max());
                let (least, most) = (least.expect("some"), most.expect("some"));
                assert!(most - least <= 1 && *least >= 100, "{least} to {most}");
            }
        }
    }

    #[test]
    fn the_table_is_the_same_whatever_the_order() {
        for set in SETS {
            let mut backends = set(37);
            let size = size_for(37);
            let table = chosen(&backends, size);
            backends.reverse();
            assert!(chosen(&backends, size) == table);
            backends.rotate_left(11);
            assert!(chosen(&backends, size) == table);
        }
    }

    /// All nodes must agree on it, whatever they run: a table once computed stays as it is.
    #[test]
    fn the_table_never_changes() {
        let slots = table(&v4(3), size_for(3));
        assert_eq!(slots[..12], [2, 0, 0, 2, 1, 0, 1, 2, 2, 1, 1, 2]);
    }

    /// A backend that leaves gives up its own slots, 1 in N. Beyond those, removing any one of N moved a median of 2 % of
    /// all slots when surveyed over forty sets of 3 to 100 backends, and rarely more than 5 %.
    #[test]
    fn few_slots_change_but_those_of_a_backend_that_leaves() {
        for set in SETS {
            for count in [3, 10, 100] {
                let before = set(count);
                let size = size_for(before.len());
                let old = chosen(&before, size);
                for position in [0, before.len() / 2, before.len() - 1] {
                    let mut after = before.clone();
                    let gone = after.remove(position);
                    let new = chosen(&after, size);
                    let kept = old.iter().zip(&new).filter(|(old, _)| **old != gone);
                    let moved = kept.filter(|(old, new)| old != new).count();
                    let percent = 100.0 * moved as f64 / f64::from(size.slots());
                    assert!(percent <= 8.0, "{percent:.1} % with {count} backends");
                }
            }
        }
    }

    #[test]
    fn no_backends_make_no_table() {
        assert!(table(&[], size_for(0)).is_empty());
    }
}
