//! No events at all: everything is marked from time to time, and whoever gets the marks looks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::Gathering;
use super::{Batch, Kind, Source, SourceError, State, Watchman, nothing};
use crate::root::Root;

/// See the module.
pub struct Scan {
    watchman: Watchman,
    interval: Duration,
    next: Instant,
    reason: &'static str,
}

impl Scan {
    /// Marks everything each `interval`, for the first time after one.
    pub fn new(root: &Arc<Root>, interval: Duration, reason: &'static str) -> Scan {
        Scan { watchman: Watchman::new(root), interval, next: Instant::now() + interval, reason }
    }
}

impl Source for Scan {
    fn kind(&self) -> Kind {
        Kind::Scan
    }

    fn next(&mut self, timeout: Duration) -> Result<Batch, SourceError> {
        self.watchman.look()?;
        std::thread::sleep(timeout.min(self.next.saturating_duration_since(Instant::now())));
        if Instant::now() < self.next {
            return Ok(nothing(true));
        }
        self.next = Instant::now() + self.interval;
        let mut marks = Gathering::default();
        marks.everything();
        Ok(marks.finish(true))
    }

    fn state(&self) -> State {
        let text = format!("a scan every {} seconds: {}", self.interval.as_secs(), self.reason);
        State { text, immediate: false, overflows: 0, directories: 0 }
    }
}
