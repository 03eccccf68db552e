//! The handle everybody holds: reads from memory, writes through the queue.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::engine::{Engine, EngineError};
use crate::view::View;
use crate::writer::{Command, Writer};
use crate::{Draft, Entry, Index, Key, Page, Query, ReadError, Record, Redb, Revision, Watch};

/// How many writes may wait before writers have to.
const QUEUE: usize = 1024;

/// Makes the index of a loaded value; at run time it comes with the write.
pub type Indexer = dyn Fn(&Key, &[u8]) -> Index + Send + Sync;

/// How much of the past each table remembers: whichever bound is hit first.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// Changes older than this are forgotten.
    pub age: Duration,
    /// At most this many changes are kept.
    pub events: usize,
}

impl Default for History {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(300),
            events: 20_000,
        }
    }
}

/// What must be there for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key is free.
    Absent,
    /// The value was written by this change.
    At(Revision),
}

/// One write.
#[derive(Debug)]
pub struct Write {
    /// Where.
    pub key: Key,
    /// Under which condition.
    pub expect: Expect,
    /// The value; for a deletion, the last form that watchers are shown.
    pub draft: Draft,
    /// The new index, or none to delete.
    pub index: Option<Index>,
}

/// A write that did not happen, or of which it is unknown whether it did.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The expectation was not met; here is what is there.
    #[error("the key has another revision than expected")]
    Conflict(Option<Arc<Entry>>),
    /// The engine failed, now or earlier.
    #[error("the storage engine failed: {0}")]
    Engine(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    view: Arc<View>,
    queue: mpsc::Sender<Command>,
    history: History,
}

impl Store {
    /// Opens the durable store in a file.
    pub fn open(path: &Path, indexer: &Indexer, history: History) -> Result<Self, EngineError> {
        Self::over(Redb::open(path)?, indexer, history)
    }

    /// Opens a store over any engine, and starts its writer thread.
    pub fn over(
        mut engine: impl Engine,
        indexer: &Indexer,
        history: History,
    ) -> Result<Self, EngineError> {
        let mut entries = Vec::new();
        let revision = engine.load(&mut |Record {
                                              key,
                                              revision,
                                              value,
                                          }| {
            let index = indexer(&key, &value);
            entries.push(Entry {
                key,
                revision,
                value,
                index,
            });
        })?;
        let view = Arc::new(View::load(revision, entries));
        let (queue, commands) = mpsc::channel(QUEUE);
        Writer::new(Box::new(engine), Arc::clone(&view), history).spawn(commands)?;
        Ok(Self {
            view,
            queue,
            history,
        })
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.view.revision()
    }

    /// The current value of a key.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.view.get(key)
    }

    /// Values of a table, all as of one revision.
    pub fn list(&self, query: &Query<'_>) -> Result<Page, ReadError> {
        self.view.list(query)
    }

    /// Every change of a table after a revision.
    pub fn watch(&self, table: &str, after: Revision) -> Result<Watch, ReadError> {
        Watch::open(Arc::clone(&self.view), table, after)
    }

    /// Writes, and returns once the change is durable and visible. Cancelling does not undo the write.
    pub async fn write(&self, write: Write) -> Result<Arc<Entry>, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .send(Command::Write(write, reply))
            .await
            .map_err(|_| WriteError::Closed)?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// Forgets history past its age in tables that are not written to; call it now and then.
    pub fn trim(&self) {
        self.view.trim(&self.history);
    }

    /// Finishes the writes that wait, then lets go of the engine. Later writes fail; reads go on.
    pub async fn close(&self) {
        let (done, finished) = oneshot::channel();
        if self.queue.send(Command::Close(done)).await.is_ok() {
            // An error means that the writer is gone already, which is what was wanted.
            finished.await.unwrap_or(());
        }
    }
}
