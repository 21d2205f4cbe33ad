//! Listings straight from the tree, exactly in the byte order of names.
//!
//! A heap holds what may come next: files under their names, directories under the prefix of all names below them.
//! The smallest is taken; a file is a row, a directory is read and what is in it joins the heap. So only directories
//! on the way to the page's rows are read, and names whose files sort differently (runs of slashes, long components)
//! need no case of their own. A reversed listing is the same with the largest first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use lustre::sys::{self, Kind, OFlags, Symlinks};

use crate::error::{Error, Result, Step, is_absent};
use crate::metadata::Slo;
use crate::name::{self, Context, Entry, Own};
use crate::object::ObjectInfo;
use crate::place::{self, At};
use crate::timestamp::Timestamp;
use crate::walk::kind_of;
use crate::{Namespace, Scope};

/// Entries of one directory held at once; a larger directory is read again for what did not fit.
const HELD: usize = 100_000;

/// Which names to list, as in Swift's query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only names that begin with this.
    pub prefix: String,
    /// Only names after this (before it, if reversed).
    pub marker: String,
    /// Only names before this (after it, if reversed).
    pub end_marker: String,
    /// Names with this after the prefix are rolled up; empty: none are.
    pub delimiter: String,
    /// With `prefix` = path + `/` and `delimiter` = `/`: leave out what is rolled up and the path itself.
    pub path: bool,
    /// From the last name to the first.
    pub reverse: bool,
    /// Rows at most.
    pub limit: usize,
}

/// One line of an object listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Names rolled up: what they share, up to the delimiter.
    Subdir(String),
    /// An object.
    Object(ObjectRow),
}

/// An object as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRow {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// MD5, if known.
    pub etag: Option<[u8; 16]>,
    /// Content-Type, if one was given.
    pub content_type: Option<String>,
    /// X-Timestamp.
    pub last_modified: Timestamp,
    /// Set for a static large object.
    pub slo: Option<Slo>,
}

#[derive(Debug)]
enum Node {
    /// A file, or a link, in the directory.
    Entry { dir: Rc<OwnedFd>, file: Vec<u8>, path: Vec<u8> },
    /// The directory itself, if it is an object.
    Candidate { dir: Rc<OwnedFd>, file: Vec<u8>, path: Vec<u8> },
    /// What lies in the directory, from `after` on.
    Children { path: Vec<u8>, context: Context, from: Option<Vec<u8>> },
}

#[derive(Debug)]
struct Pending {
    // No name that comes of the node sorts before (reversed: after) this.
    bound: Vec<u8>,
    // The prefix of all names below, for `Children`.
    prefix: String,
    node: Node,
    reverse: bool,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.bound == other.bound
    }
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        if self.reverse { self.bound.cmp(&other.bound) } else { other.bound.cmp(&self.bound) }
    }
}

impl ListQuery {
    /// Whether a name is asked for, apart from rolling up.
    pub fn wants(&self, name: &str) -> bool {
        let (after, before) = self.bounds();
        name.starts_with(&self.prefix)
            && (after.is_empty() || name > after)
            && (before.is_empty() || name < before)
    }

    /// The names strictly between which to list, lower first; empty: no bound.
    pub(crate) fn bounds(&self) -> (&str, &str) {
        if self.reverse { (&self.end_marker, &self.marker) } else { (&self.marker, &self.end_marker) }
    }

    /// Whether any name that begins with `below` can be asked for.
    pub fn wants_below(&self, below: &str) -> bool {
        let (after, before) = self.bounds();
        (below.starts_with(&self.prefix) || self.prefix.starts_with(below))
            && (after.is_empty() || below > after || after.starts_with(below))
            && (before.is_empty() || below < before)
    }

    /// Whether every name that begins with `below` is asked for, apart from rolling up.
    pub(crate) fn wants_all_below(&self, below: &str) -> bool {
        let (after, before) = self.bounds();
        below.starts_with(&self.prefix)
            && (after.is_empty() || (below > after && !after.starts_with(below)))
            && (before.is_empty() || (below < before && !before.starts_with(below)))
    }

    /// What `name` is rolled up to, if it is.
    pub fn rolled<'n>(&self, name: &'n str) -> Option<&'n str> {
        if self.delimiter.is_empty() {
            return None;
        }
        let rest = name.get(self.prefix.len()..)?;
        let at = rest.find(&self.delimiter)?;
        name.get(..self.prefix.len() + at + self.delimiter.len())
    }
}

/// The rows of a listing as they come, in order.
#[derive(Debug)]
pub(crate) struct Page<'q> {
    query: &'q ListQuery,
    pub(crate) rows: Vec<Row>,
    rolled: Option<String>,
}

impl<'q> Page<'q> {
    pub(crate) fn new(query: &'q ListQuery) -> Self {
        Self { query, rows: Vec::new(), rolled: None }
    }

    /// Whether all names that begin with `below` were rolled up already.
    pub(crate) fn done_with(&self, below: &str) -> bool {
        self.rolled.as_deref().is_some_and(|rolled| below.starts_with(rolled))
    }

    /// What the last names were rolled up to.
    pub(crate) fn rolled(&self) -> &str {
        self.rolled.as_deref().unwrap_or_default()
    }

    /// Passes over all names that begin with `rolled`.
    pub(crate) fn pass(&mut self, rolled: &str) {
        self.rolled = Some(rolled.to_owned());
    }

    /// Adds the row that `name` is rolled up to. Swift does not repeat one that its page begins with.
    pub(crate) fn roll(&mut self, name: &str) {
        let Some(rolled) = self.query.rolled(name) else { return };
        if rolled != self.query.marker {
            self.rows.push(Row::Subdir(rolled.to_owned()));
        }
        self.rolled = Some(rolled.to_owned());
    }

    /// Adds an object, or what it is rolled up to.
    pub(crate) fn emit(&mut self, name: String, row: impl FnOnce(String) -> ObjectRow) {
        match self.query.rolled(&name) {
            // A name that ends in its delimiter is a row of its own.
            Some(rolled) if self.query.path && rolled.len() < name.len() => {
                self.rolled = Some(rolled.to_owned());
            }
            Some(_) if !self.query.path => self.roll(&name),
            _ if self.query.path && name == self.query.prefix => {}
            _ => self.rows.push(Row::Object(row(name))),
        }
    }
}

struct Lister<'a, 's> {
    scope: &'s Scope<'a>,
    query: &'s ListQuery,
    heap: BinaryHeap<Pending>,
    page: Page<'s>,
}

impl Namespace {
    /// A page of a container's objects, in byte order of their names.
    pub fn list_objects(&self, account: &str, container: &str, query: &ListQuery) -> Result<Vec<Row>> {
        match self.list_indexed(account, container, query)? {
            Some(rows) => Ok(rows),
            None => self.list_tree(account, container, query),
        }
    }

    /// As `list_objects`, from the tree alone.
    pub fn list_tree(&self, account: &str, container: &str, query: &ListQuery) -> Result<Vec<Row>> {
        let scope = Scope::of_container(self, account, container)?;
        let mut lister = Lister { scope: &scope, query, heap: BinaryHeap::new(), page: Page::new(query) };
        lister.push_children(Vec::new(), String::new(), Context::OBJECT, None);
        while lister.page.rows.len() < query.limit {
            let Some(pending) = lister.heap.pop() else { break };
            lister.take(pending)?;
        }
        Ok(lister.page.rows)
    }
}

impl Lister<'_, '_> {
    fn push_children(&mut self, path: Vec<u8>, prefix: String, context: Context, from: Option<Vec<u8>>) {
        let mut bound = prefix.clone().into_bytes();
        if self.query.reverse {
            bound.push(0xff);
        }
        let bound = from.clone().unwrap_or(bound);
        let node = Node::Children { path, context, from };
        self.heap.push(Pending { bound, prefix, node, reverse: self.query.reverse });
    }

    fn take(&mut self, pending: Pending) -> Result<()> {
        let Pending { bound, prefix, node, .. } = pending;
        match node {
            Node::Children { path, context, from } => {
                if self.page.done_with(&prefix) {
                    return Ok(());
                }
                self.expand(path, &prefix, &context, from.as_deref())
            }
            Node::Entry { dir, file, path } => {
                let name = String::from_utf8_lossy(&bound).into_owned();
                if self.page.done_with(&name) {
                    return Ok(());
                }
                let info = self.entry_info(&dir, &file, &path)?;
                self.emit(name, info);
                Ok(())
            }
            Node::Candidate { dir, file, path } => {
                let name = String::from_utf8_lossy(&bound).into_owned();
                if self.page.done_with(&name) {
                    return Ok(());
                }
                let info = self.candidate_info(&dir, &file, &path)?;
                self.emit(name, info);
                Ok(())
            }
        }
    }

    fn emit(&mut self, name: String, info: Option<ObjectInfo>) {
        let Some(info) = info else { return };
        let ObjectInfo { size, etag, content_type, timestamp, slo, .. } = info;
        let row = |name| ObjectRow { name, size, etag, content_type, last_modified: timestamp, slo };
        self.page.emit(name, row);
    }

    fn entry_info(&self, dir: &OwnedFd, file: &[u8], path: &[u8]) -> Result<Option<ObjectInfo>> {
        let fd = match sys::open_beneath(dir.as_fd(), file, OFlags::PATH | OFlags::NOFOLLOW, Symlinks::Never)
        {
            Ok(fd) => fd,
            // Gone, or on the move.
            Err(e) if is_absent(&e) => return self.located(path),
            Err(e) => return Err(Error::io("open", e)),
        };
        let stat = sys::stat(fd.as_fd()).step("stat")?;
        match stat.kind {
            Kind::File => self.scope.namespace().described(self.scope, fd, stat, At::File),
            // A link, or a directory since we read its name.
            Kind::Symlink | Kind::Directory => self.located(path),
            Kind::Other => Ok(None),
        }
    }

    fn candidate_info(&self, dir: &OwnedFd, file: &[u8], path: &[u8]) -> Result<Option<ObjectInfo>> {
        let Some(inner) = self.scope.open_directory(dir.as_fd(), file)? else { return self.located(path) };
        match sys::stat_at(inner.as_fd(), name::SELF, false) {
            Ok(_) => {}
            Err(e) if !is_absent(&e) => return Err(Error::io("stat", e)),
            Err(_) if self.scope.read_directory(inner.as_fd())?.metadata().marker => {}
            Err(_) if self.scope.moved_lately()? => {}
            Err(_) => return Ok(None),
        }
        self.located(path)
    }

    fn located(&self, path: &[u8]) -> Result<Option<ObjectInfo>> {
        match place::locate(self.scope, path)? {
            Some(found) => self.scope.namespace().described(self.scope, found.fd, found.stat, found.at),
            None => Ok(None),
        }
    }

    /// Reads a directory and adds what is in it to the heap.
    fn expand(&mut self, path: Vec<u8>, prefix: &str, context: &Context, from: Option<&[u8]>) -> Result<()> {
        let Some(dir) = crate::object::open_existing(self.scope, &path)? else { return Ok(()) };
        let dir = Rc::new(dir);
        let mut found = None;
        if !self.scope.moved_lately()? {
            found = Some(self.read(&dir, &path, prefix, context, from, false)?);
        }
        // A name on the move while the directory was read could be missed under all its names.
        if found.is_none() || self.scope.moved_lately()? {
            let _still = self.scope.moving()?;
            found = Some(self.read(&dir, &path, prefix, context, from, true)?);
        }
        let Some(Found { kept, cut, .. }) = found else { return Ok(()) };
        if let Some(cut) = cut {
            self.push_children(path, prefix.to_owned(), context.clone(), Some(cut));
        }
        self.heap.extend(kept);
        Ok(())
    }

    /// What of an open directory may be listed; `held`: under the movers' lock.
    fn read(
        &self,
        dir: &Rc<OwnedFd>,
        path: &[u8],
        prefix: &str,
        context: &Context,
        from: Option<&[u8]>,
        held: bool,
    ) -> Result<Found> {
        let mut found = Found { kept: Vec::new(), cut: None, reverse: self.query.reverse };
        let mut transit = Vec::new();
        let mut unsure = Vec::new();
        sys::read_dir(dir.as_fd(), &mut |file, kind, _| {
            match name::entry(file, kind == Some(Kind::Directory), context) {
                Entry::Own(Own::Transit(target)) => transit.push(target.to_vec()),
                Entry::Own(Own::TransitDirectory) => unsure.push(file.to_vec()),
                Entry::Part { .. } if kind.is_none() => unsure.push(file.to_vec()),
                entry => self.add(&mut found, dir, path, prefix, file, kind, &entry, from),
            }
            ControlFlow::Continue(())
        })
        .step("read a directory")?;
        for file in unsure {
            if file == name::TRANSIT_DIRECTORY {
                self.in_transit(dir, &file, &mut transit)?;
            } else if let Some(kind) = kind_of(dir.as_fd(), &file, None)? {
                let entry = name::entry(&file, kind == Kind::Directory, context);
                self.add(&mut found, dir, path, prefix, &file, Some(kind), &entry, from);
            }
        }
        for file in transit {
            // Left by a crash, or on its way: put back or waited for, then it is an entry like any other.
            place::settle_held(self.scope, dir.as_fd(), &file, held)?;
            if let Some(kind) = kind_of(dir.as_fd(), &file, None)? {
                let entry = name::entry(&file, kind == Kind::Directory, context);
                self.add(&mut found, dir, path, prefix, &file, Some(kind), &entry, from);
            }
        }
        found.shrink();
        found.kept.sort();
        found.kept.dedup_by(|a, b| a.bound == b.bound && a.node.same_kind(&b.node));
        Ok(found)
    }

    fn in_transit(&self, dir: &OwnedFd, file: &[u8], transit: &mut Vec<Vec<u8>>) -> Result<()> {
        let Some(inner) = self.scope.open_directory(dir.as_fd(), file)? else { return Ok(()) };
        sys::read_dir(inner.as_fd(), &mut |file, _, _| {
            transit.push(file.to_vec());
            ControlFlow::Continue(())
        })
        .step("read the transit directory")
    }

    #[allow(clippy::too_many_arguments)]
    fn add(
        &self,
        found: &mut Found,
        dir: &Rc<OwnedFd>,
        path: &[u8],
        prefix: &str,
        file: &[u8],
        kind: Option<Kind>,
        entry: &Entry<'_>,
        from: Option<&[u8]>,
    ) {
        let Entry::Part { text, ends, below } = entry else { return };
        let reverse = self.query.reverse;
        let beyond =
            |bound: &[u8]| from.is_none_or(|from| if reverse { bound <= from } else { bound >= from });
        let full = [prefix, text].concat();
        if full.len() > name::MAX_OBJECT {
            return;
        }
        let is_dir = kind == Some(Kind::Directory);
        if *ends || !is_dir {
            let wanted = kind != Some(Kind::Other) && !full.is_empty() && self.query.wants(&full);
            if wanted && beyond(full.as_bytes()) && !self.page.done_with(&full) {
                let (dir, file, path) = (Rc::clone(dir), file.to_vec(), place::join(path, file));
                let node = if is_dir {
                    Node::Candidate { dir, file, path }
                } else {
                    Node::Entry { dir, file, path }
                };
                found.push(Pending {
                    bound: full.clone().into_bytes(),
                    prefix: String::new(),
                    node,
                    reverse,
                });
            }
        }
        if !is_dir {
            return;
        }
        let inner = if *ends { [full.as_str(), "/"].concat() } else { full };
        if inner.len() > name::MAX_OBJECT || !self.query.wants_below(&inner) || self.page.done_with(&inner) {
            return;
        }
        let mut bound = inner.clone().into_bytes();
        if reverse {
            bound.push(0xff);
        }
        if beyond(&bound) {
            let node = Node::Children { path: place::join(path, file), context: below.clone(), from: None };
            found.push(Pending { bound, prefix: inner, node, reverse });
        }
    }
}

impl Node {
    fn same_kind(&self, other: &Self) -> bool {
        matches!(self, Self::Children { .. }) == matches!(other, Self::Children { .. })
    }
}

/// The entries of one directory that come first.
struct Found {
    kept: Vec<Pending>,
    // The first bound that did not fit.
    cut: Option<Vec<u8>>,
    reverse: bool,
}

impl Found {
    fn push(&mut self, pending: Pending) {
        let late = |cut: &Vec<u8>| if self.reverse { pending.bound <= *cut } else { pending.bound >= *cut };
        if self.cut.as_ref().is_some_and(late) {
            return;
        }
        self.kept.push(pending);
        if self.kept.len() >= 2 * HELD {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if self.kept.len() <= HELD {
            return;
        }
        // `Pending` orders what comes first as greatest.
        self.kept.select_nth_unstable_by(HELD, |a, b| b.cmp(a));
        let cut = self.kept[HELD].bound.clone();
        // Equal bounds stay together on the far side of the cut.
        self.kept.truncate(HELD);
        self.kept.retain(|p| p.bound != cut);
        self.cut = Some(cut);
    }
}
