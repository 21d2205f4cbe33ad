//! A map that never grows beyond a bound, for counters kept by what clients name (addresses, users).
//!
//! Entries live in a young and an old half. When the young half is full it becomes the old one, and what the old one
//! still held is forgotten, unless it is in use. Every operation is O(1) on average, and an entry touched at least once
//! while `capacity` others come is never lost.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// A bounded map of values that may be forgotten.
#[derive(Debug)]
pub struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Hash + Eq, V> Generations<K, V> {
    /// Holds at most twice `capacity` entries, beside those in use.
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity: capacity.max(1) }
    }

    /// The entry, if it is known. Looking keeps it.
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        if !self.young.contains_key(key) {
            let (key, value) = self.old.remove_entry(key)?;
            self.young.insert(key, value);
        }
        self.young.get_mut(key)
    }

    /// Puts an entry in, first making room: of the oldest, only those survive that `in_use` says so of.
    pub fn insert(&mut self, key: K, value: V, in_use: impl Fn(&V) -> bool) {
        self.old.remove(&key);
        if self.young.len() >= self.capacity {
            let forgotten = mem::replace(&mut self.old, mem::take(&mut self.young));
            self.young.extend(forgotten.into_iter().filter(|(_, value)| in_use(value)));
        }
        self.young.insert(key, value);
    }

    /// Takes an entry out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_twice_the_capacity() {
        let mut map = Generations::new(10);
        assert!(map.is_empty());
        for key in 0..1000 {
            map.insert(key, key, |_| false);
            assert!(map.len() <= 20);
        }
        assert_eq!(map.get(&999), Some(&mut 999));
        assert_eq!(map.get(&0), None);
    }

    #[test]
    fn what_is_looked_at_or_in_use_stays() {
        let mut map = Generations::new(10);
        map.insert(0, "looked at", |_| false);
        map.insert(1, "in use", |_| false);
        for key in 2..1000 {
            map.insert(key, "", |value| *value == "in use");
            assert!(map.get(&0).is_some());
        }
        assert!(map.get(&1).is_some());
    }

    #[test]
    fn entries_are_replaced_and_removed_in_either_half() {
        let mut map = Generations::new(1);
        map.insert(1, 'a', |_| false);
        map.insert(2, 'b', |_| false);
        map.insert(1, 'c', |_| false);
        assert_eq!(map.get(&1), Some(&mut 'c'));
        assert_eq!(map.remove(&2), Some('b'));
        assert_eq!(map.remove(&1), Some('c'));
        assert_eq!(map.remove(&1), None);
    }
}
