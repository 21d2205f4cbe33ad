//! Log-in back-off: who guesses keys must wait, longer each time.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::clock::Clock;
use super::generations::Generations;

/// Names (addresses or users) that are remembered at once.
const REMEMBERED: usize = 10_000;
/// After so long without a failure all is forgiven.
const FORGIVEN: Duration = Duration::from_hours(1);
/// The first wait; each further failure doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait. Not longer, since an attacker can make an innocent user's or neighbour's name wait too.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Failures by name.
#[derive(Debug)]
pub struct Backoff {
    clock: Arc<dyn Clock>,
    /// Failures before the first wait.
    free: u32,
    hasher: RandomState,
    /// By a keyed hash, so that long names take no more room than short ones.
    failures: Mutex<Generations<u64, Failures>>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Duration,
    until: Duration,
}

impl Backoff {
    /// `free` failures are allowed before the first wait.
    pub fn new(clock: Arc<dyn Clock>, free: u32) -> Self {
        Self { clock, free, hasher: RandomState::new(), failures: Mutex::new(Generations::new(REMEMBERED)) }
    }

    /// How long the name must wait still.
    pub fn wait(&self, name: impl Hash) -> Option<Duration> {
        let now = self.clock.elapsed();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&self.hasher.hash_one(name))?.until.checked_sub(now).filter(|wait| !wait.is_zero())
    }

    /// The name failed.
    pub fn failed(&self, name: impl Hash) {
        let now = self.clock.elapsed();
        let key = self.hasher.hash_one(name);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let known = failures.get(&key).filter(|failures| now.saturating_sub(failures.last) < FORGIVEN);
        let count = known.map_or(0, |failures| failures.count).saturating_add(1);
        let until = match count.checked_sub(self.free + 1) {
            None => now,
            Some(doublings) => now + (FIRST_WAIT * 2_u32.pow(doublings.min(16))).min(LONGEST_WAIT),
        };
        failures.insert(key, Failures { count, last: now, until }, |_| false);
    }

    /// The name proved itself: its failures are forgotten.
    pub fn succeeded(&self, name: impl Hash) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(&self.hasher.hash_one(name));
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::fake::FakeClock;
    use super::*;

    fn seconds(wait: u64) -> Duration {
        Duration::from_secs(wait)
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        let clock = Arc::new(FakeClock::default());
        let backoff = Backoff::new(clock.clone(), 2);
        assert_eq!(backoff.wait("a"), None);
        for wait in [0, 0, 1, 2, 4, 8, 16, 32, 60, 60] {
            backoff.failed("a");
            let expected = (wait > 0).then(|| seconds(wait));
            assert_eq!(backoff.wait("a"), expected);
            assert_eq!(backoff.wait("b"), None);
            clock.advance(seconds(wait));
            assert_eq!(backoff.wait("a"), None);
        }
    }

    #[test]
    fn success_and_time_forgive() {
        let clock = Arc::new(FakeClock::default());
        let backoff = Backoff::new(clock.clone(), 0);
        backoff.failed("a");
        backoff.failed("a");
        assert_eq!(backoff.wait("a"), Some(seconds(2)));
        backoff.succeeded("a");
        assert_eq!(backoff.wait("a"), None);
        backoff.failed("a");
        clock.advance(FORGIVEN);
        backoff.failed("a");
        assert_eq!(backoff.wait("a"), Some(seconds(1)));
    }

    #[test]
    fn memory_is_bounded() {
        let backoff = Backoff::new(Arc::new(FakeClock::default()), 0);
        for name in 0..100_000 {
            backoff.failed(name);
        }
        assert!(backoff.failures.lock().unwrap().len() <= 2 * REMEMBERED);
        assert_eq!(backoff.wait(99_999), Some(seconds(1)));
    }
}
