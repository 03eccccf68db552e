//! What gateways are sent byte by byte: by the tests, and by `measure l7 differential`, which sends it to others, too.

pub(crate) mod http11probe;
pub(crate) mod strictness;

/// `bytes` with good `Host` lines in place of every `{H}`.
pub(crate) fn filled(bytes: &[u8]) -> Vec<u8> {
    let mut filled = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(3).position(|window| window == b"{H}") {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(b"Host: a.org\r\n");
        rest = &rest[at + 3..];
    }
    filled.extend_from_slice(rest);
    filled
}
