//! Following a table: a cursor into its ring. A watcher holds no queue of its own, so a slow one costs nothing; when the
//! ring has run away from it, it is told so.

use std::sync::Arc;

use tokio::sync::watch;

use crate::view::View;
use crate::{Event, ReadError, Revision};

/// How many changes one call hands out at most.
const BATCH: usize = 256;

/// A watcher of one table.
#[derive(Debug)]
pub struct Watch {
    view: Arc<View>,
    table: Box<str>,
    cursor: Revision,
    progress: watch::Receiver<Revision>,
}

impl Watch {
    pub(crate) fn open(view: Arc<View>, table: &str, after: Revision) -> Result<Self, ReadError> {
        let progress = view.subscribe(table, after)?;
        Ok(Self {
            view,
            table: table.into(),
            cursor: after,
            progress,
        })
    }

    /// The next changes, at least one. Cancelling loses nothing: the cursor moves only with the answer.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, ReadError> {
        loop {
            self.progress.mark_unchanged();
            let events = self.pending()?;
            if !events.is_empty() {
                return Ok(events);
            }
            if self.progress.changed().await.is_err() {
                // The store keeps every table and its sender for as long as the view lives, and we hold the view.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The changes that are already there, possibly none.
    pub fn pending(&mut self) -> Result<Vec<Arc<Event>>, ReadError> {
        let (events, reached) = self.view.changes(&self.table, self.cursor, BATCH)?;
        self.cursor = reached;
        Ok(events)
    }

    /// Up to which revision every change of the table has been handed out.
    pub fn cursor(&self) -> Revision {
        self.cursor
    }
}
