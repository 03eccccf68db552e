//! What a packet carries from the node it entered by to its backend's node under direct server return: the address and
//! port that the client used.
//!
//! As an option of the IP header, laid out as Cilium's: nobody in between needs to know it. IPv4 options are copied on
//! fragmentation where the highest bit of their number is set (RFC 791, section 3.1); the two highest bits of an IPv6
//! option tell nodes that do not know it to skip it (RFC 8200, section 4.2).

use crate::addr::{Addr, Port};

/// The option of an IPv4 header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionV4 {
    kind: u8,
    length: u8,
    port: u16,
    address: u32,
}

impl OptionV4 {
    /// How many bytes it takes.
    pub const LENGTH: u16 = 8;

    /// The option that names a frontend.
    #[inline(always)]
    pub const fn new(address: Addr, port: Port) -> Self {
        Self {
            kind: 0x9a,
            length: Self::LENGTH as u8,
            port: port.word(),
            address: address.v4_word(),
        }
    }

    /// The frontend it names, if it is this option.
    #[inline(always)]
    pub const fn frontend(&self) -> Option<(Addr, Port)> {
        if self.kind == 0x9a && self.length == Self::LENGTH as u8 {
            Some((Addr::from_v4_word(self.address), Port::from_word(self.port)))
        } else {
            None
        }
    }

    /// Its two words as they lie in memory.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 2] {
        let [a, b] = self.port.to_ne_bytes();
        [
            u32::from_ne_bytes([self.kind, self.length, a, b]),
            self.address,
        ]
    }
}

/// The destination options header of an IPv6 packet, with the option in it and two bytes of padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionV6 {
    /// What follows the header.
    pub next: u8,
    header_length: u8,
    kind: u8,
    length: u8,
    address: [u32; 4],
    port: u16,
    padding: [u8; 2],
}

impl OptionV6 {
    /// How many bytes the header takes.
    pub const LENGTH: u16 = 24;

    /// The number of destination options as a next header.
    pub const HEADER: u8 = 60;

    /// The header that names a frontend, before what has the number `next`.
    #[inline(always)]
    pub const fn new(next: u8, address: Addr, port: Port) -> Self {
        Self {
            next,
            // In units of eight bytes, the first not counted.
            header_length: (Self::LENGTH / 8 - 1) as u8,
            kind: 0x1b,
            length: 18,
            address: address.words(),
            port: port.word(),
            // The option PadN without data.
            padding: [1, 0],
        }
    }

    /// The frontend it names, if it is this header.
    #[inline(always)]
    pub const fn frontend(&self) -> Option<(Addr, Port)> {
        let known = Self::new(self.next, Addr::UNSPECIFIED, Port::NONE);
        if self.header_length == known.header_length
            && self.kind == known.kind
            && self.length == known.length
        {
            Some((Addr::from_words(self.address), Port::from_word(self.port)))
        } else {
            None
        }
    }
}

const _: () = {
    assert!(size_of::<OptionV4>() == OptionV4::LENGTH as usize);
    assert!(size_of::<OptionV6>() == OptionV6::LENGTH as usize);
};

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn an_option_names_the_frontend_it_was_made_for() {
        let (v4, port) = (Addr::from(Ipv4Addr::new(192, 0, 2, 1)), Port::new(443));
        assert_eq!(OptionV4::new(v4, port).frontend(), Some((v4, port)));
        let v6 = Addr::from(Ipv6Addr::LOCALHOST);
        assert_eq!(OptionV6::new(6, v6, port).frontend(), Some((v6, port)));
    }

    #[test]
    fn another_option_names_none() {
        let port = Port::new(443);
        let mut v4 = OptionV4::new(Addr::from(Ipv4Addr::LOCALHOST), port);
        v4.kind = 0x94;
        assert_eq!(v4.frontend(), None);
        let mut v6 = OptionV6::new(6, Addr::from(Ipv6Addr::LOCALHOST), port);
        v6.length = 17;
        assert_eq!(v6.frontend(), None);
    }

    #[test]
    fn words_are_the_option_as_it_lies_in_memory() {
        let option = OptionV4::new(Addr::from(Ipv4Addr::new(192, 0, 2, 1)), Port::new(0x1234));
        assert_eq!(
            option.words().map(u32::to_ne_bytes).concat(),
            [0x9a, 8, 0x12, 0x34, 192, 0, 2, 1]
        );
    }
}
