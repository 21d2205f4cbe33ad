//! How many objects and bytes a container holds: a walk, remembered for a time that grows with its cost.
//!
//! Our own writes change what is remembered; what files do shows at the next walk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A walk is repeated at the earliest after this many times its own duration, so that walking takes 2 % of the time at most.
const REST: u32 = 50;

/// Containers remembered at most.
const MOST: usize = 100_000;

/// What a container holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Debug)]
struct Known {
    count: Count,
    walked: Instant,
    took: Duration,
}

/// Counts by account and container.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    known: Mutex<HashMap<(String, String), Known>>,
}

impl Counters {
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a change of our own, if the container is remembered.
    pub(crate) fn change(&self, account: &str, container: &str, objects: i64, bytes: i64) {
        let mut known = self.known();
        if known.is_empty() {
            return;
        }
        if let Some(known) = known.get_mut(&(account.to_owned(), container.to_owned())) {
            known.count.objects = known.count.objects.saturating_add_signed(objects);
            known.count.bytes = known.count.bytes.saturating_add_signed(bytes);
        }
    }

    /// The count, by `walk` if it is due.
    pub(crate) fn get<E>(
        &self,
        account: &str,
        container: &str,
        walk: impl FnOnce() -> Result<Count, E>,
    ) -> Result<Count, E> {
        let key = (account.to_owned(), container.to_owned());
        if let Some(known) = self.known().get(&key)
            && known.walked.elapsed() < known.took * REST
        {
            return Ok(known.count);
        }
        let start = Instant::now();
        let count = walk()?;
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, Known { count, walked: Instant::now(), took: start.elapsed() });
        Ok(count)
    }

    /// Forgets a container.
    pub(crate) fn forget(&self, account: &str, container: &str) {
        self.known().remove(&(account.to_owned(), container.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(counters: &Counters, objects: u64, pause: u64) -> Count {
        let walk = || {
            std::thread::sleep(Duration::from_millis(pause));
            Ok::<_, ()>(Count { objects, bytes: objects * 10 })
        };
        counters.get("a", "c", walk).unwrap()
    }

    #[test]
    fn a_costly_walk_is_remembered_and_our_changes_are_added() {
        let counters = Counters::default();
        assert_eq!(counted(&counters, 5, 50).objects, 5);
        counters.change("a", "c", 1, 7);
        counters.change("a", "other", 1, 7);
        assert_eq!(counted(&counters, 99, 0), Count { objects: 6, bytes: 57 });
        counters.change("a", "c", -100, -1000);
        assert_eq!(counted(&counters, 99, 0), Count { objects: 0, bytes: 0 });
        counters.forget("a", "c");
        assert_eq!(counted(&counters, 3, 0).objects, 3);
    }

    #[test]
    fn a_failed_walk_leaves_nothing() {
        let counters = Counters::default();
        assert_eq!(counters.get("a", "c", || Err("no")), Err("no"));
        assert_eq!(counted(&counters, 2, 0).objects, 2);
    }
}
