//! An embedded, durable, revisioned key-value store with watches.
//!
//! One global [`Revision`] counts every change. Writes compare and swap; they wait in a queue, a single thread takes
//! whatever waits, makes it durable with one fsync, publishes it and answers ([`writer`]). Reads never touch the disk:
//! all current values live in memory as compact bytes plus a small index given by the caller ([`view`]). A ring of
//! recent changes per table serves watches and lists at an older revision; what has left the ring is
//! [`ReadError::Compacted`].
//!
//! The store knows nothing of Kubernetes: tables, scopes and names are strings, values are bytes with one gap in which
//! it writes the revision. What keeps the bytes on disk is an [`Engine`]: [`Redb`] or, for tests, [`Volatile`].

mod engine;
mod entry;
mod redb_engine;
mod store;
mod view;
mod watch;
mod writer;

pub use engine::{Change, Engine, EngineError, Record, Volatile};
pub use entry::{Draft, Entry, Event, Index, Key, Revision};
pub use redb_engine::Redb;
pub use store::{Expect, History, Indexer, Store, Write, WriteError};
pub use view::{Page, Query, ReadError};
pub use watch::Watch;
