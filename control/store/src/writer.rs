//! The single writer: takes whatever waits, checks it against the newest state, commits it with one fsync, publishes it
//! and answers. Group commit makes a busy store fast without making a quiet one slow.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::engine::{Change, Engine, EngineError};
use crate::store::{Expect, History, Write, WriteError};
use crate::view::View;
use crate::{Entry, Event, Key, Record, Revision};

/// How many writes share a commit at most; bounds the time the first of them waits.
const BATCH: usize = 512;

type Reply = oneshot::Sender<Result<Arc<Entry>, WriteError>>;

#[derive(Debug)]
pub(crate) enum Command {
    Write(Write, Reply),
    Close(oneshot::Sender<()>),
}

pub(crate) struct Writer {
    engine: Box<dyn Engine>,
    view: Arc<View>,
    history: History,
    /// Why the engine failed; from then on nothing is written.
    broken: Option<String>,
}

/// A batch in the making: later writes of it see the earlier ones.
#[derive(Default)]
struct Batch {
    revision: Revision,
    latest: HashMap<Key, Option<Arc<Entry>>>,
    changes: Vec<Change>,
    events: Vec<Arc<Event>>,
    accepted: Vec<(Reply, Arc<Entry>)>,
}

impl Writer {
    pub(crate) fn new(engine: Box<dyn Engine>, view: Arc<View>, history: History) -> Self {
        Self {
            engine,
            view,
            history,
            broken: None,
        }
    }

    pub(crate) fn spawn(self, commands: mpsc::Receiver<Command>) -> Result<(), EngineError> {
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || self.run(commands))
            .map(drop)
            .map_err(|source| EngineError {
                action: "starting the writer thread",
                source: source.into(),
            })
    }

    fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut waiting = Vec::with_capacity(BATCH);
        while commands.blocking_recv_many(&mut waiting, BATCH) > 0 {
            let mut close = None;
            let mut writes = Vec::with_capacity(waiting.len());
            for command in waiting.drain(..) {
                match command {
                    Command::Write(write, reply) => writes.push((write, reply)),
                    Command::Close(done) => close = Some(done),
                }
            }
            self.commit(writes);
            if let Some(done) = close {
                drop(self);
                // Nobody waiting for the end is fine.
                done.send(()).unwrap_or(());
                return;
            }
        }
    }

    fn commit(&mut self, writes: Vec<(Write, Reply)>) {
        let mut batch = Batch {
            revision: self.view.revision(),
            ..Batch::default()
        };
        for (write, reply) in writes {
            match &self.broken {
                Some(reason) => answer(reply, Err(WriteError::Engine(reason.clone()))),
                None => batch.add(write, reply, &self.view),
            }
        }
        if batch.changes.is_empty() {
            return;
        }
        match self.engine.commit(batch.revision, &batch.changes) {
            Ok(()) => {
                self.view
                    .publish(batch.revision, batch.events, &self.history);
                batch
                    .accepted
                    .into_iter()
                    .for_each(|(reply, entry)| answer(reply, Ok(entry)));
            }
            Err(error) => {
                let reason = format!("{error}: {}", error.source);
                tracing::error!(reason, "the store takes no more writes");
                for (reply, _) in batch.accepted {
                    answer(reply, Err(WriteError::Engine(reason.clone())));
                }
                self.broken = Some(reason);
            }
        }
    }
}

impl Batch {
    fn add(&mut self, write: Write, reply: Reply, view: &View) {
        let before = match self.latest.get(&write.key) {
            Some(latest) => latest.clone(),
            None => view.get(&write.key),
        };
        let met = match (write.expect, &before) {
            (Expect::Absent, None) => true,
            (Expect::At(revision), Some(entry)) => entry.revision == revision,
            _ => false,
        };
        if !met {
            return answer(reply, Err(WriteError::Conflict(before)));
        }
        self.revision = Revision(self.revision.0 + 1);
        let entry = self.change(write, before);
        self.accepted.push((reply, entry));
    }

    fn change(&mut self, write: Write, before: Option<Arc<Entry>>) -> Arc<Entry> {
        let Write {
            key, draft, index, ..
        } = write;
        let deleted = index.is_none();
        let index = index
            .or_else(|| before.as_ref().map(|entry| entry.index.clone()))
            .unwrap_or_default();
        let value = draft.finish(self.revision);
        let entry = Arc::new(Entry {
            key: key.clone(),
            revision: self.revision,
            value: value.clone(),
            index,
        });
        if deleted {
            self.changes.push(Change::Remove(key.clone()));
            self.latest.insert(key, None);
        } else {
            self.changes.push(Change::Put(Record {
                key: key.clone(),
                revision: self.revision,
                value,
            }));
            self.latest.insert(key, Some(Arc::clone(&entry)));
        }
        self.events
            .push(Arc::new(Event::new(Arc::clone(&entry), before, deleted)));
        entry
    }
}

/// Answers a writer; one that has gone away no longer cares.
fn answer(reply: Reply, result: Result<Arc<Entry>, WriteError>) {
    drop(reply.send(result));
}
