//! How the reconciler stands after a round, in the words of those who tell others.

use std::time::Instant;

/// What a round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Round {
    /// Services that were brought to what they should be.
    pub applied: usize,
    /// Services that could not be.
    pub failed: usize,
    /// Services of these that did not fail before, but for want of room that may yet be found.
    pub newly_failed: usize,
    /// Every Service was due, not only those that changed.
    pub full: bool,
    /// Everything is known that has to be before anything may be written.
    pub may_write: bool,
}

/// What the node's health depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Since when a change has not reached the maps.
    pub behind_since: Option<Instant>,
    /// The first round is over, after which the maps hold everything.
    pub is_steady: bool,
    /// The node is about to leave the cluster.
    pub is_leaving: bool,
}

/// Service ports whose policy allows only endpoints on this node, where there is none, though there are some elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WithoutLocal {
    /// By `internalTrafficPolicy`.
    pub internal: u32,
    /// By `externalTrafficPolicy`.
    pub external: u32,
}
