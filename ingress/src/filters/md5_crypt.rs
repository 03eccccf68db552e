//! The password hash of `htpasswd -m` (`$apr1$`) and of old Unix (`$1$`): MD5, a thousand times over.
//!
//! It is here because no crate that is kept has it; the digest itself comes from one. It is weak, as its age says, and
//! served because htpasswd files are full of it.

use md5::{Digest, Md5};

/// The longest salt that counts.
const MAX_SALT: usize = 8;
const ROUNDS: usize = 1000;
const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The bytes of the digest, in the order in which they are written, three to four letters.
const ORDER: [[usize; 3]; 5] = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];

/// Whether `stored`, which is all of `$apr1$salt$hash` or `$1$salt$hash`, is the hash of `password`.
pub(super) fn verify(password: &[u8], stored: &str) -> bool {
    let Some((magic, salt, hash)) = split(stored) else {
        return false;
    };
    let computed = encode(digest(password, magic, salt.as_bytes()));
    super::same_bytes(&computed, hash.as_bytes())
}

/// Whether `stored` looks like such a hash.
pub(super) fn is_hash(stored: &str) -> bool {
    split(stored).is_some_and(|(_, _, hash)| hash.len() == 22)
}

fn split(stored: &str) -> Option<(&[u8], &str, &str)> {
    let magic = ["$apr1$", "$1$"]
        .into_iter()
        .find(|magic| stored.starts_with(magic))?;
    let (salt, hash) = stored[magic.len()..].split_once('$')?;
    (salt.is_ascii() && salt.len() <= MAX_SALT).then_some((
        &stored.as_bytes()[..magic.len()],
        salt,
        hash,
    ))
}

/// The steps are those of `apr_md5_encode` (APR, apr_md5.c); they have no reason but history.
fn digest(password: &[u8], magic: &[u8], salt: &[u8]) -> [u8; 16] {
    let inner: [u8; 16] = Md5::new()
        .chain_update(password)
        .chain_update(salt)
        .chain_update(password)
        .finalize()
        .into();
    let mut outer = Md5::new()
        .chain_update(password)
        .chain_update(magic)
        .chain_update(salt);
    for chunk in password.chunks(inner.len()) {
        outer.update(&inner[..chunk.len()]);
    }
    let mut bits = password.len();
    while bits > 0 {
        let byte = if bits & 1 == 1 { 0 } else { password[0] };
        outer.update([byte]);
        bits >>= 1;
    }
    let mut result: [u8; 16] = outer.finalize().into();
    for round in 0..ROUNDS {
        let (first, last): (&[u8], &[u8]) = match round % 2 {
            0 => (&result, password),
            _ => (password, &result),
        };
        let mut step = Md5::new().chain_update(first);
        if round % 3 != 0 {
            step.update(salt);
        }
        if round % 7 != 0 {
            step.update(password);
        }
        result = step.chain_update(last).finalize().into();
    }
    result
}

fn encode(digest: [u8; 16]) -> Vec<u8> {
    let mut text = Vec::with_capacity(22);
    for [high, middle, low] in ORDER {
        let bits = [digest[high], digest[middle], digest[low]];
        letters(
            &mut text,
            u32::from_be_bytes([0, bits[0], bits[1], bits[2]]),
            4,
        );
    }
    letters(&mut text, digest[11].into(), 2);
    text
}

/// Six bits a letter, the lowest first.
fn letters(text: &mut Vec<u8>, bits: u32, count: u32) {
    let letter = |at: u32| ALPHABET[(bits >> (6 * at) & 63) as usize];
    text.extend((0..count).map(letter));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl passwd`.
    #[test]
    fn hashes_of_another_program_are_verified() {
        let long = "a much longer password than sixteen bytes";
        for (password, stored) in [
            ("pa55", "$apr1$saltsalt$15Wd9JANoRCFmSEuQtjEI."),
            ("pa55", "$1$saltsalt$uIn9v9vczdrt2RrMf18SY0"),
            ("", "$apr1$s$e2aCb9PLCjZ2t55SoAxXn."),
            (long, "$apr1$abc$IIW/V525X46ri30NUi0KL0"),
        ] {
            assert!(
                is_hash(stored) && verify(password.as_bytes(), stored),
                "{password:?} {stored}"
            );
            assert!(!verify(b"other", stored), "{stored}");
        }
    }

    #[test]
    fn what_is_no_hash_verifies_nothing() {
        for stored in [
            "",
            "$apr1$",
            "$apr1$s",
            "$apr1$s$",
            "$apr1$toolongsalt$15Wd9JANoRCFmSEuQtjEI.",
            "$2$s$x",
        ] {
            assert!(!is_hash(stored) && !verify(b"", stored), "{stored:?}");
        }
    }
}
