//! From marks, and from requests of our own, to rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::PoisonError;

use lustre::fs::Fid;

use super::accounts::Known;
use super::engine::Read;
use super::look::{self, place_of};
use super::row::{self, Entry as RowEntry, Id, Kind, Level, TOP, fid_key, row_key};
use super::{Committed, Index};
use crate::error::{Error, Result};
use crate::name::{self, Entry, Own};
use crate::place;
use crate::{Mark, Namespace, Spot};

/// How often a look is repeated when others keep writing the same names.
const ROUNDS: usize = 20;

/// Entries of a new directory that are looked at before whoever met it goes on.
const AT_ONCE: usize = 10_000;

/// New directories that are scanned before whoever met them goes on.
const FRESH_AT_ONCE: usize = 1_000;

/// Changes of our own that are looked at together at the latest.
const NOTES: usize = 128;

/// Names to look at, by directory.
pub(super) type Names = Vec<(Id, BTreeSet<Vec<u8>>)>;

/// The names of one directory that a batch of marks tells of.
#[derive(Debug, Default)]
struct Marked {
    /// Beneath the account, when the mark was made.
    path: Vec<u8>,
    names: BTreeSet<Vec<u8>>,
    below: bool,
    /// Names of what came from where nobody watches.
    arrived: Vec<Vec<u8>>,
    /// Whether the path leads anywhere.
    astray: bool,
}

impl Namespace {
    /// Looks wherever the marks point. When it returns, what it saw is in the index.
    pub fn observe(&self, marks: &[Mark]) -> Result<()> {
        let Some(index) = &self.index else { return Ok(()) };
        self.catch_up_all(index)?;
        if marks.contains(&Mark::Everything) {
            return index.lost();
        }
        let mut accounts = index.accounts(&*index.read()?)?;
        let above = |path: &[u8]| {
            let mapped = self.options.accounts.values().map(|path| path.trim_matches('/').as_bytes());
            above_accounts(accounts.iter().map(|known| known.path.as_slice()).chain(mapped), path)
        };
        if marks.iter().flat_map(directories_of).any(above) {
            self.look_for_accounts(index)?;
            accounts = index.accounts(&*index.read()?)?;
        }
        let known = index.directories_of(marks)?;
        for account in &accounts {
            if marks.iter().any(|mark| moves_account(mark, &account.path)) {
                index.scan_below(account.id)?;
            }
            let marked = marked_in(account, &known, marks);
            if marked.is_empty() {
                continue;
            }
            match self.acting(index, &account.name, || self.observe_in(index, account, marked)) {
                Ok(Some(())) => {}
                Err(error @ Error::Index(_)) => return Err(error),
                // The marks are not looked at: nothing of the account is proven any more.
                Ok(None) => index.scan_below(account.id)?,
                Err(error) => {
                    tracing::warn!(account = account.name, %error, "marks could not be looked at");
                    index.scan_below(account.id)?;
                }
            }
        }
        Ok(())
    }

    fn observe_in(&self, index: &Index, account: &Known, marked: HashMap<Fid, Marked>) -> Result<()> {
        let read = index.read()?;
        let known = read.get(&row::meta_key("next"))?.map_or(Ok(0), |bytes| row::read_number(&bytes))?;
        let arrived: Vec<(Fid, Vec<u8>)> = marked
            .iter()
            .flat_map(|(fid, marked)| marked.arrived.iter().map(|name| (*fid, name.clone())))
            .collect();
        let mut names: Names = Vec::new();
        let mut astray = Vec::new();
        for (fid, marked) in marked {
            let known = read.get(&fid_key(account.id, &fid))?.map(|b| row::read_number(&b)).transpose()?;
            match known {
                Some(id) if place_of(&*read, id)?.is_some() => {
                    if marked.below {
                        index.scan_below(id)?;
                    }
                    names.push((id, marked.names.clone()));
                    astray.push((Some(id), marked));
                }
                _ => astray.push((None, marked)),
            }
        }
        drop(read);
        let missing = self.look_and_settle(index, names)?;
        for (id, marked) in astray {
            let Some(id) = id.filter(|id| missing.contains(id)) else {
                if id.is_none() {
                    self.follow_hint(index, account.id, &marked)?;
                }
                continue;
            };
            // Where it was last seen it is not. Where it moved to may be known by now; else the mark may know.
            if self.look_and_settle(index, vec![(id, marked.names.clone())])?.contains(&id) {
                self.follow_hint(index, account.id, &marked)?;
            }
        }
        for (fid, name) in arrived {
            // What was known of it, before it went where nobody watches, may be wrong by now.
            let read = index.read()?;
            let Some(dir) = read.get(&fid_key(account.id, &fid))? else { continue };
            if let Some(id) = child(&*read, row::read_number(&dir)?, &name)?
                && id < known
            {
                index.scan_below(id)?;
            }
        }
        Ok(())
    }

    /// Looks at every directory on the way to the marked one, and at the names in it.
    fn follow_hint(&self, index: &Index, account: Id, marked: &Marked) -> Result<()> {
        if marked.astray {
            return Ok(());
        }
        let mut at = account;
        let parts: Vec<&[u8]> = marked.path.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
        for (depth, part) in parts.iter().enumerate() {
            if *part == name::TRANSIT_DIRECTORY && depth + 1 == parts.len() {
                break;
            }
            self.look_and_settle(index, vec![(at, BTreeSet::from([part.to_vec()]))])?;
            match child(&*index.read()?, at, part)? {
                Some(id) => at = id,
                None => return Ok(()),
            }
        }
        self.look_and_settle(index, vec![(at, marked.names.clone())])?;
        Ok(())
    }

    /// Looks at names, and scans what is new. Returns the directories that are not where the index had them.
    fn look_and_settle(&self, index: &Index, names: Names) -> Result<Vec<Id>> {
        let mut missing = Vec::new();
        let fresh = self.look_at_all(index, names, &mut missing)?;
        self.scan_fresh(index, fresh)?;
        Ok(missing)
    }

    /// Scans new directories at once, as far as there are few; the others wait for the scanner.
    pub(super) fn scan_fresh(&self, index: &Index, mut fresh: Vec<Id>) -> Result<()> {
        let mut scanned = 0;
        while let Some(id) = fresh.pop() {
            scanned += 1;
            if scanned > FRESH_AT_ONCE {
                index.call();
                break;
            }
            match self.scan_directory(index, id, AT_ONCE) {
                Ok(Some(below)) => fresh.extend(below),
                Ok(None) => index.call(),
                Err(error @ Error::Index(_)) => return Err(error),
                // It stays to be scanned, and its container unproven.
                Err(error) => {
                    tracing::debug!(%error, "a new directory could not be scanned");
                    index.call();
                }
            }
        }
        Ok(())
    }

    /// Looks at names and writes what it saw in one transaction. Returns the directories that are new.
    pub(super) fn look_at_all(
        &self,
        index: &Index,
        mut names: Names,
        missing: &mut Vec<Id>,
    ) -> Result<Vec<Id>> {
        let mut fresh = Vec::new();
        for _ in 0..ROUNDS {
            let look = index.begin();
            let read = index.read()?;
            let mut seen = Vec::new();
            let mut failed = Vec::new();
            let mut queue = std::mem::take(&mut names);
            while let Some((id, files)) = queue.pop() {
                let Some(at) = place_of(&*read, id)? else { continue };
                let reached = match self.reach(&at) {
                    Ok(Some(reached)) => reached,
                    Ok(None) => {
                        missing.push(id);
                        queue.extend(above(&at.directory));
                        continue;
                    }
                    Err(error) => {
                        failed.push((id, error));
                        continue;
                    }
                };
                let first = seen.len();
                for file in files {
                    match normal(&at.directory, &file) {
                        Normal::Here(file) => match self.look_at(&at, &reached, file, &*read) {
                            Ok(one) => seen.push(one),
                            Err(error) => failed.push((id, error)),
                        },
                        Normal::Above => queue.extend(above(&at.directory)),
                        Normal::Nothing => {}
                    }
                }
                // What was found by its path holds only if the directory was there all the time.
                if seen[first..].iter().any(|one| one.by_path) && !matches!(self.reach(&at), Ok(Some(_))) {
                    seen.truncate(first);
                    failed.push((id, Error::Contended { what: "looking into a directory that moves" }));
                }
            }
            drop(read);
            let Committed { mut again, made } = index.commit(look, &seen, None)?;
            fresh.extend(made.fresh);
            self.leave_to_scanner(index, failed)?;
            again.extend(files_of(&*index.read()?, made.kin)?);
            if again.is_empty() {
                return Ok(fresh);
            }
            names = by_directory(again);
        }
        let rest = names.into_iter().map(|(id, _)| (id, Error::Contended { what: "looking at a name" }));
        self.leave_to_scanner(index, rest.collect())?;
        Ok(fresh)
    }

    /// What could not be looked at is not proven any more.
    fn leave_to_scanner(&self, index: &Index, failed: Vec<(Id, Error)>) -> Result<()> {
        for (id, error) in failed {
            if let Error::Index(_) = error {
                return Err(error);
            }
            tracing::debug!(%error, "a directory could not be looked at");
            index.scan_below(id)?;
        }
        Ok(())
    }

    /// After a change of our own: the object is looked at before anybody lists it, wherever its path leads then.
    pub(crate) fn note_object(&self, account: &str, container: &str, path: &[u8]) {
        let Some(index) = &self.index else { return };
        let Ok(container) = crate::container_path(container) else { return };
        self.note(index, account, &place::join(&container, path));
    }

    /// As `note_object`, of the container itself.
    pub(crate) fn note_container(&self, account: &str, container: &str) {
        self.note_object(account, container, b"");
    }

    /// After an account was made or removed: the scanner looks for it, as nobody else may act for all.
    pub(crate) fn note_accounts(&self) {
        if let Some(index) = &self.index {
            index.call();
        }
    }

    fn note(&self, index: &Index, account: &str, path: &[u8]) {
        let many = {
            let mut notes = index.notes.lock().unwrap_or_else(PoisonError::into_inner);
            let notes = notes.entry(account.to_owned()).or_default();
            notes.insert(path.strip_suffix(b"/").unwrap_or(path).to_vec());
            notes.len() >= NOTES
        };
        if many {
            self.catch_up(index, account);
        }
    }

    /// Looks at what requests of our own changed in an account since the last time. Act as its owner.
    pub(super) fn catch_up(&self, index: &Index, account: &str) {
        // Whoever lists waits for those who are at it.
        let _turn = index.turns.lock(account);
        let notes = index.notes.lock().unwrap_or_else(PoisonError::into_inner).remove(account);
        let Some(notes) = notes else { return };
        // Whatever fails, the requests have been done: then listings are proven anew.
        if let Err(error) = self.look_at_notes(index, account, &notes) {
            tracing::warn!(%error, "changes of our own are not in the index");
            let _ = index.lost();
        }
    }

    /// As `catch_up`, of all accounts, as their owners.
    fn catch_up_all(&self, index: &Index) -> Result<()> {
        let accounts: Vec<String> =
            index.notes.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        for account in accounts {
            self.acting(index, &account, || {
                self.catch_up(index, &account);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn look_at_notes(&self, index: &Index, account: &str, notes: &BTreeSet<Vec<u8>>) -> Result<()> {
        let read = index.read()?;
        let Some(entry) = entry_of(&*read, TOP, Kind::Directory, account)? else { return Ok(()) };
        let mut by_parent = BTreeMap::<&[u8], BTreeSet<Vec<u8>>>::new();
        for path in notes {
            let place::Split { parent, file } = place::split(path);
            by_parent.entry(parent).or_default().insert(file.to_vec());
        }
        let (mut names, mut astray) = (Names::new(), Vec::new());
        for (path, files) in by_parent {
            let id = descend(&*read, entry.id, path)?;
            if let Some(id) = id {
                names.push((id, files.clone()));
            }
            astray.push((id, Marked { path: path.to_vec(), names: files, ..Marked::default() }));
        }
        drop(read);
        let missing = self.look_and_settle(index, names)?;
        for (id, marked) in astray {
            // It is new, or another has its place now.
            if id.is_none_or(|id| missing.contains(&id)) {
                self.follow_hint(index, entry.id, &marked)?;
            }
        }
        Ok(())
    }
}

/// The directory at a path beneath another, as the index has it.
pub(super) fn descend(read: &dyn Read, from: Id, path: &[u8]) -> Result<Option<Id>> {
    let mut at = from;
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        match child(read, at, part)? {
            Some(id) => at = id,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

impl Index {
    /// A directory and all beneath it is to be scanned, also what is being scanned now.
    fn scan_below(&self, id: Id) -> Result<()> {
        self.change(&mut |change| {
            let all = change.set_pending_below(id)?;
            // Within the transaction: a scan ends in one of its own, before or after this.
            let mut recent = self.recent();
            for id in all {
                if let Some(scan) = recent.scans.get_mut(&id) {
                    scan.again = true;
                }
            }
            Ok(())
        })?;
        self.call();
        Ok(())
    }

    /// The accounts in which the directories are known that marks tell of, by their identity, wherever they are now.
    fn directories_of(&self, marks: &[Mark]) -> Result<HashMap<Fid, Vec<Id>>> {
        let read = self.read()?;
        let mut known = HashMap::new();
        let mut find = |fid: &Fid| -> Result<()> {
            if known.contains_key(fid) {
                return Ok(());
            }
            let prefix = row::fid_prefix(fid);
            let mut accounts = Vec::new();
            read.scan_prefix(&prefix, &mut |key, _| {
                accounts.extend(row::id_in(key, prefix.len()));
                Ok(ControlFlow::Continue(()))
            })?;
            known.insert(*fid, accounts);
            Ok(())
        };
        for mark in marks {
            match mark {
                Mark::Entry(spot) => find(&spot.dir)?,
                Mark::Moved { from, to } => from.iter().chain(to).try_for_each(|spot| find(&spot.dir))?,
                Mark::Below { dir, .. } => find(dir)?,
                Mark::Everything => {}
            }
        }
        Ok(known)
    }
}

/// Whether a mark tells that an account's directory is another, or all beneath it unknown.
fn moves_account(mark: &Mark, account: &[u8]) -> bool {
    let at_or_above = |path: &[u8]| beneath(account, path).is_some();
    match mark {
        Mark::Moved { from, to } => {
            from.iter().chain(to).any(|spot| at_or_above(&place::join(&spot.path, &spot.name)))
        }
        Mark::Below { path, .. } => at_or_above(path),
        Mark::Entry(_) | Mark::Everything => false,
    }
}

/// The name of a directory in its parent, to be looked at.
fn above(directory: &row::Directory) -> Option<(Id, BTreeSet<Vec<u8>>)> {
    (directory.level != Level::Account).then(|| (directory.parent, BTreeSet::from([directory.file.clone()])))
}

/// Where the object lies that a file name of ours belongs to.
enum Normal<'f> {
    Here(&'f [u8]),
    Above,
    Nothing,
}

fn normal<'f>(directory: &row::Directory, file: &'f [u8]) -> Normal<'f> {
    if !file.starts_with(name::PREFIX) {
        return Normal::Here(file);
    }
    match name::entry(file, true, &directory.context) {
        Entry::Own(Own::SelfFile) if directory.level == Level::Object => Normal::Above,
        Entry::Own(Own::Transit(target)) => Normal::Here(target),
        Entry::Own(Own::TransitDirectory) => Normal::Nothing,
        _ => Normal::Here(file),
    }
}

/// Names by the directories that they are in.
pub(super) fn by_directory(names: Vec<(Id, Vec<u8>)>) -> Names {
    let mut all = BTreeMap::<Id, BTreeSet<Vec<u8>>>::new();
    for (id, file) in names {
        all.entry(id).or_default().insert(file);
    }
    all.into_iter().collect()
}

/// Directories and file names of rows.
pub(super) fn files_of(
    read: &dyn Read,
    rows: impl IntoIterator<Item = (Id, String)>,
) -> Result<Vec<(Id, Vec<u8>)>> {
    let mut files = Vec::new();
    for (id, text) in rows {
        if let Some(at) = place_of(read, id)? {
            files.push((id, look::file_of(&at.prefix, &text)?));
        }
    }
    Ok(files)
}

pub(super) fn entry_of(read: &dyn Read, dir: Id, kind: Kind, text: &str) -> Result<Option<RowEntry>> {
    read.get(&row_key(dir, kind, text))?.map(|bytes| RowEntry::decode(&bytes)).transpose()
}

/// The directory of a file name in a directory.
pub(super) fn child(read: &dyn Read, dir: Id, file: &[u8]) -> Result<Option<Id>> {
    let Some(directory) = look::directory(read, dir)? else { return Ok(None) };
    let Entry::Part { text, ends, below } = name::entry(file, true, &directory.context) else {
        return Ok(None);
    };
    let named = matches!(directory.level, Level::Account | Level::Between);
    let kind = match (ends, below.after_run() && !named) {
        (false, _) => Kind::Part,
        (true, true) => Kind::Run,
        (true, false) => Kind::Directory,
    };
    let text = if ends && !named { [&text, "/"].concat() } else { text.into_owned() };
    Ok(entry_of(read, dir, kind, &text)?.map(|entry| entry.id))
}

/// The directories that a mark tells of.
fn directories_of(mark: &Mark) -> Vec<&[u8]> {
    match mark {
        Mark::Entry(spot) => vec![&spot.path],
        Mark::Moved { from, to } => from.iter().chain(to).map(|spot| spot.path.as_slice()).collect(),
        Mark::Below { path, .. } => vec![path],
        Mark::Everything => Vec::new(),
    }
}

/// Whether what is in a directory may be an account, or lead to one.
fn above_accounts<'a>(mut accounts: impl Iterator<Item = &'a [u8]>, path: &[u8]) -> bool {
    path.is_empty() || accounts.any(|account| beneath(account, path).is_some_and(|rest| !rest.is_empty()))
}

/// What of `path` lies beneath `base`; empty if it is that.
fn beneath<'p>(path: &'p [u8], base: &[u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(base)?;
    if rest.is_empty() || base.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

/// The marks that lie in an account, or tell of a directory that the index has there, by directory.
fn marked_in(account: &Known, known: &HashMap<Fid, Vec<Id>>, marks: &[Mark]) -> HashMap<Fid, Marked> {
    let mut all: HashMap<Fid, Marked> = HashMap::new();
    let mut add = |fid: &Fid, path: &[u8], name: Option<&[u8]>| {
        // The service's own directories hold no names.
        let path = beneath(path, &account.path).filter(|path| !path.starts_with(name::SERVICE));
        if path.is_none() && !known.get(fid).is_some_and(|accounts| accounts.contains(&account.id)) {
            return;
        }
        let marked = all.entry(*fid).or_default();
        marked.astray = path.is_none();
        marked.path = path.unwrap_or_default().to_vec();
        match name {
            Some(name) => _ = marked.names.insert(name.to_vec()),
            None => marked.below = true,
        }
    };
    let mut arrived: Vec<&Spot> = Vec::new();
    for mark in marks {
        match mark {
            Mark::Entry(spot) => add(&spot.dir, &spot.path, Some(&spot.name)),
            Mark::Moved { from, to } => {
                for spot in from.iter().chain(to) {
                    add(&spot.dir, &spot.path, Some(&spot.name));
                }
                let outside = |from: &Spot| beneath(&from.path, &account.path).is_none();
                if let Some(to) = to.as_ref().filter(|_| from.as_ref().is_none_or(outside)) {
                    arrived.push(to);
                }
            }
            Mark::Below { dir, path } => add(dir, path, None),
            Mark::Everything => {}
        }
    }
    for spot in arrived {
        if let Some(marked) = all.get_mut(&spot.dir) {
            marked.arrived.push(spot.name.clone());
        }
    }
    all
}
