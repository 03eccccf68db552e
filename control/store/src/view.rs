//! The state in memory: the current values of every table and the ring of its recent changes.
//!
//! Written only by the writer thread, under a lock that is held for pointer work alone. A list at an older revision
//! takes the current values and undoes the ring's newer changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tokio::sync::watch;

use crate::store::History;
use crate::{Entry, Event, Key, Revision};

type Row = (Arc<str>, Arc<str>);

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct Query<'a> {
    /// The table.
    pub table: &'a str,
    /// Only this scope.
    pub scope: Option<&'a str>,
    /// Only keys after this scope and name.
    pub after: Option<(&'a str, &'a str)>,
    /// As of this revision instead of now.
    pub at: Option<Revision>,
}

/// The answer to a [`Query`], ordered by scope and name.
#[derive(Debug)]
pub struct Page {
    /// The values.
    pub entries: Vec<Arc<Entry>>,
    /// The revision at which they are all and the current ones.
    pub revision: Revision,
}

/// A read that cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The history no longer reaches back that far.
    #[error("revision {requested} has been compacted, the oldest is {oldest}")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The oldest one that can be served.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {requested} is in the future, the newest is {newest}")]
    Future {
        /// The revision asked for.
        requested: Revision,
        /// The newest one there is.
        newest: Revision,
    },
}

/// The shared state.
#[derive(Debug)]
pub(crate) struct View {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    revision: Revision,
    /// Before this revision no table has a history.
    loaded: Revision,
    tables: HashMap<Arc<str>, Table>,
}

#[derive(Debug)]
struct Table {
    rows: BTreeMap<Row, Arc<Entry>>,
    ring: VecDeque<Arc<Event>>,
    /// The newest change that is no longer in the ring.
    compacted: Revision,
    progress: watch::Sender<Revision>,
}

impl Table {
    fn new(compacted: Revision) -> Self {
        Self {
            rows: BTreeMap::new(),
            ring: VecDeque::new(),
            compacted,
            progress: watch::Sender::new(compacted),
        }
    }

    fn apply(&mut self, event: Arc<Event>, history: &History) {
        let row = row_of(&event.entry.key);
        if event.deleted {
            self.rows.remove(&row);
        } else {
            self.rows.insert(row, Arc::clone(&event.entry));
        }
        let now = event.at;
        self.ring.push_back(event);
        self.trim(now, history);
    }

    fn trim(&mut self, now: Instant, history: &History) {
        while let Some(oldest) = self.ring.front() {
            let aged = now.saturating_duration_since(oldest.at) > history.age;
            if !aged && self.ring.len() <= history.events {
                break;
            }
            self.compacted = oldest.revision();
            self.ring.pop_front();
        }
    }

    fn check(&self, requested: Revision) -> Result<(), ReadError> {
        if requested < self.compacted {
            return Err(ReadError::Compacted {
                requested,
                oldest: self.compacted,
            });
        }
        Ok(())
    }

    fn since(&self, after: Revision) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.ring.partition_point(|event| event.revision() <= after);
        self.ring.range(start..)
    }

    fn list(&self, query: &Query<'_>) -> Vec<Arc<Entry>> {
        self.rows
            .range((lower_bound(query), Bound::Unbounded))
            .map(|(_, entry)| entry)
            .take_while(|entry| query.scope.is_none_or(|scope| &*entry.key.scope == scope))
            .cloned()
            .collect()
    }

    fn list_at(&self, query: &Query<'_>, at: Revision) -> Vec<Arc<Entry>> {
        let mut rows: BTreeMap<Row, Arc<Entry>> = self
            .list(query)
            .into_iter()
            .map(|entry| (row_of(&entry.key), entry))
            .collect();
        let newer: Vec<_> = self.since(at).collect();
        for event in newer
            .into_iter()
            .rev()
            .filter(|event| selects(query, &event.entry.key))
        {
            match &event.before {
                Some(before) => rows.insert(row_of(&before.key), Arc::clone(before)),
                None => rows.remove(&row_of(&event.entry.key)),
            };
        }
        rows.into_values().collect()
    }
}

impl View {
    pub(crate) fn load(revision: Revision, entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut state = State {
            revision,
            loaded: revision,
            tables: HashMap::new(),
        };
        for entry in entries {
            let row = row_of(&entry.key);
            state
                .table(&entry.key.table.clone())
                .rows
                .insert(row, Arc::new(entry));
        }
        Self {
            state: RwLock::new(state),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no holder of the lock panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no holder of the lock panics")
    }

    pub(crate) fn revision(&self) -> Revision {
        self.read().revision
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.read()
            .tables
            .get(&key.table)?
            .rows
            .get(&row_of(key))
            .cloned()
    }

    pub(crate) fn list(&self, query: &Query<'_>) -> Result<Page, ReadError> {
        let state = self.read();
        let newest = state.revision;
        let at = query.at.unwrap_or(newest);
        if at > newest {
            return Err(ReadError::Future {
                requested: at,
                newest,
            });
        }
        let Some(table) = state.tables.get(query.table) else {
            return match at < state.loaded {
                true => Err(ReadError::Compacted {
                    requested: at,
                    oldest: state.loaded,
                }),
                false => Ok(Page {
                    entries: Vec::new(),
                    revision: at,
                }),
            };
        };
        table.check(at)?;
        let entries = if at == newest {
            table.list(query)
        } else {
            table.list_at(query, at)
        };
        Ok(Page {
            entries,
            revision: at,
        })
    }

    /// Subscribes to a table's progress, creating the table if nothing was ever written to it.
    pub(crate) fn subscribe(
        &self,
        table: &str,
        after: Revision,
    ) -> Result<watch::Receiver<Revision>, ReadError> {
        let mut state = self.write();
        let newest = state.revision;
        if after > newest {
            return Err(ReadError::Future {
                requested: after,
                newest,
            });
        }
        let table = state.table(&Arc::from(table));
        table.check(after)?;
        Ok(table.progress.subscribe())
    }

    /// At most `limit` changes of a table after a revision, and the newest revision they bring a reader to.
    pub(crate) fn changes(
        &self,
        table: &str,
        after: Revision,
        limit: usize,
    ) -> Result<(Vec<Arc<Event>>, Revision), ReadError> {
        let state = self.read();
        let Some(found) = state.tables.get(table) else {
            return Ok((Vec::new(), state.revision));
        };
        found.check(after)?;
        let events: Vec<_> = found.since(after).take(limit).cloned().collect();
        let reached = match events.last() {
            Some(last) if events.len() == limit => last.revision(),
            _ => state.revision,
        };
        Ok((events, reached))
    }

    /// Shows a committed batch to readers, all at once, then wakes the watchers of the tables it touched.
    pub(crate) fn publish(&self, revision: Revision, events: Vec<Arc<Event>>, history: &History) {
        let mut touched: HashMap<Arc<str>, watch::Sender<Revision>> = HashMap::new();
        let mut state = self.write();
        for event in events {
            let name = Arc::clone(&event.entry.key.table);
            let table = state.table(&name);
            table.apply(event, history);
            touched
                .entry(name)
                .or_insert_with(|| table.progress.clone());
        }
        state.revision = revision;
        drop(state);
        for progress in touched.into_values() {
            progress.send_replace(revision);
        }
    }

    /// Forgets history that has outlived its age in tables that nobody writes to.
    pub(crate) fn trim(&self, history: &History) {
        let now = Instant::now();
        self.write()
            .tables
            .values_mut()
            .for_each(|table| table.trim(now, history));
    }
}

impl State {
    fn table(&mut self, name: &Arc<str>) -> &mut Table {
        let loaded = self.loaded;
        self.tables
            .entry(Arc::clone(name))
            .or_insert_with(|| Table::new(loaded))
    }
}

fn row_of(key: &Key) -> Row {
    (Arc::clone(&key.scope), Arc::clone(&key.name))
}

fn lower_bound(query: &Query<'_>) -> Bound<Row> {
    match (query.after, query.scope) {
        (Some((scope, name)), _) => Bound::Excluded((scope.into(), name.into())),
        (None, Some(scope)) => Bound::Included((scope.into(), "".into())),
        (None, None) => Bound::Unbounded,
    }
}

fn selects(query: &Query<'_>, key: &Key) -> bool {
    query.scope.is_none_or(|scope| &*key.scope == scope)
        && query
            .after
            .is_none_or(|after| (&*key.scope, &*key.name) > after)
}
