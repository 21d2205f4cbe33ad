//! Marks that are handed out together.

use std::collections::HashSet;
use std::time::SystemTime;

use lustre::fs::Fid;
use namespace::{Mark, Spot};

/// Marks that came together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// What may have changed.
    pub marks: Vec<Mark>,
    /// When the newest of it happened, as far as the source knows; without marks, now.
    pub newest: SystemTime,
    /// Whether nothing waits: all that happened before the call began is marked, by this batch or an earlier one. Only writes
    /// to a file that stays open may be marked later.
    pub drained: bool,
}

/// Gathers a batch. Each spot is in it once: whoever looks at it does so after all that the batch tells of.
#[derive(Default)]
pub(super) struct Gathering {
    marks: Vec<Mark>,
    entries: HashSet<(Fid, Vec<u8>)>,
    everything: bool,
}

impl Gathering {
    pub(super) fn entry(&mut self, spot: Spot) {
        if self.entries.insert((spot.dir, spot.name.clone())) {
            self.marks.push(Mark::Entry(spot));
        }
    }

    pub(super) fn moved(&mut self, from: Option<Spot>, to: Option<Spot>) {
        if from.is_some() || to.is_some() {
            self.marks.push(Mark::Moved { from, to });
        }
    }

    pub(super) fn below(&mut self, dir: Fid, path: Vec<u8>) {
        self.marks.push(Mark::Below { dir, path });
    }

    pub(super) fn everything(&mut self) {
        if !self.everything {
            self.everything = true;
            self.marks.push(Mark::Everything);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    pub(super) fn finish(self, drained: bool) -> Batch {
        Batch { marks: self.marks, newest: SystemTime::now(), drained }
    }
}
