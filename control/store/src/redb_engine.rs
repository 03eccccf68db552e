//! The engine over redb: one file, one transaction and one fsync per batch.
//!
//! A key is stored as `table NUL scope NUL name`, a value as eight bytes of revision (big endian) and the bytes.

use std::path::Path;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::engine::{Change, Engine, EngineError, Record};
use crate::{Key, Revision};

const VALUES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("values");
const STATE: TableDefinition<'_, &str, u64> = TableDefinition::new("state");
const REVISION: &str = "revision";

/// redb's page cache. Small, for reads never reach the disk.
const CACHE_BYTES: usize = 2 << 20;

/// The redb file.
#[derive(Debug)]
pub struct Redb {
    database: Database,
}

impl Redb {
    /// Opens the file, creating it if it is missing and repairing it after a crash.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(failed("opening the database"))?;
        Ok(Self { database })
    }
}

impl Engine for Redb {
    fn load(&mut self, each: &mut dyn FnMut(Record)) -> Result<Revision, EngineError> {
        let make = self
            .database
            .begin_write()
            .map_err(failed("beginning a write"))?;
        make.open_table(VALUES)
            .map_err(failed("creating a table"))?;
        make.open_table(STATE).map_err(failed("creating a table"))?;
        make.commit().map_err(failed("committing the tables"))?;

        let read = self
            .database
            .begin_read()
            .map_err(failed("beginning a read"))?;
        let values = read.open_table(VALUES).map_err(failed("opening a table"))?;
        for row in values.iter().map_err(failed("reading values"))? {
            let (key, value) = row.map_err(failed("reading a value"))?;
            each(decode(key.value(), value.value())?);
        }
        let state = read.open_table(STATE).map_err(failed("opening a table"))?;
        let revision = state
            .get(REVISION)
            .map_err(failed("reading the revision"))?;
        Ok(Revision(revision.map_or(0, |guard| guard.value())))
    }

    fn commit(&mut self, revision: Revision, changes: &[Change]) -> Result<(), EngineError> {
        let write = self
            .database
            .begin_write()
            .map_err(failed("beginning a write"))?;
        {
            let mut values = write
                .open_table(VALUES)
                .map_err(failed("opening a table"))?;
            for change in changes {
                match change {
                    Change::Put(record) => values
                        .insert(&*encode_key(&record.key), &*encode_value(record))
                        .map(drop),
                    Change::Remove(key) => values.remove(&*encode_key(key)).map(drop),
                }
                .map_err(failed("writing a value"))?;
            }
            let mut state = write.open_table(STATE).map_err(failed("opening a table"))?;
            state
                .insert(REVISION, revision.0)
                .map_err(failed("writing the revision"))?;
        }
        write.commit().map_err(failed("committing a batch"))
    }
}

fn encode_key(key: &Key) -> Vec<u8> {
    [
        key.table.as_bytes(),
        key.scope.as_bytes(),
        key.name.as_bytes(),
    ]
    .join(&0)
}

fn encode_value(record: &Record) -> Vec<u8> {
    [&record.revision.0.to_be_bytes(), &*record.value].concat()
}

fn decode(key: &[u8], value: &[u8]) -> Result<Record, EngineError> {
    let parts = std::str::from_utf8(key).ok().and_then(|key| {
        let mut parts = key.splitn(3, '\0');
        Some(Key::new(parts.next()?, parts.next()?, parts.next()?))
    });
    match (parts, value.split_first_chunk::<8>()) {
        (Some(key), Some((revision, bytes))) => Ok(Record {
            key,
            revision: Revision(u64::from_be_bytes(*revision)),
            value: Bytes::copy_from_slice(bytes),
        }),
        _ => Err(failed("decoding a record")(
            "the key or value has an unknown form",
        )),
    }
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    action: &'static str,
) -> impl FnOnce(E) -> EngineError {
    move |source| EngineError {
        action,
        source: source.into(),
    }
}
