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
        let (first, end) = range(task);
        let start = from.map_or(Bound::Included(first.as_slice()), |from| Bound::Excluded(from.as_slice()));
        let mut keys: Vec<Vec<u8>> = Vec::new();
        read.scan((start, Bound::Excluded(&end)), false, &mut |key, _| {
            keys.push(key.to_vec());
            Ok(if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        let next = if keys.len() < limit { None } else { keys.last().cloned() };
        let mut names = Vec::new();
        for key in keys {
            names.extend(name_of(&*read, task, &key)?);
        }
        Ok(Some((names, next)))
    }
}

fn range(task: Task) -> (Vec<u8>, Vec<u8>) {
    let tag = match task {
        Task::Expire(at) => return (b"e".to_vec(), row::expiry_key(at.saturating_add(1), 0, "")),
        Task::Hash => b'h',
        Task::Assemble => b's',
    };
    (vec![tag], vec![tag + 1])
}

fn name_of(read: &dyn Read, task: Task, key: &[u8]) -> Result<Option<ObjectName>> {
    let at = if matches!(task, Task::Expire(_)) { 9 } else { 1 };
    let Some(id) = row::id_in(key, at) else { return Ok(None) };
    let text = std::str::from_utf8(&key[at + 8..]).map_err(|_| row::damaged())?;
    let Some(found) = place_of(read, id)? else { return Ok(None) };
    let Some(container) = found.container else { return Ok(None) };
    Ok(Some(ObjectName::new(found.account, container, [&found.prefix, text].concat())))
}
