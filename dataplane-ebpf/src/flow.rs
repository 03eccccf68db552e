//! A flow: the five values that name one direction of a conversation.

use crate::addr::{Addr, Port, Protocol};
use core::fmt;

/// One direction of a conversation, as a packet carries it. The key of `CONNTRACK`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Flow {
    /// Who sends.
    pub source: Addr,
    /// Who receives.
    pub destination: Addr,
    /// The sender's port.
    pub source_port: Port,
    /// The receiver's port.
    pub destination_port: Port,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Bytes of a hash key are all compared, so padding is spelled out and always zero. Two integers: the compiler for BPF
    /// clears an array of three bytes by a call.
    padding: u8,
    more_padding: u16,
}

impl Flow {
    /// A flow from `source` to `destination`.
    #[inline(always)]
    pub const fn new(source: (Addr, Port), destination: (Addr, Port), protocol: Protocol) -> Self {
        Self {
            source: source.0,
            destination: destination.0,
            source_port: source.1,
            destination_port: destination.1,
            protocol,
            padding: 0,
            more_padding: 0,
        }
    }

    /// The other direction of the same conversation.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(
            (self.destination, self.destination_port),
            (self.source, self.source_port),
            self.protocol,
        )
    }

    /// A hash of the whole flow, equal on every node with the same `seed`.
    ///
    /// Every bit of the result depends on every bit of the flow, so that a part of it may be used.
    #[inline(always)]
    pub const fn hash(&self, seed: u32) -> u32 {
        let (source, destination) = (self.source.words(), self.destination.words());
        let ports = (self.source_port.word() as u32) << 16 | self.destination_port.word() as u32;
        let mut hash = mix(seed as u64, self.protocol.number() as u32);
        hash = mix(hash, ports);
        hash = mix(
            mix(mix(mix(hash, source[0]), source[1]), source[2]),
            source[3],
        );
        hash = mix(
            mix(
                mix(mix(hash, destination[0]), destination[1]),
                destination[2],
            ),
            destination[3],
        );
        (mix(hash, 0) >> 32) as u32
    }
}

/// One round of multiply and fold; the constant is 2^64 divided by the golden ratio.
#[inline(always)]
pub(crate) const fn mix(hash: u64, word: u32) -> u64 {
    let product = (hash ^ word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 29)
}

/// Maps a uniformly distributed `hash` to a uniformly distributed index below `count`.
#[inline(always)]
pub const fn index(hash: u32, count: u32) -> u32 {
    ((hash as u64 * count as u64) >> 32) as u32
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            ..
        } = self;
        write!(
            f,
            "{protocol} {source} {source_port} > {destination} {destination_port}"
        )
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn flow(client: u32, port: u16) -> Flow {
        let client = Addr::from(Ipv4Addr::from_bits(client));
        let service = Addr::from(Ipv4Addr::new(10, 96, 0, 10));
        Flow::new(
            (client, Port::new(port)),
            (service, Port::new(53)),
            Protocol::UDP,
        )
    }

    #[test]
    fn reversing_twice_is_the_same_flow() {
        let there = flow(0x0a00_0001, 40_000);
        assert_ne!(there.reversed(), there);
        assert_eq!(there.reversed().reversed(), there);
    }

    /// Chi-square over 7 backends must stay below the 99.9 % quantile for 6 degrees of freedom.
    #[test]
    fn consecutive_ports_and_clients_spread_evenly() {
        for flows in [
            (0..7000).map(|i| flow(0x0a00_0001, i)).collect(),
            (0..7000).map(|i| flow(i, 40_000)).collect(),
        ] {
            let flows: std::vec::Vec<Flow> = flows;
            let mut counts = [0u32; 7];
            for flow in flows {
                counts[index(flow.hash(1), 7) as usize] += 1;
            }
            let chi: f64 = counts
                .iter()
                .map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0)
                .sum();
            assert!(chi < 22.46, "{counts:?} has chi-square {chi}");
        }
    }

    #[test]
    fn an_index_is_always_below_the_count() {
        assert_eq!(index(0, 3), 0);
        assert_eq!(index(u32::MAX, 3), 2);
        assert_eq!(index(u32::MAX, 0), 0);
    }
}
