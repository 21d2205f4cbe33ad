//! Deletions remembered, so that a slow upload does not bring back what a later DELETE removed.
//!
//! Until there is an index they live in this process's memory. A request older than the process cannot be ordered and is refused.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::timestamp::Timestamp;

/// Most deletions remembered at once; beyond it the oldest go, and requests older than those are refused.
const MOST: usize = 1_000_000;

/// A time in 10-microsecond units.
fn at(units: u64) -> Timestamp {
    Timestamp::from_units(units).unwrap_or(Timestamp::MAX)
}

/// Deletions by name.
#[derive(Debug)]
pub(crate) struct Tombstones {
    life: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    by_name: HashMap<Box<str>, Timestamp>,
    // Deletions in the order they were made; a name deleted again stands in it twice and is checked when it falls out.
    by_time: BTreeSet<(Timestamp, Box<str>)>,
    oldest: Timestamp,
    most: usize,
}

impl Tombstones {
    /// Remembers for `life` 10-microsecond units.
    pub(crate) fn new(life: u64, started: Timestamp) -> Self {
        Self::bounded(life, started, MOST)
    }

    fn bounded(life: u64, started: Timestamp, most: usize) -> Self {
        let state = State { by_name: HashMap::new(), by_time: BTreeSet::new(), oldest: started, most };
        Self { life, state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that `name` was deleted at `when`.
    pub(crate) fn bury(&self, name: &str, when: Timestamp, now: Timestamp) {
        let mut state = self.state();
        if state.by_name.get(name).is_some_and(|old| *old >= when) {
            return;
        }
        if let Some(old) = state.by_name.insert(name.into(), when) {
            state.by_time.remove(&(old, name.into()));
        }
        state.by_time.insert((when, name.into()));
        let expired = at(now.units().saturating_sub(self.life));
        while let Some((when, _)) = state.by_time.first() {
            let (when, crowded) = (*when, state.by_name.len() > state.most);
            if when > expired && !crowded {
                break;
            }
            if crowded {
                state.oldest = state.oldest.max(when);
            }
            if let Some((_, name)) = state.by_time.pop_first() {
                state.by_name.remove(&name);
            }
        }
        if expired > state.oldest {
            state.oldest = expired;
        }
    }

    /// When `name` was deleted, if that is remembered.
    pub(crate) fn buried(&self, name: &str) -> Option<Timestamp> {
        self.state().by_name.get(name).copied()
    }

    /// Requests before this time cannot be ordered.
    pub(crate) fn oldest(&self) -> Timestamp {
        self.state().oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_deletion_of_a_name_counts() {
        let t = Tombstones::new(1000, at(0));
        t.bury("a", at(5), at(5));
        t.bury("a", at(3), at(6));
        assert_eq!(t.buried("a"), Some(at(5)));
        t.bury("a", at(9), at(9));
        assert_eq!(t.buried("a"), Some(at(9)));
        assert_eq!(t.buried("b"), None);
    }

    #[test]
    fn deletions_past_their_life_are_forgotten_and_older_requests_refused() {
        let t = Tombstones::new(10, at(1));
        t.bury("a", at(5), at(5));
        t.bury("b", at(20), at(20));
        assert_eq!(t.buried("a"), None);
        assert_eq!(t.buried("b"), Some(at(20)));
        assert_eq!(t.oldest(), at(10));
    }

    #[test]
    fn memory_is_bounded_and_what_fell_out_is_refused() {
        let t = Tombstones::bounded(1_000_000, at(0), 3);
        for (i, name) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            t.bury(name, at(10 + i as u64), at(10 + i as u64));
        }
        assert_eq!(t.buried("a"), None);
        assert_eq!(t.buried("b"), None);
        assert_eq!(t.buried("c"), Some(at(12)));
        assert_eq!(t.oldest(), at(11));
    }
}
