//! What became of a request, told once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::link::Link;
use super::message::{Done, Outcome};

/// Keeps account of one answer. However the request ends, also by the end of its task, `done` is called.
pub(super) struct Report {
    link: Arc<Link>,
    done: Option<Done>,
    started: Instant,
    began: bool,
    first: Option<Instant>,
    /// The status that was, or would have been, sent.
    pub(super) status: u16,
    /// Body bytes handed to the kernel.
    pub(super) sent: u64,
}

impl Report {
    pub(super) fn new(link: Arc<Link>, done: Option<Done>, started: Instant) -> Self {
        Self { link, done, started, began: false, first: None, status: 499, sent: 0 }
    }

    /// The first byte of the answer is out.
    pub(super) fn began(&mut self) {
        if !self.began {
            self.began = true;
            // Nobody else wants to know.
            self.first = self.done.is_some().then(Instant::now);
        }
    }

    /// Whether nothing of the answer is out.
    pub(super) fn is_silent(&self) -> bool {
        !self.began
    }

    /// The answer is out, or cut.
    pub(super) fn finish(mut self) {
        self.tell(self.status);
    }

    fn tell(&mut self, status: u16) {
        if let Some(done) = self.done.take() {
            let now = Instant::now();
            done(Outcome {
                sent: self.sent,
                received: self.link.received.load(Ordering::Relaxed),
                status,
                first_byte: self.first.unwrap_or(now).saturating_duration_since(self.started),
                total: now.saturating_duration_since(self.started),
            });
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.tell(499);
    }
}
