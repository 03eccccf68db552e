//! Addresses, ports and protocols as the maps hold them: in network byte order, one address type for both families.
//!
//! An IPv4 address is stored as an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`), so that one map and one path serve both
//! families. The types here are the only way in and out of that representation; no bare integer address leaves them.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4-mapped one.
///
/// Four words whose bytes in memory are in network order, as in `struct bpf_sock_addr`; words rather than bytes, because
/// the compiler for BPF copies an array of bytes one by one.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr([u32; 4]);

/// The third word of every IPv4-mapped address.
const MAPPED: u32 = u32::from_be(0xffff);

impl Addr {
    /// The unspecified address `::`.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// An IPv4 address from its word in network order.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// An address from its four words in network order.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// Its four words in network order.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// The word of an IPv4 address in network order; meaningless for an IPv6 address.
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.0[3]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// Whether this is the unspecified IPv6 address, which stands for "none".
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 0
    }

    /// The address as the standard library writes it; an IPv4-mapped one becomes IPv4.
    pub fn ip(self) -> IpAddr {
        if self.is_v4() {
            return IpAddr::V4(Ipv4Addr::from(self.0[3].to_ne_bytes()));
        }
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::V6(Ipv6Addr::from(bytes))
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(address: Ipv6Addr) -> Self {
        let mut words = [0; 4];
        let octets = address.octets();
        for (word, chunk) in words.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
        Self(words)
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.ip(), f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The family of an address, numbered as the version field of its packets.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Family(u8);

impl Family {
    /// IPv4.
    pub const V4: Self = Self(4);
    /// IPv6.
    pub const V6: Self = Self(6);

    /// The family of `address`; an IPv4-mapped one is of IPv4.
    #[inline(always)]
    pub const fn of(address: Addr) -> Self {
        if address.is_v4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4 => f.write_str("IPv4"),
            Self::V6 => f.write_str("IPv6"),
            Self(number) => write!(f, "family {number}"),
        }
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A port, in network byte order in memory.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Port(u16);

impl Port {
    /// No port: the key of a whole address in `FRONTENDS`.
    pub const NONE: Self = Self(0);

    /// A port from its number.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// A port from its word in network order, as a packet or a socket hook's context holds it.
    #[inline(always)]
    pub const fn from_word(word: u16) -> Self {
        Self(word)
    }

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }

    /// Its word in network order.
    #[inline(always)]
    pub const fn word(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.number(), f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A transport protocol by its IP protocol number.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Protocol(u8);

impl Protocol {
    /// No protocol: the key of a whole address in `FRONTENDS`.
    pub const NONE: Self = Self(0);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// ICMP for IPv4; never part of a key.
    pub const ICMP: Self = Self(1);
    /// ICMP for IPv6; never part of a key.
    pub const ICMPV6: Self = Self(58);

    /// A protocol from its number.
    #[inline(always)]
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::SCTP => f.write_str("SCTP"),
            Self::ICMP => f.write_str("ICMP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self(number) => write!(f, "protocol {number}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in [
            "10.96.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "fd00:10:96::1",
            "::",
            "::1",
            "ff02::1",
        ] {
            let ip: IpAddr = text.parse().expect("the table holds addresses");
            assert_eq!(Addr::from(ip).ip(), ip);
            assert_eq!(Addr::from(ip).to_string(), text);
        }
    }

    #[test]
    fn memory_is_in_network_order() {
        let words = Addr::from(Ipv4Addr::new(10, 0, 0, 1)).words();
        assert_eq!(
            words.map(u32::to_ne_bytes).concat(),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1]
        );
        assert_eq!(Port::new(0x1234).word().to_ne_bytes(), [0x12, 0x34]);
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let mapped: Ipv6Addr = "::ffff:10.0.0.1".parse().expect("an address");
        assert_eq!(Addr::from(mapped), Addr::from(Ipv4Addr::new(10, 0, 0, 1)));
        assert!(Addr::from(mapped).is_v4());
        assert_eq!(Family::of(Addr::from(mapped)), Family::V4);
        assert_eq!(Family::of(Addr::from(Ipv6Addr::LOCALHOST)), Family::V6);
        assert!(!Addr::from(Ipv6Addr::LOCALHOST).is_v4());
        assert!(Addr::from(Ipv6Addr::UNSPECIFIED).is_unspecified());
        assert!(!Addr::from(Ipv4Addr::UNSPECIFIED).is_unspecified());
    }
}
