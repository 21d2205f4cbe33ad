//! Short locks by name within one process.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A fixed number of mutexes, picked by a hash: equal names share one.
#[derive(Debug)]
pub(crate) struct Locks {
    shards: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Locks {
    pub(crate) fn new() -> Self {
        Self { shards: (0..1024).map(|_| Mutex::new(())).collect(), hasher: RandomState::new() }
    }

    /// Waits for the name's turn.
    pub(crate) fn lock(&self, name: impl Hash) -> MutexGuard<'_, ()> {
        let shard = self.hasher.hash_one(name) as usize % self.shards.len();
        // The mutex guards no data, so a panicking holder leaves nothing broken.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_exclude_each_other() {
        let locks = Locks::new();
        let counter = Mutex::new((0, 0));
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..200 {
                        let _held = locks.lock(("account", "name"));
                        let inside = {
                            let mut c = counter.lock().unwrap();
                            c.0 += 1;
                            c.0
                        };
                        assert_eq!(inside, 1);
                        let mut c = counter.lock().unwrap();
                        c.0 -= 1;
                        c.1 += 1;
                    }
                });
            }
        });
        assert_eq!(counter.into_inner().unwrap().1, 1600);
    }
}
