//! What the store keeps: keys, revisions, values with their index, and the events that changed them.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;

/// The number of a change, counted over the whole store; it only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a value lives: a table, a scope within it (may be empty) and a name, ordered in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The table; watches and lists look at one table.
    pub table: Arc<str>,
    /// The scope, by which lists can be narrowed; empty for values without one.
    pub scope: Arc<str>,
    /// The name, unique within table and scope.
    pub name: Arc<str>,
}

impl Key {
    /// A key of its three parts.
    pub fn new(
        table: impl Into<Arc<str>>,
        scope: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            table: table.into(),
            scope: scope.into(),
            name: name.into(),
        }
    }
}

/// The few attributes of a value that selectors look at, so that filtering does not parse values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// Labels, as the caller wants to see them again.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Selectable fields by path.
    pub fields: Box<[(&'static str, Box<str>)]>,
}

/// A value on its way in: bytes with a gap into which the store writes the decimal revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    bytes: Vec<u8>,
    gap: Option<usize>,
}

impl Draft {
    /// A value that does not contain its revision.
    pub fn plain(bytes: Vec<u8>) -> Self {
        Self { bytes, gap: None }
    }

    /// A value whose revision is written before the byte at `gap`, which is at most the length.
    pub fn with_gap(bytes: Vec<u8>, gap: usize) -> Self {
        assert!(gap <= bytes.len(), "the gap lies within the value");
        Self {
            bytes,
            gap: Some(gap),
        }
    }

    /// The finished value.
    pub fn finish(&self, revision: Revision) -> Bytes {
        let Some(gap) = self.gap else {
            return Bytes::copy_from_slice(&self.bytes);
        };
        let number = revision.to_string();
        let mut out = Vec::with_capacity(self.bytes.len() + number.len());
        out.extend_from_slice(&self.bytes[..gap]);
        out.extend_from_slice(number.as_bytes());
        out.extend_from_slice(&self.bytes[gap..]);
        out.into()
    }
}

/// A value as it was stored at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it lives.
    pub key: Key,
    /// The change that wrote it.
    pub revision: Revision,
    /// Its bytes, the revision written in.
    pub value: Bytes,
    /// What selectors see.
    pub index: Index,
}

/// One change. Watchers of a table share it, and what they made of it.
#[derive(Debug)]
pub struct Event {
    /// The value written; for a deletion, its last form with the revision of the deletion.
    pub entry: Arc<Entry>,
    /// The value before, none if the key was new.
    pub before: Option<Arc<Entry>>,
    /// Whether the key was removed.
    pub deleted: bool,
    /// When it was published, for the age of the history.
    pub(crate) at: Instant,
    rendered: [OnceLock<Bytes>; 3],
}

impl Event {
    pub(crate) fn new(entry: Arc<Entry>, before: Option<Arc<Entry>>, deleted: bool) -> Self {
        Self {
            entry,
            before,
            deleted,
            at: Instant::now(),
            rendered: Default::default(),
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.entry.revision
    }

    /// The form `slot` (0 to 2) of this event on the wire, made once by the first watcher that needs it.
    pub fn rendered(&self, slot: usize, render: impl FnOnce(&Entry) -> Bytes) -> Bytes {
        self.rendered[slot]
            .get_or_init(|| render(&self.entry))
            .clone()
    }
}
