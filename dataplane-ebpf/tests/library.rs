//! Properties of what kernel and daemon share, for all inputs rather than for examples.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use dataplane_ebpf::addr::{Addr, Port, Protocol};
use dataplane_ebpf::checksum::{Sum, sum};
use dataplane_ebpf::flow::{Flow, index};
use dataplane_ebpf::maglev::{size_for, table};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

/// The Internet checksum as RFC 1071 tells it: big-endian words, end-around carry at each.
fn by_the_book(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A flow between arbitrary ends.
fn flows() -> impl Strategy<Value = Flow> {
    let end = || (any::<u128>(), any::<u16>());
    (end(), end(), any::<u8>()).prop_map(|(source, destination, protocol)| {
        let [source, destination] = [source, destination]
            .map(|(address, port)| (Addr::from(Ipv6Addr::from(address)), Port::new(port)));
        Flow::new(source, destination, Protocol::new(protocol))
    })
}

fn backends() -> impl Strategy<Value = Vec<(Addr, Port)>> {
    btree_set((any::<u32>(), any::<u16>()), 1..40).prop_map(|set| {
        let backend = |(address, port): (u32, u16)| {
            (
                Addr::from(std::net::Ipv4Addr::from_bits(address)),
                Port::new(port),
            )
        };
        set.into_iter().map(backend).collect()
    })
}

/// How many slots each backend has.
fn shares(backends: &[(Addr, Port)], slots: &[u32]) -> BTreeMap<(Addr, Port), usize> {
    let mut shares = BTreeMap::new();
    for slot in slots {
        *shares.entry(backends[*slot as usize]).or_default() += 1;
    }
    shares
}

proptest! {
    #[test]
    fn a_sum_is_that_of_the_book(bytes in vec(any::<u8>(), 0..2000)) {
        let checksum = sum(&bytes).checksum();
        prop_assert_eq!(u16::from_be_bytes(checksum.to_ne_bytes()), by_the_book(&bytes));
    }

    #[test]
    fn a_change_has_the_checksum_of_the_whole(
        mut bytes in vec(any::<u8>(), 8..200),
        at in any::<prop::sample::Index>(),
        new in any::<u32>(),
    ) {
        let at = at.index((bytes.len() - 4) / 2) * 2;
        let before = sum(&bytes);
        let old: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
        bytes[at..at + 4].copy_from_slice(&new.to_ne_bytes());
        let after = before.remove(u32::from_ne_bytes(old)).add(new);
        let one_zero = |sum: Sum| if sum.partial() == 0 { 0xffff } else { sum.partial() };
        prop_assert_eq!(one_zero(after), one_zero(sum(&bytes)));
    }

    #[test]
    fn a_flow_reversed_twice_is_itself(flow in flows()) {
        prop_assert_eq!(flow.reversed().reversed(), flow);
        prop_assert_eq!(flow.reversed().source, flow.destination);
    }

    #[test]
    fn an_index_is_below_the_count(hash in any::<u32>(), count in 1..u32::MAX) {
        prop_assert!(index(hash, count) < count);
    }

    #[test]
    fn a_table_is_fair_and_knows_no_order(backends in backends(), turn in any::<prop::sample::Index>()) {
        let size = size_for(backends.len());
        let slots = table(&backends, size);
        prop_assert_eq!(slots.len(), size.slots() as usize);
        let shares_of = shares(&backends, &slots);
        let (least, most) = (shares_of.values().min(), shares_of.values().max());
        prop_assert_eq!(shares_of.len(), backends.len());
        prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));

        let mut turned = backends.clone();
        turned.rotate_left(turn.index(backends.len()));
        let again = table(&turned, size);
        prop_assert!(slots.iter().zip(&again).all(|(one, other)| backends[*one as usize] == turned[*other as usize]));
    }

    #[test]
    fn a_table_changes_little_but_for_who_left(backends in backends(), gone in any::<prop::sample::Index>()) {
        prop_assume!(backends.len() > 4);
        let gone = gone.index(backends.len());
        let size = size_for(backends.len());
        let before = table(&backends, size);
        let mut left = backends.clone();
        left.remove(gone);
        let after = table(&left, size);
        let moved = before.iter().zip(&after).filter(|(one, other)| {
            **one as usize != gone && backends[**one as usize] != left[**other as usize]
        });
        // The paper measures a few percent; what left is at most a fifth.
        prop_assert!(moved.count() * 5 < before.len(), "more than a fifth of the others' slots moved");
    }
}
