//! The body of a request, as the handler sees it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::intake::Intake;
use super::link::Link;
use super::message::Pace;

/// Why a body could not be read to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BodyError {
    /// The client closed the connection in the middle of it (499).
    #[error("client disconnected")]
    Disconnected,
    /// The client sent nothing of it for too long (408).
    #[error("client too slow")]
    Timeout,
    /// It is not validly chunked (400).
    #[error("invalid chunked encoding")]
    BadChunk,
    /// It is larger than the handler allows (413).
    #[error("body too large")]
    TooLarge,
}

impl BodyError {
    /// The status that answers, or is logged for, it.
    pub fn status(self) -> u16 {
        match self {
            Self::Disconnected => 499,
            Self::Timeout => 408,
            Self::BadChunk => 400,
            Self::TooLarge => 413,
        }
    }
}

/// The longest that a body is held back at a time, whatever it owes: far beyond any client's patience.
pub(super) const LONGEST_WAIT: Duration = Duration::from_hours(1);

enum Source {
    Memory(Bytes),
    Wire { intake: Box<Intake>, link: Arc<Link> },
}

/// A request's body, read as it comes. Dropping it unread is fine.
pub struct Body {
    source: Source,
    length: Option<u64>,
    received: u64,
    most: u64,
    pace: Option<Arc<dyn Pace>>,
    /// When the next bytes may be read.
    due: Option<Instant>,
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::from_bytes(Bytes::new())
    }

    /// A body that is already here (internal requests, tests).
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = Some(bytes.len() as u64);
        Self::new(Source::Memory(bytes), length)
    }

    pub(super) fn wire(intake: Box<Intake>, link: Arc<Link>, length: Option<u64>) -> Self {
        Self::new(Source::Wire { intake, link }, length)
    }

    fn new(source: Source, length: Option<u64>) -> Self {
        Self { source, length, received: 0, most: u64::MAX, pace: None, due: None }
    }

    /// Bytes in all; `None` if the client does not say (chunked).
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Bounds the body: beyond so many bytes `chunk` gives `TooLarge`; for a known length at once.
    pub fn set_limit(&mut self, most: u64) {
        self.most = most;
    }

    /// Makes it come no faster than so.
    pub fn set_pace(&mut self, pace: Arc<dyn Pace>) {
        self.pace = Some(pace);
    }

    /// The next bytes (at most the larger of `Limits::buffer` and some 128 KiB), never empty; `None` after the
    /// last. The first call sends `100 Continue` to a client that waits for it. May be dropped and called again.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        if self.length.is_some_and(|length| length > self.most) {
            return Err(BodyError::TooLarge);
        }
        // Before and not after reading: a call that is dropped while it waits has lost nothing.
        if let Some(due) = self.due {
            tokio::time::sleep_until(due).await;
            self.due = None;
        }
        let chunk = match &mut self.source {
            Source::Memory(bytes) if bytes.is_empty() => None,
            Source::Memory(bytes) => Some(std::mem::take(bytes)),
            Source::Wire { intake, link } => intake.chunk(link).await?,
        };
        let bytes = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        self.received += bytes;
        let wait = self.pace.as_ref().map(|pace| pace.take(bytes)).filter(|wait| !wait.is_zero());
        self.due = wait.map(|wait| Instant::now() + wait.min(LONGEST_WAIT));
        if self.received > self.most { Err(BodyError::TooLarge) } else { Ok(chunk) }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let empty = Source::Memory(Bytes::new());
        if let Source::Wire { intake, link } = std::mem::replace(&mut self.source, empty) {
            link.give_back(intake);
        }
    }
}
