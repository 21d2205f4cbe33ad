//! Who has work to do: each share and bridge at most once at a time, failures ever more slowly, none before another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cluster::Key;

/// Pause after the first failure.
const FIRST: Duration = Duration::from_millis(500);
/// Longest pause after a failure.
const LONGEST: Duration = Duration::from_mins(1);

/// Who has work to do.
#[derive(Default, Debug)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default, Debug)]
struct State {
    due: BTreeMap<Key, Instant>,
    running: BTreeSet<Key>,
    failures: BTreeMap<Key, u32>,
}

/// What is to follow a reconciliation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing, until something changes.
    Rest,
    /// A look after a while, at what cannot be watched.
    Look(Duration),
    /// Another try; not before this time, if the API server asked for it.
    Retry(Option<Duration>),
}

impl Queue {
    /// Something changed for a share or bridge.
    pub fn add(&self, key: Key) {
        self.add_at(key, Instant::now());
    }

    fn add_at(&self, key: Key, at: Instant) {
        let mut state = self.state();
        let due = state.due.entry(key).or_insert(at);
        *due = at.min(*due);
        drop(state);
        self.changed.notify_one();
    }

    /// The next one whose time has come. It is given to nobody else until it is [`Self::done`].
    pub async fn next(&self) -> Key {
        loop {
            let changed = self.changed.notified();
            let wait = match self.state().take(Instant::now()) {
                Ok(key) => {
                    // There may be work for another worker too.
                    self.changed.notify_one();
                    return key;
                }
                Err(wait) => wait,
            };
            match wait {
                Some(until) => drop(tokio::time::timeout_at(until, changed).await),
                None => changed.await,
            }
        }
    }

    /// One is reconciled, and this is to follow.
    pub fn done(&self, key: Key, next: Next) {
        let mut state = self.state();
        state.running.remove(&key);
        let pause = match next {
            Next::Rest => state.succeeded(&key),
            Next::Look(pause) => state.succeeded(&key).or(Some(pause)),
            Next::Retry(asked) => Some(state.failed(&key).max(asked.unwrap_or_default())),
        };
        drop(state);
        match pause {
            Some(pause) => self.add_at(key, Instant::now() + pause),
            // It may have been added while it ran.
            None => self.changed.notify_one(),
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.state().due.len()
    }

    /// Whether nobody has anything to do.
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.due.is_empty() && state.running.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The one that is due longest, or when the next one will be.
    fn take(&mut self, now: Instant) -> Result<Key, Option<Instant>> {
        let free = self.due.iter().filter(|(key, _)| !self.running.contains(*key));
        let Some((key, at)) = free.min_by_key(|(_, at)| **at).map(|(key, at)| (key.clone(), *at)) else {
            return Err(None);
        };
        if at > now {
            return Err(Some(at));
        }
        self.due.remove(&key);
        self.running.insert(key.clone());
        Ok(key)
    }

    fn succeeded(&mut self, key: &Key) -> Option<Duration> {
        self.failures.remove(key);
        None
    }

    fn failed(&mut self, key: &Key) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        *failures += 1;
        FIRST.saturating_mul(1 << (*failures - 1).min(10)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Kind;

    fn key(name: &str) -> Key {
        Key::new(Kind::LustreShare, "", name)
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_again_if_it_changed_meanwhile() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.next().await, key("b"), "a runs");
        queue.done(key("a"), Next::Rest);
        assert_eq!(queue.next().await, key("a"));
        queue.done(key("a"), Next::Rest);
        queue.done(key("b"), Next::Rest);
        assert!(queue.is_idle() && queue.waiting() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_ever_longer_but_changes_do_not() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add(key("a"));
        for _ in 0..3 {
            let key = queue.next().await;
            queue.done(key, Next::Retry(None));
        }
        queue.next().await;
        assert_eq!(start.elapsed().as_millis() / 100, 35, "0.5 + 1 + 2 seconds");
        queue.done(key("a"), Next::Retry(Some(Duration::from_secs(90))));
        queue.add(key("a"));
        queue.next().await;
        assert!(start.elapsed() < Duration::from_secs(4));
        queue.done(key("a"), Next::Look(Duration::from_secs(10)));
        let before = Instant::now();
        queue.next().await;
        assert_eq!(before.elapsed().as_secs(), 10);
    }
}
