//! What holds the rows: an ordered store of byte strings with transactions.

use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::Path;

use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageError, Table,
    TableDefinition,
};

use super::row::after;
use crate::error::{Error, Result};

/// From where to where, and what to do with each key and value.
pub(super) type Range<'r> = (Bound<&'r [u8]>, Bound<&'r [u8]>);
pub(super) type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>> + 'v;
/// What is done within a transaction.
pub(super) type Work<'w> = dyn FnMut(&mut dyn Write) -> Result<()> + 'w;

/// One state of the store, which does not change.
pub(super) trait Read {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// Calls `visit` for each key of the range in order, or against it.
    fn scan(&self, range: Range<'_>, reverse: bool, visit: &mut Visit<'_>) -> Result<()>;

    /// Calls `visit` for each key that begins with `prefix`, in order.
    fn scan_prefix(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let end = after(prefix);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.scan((Bound::Included(prefix), end), false, visit)
    }
}

/// A transaction: what was written is read back within it.
pub(super) trait Write: Read {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
    fn remove(&mut self, key: &[u8]) -> Result<()>;
}

/// The store. One transaction writes at a time; others wait.
pub(super) trait Engine: Send + Sync + std::fmt::Debug {
    fn read(&self) -> Result<Box<dyn Read>>;
    /// All of what `work` writes, or nothing if it fails. `durable`: this and all before it survive a crash.
    fn write(&self, durable: bool, work: &mut Work<'_>) -> Result<()>;
}

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

/// `redb`, in one file.
#[derive(Debug)]
pub(super) struct Redb(Database);

fn failed(e: impl Into<redb::Error>) -> Error {
    Error::Index(e.into().to_string())
}

impl Redb {
    /// Opens or makes the file; at most `cache` bytes are kept in memory.
    pub(super) fn open(path: &Path, cache: usize) -> Result<Self> {
        let opened = Database::builder().set_cache_size(cache).create(path);
        let database = opened.map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => {
                Error::Blocked { path: path.display().to_string(), reason: "another server uses this index" }
            }
            DatabaseError::Storage(StorageError::Io(e)) if e.kind() != io::ErrorKind::InvalidData => {
                Error::io(format!("open {}", path.display()), e)
            }
            e => failed(e),
        })?;
        let engine = Self(database);
        // Readers find a table then.
        engine.write(true, &mut |_| Ok(()))?;
        Ok(engine)
    }
}

impl Engine for Redb {
    fn read(&self) -> Result<Box<dyn Read>> {
        let table = self.0.begin_read().map_err(failed)?.open_table(ROWS).map_err(failed)?;
        Ok(Box::new(Snapshot(table)))
    }

    fn write(&self, durable: bool, work: &mut Work<'_>) -> Result<()> {
        let mut transaction = self.0.begin_write().map_err(failed)?;
        let durability = if durable { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(failed)?;
        // A crash must not cost a walk through all of it before the first request.
        transaction.set_quick_repair(durable);
        let done = {
            let table = transaction.open_table(ROWS).map_err(failed)?;
            work(&mut Writer(table))
        };
        match done {
            Ok(()) => transaction.commit().map_err(failed),
            Err(e) => transaction.abort().map_err(failed).and(Err(e)),
        }
    }
}

fn get(table: &impl ReadableTable<&'static [u8], &'static [u8]>, key: &[u8]) -> Result<Option<Vec<u8>>> {
    Ok(table.get(key).map_err(failed)?.map(|value| value.value().to_vec()))
}

fn scan(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    range: Range<'_>,
    reverse: bool,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mut rows = table.range::<&[u8]>(range).map_err(failed)?;
    while let Some(row) = if reverse { rows.next_back() } else { rows.next() } {
        let (key, value) = row.map_err(failed)?;
        if visit(key.value(), value.value())?.is_break() {
            break;
        }
    }
    Ok(())
}

struct Snapshot(ReadOnlyTable<&'static [u8], &'static [u8]>);

impl Read for Snapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        get(&self.0, key)
    }

    fn scan(&self, range: Range<'_>, reverse: bool, visit: &mut Visit<'_>) -> Result<()> {
        scan(&self.0, range, reverse, visit)
    }
}

struct Writer<'t>(Table<'t, &'static [u8], &'static [u8]>);

impl Read for Writer<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        get(&self.0, key)
    }

    fn scan(&self, range: Range<'_>, reverse: bool, visit: &mut Visit<'_>) -> Result<()> {
        scan(&self.0, range, reverse, visit)
    }
}

impl Write for Writer<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.0.insert(key, value).map_err(failed).map(drop)
    }

    fn remove(&mut self, key: &[u8]) -> Result<()> {
        self.0.remove(key).map_err(failed).map(drop)
    }
}
