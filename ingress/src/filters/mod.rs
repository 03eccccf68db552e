//! What a request passes between its route and its backend, one effect a file.

use subtle::ConstantTimeEq;

pub mod access;
pub mod basic_auth;
pub mod canary;
pub mod cors;
pub mod external_auth;
pub mod htpasswd;
pub mod limits;
mod md5_crypt;
pub mod memory;
pub mod ranges;

/// Compares without telling by its time how much is the same.
fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}
