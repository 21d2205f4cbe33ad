//! Time, so that tests can hold it still.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where time comes from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Seconds since 1970, for what outlives this process (tokens).
    fn unix_seconds(&self) -> u64;
    /// Time since some moment at or before this process' start; never goes back.
    fn elapsed(&self) -> Duration;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn unix_seconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::Clock;

    /// Stands still until it is told to go on; both clocks go together.
    #[derive(Debug)]
    pub(crate) struct FakeClock(AtomicU64);

    impl Default for FakeClock {
        fn default() -> Self {
            Self(AtomicU64::new(1_700_000_000_000_000_000))
        }
    }

    impl FakeClock {
        pub(crate) fn advance(&self, by: Duration) {
            self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        }
    }

    impl Clock for FakeClock {
        fn unix_seconds(&self) -> u64 {
            self.elapsed().as_secs()
        }

        fn elapsed(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::SeqCst))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_has_clocks() {
        let clock = SystemClock::default();
        assert!(clock.unix_seconds() > 1_700_000_000);
        assert!(clock.elapsed() <= clock.elapsed());
    }
}
