//! What is to be done for objects one day, found without walking the tree.

use std::ops::{Bound, ControlFlow};

use super::engine::Read;
use super::look::place_of;
use super::row;
use crate::error::Result;
use crate::{Namespace, ObjectName};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Objects that expire at this time, in seconds since 1970, or before.
    Expire(u64),
    /// Objects whose MD5 is not known.
    Hash,
    /// Manifests whose segments are not assembled.
    Assemble,
}

/// Where to go on, see [`Namespace::tasks`].
pub type Position = Vec<u8>;

impl Namespace {
    /// Objects for which that is to be done, at most `limit`, and where to go on; `None` without an index. What waits to be
    /// scanned is missing, and an object may be gone since.
    pub fn tasks(
        &self,
        task: Task,
        from: Option<&Position>,
        limit: usize,
    ) -> Result<Option<(Vec<ObjectName>, Option<Position>)>> {
        let Some(index) = &self.index else { return Ok(None) };
        let read = index.read()?;
        let keys = match task {
            Task::Hash => unhashed(&*read, from, limit)?,
            Task::Expire(at) => {
                keys(&*read, (b"e", &row::expiry_key(at.saturating_add(1), 0, "")), from, limit)?
            }
            Task::Assemble => keys(&*read, (b"s", b"t"), from, limit)?,
        };
        let next = if keys.len() < limit { None } else { keys.last().cloned() };
        let mut names = Vec::new();
        for key in keys {
            names.extend(name_of(&*read, task, &key)?);
        }
        Ok(Some((names, next)))
    }
}

fn keys(
    read: &dyn Read,
    (first, end): (&[u8], &[u8]),
    from: Option<&Position>,
    limit: usize,
) -> Result<Vec<Position>> {
    let start = from.map_or(Bound::Included(first), |from| Bound::Excluded(from.as_slice()));
    let mut keys: Vec<Position> = Vec::new();
    read.scan((start, Bound::Excluded(end)), false, &mut |key, _| {
        keys.push(key.to_vec());
        Ok(if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(keys)
}

/// The keys of rows without an MD5, directory by directory.
fn unhashed(read: &dyn Read, from: Option<&Position>, limit: usize) -> Result<Vec<Position>> {
    let mut found: Vec<Position> = Vec::new();
    let first = from.and_then(|from| row::id_in(from, 1)).unwrap_or(0);
    let mut directories = Vec::new();
    let range = (row::unhashed_key(first), row::unhashed_key(row::LIMBO));
    read.scan((Bound::Included(&range.0), Bound::Included(&range.1)), false, &mut |key, _| {
        directories.extend(row::id_in(key, 1));
        Ok(ControlFlow::Continue(()))
    })?;
    for id in directories {
        let base = row::row_key(id, row::Kind::Object, "");
        let start = match from {
            Some(from) if from.starts_with(&base) => Bound::Excluded(from.as_slice()),
            _ => Bound::Included(base.as_slice()),
        };
        let end = row::after(&base);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        read.scan((start, end), false, &mut |key, value| {
            if row::Object::decode(value)?.is_unhashed() {
                found.push(key.to_vec());
            }
            Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if found.len() >= limit {
            break;
        }
    }
    Ok(found)
}

fn name_of(read: &dyn Read, task: Task, key: &[u8]) -> Result<Option<ObjectName>> {
    // Where in the key the directory's number is, and the text.
    let (at, text) = match task {
        Task::Expire(_) => (9, 17),
        Task::Hash => (1, row::ROW_TEXT),
        Task::Assemble => (1, 9),
    };
    let Some(id) = row::id_in(key, at) else { return Ok(None) };
    let text = std::str::from_utf8(key.get(text..).unwrap_or_default()).map_err(|_| row::damaged())?;
    let Some(found) = place_of(read, id)? else { return Ok(None) };
    let Some(container) = found.container else { return Ok(None) };
    Ok(Some(ObjectName::new(found.account, container, [&found.prefix, text].concat())))
}
