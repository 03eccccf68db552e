//! SCTP's checksum, CRC32c (RFC 9260, appendix A), and its change with a few bytes of a long packet.
//!
//! A CRC is linear: when some bytes of a packet change, its CRC changes by the CRC, without preset and final complement,
//! of a packet that holds the difference there and zeros elsewhere. Zeros in front say nothing, and every zero byte behind
//! multiplies by x^8. So a change needs the packet's length, but no other byte of it.
//!
//! Polynomials are held as the checksum itself is: the highest bit is the coefficient of x^0. Words of a packet are taken
//! as they lie in memory, the first byte lowest, as on every machine that BPF is compiled for here.

/// The generator, x^32 left out.
const GENERATOR: u32 = 0x82f6_3b78;

/// x^8, by which one more byte multiplies.
const BYTE: u32 = 1 << (31 - 8);

/// What 1, 2, 4, ... bytes multiply by: enough for every packet.
const POWERS: [u32; 16] = powers();

const fn powers() -> [u32; 16] {
    let mut powers = [BYTE; 16];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = multiply(powers[i - 1], powers[i - 1]);
        i += 1;
    }
    powers
}

/// The product of two polynomials. Without branches, or the verifier would walk both ways at each of them.
#[inline(always)]
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut a, mut b, mut product) = (a, b, 0);
    let mut bit = 0;
    while bit < 32 {
        product ^= b & 0u32.wrapping_sub(a >> 31);
        a <<= 1;
        b = (b >> 1) ^ (GENERATOR & 0u32.wrapping_sub(b & 1));
        bit += 1;
    }
    product
}

/// Bits of the longest packet's length.
pub const LENGTH_BITS: u32 = POWERS.len() as u32;

/// One step of finding out by what the checksum of a packet of `length` bytes changes (as a difference, that is exclusive
/// or) when its first word does: the difference of the word goes through the steps of all [`LENGTH_BITS`] bits.
///
/// The word's own four bytes count in the length, since a CRC is the remainder after as many zeros as it is long.
#[inline(always)]
pub fn step(difference: u32, length: u32, bit: u32) -> u32 {
    match POWERS.get(bit as usize) {
        Some(power) if (length >> bit) & 1 != 0 => multiply(difference, *power),
        _ => difference,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// As the definition has it, bit by bit.
    fn bitwise(bytes: &[u8]) -> u32 {
        let mut remainder = !0u32;
        for byte in bytes {
            remainder ^= u32::from(*byte);
            for _ in 0..8 {
                let carry = remainder & 1;
                remainder >>= 1;
                if carry == 1 {
                    remainder ^= GENERATOR;
                }
            }
        }
        !remainder
    }

    fn change(difference: u32, length: u32) -> u32 {
        (0..LENGTH_BITS).fold(difference, |difference, bit| step(difference, length, bit))
    }

    /// RFC 3720, appendix B.4, among others: the usual check value.
    #[test]
    fn the_definition_has_the_known_value() {
        assert_eq!(bitwise(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_change_of_the_first_word_equals_a_new_sum() {
        for length in [4, 5, 12, 16, 20, 64, 1000, 1480, 4096, 9001, 65_515] {
            let packet: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            for word in [[0; 4], [0x1f, 0x90, 0x0b, 0x59], [255; 4]] {
                let mut changed = packet.clone();
                changed[..4].copy_from_slice(&word);
                let old = u32::from_le_bytes([packet[0], packet[1], packet[2], packet[3]]);
                let difference = old ^ u32::from_le_bytes(word);
                assert_eq!(
                    bitwise(&packet) ^ change(difference, length),
                    bitwise(&changed),
                    "{length} bytes, {word:?}"
                );
            }
        }
    }
}
