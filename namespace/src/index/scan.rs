//! Scans: comparing whole directories with their rows, until a container is proven.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::{Bound, ControlFlow};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use lustre::sys;

use super::Index;
use super::engine::Read;
use super::look::{Reached, Where, child_ids, directory, file_of, place_of};
use super::row::{self, Container, Id, Kind, Level, ROW_TEXT, container_key, row_key};
use crate::Namespace;
use crate::error::{Error, Result, Step};
use crate::name::{self, Entry, Own};
use crate::place;

/// Entries looked at between two transactions.
const CHUNK: usize = 8192;

/// Rows of directories that left the tree which are removed in one transaction.
const REAPED: usize = 10_000;

/// Files whose other names are searched in one go.
const SEARCHED: usize = 1_000_000;

/// What scans did, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    /// Directories scanned.
    pub directories: AtomicU64,
    /// Entries compared.
    pub entries: AtomicU64,
    /// Containers that were proven.
    pub proven: AtomicU64,
    /// Containers of which that failed.
    pub failed: AtomicU64,
}

/// What one scanner needs, and what several share.
struct Crew<'c> {
    stack: Mutex<(Vec<Id>, usize)>,
    more: Condvar,
    failed: AtomicBool,
    stop: &'c AtomicBool,
    /// Called with the entries compared since the last call; it may sleep.
    pace: &'c (dyn Fn(u64) + Sync),
    progress: &'c Progress,
}

/// A scan of a directory under way, as others see it.
#[derive(Debug, Default)]
pub(super) struct Scanning {
    /// Others wrote rows of the directory.
    pub(super) disturbed: bool,
    /// Changes were lost since it began.
    pub(super) again: bool,
}

/// Where the name of an entry is to be looked at.
enum Settled {
    Here,
    Of(Vec<u8>),
    Elsewhere,
}

/// A count of what a scan saw.
#[derive(Debug, Default)]
struct Counted {
    entries: usize,
    objects: u64,
    directories: u64,
}

impl Namespace {
    /// Compares a directory with its rows. Returns the directories in it that are to be scanned next; `None` if it has more
    /// than `limit` entries, and stays to be scanned.
    pub(super) fn scan_directory(&self, index: &Index, id: Id, limit: usize) -> Result<Option<Vec<Id>>> {
        let Some(at) = place_of(&*index.read()?, id)? else { return Ok(Some(Vec::new())) };
        let Some(reached) = self.reach(&at)? else {
            // It moved or went, and its own name tells.
            if at.directory.level == Level::Account {
                self.look_for_accounts(index)?;
            } else {
                let name = vec![(at.directory.parent, [at.directory.file.clone()].into())];
                return self.look_at_all(index, name, &mut Vec::new()).map(Some);
            }
            return Ok(Some(Vec::new()));
        };
        let _turn = index.scans.lock(id);
        let epoch = index.epoch.load(Ordering::SeqCst);
        index.recent().scans.insert(id, Scanning::default());
        let below = self.scan_reached(index, &at, &reached, limit, epoch);
        index.recent().scans.remove(&id);
        below
    }

    fn scan_reached(
        &self,
        index: &Index,
        at: &Where,
        reached: &Reached<'_>,
        limit: usize,
        epoch: u64,
    ) -> Result<Option<Vec<Id>>> {
        let id = at.id;
        let Some(counted) = self.look_at_entries(index, at, reached, limit)? else { return Ok(None) };
        let disturbed = index.recent().scans.get(&id).is_none_or(|scan| scan.disturbed);
        let now = directory(&*index.read()?, id)?;
        let rows = |read: &dyn Read| -> Result<u64> { Ok(child_ids(read, id)?.len() as u64) };
        // Every entry has its row now; as many rows as entries means that no row is without one.
        let even = !disturbed
            && now.is_some_and(|now| now.objects == counted.objects)
            && rows(&*index.read()?)? == counted.directories;
        if !even {
            self.look_at_rows(index, at)?;
        }
        let mut below = None;
        index.change(&mut |change| {
            // Changes were lost meanwhile: it stays to be scanned.
            if index.recent().scans.get(&id).is_some_and(|scan| scan.again) {
                return Ok(());
            }
            below = Some(change.scanned(id, epoch)?);
            Ok(())
        })?;
        Ok(below)
    }

    /// Looks at every entry; `None` if there are more than `limit`.
    fn look_at_entries(
        &self,
        index: &Index,
        at: &Where,
        reached: &Reached<'_>,
        limit: usize,
    ) -> Result<Option<Counted>> {
        let mut counted = Counted::default();
        let mut chunk: Vec<Vec<u8>> = Vec::new();
        let mut failed = None;
        sys::read_dir(reached.dir.as_fd(), &mut |file, _, _| {
            counted.entries += 1;
            if counted.entries > limit {
                return ControlFlow::Break(());
            }
            chunk.push(file.to_vec());
            if chunk.len() >= CHUNK
                && let Err(error) = self.look_at_chunk(index, at, reached, &mut chunk, &mut counted)
            {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .step("read a directory")?;
        match failed {
            Some(error) => return Err(error),
            None if counted.entries > limit => return Ok(None),
            None => self.look_at_chunk(index, at, reached, &mut chunk, &mut counted)?,
        }
        Ok(Some(counted))
    }

    fn look_at_chunk(
        &self,
        index: &Index,
        at: &Where,
        reached: &Reached<'_>,
        chunk: &mut Vec<Vec<u8>>,
        counted: &mut Counted,
    ) -> Result<()> {
        // In the order of the rows, which lie together then.
        chunk.sort_unstable();
        let look = index.begin();
        let read = index.read()?;
        let mut seen = Vec::with_capacity(chunk.len());
        for file in chunk.drain(..) {
            let file = match self.settled(at, reached, &file)? {
                Settled::Here => file,
                Settled::Of(target) => target,
                Settled::Elsewhere => continue,
            };
            let one = self.look_at(at, reached, &file, &*read)?;
            counted.objects += u64::from(one.object.as_ref().is_some_and(|(_, row)| row.is_some()));
            counted.directories += u64::from(one.directory.as_ref().is_some_and(|d| d.fid.is_some()));
            seen.push(one);
        }
        drop(read);
        // What was found by its path holds only if the directory was there all the time.
        if seen.iter().any(|one| one.by_path) && self.reach(at)?.is_none() {
            return Err(Error::Contended { what: "scanning a directory that moves" });
        }
        let committed = index.commit(look, &seen, Some(at.id))?;
        // Others were quicker, and their rows are as new as ours would be; but one more look costs little.
        let mut again = committed.again;
        again.extend(super::marks::files_of(&*index.read()?, committed.made.kin)?);
        if again.is_empty() {
            return Ok(());
        }
        self.look_at_all(index, super::marks::by_directory(again), &mut Vec::new()).map(drop)
    }

    /// What a crash left in transit is put back first.
    fn settled(&self, at: &Where, reached: &Reached<'_>, file: &[u8]) -> Result<Settled> {
        if !file.starts_with(name::PREFIX) || at.container.is_none() {
            return Ok(Settled::Here);
        }
        match name::entry(file, true, &at.directory.context) {
            // It belongs to the directory's own name.
            Entry::Own(Own::SelfFile) if at.directory.level == Level::Object => Ok(Settled::Elsewhere),
            Entry::Own(Own::Transit(target)) => {
                place::settle(&reached.scope, reached.dir.as_fd(), target)?;
                Ok(Settled::Of(target.to_vec()))
            }
            Entry::Own(Own::TransitDirectory) => {
                let mut targets = Vec::new();
                if let Some(inner) = reached.scope.open_directory(reached.dir.as_fd(), file)? {
                    sys::read_dir(inner.as_fd(), &mut |target, _, _| {
                        targets.push(target.to_vec());
                        ControlFlow::Continue(())
                    })
                    .step("read the transit directory")?;
                }
                for target in targets {
                    // Its name comes back into this directory while that is read, and is looked at then or by its mark.
                    place::settle(&reached.scope, reached.dir.as_fd(), &target)?;
                }
                Ok(Settled::Elsewhere)
            }
            _ => Ok(Settled::Here),
        }
    }

    /// Looks at the name of every row.
    fn look_at_rows(&self, index: &Index, at: &Where) -> Result<()> {
        let mut from = Bound::Included(row_key(at.id, Kind::Object, ""));
        let to = row::after(&row_key(at.id, Kind::Run, ""));
        let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        loop {
            let mut keys: Vec<Vec<u8>> = Vec::new();
            let read = index.read()?;
            read.scan((from.as_ref().map(Vec::as_slice), to), false, &mut |key, _| {
                keys.push(key.to_vec());
                Ok(if keys.len() < CHUNK { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            })?;
            let Some(last) = keys.last().cloned() else { return Ok(()) };
            let mut files = BTreeSet::new();
            for key in &keys {
                files.insert(self.file_of_row(&*read, at, key)?);
            }
            drop(read);
            self.look_at_all(index, vec![(at.id, files)], &mut Vec::new())?;
            from = Bound::Excluded(last);
        }
    }

    fn file_of_row(&self, read: &dyn Read, at: &Where, key: &[u8]) -> Result<Vec<u8>> {
        let text = std::str::from_utf8(&key[ROW_TEXT..]).map_err(|_| row::damaged())?;
        let kind = Kind::of(key[ROW_TEXT - 1])?;
        if kind == Kind::Object {
            return file_of(&at.prefix, text);
        }
        let entry = super::marks::entry_of(read, at.id, kind, text)?.ok_or_else(row::damaged)?;
        Ok(directory(read, entry.id)?.ok_or_else(row::damaged)?.file)
    }

    /// Scans whatever is not proven, on so many threads. `pace` is called with the number of entries compared since its last
    /// call, and may sleep. Returns whether something is left that could not be scanned.
    pub fn prove(
        &self,
        threads: usize,
        stop: &AtomicBool,
        pace: &(dyn Fn(u64) + Sync),
        progress: &Progress,
    ) -> Result<bool> {
        let Some(index) = &self.index else { return Ok(false) };
        index.mend()?;
        self.look_for_accounts(index)?;
        let mut left = !self.scan_pending(index, threads, stop, pace, progress)?;
        for account in index.accounts(&*index.read()?)? {
            let containers = match self.acting(index, &account.name, || self.prove_account(index, account.id))
            {
                Ok(Some(containers)) => containers,
                Ok(None) => continue,
                Err(error @ Error::Index(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(account = account.name, %error, "the account could not be scanned");
                    left = true;
                    continue;
                }
            };
            for container in containers {
                if stop.load(Ordering::Relaxed) {
                    return Ok(true);
                }
                let crew = Crew::new(container, stop, pace, progress);
                let proven = self.prove_container(index, &account.name, container, threads, &crew)?;
                left |= !proven;
                let counter = if proven { &progress.proven } else { &progress.failed };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.look_at_links(index)?;
        self.find_kin(index, stop)?;
        self.reap_index(index, stop)?;
        Ok(left)
    }

    /// Scans single directories that wait for it; true if that did all of them.
    fn scan_pending(
        &self,
        index: &Index,
        threads: usize,
        stop: &AtomicBool,
        pace: &(dyn Fn(u64) + Sync),
        progress: &Progress,
    ) -> Result<bool> {
        let mut waiting = Vec::new();
        index.read()?.scan_prefix(b"p", &mut |key, _| {
            waiting.extend(row::id_in(key, 1));
            Ok(ControlFlow::Continue(()))
        })?;
        let mut all = true;
        while let Some(id) = waiting.pop() {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let Some(at) = place_of(&*index.read()?, id)? else { continue };
            if !at.directory.pending && at.directory.epoch == index.epoch.load(Ordering::SeqCst) {
                continue;
            }
            if at.directory.level == Level::Container {
                // All of it waits, most likely.
                let crew = Crew::new(id, stop, pace, progress);
                all &= self.prove_container(index, &at.account, id, threads, &crew)?;
                continue;
            }
            let before = index.looks();
            match self.acting(index, &at.account, || self.scan_directory(index, id, usize::MAX)) {
                Ok(Some(Some(below))) => waiting.extend(below),
                Ok(_) => all = false,
                Err(error @ Error::Index(_)) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "a directory could not be scanned");
                    all = false;
                }
            }
            pace(index.looks().saturating_sub(before));
        }
        Ok(all)
    }

    /// Scans the directories of an account itself; returns its containers that were not seen whole in this epoch.
    fn prove_account(&self, index: &Index, account: Id) -> Result<Vec<Id>> {
        let epoch = index.epoch.load(Ordering::SeqCst);
        let mut stack = vec![account];
        let mut containers = Vec::new();
        while let Some(id) = stack.pop() {
            let read = index.read()?;
            let Some(found) = directory(&*read, id)? else { continue };
            if found.epoch != epoch || found.pending {
                self.scan_directory(index, id, usize::MAX)?;
            }
            let read = index.read()?;
            for child in child_ids(&*read, id)? {
                let level = directory(&*read, child)?.map(|found| found.level);
                if level != Some(Level::Container) {
                    stack.push(child);
                } else if index.sums(&*read, child)?.epoch != epoch {
                    containers.push(child);
                }
            }
        }
        index.change(&mut |change| change.alter_container(account, |c| c.epoch = epoch))?;
        Ok(containers)
    }

    /// Scans all of a container that was not scanned in this epoch; true if it is proven now.
    fn prove_container(
        &self,
        index: &Index,
        account: &str,
        container: Id,
        threads: usize,
        crew: &Crew<'_>,
    ) -> Result<bool> {
        let epoch = index.epoch.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    let work = || {
                        self.scan_with(index, crew);
                        Ok(())
                    };
                    if !matches!(self.acting(index, account, work), Ok(Some(()))) {
                        crew.failed.store(true, Ordering::Relaxed);
                    }
                });
            }
        });
        if crew.failed.load(Ordering::Relaxed) || crew.stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if index.epoch.load(Ordering::SeqCst) != epoch {
            index.call();
            return Ok(false);
        }
        index.change(&mut |change| change.alter_container(container, |c| c.epoch = epoch))?;
        Ok(index.sums(&*index.read()?, container)?.pending == 0)
    }

    /// Takes directories from the crew's stack until there are none and nobody will bring more.
    fn scan_with(&self, index: &Index, crew: &Crew<'_>) {
        while let Some(id) = crew.next() {
            let below = self.scan_one(index, id, crew);
            match below {
                Ok(below) => crew.done(below),
                Err(error) => {
                    tracing::debug!(%error, "a directory could not be scanned");
                    crew.failed.store(true, Ordering::Relaxed);
                    crew.done(Vec::new());
                }
            }
        }
    }

    /// Scans a directory if that was not done in this epoch; returns all directories in it.
    fn scan_one(&self, index: &Index, id: Id, crew: &Crew<'_>) -> Result<Vec<Id>> {
        let Some(found) = directory(&*index.read()?, id)? else { return Ok(Vec::new()) };
        let before = index.looks();
        if found.epoch != index.epoch.load(Ordering::SeqCst) || found.pending {
            self.scan_directory(index, id, usize::MAX)?;
            crew.progress.directories.fetch_add(1, Ordering::Relaxed);
        }
        let entries = index.looks().saturating_sub(before);
        crew.progress.entries.fetch_add(entries, Ordering::Relaxed);
        (crew.pace)(entries);
        child_ids(&*index.read()?, id)
    }

    /// Looks at the links of containers in which a name came or went: they may lead elsewhere.
    fn look_at_links(&self, index: &Index) -> Result<()> {
        let read = index.read()?;
        let mut doubted = HashMap::new();
        read.scan_prefix(b"c", &mut |key, value| {
            let sums = Container::decode(value)?;
            if sums.unsure > 0 {
                doubted.extend(row::id_in(key, 1).map(|id| (id, (sums.unsure, Vec::new()))));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if doubted.is_empty() {
            return Ok(());
        }
        let mut links: Vec<(Id, String)> = Vec::new();
        read.scan_prefix(b"y", &mut |key, _| {
            let id = row::id_in(key, 1).ok_or_else(row::damaged)?;
            let text = std::str::from_utf8(&key[9..]).map_err(|_| row::damaged())?;
            links.push((id, text.to_owned()));
            Ok(ControlFlow::Continue(()))
        })?;
        for (id, file) in super::marks::files_of(&*read, links)? {
            if let Some((_, names)) = container_of(&*read, id)?.and_then(|id| doubted.get_mut(&id)) {
                names.push((id, file));
            }
        }
        for (container, (doubts, names)) in doubted {
            let Some(at) = place_of(&*read, container)? else { continue };
            let work = || {
                let names = super::marks::by_directory(names);
                self.look_at_all(index, names, &mut Vec::new())?;
                index.change(&mut |change| change.believe_links(container, doubts)).map(drop)
            };
            self.acting(index, &at.account, work)?;
        }
        Ok(())
    }

    /// Looks at all names of the files of which some names are not known to be theirs.
    fn find_kin(&self, index: &Index, stop: &AtomicBool) -> Result<()> {
        let mut wanted = HashSet::new();
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let read = index.read()?;
        read.scan_prefix(b"k", &mut |key, _| {
            wanted.extend(row::id_in(key, 9));
            keys.push(key.to_vec());
            Ok(if keys.len() < SEARCHED { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if keys.is_empty() {
            return Ok(());
        }
        let mut found: Vec<(Id, String)> = Vec::new();
        read.scan_prefix(b"r", &mut |key, value| {
            if key.get(ROW_TEXT - 1) == Some(&(Kind::Object as u8)) {
                let object = row::Object::decode(value)?;
                if object.links.is_none() && wanted.contains(&object.ino) {
                    let id = row::id_in(key, 1).ok_or_else(row::damaged)?;
                    let text = std::str::from_utf8(&key[ROW_TEXT..]).map_err(|_| row::damaged())?;
                    found.push((id, text.to_owned()));
                }
            }
            let go_on = !stop.load(Ordering::Relaxed);
            Ok(if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        for (id, files) in super::marks::by_directory(super::marks::files_of(&*read, found)?) {
            let Some(at) = place_of(&*read, id)? else { continue };
            let work = || self.look_at_all(index, vec![(id, files)], &mut Vec::new());
            self.acting(index, &at.account, work)?;
        }
        index.change(&mut |change| keys.iter().try_for_each(|key| change.searched(key)))?;
        Ok(())
    }

    /// Removes the rows of what left the tree.
    fn reap_index(&self, index: &Index, stop: &AtomicBool) -> Result<()> {
        let mut more = true;
        while more && !stop.load(Ordering::Relaxed) {
            // A transaction for nothing would keep the disk awake.
            let mut any = false;
            index.read()?.scan_prefix(b"l", &mut |_, _| {
                any = true;
                Ok(ControlFlow::Break(()))
            })?;
            if !any {
                return Ok(());
            }
            index.change(&mut |change| {
                more = change.reap(REAPED)?;
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The container that a directory lies in, or is.
fn container_of(read: &dyn Read, mut id: Id) -> Result<Option<Id>> {
    while let Some(found) = directory(read, id)? {
        if found.level == Level::Container {
            return Ok(Some(id));
        }
        id = found.parent;
    }
    Ok(None)
}

impl Index {
    /// What is summed up of a container or account.
    pub(super) fn sums(&self, read: &dyn Read, id: Id) -> Result<Container> {
        read.get(&container_key(id))?.map_or(Ok(Container::default()), |bytes| Container::decode(&bytes))
    }

    /// Whether all of a container, or the list of an account's containers, was seen in this epoch.
    pub(super) fn proven(&self, read: &dyn Read, id: Id) -> Result<bool> {
        Ok(self.sums(read, id)?.is_proven(self.epoch.load(Ordering::SeqCst)))
    }
}

impl<'c> Crew<'c> {
    fn new(
        container: Id,
        stop: &'c AtomicBool,
        pace: &'c (dyn Fn(u64) + Sync),
        progress: &'c Progress,
    ) -> Self {
        let stack = Mutex::new((vec![container], 0));
        Self { stack, more: Condvar::new(), failed: AtomicBool::new(false), stop, pace, progress }
    }
}

impl Crew<'_> {
    fn next(&self) -> Option<Id> {
        let mut state = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(id) = state.0.pop() {
                state.1 += 1;
                return Some(id);
            }
            if state.1 == 0 {
                return None;
            }
            let waited = self.more.wait_timeout(state, Duration::from_millis(200));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn done(&self, below: Vec<Id>) {
        let mut state = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 -= 1;
        state.0.extend(below);
        drop(state);
        self.more.notify_all();
    }
}
