//! One transaction: observations become rows, and what hangs on them (counters, side tables) changes with them.

use std::collections::{BTreeSet, HashMap};
use std::ops::{Bound, ControlFlow};

use lustre::fs::Fid;

use super::engine::Write;
use super::look::child_ids;
use super::row::{
    self, Container, Directory, Entry, Id, Kind, LIMBO, Level, Object, TOP, container_key, directory_key,
    fid_key, left_key, meta_key, pending_key, row_key,
};
use crate::error::Result;
use crate::name::{Context, MAX_OBJECT};

/// What a look saw under one file name of a directory.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Where.
    pub(super) dir: Id,
    pub(super) file: Vec<u8>,
    /// The object of that name, if the name can be one's: its key, and its row if there is one.
    pub(super) object: Option<(String, Option<Object>)>,
    /// The directory of that name, if the name can be one's.
    pub(super) directory: Option<SeenDirectory>,
    /// Why the name is none, if something of that name is there.
    pub(super) unserved: Option<&'static str>,
    /// Bytes that it adds to the name.
    pub(super) len: u64,
    /// Whether a symbolic link is there.
    pub(super) link: bool,
    /// Whether it was found by its path, which holds only while its directory is where it was.
    pub(super) by_path: bool,
}

/// A directory's key and, if it is there, what it is.
#[derive(Debug, Clone)]
pub(super) struct SeenDirectory {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) level: Level,
    pub(super) context: Context,
    pub(super) fid: Option<Fid>,
    /// Of a container, when it was made or last changed, in units of a timestamp.
    pub(super) changed: u64,
}

/// A transaction under way, with the directories that it came by.
pub(super) struct Change<'t> {
    store: &'t mut dyn Write,
    directories: HashMap<Id, Option<Held<Directory>>>,
    containers: HashMap<Id, Held<Container>>,
    // With the length of what names in them began with.
    left: Vec<(Id, u64)>,
    made: Made,
    epoch: u64,
    // Whether any file is known to have several names; asked once.
    kin_known: Option<bool>,
}

/// What a transaction leaves to be done.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Directories that were not known before, and are to be scanned.
    pub(super) fresh: Vec<Id>,
    /// Other names of files that changed, to be looked at: directory and text.
    pub(super) kin: BTreeSet<(Id, String)>,
    /// There are files of which not all names are known, or links whose targets are not.
    pub(super) search: bool,
}

#[derive(Debug)]
struct Held<T> {
    value: T,
    changed: bool,
}

impl<'t> Change<'t> {
    pub(super) fn new(store: &'t mut dyn Write, epoch: u64) -> Self {
        Self {
            store,
            directories: HashMap::new(),
            containers: HashMap::new(),
            left: Vec::new(),
            made: Made::default(),
            epoch,
            kin_known: None,
        }
    }

    /// Writes what is held back. What left the tree and came back to no other place is for the reaper.
    pub(super) fn finish(mut self) -> Result<Made> {
        for (id, _) in std::mem::take(&mut self.left) {
            self.store.put(&left_key(id), &[])?;
        }
        for (id, held) in &self.directories {
            if let Some(Held { value, changed: true }) = held {
                self.store.put(&directory_key(*id), &value.encode())?;
            }
        }
        for (id, held) in &self.containers {
            if held.changed {
                self.store.put(&container_key(*id), &held.value.encode())?;
            }
        }
        Ok(self.made)
    }

    /// A directory, if there is one of that number.
    pub(super) fn directory(&mut self, id: Id) -> Result<Option<&Directory>> {
        Ok(self.hold(id)?.map(|held| &held.value))
    }

    fn hold(&mut self, id: Id) -> Result<Option<&mut Held<Directory>>> {
        if !self.directories.contains_key(&id) {
            let stored = self.store.get(&directory_key(id))?;
            let value = stored.map(|bytes| Directory::decode(&bytes)).transpose()?;
            self.directories.insert(id, value.map(|value| Held { value, changed: false }));
        }
        Ok(self.directories.get_mut(&id).and_then(Option::as_mut))
    }

    fn alter(&mut self, id: Id, with: impl FnOnce(&mut Directory)) -> Result<()> {
        if let Some(held) = self.hold(id)? {
            held.changed = true;
            with(&mut held.value);
        }
        Ok(())
    }

    /// What is summed up of a container or account.
    pub(super) fn container(&mut self, id: Id) -> Result<Container> {
        if let Some(held) = self.containers.get(&id) {
            return Ok(held.value);
        }
        let stored = self.store.get(&container_key(id))?;
        let value = stored.map(|bytes| Container::decode(&bytes)).transpose()?.unwrap_or_default();
        self.containers.insert(id, Held { value, changed: false });
        Ok(value)
    }

    pub(super) fn alter_container(&mut self, id: Id, with: impl FnOnce(&mut Container)) -> Result<()> {
        let mut value = self.container(id)?;
        let before = value;
        with(&mut value);
        if value != before {
            self.containers.insert(id, Held { value, changed: true });
        }
        Ok(())
    }

    /// The container that a directory lies in, or is; above containers, the account. `None` for what left the tree.
    fn holder(&mut self, id: Id) -> Result<Option<Id>> {
        let (mut at, mut holder) = (id, None);
        while let Some(directory) = self.directory(at)? {
            if matches!(directory.level, Level::Container | Level::Account) {
                holder = holder.or(Some(at));
            }
            match directory.parent {
                LIMBO => return Ok(None),
                TOP => return Ok(holder),
                parent => at = parent,
            }
        }
        Ok(None)
    }

    /// Makes the rows of one name what was seen. Nothing, if the directory is no longer in the tree.
    pub(super) fn apply(&mut self, seen: &Seen) -> Result<()> {
        let Some(holder) = self.holder(seen.dir)? else { return Ok(()) };
        if let Some((text, object)) = &seen.object {
            self.set_link(seen.dir, holder, text, seen.link)?;
            self.set_object(seen.dir, holder, text, object.as_ref())?;
        }
        if let Some(directory) = &seen.directory {
            self.set_directory(seen.dir, &seen.file, directory)?;
        }
        if seen.unserved.is_some() {
            self.stretch(seen.dir, seen.len)?;
        }
        let key = row::unserved_key(seen.dir, &seen.file);
        match (seen.unserved, self.store.get(&key)?) {
            (Some(reason), _) => self.store.put(&key, reason.as_bytes()),
            (None, Some(_)) => self.store.remove(&key),
            (None, None) => Ok(()),
        }
    }

    fn set_object(&mut self, dir: Id, holder: Id, text: &str, new: Option<&Object>) -> Result<()> {
        let key = row_key(dir, Kind::Object, text);
        let old_bytes = self.store.get(&key)?;
        let new_bytes = new.map(Object::encode);
        if old_bytes == new_bytes {
            return Ok(());
        }
        let old = old_bytes.map(|bytes| Object::decode(&bytes)).transpose()?;
        match &new_bytes {
            Some(bytes) => self.store.put(&key, bytes)?,
            None => self.store.remove(&key)?,
        }
        self.set_tasks(dir, text, old.as_ref(), new)?;
        self.set_kin(dir, text, old.as_ref(), new)?;
        let count = |object: Option<&Object>| object.map_or((0, 0), |o| (1, o.size));
        let ((gone, less), (come, more)) = (count(old.as_ref()), count(new));
        let lived = self.directory(dir)?.is_some_and(Directory::lives);
        let unhashed = |object: Option<&Object>| u64::from(object.is_some_and(Object::is_unhashed));
        self.count_unhashed(dir, unhashed(new), unhashed(old.as_ref()))?;
        self.alter(dir, |d| {
            d.objects = (d.objects + come).saturating_sub(gone);
            d.bytes = d.bytes.saturating_add(more).saturating_sub(less);
        })?;
        self.alter_container(holder, |c| {
            c.objects = (c.objects + come).saturating_sub(gone);
            c.bytes = c.bytes.saturating_add(more).saturating_sub(less);
        })?;
        if come > 0 {
            self.stretch(dir, text.len() as u64)?;
        }
        // Links are looked at all together, whatever they lead to.
        let link = old.iter().chain(new).any(|object| object.links == Some(0));
        if come != gone && !link {
            self.doubt_links(dir)?;
        }
        self.live_changed(dir, lived)
    }

    fn set_link(&mut self, dir: Id, holder: Id, text: &str, link: bool) -> Result<()> {
        let key = row::link_key(dir, text);
        if self.store.get(&key)?.is_some() == link {
            return Ok(());
        }
        let count = |old: u64| if link { old + 1 } else { old.saturating_sub(1) };
        if link {
            self.store.put(&key, &[])?;
        } else {
            self.store.remove(&key)?;
        }
        self.alter(dir, |d| d.links = count(d.links))?;
        self.alter_container(holder, |c| c.links = count(c.links))?;
        self.doubt_links(dir)
    }

    /// A name came or went, so that links of its container may lead elsewhere.
    fn doubt_links(&mut self, dir: Id) -> Result<()> {
        let Some(holder) = self.holder(dir)? else { return Ok(()) };
        if self.container(holder)?.links > 0 {
            self.alter_container(holder, |c| c.unsure += 1)?;
            self.made.search = true;
        }
        Ok(())
    }

    /// The links of a container were looked at, since it had `doubts`.
    pub(super) fn believe_links(&mut self, container: Id, doubts: u64) -> Result<()> {
        self.alter_container(container, |c| c.unsure = if c.unsure == doubts { 0 } else { c.unsure })
    }

    /// What is to be done for an object one day.
    fn set_tasks(&mut self, dir: Id, text: &str, old: Option<&Object>, new: Option<&Object>) -> Result<()> {
        let expiry = |o: &Object| o.delete_at.map(|at| row::expiry_key(at, dir, text));
        let manifest =
            |o: &Object| o.slo.filter(|slo| slo.kept.is_none()).map(|_| row::manifest_key(dir, text));
        let changes =
            [(old.and_then(expiry), new.and_then(expiry)), (old.and_then(manifest), new.and_then(manifest))];
        for (old, new) in changes {
            if old == new {
                continue;
            }
            if let Some(key) = old {
                self.store.remove(&key)?;
            }
            if let Some(key) = new {
                self.store.put(&key, &[])?;
            }
        }
        Ok(())
    }

    /// What one name of a file shows its other names show too.
    fn set_kin(&mut self, dir: Id, text: &str, old: Option<&Object>, new: Option<&Object>) -> Result<()> {
        let shared = |o: Option<&Object>| o.is_some_and(|o| o.links.is_some());
        if !shared(old) && !shared(new) && !self.is_kin_known()? {
            return Ok(());
        }
        let Some(account) = self.directory(dir)?.map(|d| d.account) else { return Ok(()) };
        let own = |o: &Object| row::kin_key(account, o.ino, Some((dir, text)));
        if let Some(old) = old.filter(|o| o.links.is_some()) {
            self.store.remove(&own(old))?;
        }
        if let Some(new) = new.filter(|o| o.links.is_some()) {
            let link: &[u8] = if new.links == Some(0) { &[1] } else { &[] };
            self.store.put(&own(new), link)?;
            self.kin_known = Some(true);
        }
        let mut inodes: Vec<u64> = old.iter().chain(&new).map(|o| o.ino).collect();
        inodes.dedup();
        for ino in inodes {
            let mut names = 0;
            let mut kin = Vec::new();
            self.store.scan_prefix(&row::kin_key(account, ino, None), &mut |key, link| {
                names += u64::from(link.is_empty());
                let id = row::id_in(key, row::KIN.0).ok_or_else(row::damaged)?;
                let other = std::str::from_utf8(&key[row::KIN.1..]).map_err(|_| row::damaged())?;
                if (id, other) != (dir, text) {
                    kin.push((id, other.to_owned()));
                }
                Ok(ControlFlow::Continue(()))
            })?;
            for (id, other) in kin {
                let shown = self.store.get(&row_key(id, Kind::Object, &other))?;
                let shown = shown.map(|bytes| Object::decode(&bytes)).transpose()?;
                // What shows the same already needs no look.
                let same = |row: &Object, new: &Object| {
                    row.ino == new.ino && row.ctime_ns == new.ctime_ns && row.size == new.size && !row.racy
                };
                if !shown.zip(new).is_some_and(|(row, new)| same(&row, new)) {
                    self.made.kin.insert((id, other));
                }
            }
            if new.is_some_and(|new| new.ino == ino && new.links.is_some_and(|links| links > names)) {
                self.store.put(&row::search_key(account, ino), &[])?;
                self.made.search = true;
            }
        }
        Ok(())
    }

    fn is_kin_known(&mut self) -> Result<bool> {
        if let Some(known) = self.kin_known {
            return Ok(known);
        }
        let mut any = false;
        self.store.scan_prefix(b"n", &mut |_, _| {
            any = true;
            Ok(ControlFlow::Break(()))
        })?;
        self.kin_known = Some(any);
        Ok(any)
    }

    /// Forgets that other names of a file are to be searched.
    pub(super) fn searched(&mut self, key: &[u8]) -> Result<()> {
        self.store.remove(key)
    }

    fn count_unhashed(&mut self, dir: Id, come: u64, gone: u64) -> Result<()> {
        let Some(before) = self.directory(dir)?.map(|d| d.unhashed) else { return Ok(()) };
        let after = (before + come).saturating_sub(gone);
        if after == before {
            return Ok(());
        }
        self.alter(dir, |d| d.unhashed = after)?;
        match (before, after) {
            (0, _) => self.store.put(&row::unhashed_key(dir), &[]),
            (_, 0) => self.store.remove(&row::unhashed_key(dir)),
            _ => Ok(()),
        }
    }

    /// A name of so many bytes beneath `dir` is known, served or not.
    pub(super) fn stretch(&mut self, mut dir: Id, mut len: u64) -> Result<()> {
        while let Some(directory) = self.directory(dir)? {
            if directory.longest >= len {
                break;
            }
            let (parent, own) = (directory.parent, directory.text.len() as u64);
            self.alter(dir, |d| d.longest = len)?;
            (dir, len) = (parent, len + own);
        }
        Ok(())
    }

    /// Tells the directories above whether there is something beneath `dir`, if that is another than before.
    fn live_changed(&mut self, mut dir: Id, mut before: bool) -> Result<()> {
        while let Some(directory) = self.directory(dir)? {
            let now = directory.lives();
            let (parent, level, key) = (
                directory.parent,
                directory.level,
                row_key(directory.parent, directory.kind, &directory.text),
            );
            if now == before || parent == LIMBO {
                break;
            }
            self.store.put(&key, &Entry { id: dir, live: now }.encode())?;
            if level == Level::Account {
                break;
            }
            let Some(above) = self.directory(parent)? else { break };
            before = above.lives();
            self.alter(parent, |d| d.live = (d.live + u64::from(now)).saturating_sub(u64::from(!now)))?;
            dir = parent;
        }
        Ok(())
    }

    fn entry(&self, dir: Id, kind: Kind, text: &str) -> Result<Option<Entry>> {
        self.store.get(&row_key(dir, kind, text))?.map(|bytes| Entry::decode(&bytes)).transpose()
    }

    fn set_directory(&mut self, dir: Id, file: &[u8], seen: &SeenDirectory) -> Result<()> {
        let old = self.entry(dir, seen.kind, &seen.text)?.map(|entry| entry.id);
        let Some(fid) = seen.fid else {
            return old.map_or(Ok(()), |id| self.detach(id));
        };
        let Some(account) = self.directory(dir)?.map(|d| d.account) else { return Ok(()) };
        let known = match self.store.get(&fid_key(account, &fid))? {
            Some(bytes) => Some(row::read_number(&bytes)?),
            None => None,
        };
        if let (Some(old), Some(known)) = (old, known)
            && old == known
        {
            return self.touched(old, seen.changed);
        }
        if let Some(old) = old {
            self.detach(old)?;
        }
        self.doubt_links(dir)?;
        match known {
            Some(known) if self.may_move(known, dir, seen)? => self.relocate(known, dir, file, seen),
            _ => self.create(account, dir, file, seen, fid).map(drop),
        }
    }

    /// Makes an account's row what was seen; `path` is its directory's beneath the root.
    pub(super) fn set_account(&mut self, path: &[u8], seen: &SeenDirectory) -> Result<()> {
        let old = self.entry(TOP, seen.kind, &seen.text)?.map(|entry| entry.id);
        if let Some(old) = old {
            let same = |d: &Directory| Some(d.fid) == seen.fid && d.file == path;
            if self.directory(old)?.is_some_and(same) {
                return Ok(());
            }
            self.detach(old)?;
        }
        match seen.fid {
            Some(fid) => self.create(TOP, TOP, path, seen, fid).map(drop),
            None => Ok(()),
        }
    }

    fn touched(&mut self, id: Id, changed: u64) -> Result<()> {
        if self.directory(id)?.is_some_and(|d| d.level == Level::Container) {
            self.alter_container(id, |c| c.changed = changed)?;
        }
        Ok(())
    }

    /// Whether what is known beneath a directory stays right when it is moved to `dir`.
    fn may_move(&mut self, id: Id, dir: Id, seen: &SeenDirectory) -> Result<bool> {
        let Some(directory) = self.directory(id)?.cloned() else { return Ok(false) };
        let same = directory.level == seen.level && directory.context == seen.context;
        let left = self.left.iter().find(|(left, _)| *left == id).map(|(_, before)| *before);
        // What left in an earlier transaction was not followed since.
        let in_tree = left.is_some() || self.holder(id)?.is_some();
        if !same || !in_tree || self.is_within(dir, id)? {
            return Ok(false);
        }
        if seen.level != Level::Object {
            return Ok(true);
        }
        // Names may become too long, or stop being so.
        let before = match left {
            Some(before) => before,
            None => self.prefix_len(directory.parent)?,
        };
        let after = self.prefix_len(dir)? + seen.text.len() as u64 + directory.longest;
        Ok(before + directory.text.len() as u64 + directory.longest <= MAX_OBJECT as u64
            && after <= MAX_OBJECT as u64)
    }

    fn is_within(&mut self, mut id: Id, above: Id) -> Result<bool> {
        while id != above {
            match self.directory(id)? {
                Some(directory) if !matches!(directory.parent, TOP | LIMBO) => id = directory.parent,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Bytes that every name in a directory begins with.
    fn prefix_len(&mut self, mut id: Id) -> Result<u64> {
        let mut len = 0;
        while let Some(directory) = self.directory(id)? {
            if directory.level != Level::Object || directory.parent == LIMBO {
                break;
            }
            len += directory.text.len() as u64;
            id = directory.parent;
        }
        Ok(len)
    }

    /// A directory that is new to the index.
    pub(super) fn create(
        &mut self,
        account: Id,
        dir: Id,
        file: &[u8],
        seen: &SeenDirectory,
        fid: Fid,
    ) -> Result<Id> {
        let id = self.next_id()?;
        let account = if seen.level == Level::Account { id } else { account };
        let directory = Directory {
            parent: dir,
            account,
            level: seen.level,
            kind: seen.kind,
            text: seen.text.clone(),
            file: file.to_vec(),
            context: seen.context.clone(),
            fid,
            objects: 0,
            bytes: 0,
            unhashed: 0,
            links: 0,
            live: 0,
            longest: 0,
            pending: false,
            epoch: 0,
        };
        self.directories.insert(id, Some(Held { value: directory, changed: true }));
        self.store.put(&fid_key(account, &fid), &row::number(id))?;
        self.store.put(&row_key(dir, seen.kind, &seen.text), &Entry { id, live: false }.encode())?;
        if matches!(seen.level, Level::Container | Level::Account) {
            let epoch = self.epoch;
            self.alter_container(id, |c| *c = Container { epoch, changed: seen.changed, ..*c })?;
        }
        self.set_pending(id, true)?;
        self.stretch(dir, seen.text.len() as u64)?;
        self.made.fresh.push(id);
        Ok(id)
    }

    fn next_id(&mut self) -> Result<Id> {
        let key = meta_key("next");
        let id = self.store.get(&key)?.map_or(Ok(1), |bytes| row::read_number(&bytes))?;
        self.store.put(&key, &row::number(id + 1))?;
        Ok(id)
    }

    /// Notes that a directory is to be scanned, or was.
    pub(super) fn set_pending(&mut self, id: Id, pending: bool) -> Result<()> {
        let Some(directory) = self.directory(id)? else { return Ok(()) };
        if directory.pending == pending {
            return Ok(());
        }
        self.alter(id, |d| d.pending = pending)?;
        if pending {
            self.store.put(&pending_key(id), &[])?;
        } else {
            self.store.remove(&pending_key(id))?;
        }
        let Some(holder) = self.holder(id)? else { return Ok(()) };
        self.alter_container(holder, |c| {
            c.pending = (c.pending + u64::from(pending)).saturating_sub(u64::from(!pending));
        })
    }

    /// Notes that a directory and all beneath it are to be scanned; returns which those are.
    pub(super) fn set_pending_below(&mut self, id: Id) -> Result<Vec<Id>> {
        let (mut stack, mut all) = (vec![id], Vec::new());
        while let Some(next) = stack.pop() {
            self.set_pending(next, true)?;
            stack.extend(self.children(next)?);
            all.push(next);
        }
        Ok(all)
    }

    /// Takes a directory, with all beneath it, out of the tree. Within this transaction it may come back elsewhere.
    fn detach(&mut self, id: Id) -> Result<()> {
        let Some(parent) = self.directory(id)?.map(|d| d.parent) else { return Ok(()) };
        let before = self.prefix_len(parent)?;
        self.doubt_links(id)?;
        self.unlink(id)?;
        self.alter(id, |d| d.parent = LIMBO)?;
        self.left.push((id, before));
        Ok(())
    }

    /// Removes a directory's row from its parent, and what it holds from the sums above.
    fn unlink(&mut self, id: Id) -> Result<()> {
        let Some(directory) = self.directory(id)?.cloned() else { return Ok(()) };
        if directory.parent == LIMBO {
            return Ok(());
        }
        self.add_sums(id, false)?;
        self.store.remove(&row_key(directory.parent, directory.kind, &directory.text))?;
        if directory.lives() && directory.level != Level::Account {
            let lived = self.directory(directory.parent)?.is_some_and(Directory::lives);
            self.alter(directory.parent, |d| d.live = d.live.saturating_sub(1))?;
            self.live_changed(directory.parent, lived)?;
        }
        Ok(())
    }

    /// Gives a directory, with all beneath it, another place.
    fn relocate(&mut self, id: Id, dir: Id, file: &[u8], seen: &SeenDirectory) -> Result<()> {
        self.doubt_links(id)?;
        self.unlink(id)?;
        self.left.retain(|(left, _)| *left != id);
        self.alter(id, |d| {
            d.parent = dir;
            d.kind = seen.kind;
            d.text.clone_from(&seen.text);
            d.file = file.to_vec();
        })?;
        let Some(directory) = self.directory(id)?.cloned() else { return Ok(()) };
        let live = directory.lives();
        self.store.put(&row_key(dir, seen.kind, &seen.text), &Entry { id, live }.encode())?;
        if live {
            let lived = self.directory(dir)?.is_some_and(Directory::lives);
            self.alter(dir, |d| d.live += 1)?;
            self.live_changed(dir, lived)?;
        }
        self.stretch(dir, directory.longest + seen.text.len() as u64)?;
        self.add_sums(id, true)?;
        self.doubt_links(id)?;
        if seen.level == Level::Object {
            // Whoever proves the container may have been here already, and not yet where it was.
            let (mut stack, epoch) = (vec![id], self.epoch);
            while let Some(next) = stack.pop() {
                if self.directory(next)?.is_some_and(|d| d.epoch != epoch) {
                    self.set_pending(next, true)?;
                }
                stack.extend(self.children(next)?);
            }
        }
        self.touched(id, seen.changed)
    }

    /// Adds what lies in a directory and beneath it to its container's sums, or takes it from them. A container takes its
    /// own sums along wherever it goes.
    fn add_sums(&mut self, id: Id, add: bool) -> Result<()> {
        if !self.directory(id)?.is_some_and(|d| d.level == Level::Object) {
            return Ok(());
        }
        let Some(holder) = self.holder(id)? else { return Ok(()) };
        let (mut objects, mut bytes, mut pending, mut links) = (0, 0, 0, 0);
        let mut stack = vec![id];
        while let Some(next) = stack.pop() {
            let Some(directory) = self.directory(next)? else { continue };
            objects += directory.objects;
            bytes += directory.bytes;
            pending += u64::from(directory.pending);
            links += directory.links;
            stack.extend(self.children(next)?);
        }
        let sum = |old: u64, by: u64| if add { old.saturating_add(by) } else { old.saturating_sub(by) };
        self.alter_container(holder, |c| {
            c.objects = sum(c.objects, objects);
            c.bytes = sum(c.bytes, bytes);
            c.pending = sum(c.pending, pending);
            c.links = sum(c.links, links);
        })
    }

    /// Notes that a directory was scanned in this epoch; returns the directories in it that were not.
    pub(super) fn scanned(&mut self, id: Id, epoch: u64) -> Result<Vec<Id>> {
        let waited = self.directory(id)?.is_some_and(|d| d.pending);
        self.alter(id, |d| d.epoch = epoch)?;
        let mut below = Vec::new();
        for child in self.children(id)? {
            if self.directory(child)?.is_some_and(|d| d.epoch != epoch) {
                below.push(child);
                // Nobody else may come by: all beneath waits in its stead.
                if waited {
                    self.set_pending(child, true)?;
                }
            }
        }
        self.set_pending(id, false)?;
        Ok(below)
    }

    /// The directories in a directory.
    fn children(&self, id: Id) -> Result<Vec<Id>> {
        child_ids(&*self.store, id)
    }

    /// Removes rows of what left the tree, at most about `most`; true if something is left to do.
    pub(super) fn reap(&mut self, most: usize) -> Result<bool> {
        let mut left = Vec::new();
        self.store.scan_prefix(b"l", &mut |key, _| {
            left.extend(row::id_in(key, 1));
            Ok(if left.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        let mut budget = most;
        for id in &left {
            if budget == 0 {
                return Ok(true);
            }
            budget = self.reap_one(*id, budget)?;
        }
        Ok(!left.is_empty())
    }

    /// Removes rows in one directory; those below are next. Returns what is left of the budget.
    fn reap_one(&mut self, id: Id, budget: usize) -> Result<usize> {
        let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let (from, to) = (row_key(id, Kind::Object, ""), row::after(&row_key(id, Kind::Run, "")));
        let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.store.scan((Bound::Included(&from), to), false, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(if rows.len() < budget { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        for (key, value) in &rows {
            let text = std::str::from_utf8(key.get(row::ROW_TEXT..).unwrap_or_default()).unwrap_or_default();
            if Kind::of(key[row::ROW_TEXT - 1])? == Kind::Object {
                let gone = Object::decode(value)?;
                self.set_tasks(id, text, Some(&gone), None)?;
                self.set_kin(id, text, Some(&gone), None)?;
                self.store.remove(&row::link_key(id, text))?;
            } else {
                let below = Entry::decode(value)?.id;
                self.alter(below, |d| d.parent = LIMBO)?;
                self.store.put(&left_key(below), &[])?;
            }
            self.store.remove(key)?;
        }
        if rows.len() < budget {
            self.forget(id)?;
        }
        Ok(budget - rows.len())
    }

    /// Removes all that is said of a directory that has no rows.
    fn forget(&mut self, id: Id) -> Result<()> {
        if let Some(Directory { account, fid, .. }) = self.directory(id)?.cloned() {
            let key = fid_key(account, &fid);
            // It may have come back, as another.
            if self.store.get(&key)?.is_some_and(|known| known == row::number(id)) {
                self.store.remove(&key)?;
            }
        }
        self.directories.insert(id, None);
        let keys =
            [left_key(id), directory_key(id), container_key(id), pending_key(id), row::unhashed_key(id)];
        for key in keys {
            self.store.remove(&key)?;
        }
        let mut rest = Vec::new();
        for from in [row::unserved_key(id, b""), row::link_key(id, "")] {
            self.store.scan_prefix(&from, &mut |key, _| {
                rest.push(key.to_vec());
                Ok(ControlFlow::Continue(()))
            })?;
        }
        for key in rest {
            self.store.remove(&key)?;
        }
        Ok(())
    }
}
