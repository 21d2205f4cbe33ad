//! Listings and counters from the rows.
//!
//! As in the listing from the tree a heap holds what may come next, here one head of each range of rows: the objects of a
//! directory, its directories, its parts. A directory whose names are all rolled up is one row, and nothing below it is read.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::{Bound, ControlFlow};

use super::Index;
use super::engine::Read;
use super::marks::{descend, entry_of};
use super::row::{self, Entry, Id, Kind, Object, ROW_TEXT, TOP, row_key};
use crate::counters::Count;
use crate::directory::ContainerRow;
use crate::error::{Error, Result};
use crate::listing::{ListQuery, Page, Row};
use crate::name::MAX_OBJECT;
use crate::timestamp::Timestamp;
use crate::{Namespace, Scope, container_path};

/// Rows read at once.
const CHUNK: usize = 256;

/// One range of rows.
#[derive(Debug)]
struct Cursor {
    dir: Id,
    kind: Kind,
    prefix: String,
    ready: VecDeque<(String, Vec<u8>)>,
    // Where to read on; `None`: nowhere.
    next: Option<Bound<Vec<u8>>>,
}

/// The first row of a cursor.
#[derive(Debug)]
struct Head {
    bound: Vec<u8>,
    cursor: usize,
    reverse: bool,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.bound == other.bound
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        if self.reverse { self.bound.cmp(&other.bound) } else { other.bound.cmp(&self.bound) }
    }
}

struct Lister<'a> {
    read: &'a dyn Read,
    query: &'a ListQuery,
    /// What is listed: objects, or the containers of an account.
    leaf: Kind,
    cursors: Vec<Cursor>,
    heap: BinaryHeap<Head>,
}

/// What comes next.
enum Next {
    Leaf(String, Vec<u8>),
    /// All names below are rolled up, and there are some.
    Rolled(String),
}

impl Lister<'_> {
    /// Adds the rows of a directory, all of whose names begin with `prefix`.
    fn open(&mut self, dir: Id, prefix: &str) -> Result<()> {
        let kinds: &[Kind] = match self.leaf {
            Kind::Object => &[Kind::Object, Kind::Directory, Kind::Part],
            _ => &[Kind::Directory, Kind::Part],
        };
        for kind in kinds {
            self.add(dir, *kind, prefix, None)?;
        }
        if self.leaf == Kind::Object {
            // Names below one run may sort among those below another: each is a range of its own.
            for text in self.runs(dir)? {
                self.add(dir, Kind::Run, prefix, Some(&text))?;
            }
        }
        Ok(())
    }

    fn runs(&self, dir: Id) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        self.read.scan_prefix(&row_key(dir, Kind::Run, ""), &mut |key, _| {
            texts.push(text_of(key)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(texts)
    }

    fn add(&mut self, dir: Id, kind: Kind, prefix: &str, only: Option<&str>) -> Result<()> {
        let mut cursor = Cursor { dir, kind, prefix: prefix.to_owned(), ready: VecDeque::new(), next: None };
        match only {
            Some(text) => {
                let entry = self.read.get(&row_key(dir, kind, text))?.ok_or_else(row::damaged)?;
                cursor.ready.push_back((text.to_owned(), entry));
            }
            None => cursor.next = Some(self.start(dir, kind, prefix)),
        }
        self.cursors.push(cursor);
        self.push(self.cursors.len() - 1)
    }

    /// Where the rows begin that the query may want.
    fn start(&self, dir: Id, kind: Kind, prefix: &str) -> Bound<Vec<u8>> {
        let base = row_key(dir, kind, "");
        if self.query.reverse {
            let (_, before) = self.query.bounds();
            let end = [before, self.query.prefix.as_str()]
                .into_iter()
                .filter_map(|limit| {
                    let rest = limit.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
                    row::after(&row_key(dir, kind, rest))
                })
                .min();
            return row::after(&base).map_or(Bound::Unbounded, |last| Bound::Excluded(end.unwrap_or(last)));
        }
        let (after, _) = self.query.bounds();
        let texts = [after, self.query.prefix.as_str()];
        let from = texts.into_iter().filter_map(|limit| limit.strip_prefix(prefix)).max().unwrap_or("");
        // The directory in which the first name wanted lies sorts before it.
        let first = match kind {
            Kind::Object | Kind::Run => from,
            Kind::Directory => from.find('/').and_then(|at| from.get(..=at)).unwrap_or(from),
            // No part is shorter.
            Kind::Part => from.get(..from.len().min(200)).unwrap_or(""),
        };
        Bound::Included(row_key(dir, kind, first))
    }

    /// Puts the cursor's first row on the heap.
    fn push(&mut self, at: usize) -> Result<()> {
        let reverse = self.query.reverse;
        let Some(cursor) = self.cursors.get_mut(at) else { return Ok(()) };
        if cursor.ready.is_empty() {
            cursor.refill(self.read, reverse)?;
        }
        if let Some((text, _)) = cursor.ready.front() {
            let mut bound = [cursor.prefix.as_str(), text].concat().into_bytes();
            if reverse && cursor.kind != self.leaf {
                bound.push(0xff);
            }
            self.heap.push(Head { bound, cursor: at, reverse });
        }
        Ok(())
    }

    fn next(&mut self, page: &Page<'_>) -> Result<Option<Next>> {
        while let Some(Head { cursor: at, .. }) = self.heap.pop() {
            let Some(cursor) = self.cursors.get_mut(at) else { continue };
            let Some((text, value)) = cursor.ready.pop_front() else { continue };
            let full = [cursor.prefix.as_str(), &text].concat();
            let kind = cursor.kind;
            if page.done_with(&full) {
                cursor.pass(page.rolled(), self.query.reverse);
                self.push(at)?;
                continue;
            }
            if self.beyond(&full) {
                continue;
            }
            self.push(at)?;
            if kind == self.leaf {
                if full.len() <= MAX_OBJECT && self.query.wants(&full) {
                    return Ok(Some(Next::Leaf(full, value)));
                }
                continue;
            }
            if !self.query.wants_below(&full) {
                continue;
            }
            let entry = Entry::decode(&value)?;
            let whole = self.query.wants_all_below(&full);
            match self.query.rolled(&full) {
                // Backwards it comes after what is rolled up with it.
                Some(_) if self.query.path && !self.query.reverse => {
                    // A name that ends in its delimiter is a row of its own.
                    let own = self.read.get(&row_key(entry.id, Kind::Object, ""))?;
                    if let Some(own) = own.filter(|_| self.query.wants(&full)) {
                        return Ok(Some(Next::Leaf(full, own)));
                    }
                }
                Some(_) if whole && !self.query.path && self.leaf == Kind::Object => {
                    if entry.live {
                        return Ok(Some(Next::Rolled(full)));
                    }
                }
                // Nothing to be listed is beneath.
                _ if self.leaf == Kind::Object && !entry.live => {}
                _ => self.open(entry.id, &full)?,
            }
        }
        Ok(None)
    }

    /// Whether this row and all after it in its range lie behind the last name wanted.
    fn beyond(&self, full: &str) -> bool {
        let (after, before) = self.query.bounds();
        if self.query.reverse {
            return (!after.is_empty() && full <= after && !after.starts_with(full))
                || (full < self.query.prefix.as_str() && !self.query.prefix.starts_with(full));
        }
        (!before.is_empty() && full >= before)
            || (full > self.query.prefix.as_str() && !full.starts_with(&self.query.prefix))
    }
}

impl Cursor {
    fn refill(&mut self, read: &dyn Read, reverse: bool) -> Result<()> {
        let Some(next) = self.next.take() else { return Ok(()) };
        let base = row_key(self.dir, self.kind, "");
        let edge = row::after(&base);
        let next = next.as_ref().map(Vec::as_slice);
        let range = if reverse {
            (Bound::Included(base.as_slice()), next)
        } else {
            (next, edge.as_deref().map_or(Bound::Unbounded, Bound::Excluded))
        };
        let mut last = None;
        read.scan(range, reverse, &mut |key, value| {
            self.ready.push_back((text_of(key)?, value.to_vec()));
            if self.ready.len() < CHUNK {
                return Ok(ControlFlow::Continue(()));
            }
            last = Some(key.to_vec());
            Ok(ControlFlow::Break(()))
        })?;
        self.next = last.map(Bound::Excluded);
        Ok(())
    }

    /// Goes on behind all names that begin with `rolled`.
    fn pass(&mut self, rolled: &str, reverse: bool) {
        let Some(rest) = rolled.strip_prefix(self.prefix.as_str()) else {
            // All names here do.
            self.ready.clear();
            self.next = None;
            return;
        };
        let within = |text: &str| text.starts_with(rest);
        while self.ready.front().is_some_and(|(text, _)| within(text)) {
            self.ready.pop_front();
        }
        if self.ready.is_empty() && self.next.is_some() {
            let key = row_key(self.dir, self.kind, rest);
            self.next =
                if reverse { Some(Bound::Excluded(key)) } else { row::after(&key).map(Bound::Included) };
        }
    }
}

fn text_of(key: &[u8]) -> Result<String> {
    let text = key.get(ROW_TEXT..).unwrap_or_default();
    std::str::from_utf8(text).map(str::to_owned).map_err(|_| row::damaged())
}

/// A container in one state of the index.
struct Indexed<'i> {
    index: &'i Index,
    read: Box<dyn Read>,
    id: Id,
}

impl Namespace {
    /// The container in the index, if listings of it may come from there.
    fn indexed(&self, account: &str, container: &str) -> Result<Option<Indexed<'_>>> {
        let Some(index) = self.index.as_ref().filter(|index| index.current()) else { return Ok(None) };
        self.catch_up(index, account);
        let read = index.read()?;
        let Some(account) = entry_of(&*read, TOP, Kind::Directory, account)? else { return Ok(None) };
        let path = container_path(container)?;
        let Some(at) = descend(&*read, account.id, &path)? else { return Ok(None) };
        Ok(index.proven(&*read, at)?.then_some(Indexed { index, read, id: at }))
    }

    /// A page of a container's objects from the index; `None` if the tree is to be read.
    pub(crate) fn list_indexed(
        &self,
        account: &str,
        container: &str,
        query: &ListQuery,
    ) -> Result<Option<Vec<Row>>> {
        // Who asks may be refused, or late.
        Scope::of_container(self, account, container)?;
        let Some(Indexed { read, id, .. }) = or_tree(self.indexed(account, container))?.flatten() else {
            return Ok(None);
        };
        or_tree(list_objects(&*read, id, query))
    }

    /// What a container holds, from the index; `None` if it is to be counted.
    pub(crate) fn count_indexed(&self, account: &str, container: &str) -> Result<Option<Count>> {
        let Some(Indexed { index, read, id }) = or_tree(self.indexed(account, container))?.flatten() else {
            return Ok(None);
        };
        let sums = or_tree(index.sums(&*read, id))?;
        Ok(sums.map(|sums| Count { objects: sums.objects, bytes: sums.bytes }))
    }

    /// A page of an account's containers from the index; `None` if the tree is to be read.
    pub(crate) fn list_containers_indexed(
        &self,
        account: &str,
        query: &ListQuery,
    ) -> Result<Option<Vec<ContainerRow>>> {
        let Some(index) = self.index.as_ref().filter(|index| index.current()) else { return Ok(None) };
        self.catch_up(index, account);
        or_tree(list_containers(index, account, query)).map(Option::flatten)
    }
}

/// What the index cannot tell the tree can.
fn or_tree<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::Index(error)) => {
            tracing::error!(%error, "the index could not be read");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn list_objects(read: &dyn Read, container: Id, query: &ListQuery) -> Result<Vec<Row>> {
    let mut lister = Lister { read, query, leaf: Kind::Object, cursors: Vec::new(), heap: BinaryHeap::new() };
    let mut page = Page::new(query);
    lister.open(container, "")?;
    while page.rows.len() < query.limit {
        match lister.next(&page)? {
            Some(Next::Leaf(name, value)) => {
                let row = Object::decode(&value)?;
                page.emit(name, |name| row.listed(name));
            }
            Some(Next::Rolled(name)) => page.roll(&name),
            None => break,
        }
    }
    Ok(page.rows)
}

fn list_containers(index: &Index, account: &str, query: &ListQuery) -> Result<Option<Vec<ContainerRow>>> {
    let read = &*index.read()?;
    let Some(account) = entry_of(read, TOP, Kind::Directory, account)? else { return Ok(None) };
    if !index.proven(read, account.id)? {
        return Ok(None);
    }
    let mut lister =
        Lister { read, query, leaf: Kind::Directory, cursors: Vec::new(), heap: BinaryHeap::new() };
    let mut page = Page::new(query);
    lister.open(account.id, "")?;
    let mut rows = Vec::new();
    while rows.len() < query.limit {
        let Some(Next::Leaf(name, value)) = lister.next(&page)? else { break };
        if let Some(rolled) = query.rolled(&name) {
            if rolled != query.marker {
                rows.push(ContainerRow::Subdir(rolled.to_owned()));
            }
            page.pass(rolled);
            continue;
        }
        let id = Entry::decode(&value)?.id;
        if !index.proven(read, id)? {
            // Its counters are not known.
            return Ok(None);
        }
        let sums = index.sums(read, id)?;
        let last_modified = Timestamp::from_units(sums.changed).ok_or_else(row::damaged)?;
        let count = Count { objects: sums.objects, bytes: sums.bytes };
        rows.push(ContainerRow::Container { name, count, last_modified });
    }
    Ok(Some(rows))
}
