//! The Internet checksum (RFC 1071) and its incremental change (RFC 1624).
//!
//! Words are taken as they lie in memory: the ones' complement sum does not depend on byte order, so a sum of words in
//! network order, written back as it is, is right on every machine.

/// A ones' complement sum of 16-bit words, not yet folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const ZERO: Self = Self(0);

    /// The sum with one more 32-bit word as it lies in memory.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// The sum with `word` taken away: RFC 1624 adds its complement.
    #[inline(always)]
    #[must_use]
    pub const fn remove(self, word: u32) -> Self {
        self.add(!word)
    }

    /// The sum with four more words.
    #[inline(always)]
    #[must_use]
    pub const fn add_words(self, words: [u32; 4]) -> Self {
        self.add(words[0]).add(words[1]).add(words[2]).add(words[3])
    }

    /// The sum with four words taken away.
    #[inline(always)]
    #[must_use]
    pub const fn remove_words(self, words: [u32; 4]) -> Self {
        self.remove(words[0])
            .remove(words[1])
            .remove(words[2])
            .remove(words[3])
    }

    /// The sum of both.
    #[inline(always)]
    #[must_use]
    pub const fn add_sum(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum as the kernel's checksum helpers take it: folded to 32 bits.
    #[inline(always)]
    pub const fn folded(self) -> u32 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        ((sum >> 32) + (sum & 0xffff_ffff)) as u32
    }

    /// The sum folded to 16 bits: what a checksum field holds before a device completes it.
    #[inline(always)]
    pub const fn partial(self) -> u16 {
        let sum = self.folded();
        let sum = (sum >> 16) + (sum & 0xffff);
        ((sum >> 16) + (sum & 0xffff)) as u16
    }

    /// What a checksum `field` becomes when this is the change of what it covers (RFC 1624, equation 3).
    #[inline(always)]
    #[must_use]
    pub const fn applied_to(self, field: u16) -> u16 {
        self.add(!field as u32).checksum()
    }

    /// The checksum: the complement of the folded sum.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.partial()
    }
}

/// The sum of `bytes`, an odd one padded with zero.
pub fn sum(bytes: &[u8]) -> Sum {
    let mut sum = Sum::ZERO;
    for pair in bytes.chunks(2) {
        let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
        sum = sum.add(u32::from(u16::from_ne_bytes(word)));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of RFC 1071's usual example, with its checksum in place.
    const HEADER: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00,
        0x01, 0xc0, 0xa8, 0x00, 0xc7,
    ];

    #[test]
    fn a_header_with_its_checksum_sums_to_ones() {
        assert_eq!(sum(&HEADER).partial(), 0xffff);
        let mut header = HEADER;
        header[10..12].fill(0);
        assert_eq!(sum(&header).checksum().to_ne_bytes(), [0xb8, 0x61]);
    }

    #[test]
    fn an_incremental_change_equals_a_new_sum() {
        for address in [
            [10, 0, 0, 1],
            [0, 0, 0, 0],
            [255, 255, 255, 255],
            [192, 168, 0, 1],
        ] {
            let old = u32::from_ne_bytes([192, 168, 0, 1]);
            let new = u32::from_ne_bytes(address);
            let mut changed = HEADER;
            changed[12..16].copy_from_slice(&address);
            changed[10..12].fill(0);
            let field = u16::from_ne_bytes([HEADER[10], HEADER[11]]);
            let incremental = Sum::ZERO.remove(old).add(new).applied_to(field);
            assert_eq!(incremental, sum(&changed).checksum(), "{address:?}");
        }
    }

    #[test]
    fn folding_carries_twice() {
        let mut sum = Sum::ZERO;
        for _ in 0..10 {
            sum = sum.add(u32::MAX);
        }
        assert_eq!(sum.partial(), 0xffff);
        assert_eq!(Sum::ZERO.add(0x0001_ffff).partial(), 1);
    }
}
