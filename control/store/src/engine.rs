//! What keeps the bytes: the trait between the store and a disk, and an engine that forgets.

use bytes::Bytes;

use crate::{Key, Revision};

/// One stored value, as it is loaded.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it lives.
    pub key: Key,
    /// The change that wrote it.
    pub revision: Revision,
    /// Its bytes.
    pub value: Bytes,
}

/// One change of a batch to be made durable.
#[derive(Debug, Clone)]
pub enum Change {
    /// Write a value.
    Put(Record),
    /// Remove a key.
    Remove(Key),
}

/// An engine failed; the store refuses writes from then on rather than guess what is on the disk.
#[derive(Debug, thiserror::Error)]
#[error("{action} failed")]
pub struct EngineError {
    /// What was attempted.
    pub action: &'static str,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Durable storage of the current values. It keeps no history: that lives in the store's memory.
///
/// Calls come from one thread, one at a time, and may block.
pub trait Engine: Send + 'static {
    /// Hands over every stored value and returns the last committed revision.
    fn load(&mut self, each: &mut dyn FnMut(Record)) -> Result<Revision, EngineError>;

    /// Makes all changes durable at once, or none, with `revision` as the newest. Returns after the fsync.
    fn commit(&mut self, revision: Revision, changes: &[Change]) -> Result<(), EngineError>;
}

/// Keeps nothing: a store over it lives as long as the process.
#[derive(Debug, Default)]
pub struct Volatile;

impl Engine for Volatile {
    fn load(&mut self, _each: &mut dyn FnMut(Record)) -> Result<Revision, EngineError> {
        Ok(Revision::default())
    }

    fn commit(&mut self, _revision: Revision, _changes: &[Change]) -> Result<(), EngineError> {
        Ok(())
    }
}
