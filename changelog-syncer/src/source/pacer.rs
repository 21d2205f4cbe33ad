//! What would come too often is told at most once a second, and the last of it always.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lustre::fs::Fid;

/// A name in a directory; without a name, all beneath the directory.
pub(super) type Key = (Fid, Option<Vec<u8>>);

/// Between two of the same.
const PAUSE: Duration = Duration::from_secs(1);
/// Of the first: it may be followed by something that makes it superfluous.
const FIRST: Duration = Duration::from_millis(100);
/// How often what is due is looked for.
const STEP: Duration = Duration::from_millis(50);
/// Names in memory; with more, all are due.
const MOST: usize = 1 << 16;

#[derive(Default)]
pub(super) struct Pacer {
    slots: HashMap<Key, Slot>,
    /// Directories beneath which all is due.
    below: usize,
    next: Option<Instant>,
}

#[derive(Default)]
struct Slot {
    /// Where the directory was.
    path: Vec<u8>,
    told: Option<Instant>,
    due: Option<Instant>,
}

impl Pacer {
    /// It happened in a directory that is at `path`.
    pub(super) fn note(&mut self, key: Key, path: Vec<u8>, now: Instant) {
        let below = key.1.is_none();
        let slot = self.slots.entry(key).or_default();
        if slot.due.is_none() {
            self.below += usize::from(below);
            slot.path = path;
            let pause = slot.told.map(|told| told + PAUSE);
            slot.due = Some(pause.unwrap_or(now).max(now + FIRST));
        }
        self.next.get_or_insert(now + STEP);
    }

    /// It was told by other means: the next time it is news again.
    pub(super) fn told(&mut self, key: &Key) {
        if let Some(slot) = self.slots.remove(key) {
            self.below -= usize::from(key.1.is_none() && slot.due.is_some());
        }
    }

    /// What is to be told now, and where its directory was.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Key, Vec<u8>)> {
        let full = self.slots.len() > MOST;
        if !full && self.next.is_none_or(|next| next > now) {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (key, slot) in &mut self.slots {
            if slot.due.is_some_and(|at| full || at <= now) {
                (slot.told, slot.due) = (Some(now), None);
                self.below -= usize::from(key.1.is_none());
                due.push((key.clone(), std::mem::take(&mut slot.path)));
            }
        }
        self.slots
            .retain(|_, slot| !full && (slot.due.is_some() || slot.told.is_some_and(|at| at + PAUSE > now)));
        self.next = (!self.slots.is_empty()).then(|| now + STEP);
        due
    }

    /// When to ask again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Whether all beneath a directory waits to be told.
    pub(super) fn has_below(&self) -> bool {
        self.below > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        (Fid::from_bytes(b"dir").unwrap(), Some(name.into()))
    }

    #[test]
    fn constant_writing_is_told_once_a_second_and_at_the_end() {
        let mut pacer = Pacer::default();
        let start = Instant::now();
        let mut told = Vec::new();
        for step in 0..600_u32 {
            let now = start + Duration::from_millis(10) * step;
            if step < 400 {
                pacer.note(key("f"), Vec::new(), now);
            }
            told.extend(pacer.due(now).iter().map(|_| now - start));
        }
        assert!((4..=5).contains(&told.len()), "{told:?}");
        assert!(told[0] < Duration::from_millis(200));
        assert!(*told.last().unwrap() >= Duration::from_secs(4));
        assert!(told.windows(2).all(|two| two[1] >= two[0] + PAUSE));
        assert_eq!(pacer.next(), None);
    }

    #[test]
    fn what_was_told_otherwise_is_not_due() {
        let mut pacer = Pacer::default();
        let now = Instant::now();
        pacer.note(key("f"), Vec::new(), now);
        pacer.note((key("f").0, None), b"p".to_vec(), now);
        pacer.told(&key("f"));
        assert!(pacer.has_below());
        assert_eq!(pacer.due(now + PAUSE), [((key("f").0, None), b"p".to_vec())]);
        assert!(!pacer.has_below());
    }

    #[test]
    fn memory_is_bounded() {
        let mut pacer = Pacer::default();
        let now = Instant::now();
        for number in 0..=MOST {
            pacer.note(key(&number.to_string()), Vec::new(), now);
        }
        assert_eq!(pacer.due(now).len(), MOST + 1);
        assert_eq!(pacer.next(), None);
    }
}
