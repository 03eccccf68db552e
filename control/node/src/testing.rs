//! What this package's tests share.

/// Fails with a message that says what is missing, rather than somewhere inside the test.
pub(crate) fn require_root() {
    assert!(
        nix::unistd::Uid::effective().is_root(),
        "this test makes devices and changes owners: run it as root"
    );
}
