//! The index: what the tree holds, as rows in the order of names, so that listings and counters need no walk.
//!
//! It is derived and may be deleted at any time. Rows come of looks alone: a mark, a scan or a request of our own says where
//! to look, the look sees what is there now, and a transaction makes the row that. Two looks at one name may overlap; the one
//! that began before the other's rows were written looks again, so that what is older never replaces what is newer.
//!
//! A row's key is its directory's number and the name's component, so that a directory moves as one row. Directories are
//! known by their FID; a path is only ever where one was last seen.
//!
//! Whether a listing may come from here is decided for each container: all of it was seen in this epoch, no directory of it
//! waits for a scan, and whoever tells of changes was heard of a short while ago. Otherwise the tree is read. A new epoch
//! begins whenever changes may have been lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Bound, ControlFlow};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lustre::identity::Identity;

use crate::error::{Error, Result};
use crate::locks::Locks;

mod accounts;
mod change;
mod engine;
mod list;
mod look;
mod marks;
mod row;
mod scan;
mod tasks;
mod verify;

pub use scan::Progress;
use scan::Scanning;
pub use tasks::{Position, Task};
pub use verify::Difference;

use change::{Change, Made, Seen};
use engine::{Engine, Read, Redb};
use row::{Id, meta_key};

/// The format of the index. Another is made anew.
const FORMAT: u64 = 1;

/// Names touched lately that are remembered while looks are under way, before they are sifted.
const SIFT: usize = 8192;

/// As whom an account is looked at.
#[derive(Debug, Clone)]
pub enum Actor {
    /// As the process.
    Process,
    /// As this identity.
    As(Arc<Identity>),
    /// Not at all: its listings come from the tree.
    Nobody,
}

/// Tells as whom an account is looked at. May make calls to the file system.
pub type Owner = Box<dyn Fn(&crate::Namespace, &str) -> Result<Actor> + Send + Sync>;

/// How an index behaves.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// Its file.
    pub path: PathBuf,
    /// Bytes of it kept in memory at most.
    pub cache: usize,
    /// Without word from the source of changes for so long, listings come from the tree.
    pub max_silence: Duration,
}

/// The rows of a namespace.
pub struct Index {
    engine: Box<dyn Engine>,
    owner: Owner,
    max_silence: Duration,
    recent: Mutex<Recent>,
    // Up to when what happened is known here.
    source: Mutex<Option<Instant>>,
    broken: AtomicBool,
    epoch: AtomicU64,
    looks: AtomicU64,
    // Paths that requests of our own changed, by account; and who looks at them.
    notes: Mutex<HashMap<String, BTreeSet<Vec<u8>>>>,
    turns: Locks,
    // Who scans a directory.
    scans: Locks,
    waiting: Mutex<bool>,
    wake: Condvar,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// Which names were written lately, so that older looks are known.
#[derive(Debug, Default)]
struct Recent {
    sequence: u64,
    written: HashMap<(Id, Vec<u8>), u64>,
    // Directories whose rows others changed while they were scanned.
    scans: HashMap<Id, Scanning>,
    // Looks under way, by the sequence number at which they began.
    looks: BTreeMap<u64, usize>,
}

/// A look under way: from here on, what others write counts as newer.
#[derive(Debug)]
pub(crate) struct Look<'i> {
    index: &'i Index,
    began: u64,
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let mut recent = self.index.recent();
        if let Some(count) = recent.looks.get_mut(&self.began) {
            *count -= 1;
            if *count == 0 {
                recent.looks.remove(&self.began);
            }
        }
        let oldest = recent.looks.keys().next().copied();
        match oldest {
            None => recent.written.clear(),
            Some(oldest) if recent.written.len() > SIFT => recent.written.retain(|_, at| *at > oldest),
            Some(_) => {}
        }
    }
}

/// What a commit did.
#[derive(Debug, Default)]
struct Committed {
    /// Names that others wrote after the look began: to be looked at again.
    again: Vec<(Id, Vec<u8>)>,
    /// What came of it.
    made: Made,
}

impl Index {
    /// Opens or makes the index's file. One of another format, or damaged, is made anew.
    pub fn open(options: &IndexOptions, owner: Owner) -> Result<Self> {
        let engine = match Self::engine(&options.path, options.cache) {
            Ok(engine) => engine,
            Err(error) => {
                // What another server uses, or a disk refuses, is not damaged.
                if !matches!(error, Error::Index(_)) {
                    return Err(error);
                }
                tracing::warn!(path = %options.path.display(), %error, "the index is made anew");
                std::fs::remove_file(&options.path)
                    .map_err(|e| Error::Index(format!("remove {}: {e}", options.path.display())))?;
                Self::engine(&options.path, options.cache)?
            }
        };
        Self::with_engine(engine, options.max_silence, owner)
    }

    fn engine(path: &Path, cache: usize) -> Result<Box<dyn Engine>> {
        // It holds names that others may not list.
        let mut file = std::fs::OpenOptions::new();
        file.read(true).append(true).create(true).mode(0o600);
        file.open(path).map_err(|e| Error::io(format!("open {}", path.display()), e))?;
        let engine = Redb::open(path, cache)?;
        let format = engine.read()?.get(&meta_key("format"))?.map(|b| row::read_number(&b)).transpose()?;
        if format.is_some_and(|format| format != FORMAT) {
            return Err(Error::Index(format!("format {}, wanted {FORMAT}", format.unwrap_or_default())));
        }
        Ok(Box::new(engine))
    }

    fn with_engine(engine: Box<dyn Engine>, max_silence: Duration, owner: Owner) -> Result<Self> {
        let epoch = engine.read()?.get(&meta_key("epoch"))?.map(|b| row::read_number(&b)).transpose()?;
        let index = Self {
            engine,
            owner,
            max_silence,
            recent: Mutex::default(),
            source: Mutex::default(),
            broken: AtomicBool::new(false),
            epoch: AtomicU64::new(epoch.unwrap_or(0)),
            looks: AtomicU64::new(0),
            notes: Mutex::default(),
            turns: Locks::new(),
            scans: Locks::new(),
            waiting: Mutex::new(false),
            wake: Condvar::new(),
        };
        if epoch.is_none() {
            index.lost()?;
        }
        Ok(index)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<Box<dyn Read>> {
        self.engine.read()
    }

    /// Changes may have been lost: nothing is proven until it was scanned once more.
    pub fn lost(&self) -> Result<()> {
        let result = self.engine.write(true, &mut |store| {
            let stored = store.get(&meta_key("epoch"))?.map_or(Ok(0), |bytes| row::read_number(&bytes))?;
            // Whatever else fails, nothing that was proven until now is from here on.
            let epoch = self.epoch.fetch_max(stored, Ordering::SeqCst).max(stored) + 1;
            self.epoch.fetch_max(epoch, Ordering::SeqCst);
            store.put(&meta_key("format"), &row::number(FORMAT))?;
            store.put(&meta_key("epoch"), &row::number(epoch))
        });
        let result = self.noting(result);
        if result.is_ok() {
            self.call();
        }
        result
    }

    /// All that happened up to `lag` ago is in the index.
    pub fn heard(&self, lag: Duration) {
        let at = Instant::now().checked_sub(lag);
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// The source of changes is gone: until it is heard of again listings come from the tree.
    pub fn silent(&self) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether what the index says is as new as it is promised to be.
    pub fn current(&self) -> bool {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        !self.broken.load(Ordering::SeqCst) && source.is_some_and(|at| at.elapsed() < self.max_silence)
    }

    /// How long ago what is known here was true; `None` if that is not known.
    pub fn lag(&self) -> Option<Duration> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    /// How many containers there are, and how many of them are listed from the tree.
    pub fn containers(&self) -> Result<(u64, u64)> {
        let read = self.read()?;
        let epoch = self.epoch.load(Ordering::SeqCst);
        let (mut all, mut unproven) = (0, 0);
        let to = row::container_key(row::LIMBO);
        read.scan(
            (Bound::Included(&row::container_key(0)), Bound::Included(&to)),
            false,
            &mut |_, value| {
                let sums = row::Container::decode(value)?;
                all += 1;
                unproven += u64::from(!sums.is_proven(epoch));
                Ok(ControlFlow::Continue(()))
            },
        )?;
        Ok((all, unproven))
    }

    /// Makes durable all that was committed; what the source of changes handed over need not be kept there any longer.
    /// `checkpoint`: to be asked for after a restart, see [`Index::checkpoint`].
    pub fn flush(&self, checkpoint: &[u8]) -> Result<()> {
        let result = self.engine.write(true, &mut |store| store.put(&meta_key("checkpoint"), checkpoint));
        self.noting(result)
    }

    /// As [`Index::flush`], with the checkpoint as it was: what was scanned need not be scanned again after a crash.
    pub fn sync(&self) -> Result<()> {
        let result = self.engine.write(true, &mut |_| Ok(()));
        self.noting(result)
    }

    /// What was given at the last flush; empty if there was none.
    pub fn checkpoint(&self) -> Result<Vec<u8>> {
        Ok(self.read()?.get(&meta_key("checkpoint"))?.unwrap_or_default())
    }

    /// Names looked at so far.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// After a failed write nothing here can be relied on: listings come from the tree until a write succeeds and all was
    /// scanned once more.
    fn noting<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Index(error)) = &result
            && !self.broken.swap(true, Ordering::SeqCst)
        {
            tracing::error!(%error, "the index failed; listings come from the tree");
        }
        result
    }

    /// Tries to write again after a failure.
    fn mend(&self) -> Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            self.lost()?;
            self.broken.store(false, Ordering::SeqCst);
            tracing::info!("the index can be written again; all is scanned once more");
        }
        Ok(())
    }

    /// Wakes whoever scans.
    pub fn call(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }

    /// Waits until there may be something to scan, at most for `at_most`.
    pub fn wait(&self, at_most: Duration) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let until = self.wake.wait_timeout_while(waiting, at_most, |waiting| !*waiting);
        *until.unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    fn begin(&self) -> Look<'_> {
        let mut recent = self.recent();
        let began = recent.sequence;
        *recent.looks.entry(began).or_default() += 1;
        Look { index: self, began }
    }

    /// Makes what a look saw rows. `scanning`: the directory of which it saw all.
    fn commit(&self, look: Look<'_>, seen: &[Seen], scanning: Option<Id>) -> Result<Committed> {
        let mut committed = Committed::default();
        self.looks.fetch_add(seen.len() as u64, Ordering::Relaxed);
        let result = self.change(&mut |change| {
            committed.again.clear();
            for seen in seen {
                let key = (seen.dir, seen.file.clone());
                let mut recent = self.recent();
                if recent.written.get(&key).is_some_and(|at| *at > look.began) {
                    committed.again.push(key);
                    continue;
                }
                recent.sequence += 1;
                let sequence = recent.sequence;
                recent.written.insert(key, sequence);
                if scanning != Some(seen.dir)
                    && let Some(scan) = recent.scans.get_mut(&seen.dir)
                {
                    scan.disturbed = true;
                }
                drop(recent);
                change.apply(seen)?;
            }
            Ok(())
        });
        committed.made = result?;
        drop(look);
        Ok(committed)
    }

    /// One transaction.
    fn change(&self, work: &mut dyn FnMut(&mut Change<'_>) -> Result<()>) -> Result<Made> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        let mut made = Made::default();
        let result = self.engine.write(false, &mut |store| {
            let mut change = Change::new(store, epoch);
            work(&mut change)?;
            made = change.finish()?;
            Ok(())
        });
        self.noting(result)?;
        if made.search {
            self.call();
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests;
