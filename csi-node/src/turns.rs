//! One after the other for each key. Waits, where [`locks`](crate::locks) sends the caller away.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};

/// Who works on what.
#[derive(Debug)]
pub struct Turns<K> {
    held: LazyLock<Mutex<HashSet<K>>>,
    freed: Condvar,
}

impl<K: Hash + Eq + Clone> Turns<K> {
    /// Nobody works on anything.
    pub const fn new() -> Turns<K> {
        Turns { held: LazyLock::new(Mutex::default), freed: Condvar::new() }
    }

    /// Waits until nobody else has `key`, and takes it until the turn is dropped. Blocks.
    pub fn take(&self, key: K) -> Turn<'_, K> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.freed.wait_while(held, |held| held.contains(&key));
        free.unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        Turn { turns: self, key }
    }

    /// Whether somebody has `key` now.
    pub fn is_taken(&self, key: &K) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}

impl<K: Hash + Eq + Clone> Default for Turns<K> {
    fn default() -> Turns<K> {
        Turns::new()
    }
}

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Turn<'a, K: Hash + Eq + Clone> {
    turns: &'a Turns<K>,
    key: K,
}

impl<K: Hash + Eq + Clone> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.turns.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.turns.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_for_each_key() {
        static TURNS: Turns<u8> = Turns::new();
        static INSIDE: AtomicU32 = AtomicU32::new(0);
        let other = TURNS.take(2);
        assert!(TURNS.is_taken(&2) && !TURNS.is_taken(&1));
        let work = || {
            for _ in 0..1000 {
                let _turn = TURNS.take(1);
                assert_eq!(INSIDE.fetch_add(1, Ordering::SeqCst), 0);
                INSIDE.fetch_sub(1, Ordering::SeqCst);
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
        drop(other);
        drop(TURNS.take(2));
    }
}
