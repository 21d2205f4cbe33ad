//! The reading side of a connection: the input buffer and the body that comes out of it.

use std::io::IoSlice;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::body::BodyError;
use super::buffers::Buffer;
use super::chunked::Decoder;
use super::deadline::Deadline;
use super::head::Framing;
use super::link::Link;

/// Room for one read of a head and a small body.
pub(super) const INPUT: usize = 8 << 10;
/// Bodies, and rests of bodies, up to this size are gathered in the input buffer; larger ones in pooled buffers.
const SMALL: u64 = 64 << 10;
/// How much of a chunked body is gathered before it is given out.
const CHUNKED: usize = 64 << 10;
/// How long a body that has begun to arrive is waited for, so that what trickles in is not given out in crumbs.
const GATHER: Duration = Duration::from_millis(50);

/// What is left of the present request's body.
enum State {
    Done,
    /// Bytes not given out yet.
    Length(u64),
    /// The first `ready` bytes of the input are decoded, the rest is raw.
    Chunked {
        decoder: Decoder,
        ready: usize,
    },
}

/// The reading side. The connection holds it between requests, the body while there is one: it is moved, so that
/// nothing is allocated or locked for it.
pub(super) struct Intake {
    /// What was read and not used yet.
    pub(super) buffer: BytesMut,
    /// The timer of the reading side.
    pub(super) deadline: Deadline,
    state: State,
    expects: bool,
    partial: Option<Buffer>,
    failed: Option<BodyError>,
}

impl Intake {
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::with_capacity(INPUT),
            deadline: Deadline::default(),
            state: State::Done,
            expects: false,
            partial: None,
            failed: None,
        }
    }

    /// Prepares for the body of the next request.
    pub(super) fn begin(&mut self, framing: Framing, expects: bool) {
        self.expects = expects;
        self.state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked { decoder: Decoder::default(), ready: 0 },
        };
    }

    /// Makes room for a read.
    pub(super) fn make_room(&mut self) {
        // Where nothing is held, this takes the front of the buffer back into use.
        let room = self.buffer.capacity() - self.buffer.len();
        if self.buffer.is_empty() || room < INPUT / 8 {
            self.buffer.reserve(INPUT);
        }
    }

    /// Gives back memory that one request with a large head or body has made the buffer grow to.
    pub(super) fn shrink(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > 2 * SMALL as usize {
            self.buffer = BytesMut::with_capacity(INPUT);
        }
    }

    /// Whether the next byte belongs to the next request.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the rest of the body may be read and dropped: it is short (or chunked, and may be), and the client
    /// does not wait for leave to send it, in which case it may send it or not.
    pub(super) fn can_drain(&self, most: u64) -> bool {
        self.failed.is_none()
            && match self.state {
                State::Done => true,
                State::Length(left) => left <= most && !self.expects,
                State::Chunked { .. } => !self.expects,
            }
    }

    /// Reads and drops the rest of the body. False if it is too long or too slow, or the client has gone.
    pub(super) async fn drain(&mut self, link: &Link) -> bool {
        if self.is_done() {
            return true;
        }
        if !self.can_drain(link.limits.drain) {
            return false;
        }
        let all = async {
            let mut dropped = 0;
            while let Ok(chunk) = self.chunk(link).await {
                let Some(chunk) = chunk else { return true };
                dropped += chunk.len() as u64;
                if dropped > link.limits.drain {
                    return false;
                }
            }
            false
        };
        tokio::time::timeout(link.limits.linger, all).await.unwrap_or(false)
    }

    /// The next part of the body, `None` after the last. If the future is dropped nothing is lost.
    pub(super) async fn chunk(&mut self, link: &Link) -> Result<Option<Bytes>, BodyError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let next = match self.state {
            State::Done => Ok(None),
            State::Length(left) if left <= SMALL && self.partial.is_none() => self.small(link, left).await,
            State::Length(left) => self.large(link, left).await,
            State::Chunked { .. } => self.chunked(link).await,
        };
        match &next {
            Ok(Some(bytes)) => {
                link.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Ok(None) => {}
            Err(error) => self.failed = Some(*error),
        }
        next
    }

    /// Gathers in the input buffer.
    async fn small(&mut self, link: &Link, left: u64) -> Result<Option<Bytes>, BodyError> {
        let wanted = left as usize;
        while self.buffer.len() < wanted {
            self.invite(link).await?;
            let missing = wanted - self.buffer.len();
            if self.buffer.capacity() - self.buffer.len() < missing {
                self.buffer.reserve(missing);
            }
            if !self.read(link, !self.buffer.is_empty()).await? {
                break;
            }
        }
        let bytes = self.buffer.len().min(wanted);
        self.state = if bytes == wanted { State::Done } else { State::Length(left - bytes as u64) };
        Ok(Some(self.buffer.split_to(bytes).freeze()))
    }

    /// Gathers in a pooled buffer, and never reads past the body, so that the bytes are where they are wanted.
    async fn large(&mut self, link: &Link, left: u64) -> Result<Option<Bytes>, BodyError> {
        let size = link.buffers.size();
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(size);
        if self.partial.is_none() {
            if self.buffer.is_empty() {
                self.invite(link).await?;
                self.make_room();
                let readable = link.readable(&mut self.buffer);
                match self.deadline.limit(link.limits.client_timeout, readable).await {
                    None => return Err(BodyError::Timeout),
                    Some(result) => result.map_err(|_| BodyError::Disconnected)?,
                }
            }
            self.partial = Some(link.buffers.take());
        }
        let Some(partial) = &mut self.partial else { return Err(BodyError::Disconnected) };
        while partial.filled() < wanted {
            if !self.buffer.is_empty() {
                let room = partial.room(wanted);
                let bytes = room.len().min(self.buffer.len());
                room[..bytes].copy_from_slice(&self.buffer[..bytes]);
                self.buffer.advance(bytes);
                partial.fill(bytes);
                continue;
            }
            let begun = partial.filled() > 0;
            let longest = if begun { GATHER } else { link.limits.client_timeout };
            match self.deadline.limit(longest, link.read(partial.room(wanted))).await {
                None if begun => break,
                None => return Err(BodyError::Timeout),
                Some(Ok(0) | Err(_)) => return Err(BodyError::Disconnected),
                Some(Ok(bytes)) => partial.fill(bytes),
            }
        }
        let bytes = partial.filled();
        self.state = match left - bytes as u64 {
            0 => State::Done,
            left => State::Length(left),
        };
        Ok(self.partial.take().map(|partial| {
            // Few bytes must not pin a whole buffer.
            if bytes < size / 8 {
                Bytes::copy_from_slice(partial.as_ref())
            } else {
                Bytes::from_owner(partial)
            }
        }))
    }

    /// Decodes in place.
    async fn chunked(&mut self, link: &Link) -> Result<Option<Bytes>, BodyError> {
        loop {
            let (ready, done) = self.decode()?;
            if done && ready == 0 {
                self.state = State::Done;
                return Ok(None);
            }
            if done || ready >= CHUNKED {
                return Ok(Some(self.give(ready)));
            }
            self.invite(link).await?;
            if self.buffer.capacity() - self.buffer.len() < INPUT / 2 {
                self.buffer.reserve(if ready < INPUT / 2 { INPUT } else { CHUNKED });
            }
            if !self.read(link, ready > 0).await? {
                return Ok(Some(self.give(ready)));
            }
        }
    }

    fn give(&mut self, ready: usize) -> Bytes {
        if let State::Chunked { ready, .. } = &mut self.state {
            *ready = 0;
        }
        self.buffer.split_to(ready).freeze()
    }

    /// Takes the coding off what has come in: afterwards only data is in the buffer, and behind it, if the body is
    /// complete, the next request. Tells how many bytes are data and whether the body is complete.
    fn decode(&mut self) -> Result<(usize, bool), BodyError> {
        let State::Chunked { decoder, ready } = &mut self.state else { return Ok((0, true)) };
        let buffer = &mut self.buffer;
        let (mut from, mut to) = (*ready, *ready);
        while from < buffer.len() && !decoder.is_done() {
            let step = decoder.step(&buffer[from..]).map_err(|_| BodyError::BadChunk)?;
            buffer.copy_within(from + step.data.start..from + step.data.end, to);
            to += step.data.len();
            from += step.consumed;
        }
        if from != to {
            buffer.copy_within(from.., to);
            buffer.truncate(to + (buffer.len() - from));
        }
        *ready = to;
        Ok((to, decoder.is_done()))
    }

    /// Reads into the input buffer. False if the body had `begun` to arrive and no more came for a while.
    async fn read(&mut self, link: &Link, begun: bool) -> Result<bool, BodyError> {
        let longest = if begun { GATHER } else { link.limits.client_timeout };
        match self.deadline.limit(longest, link.read_buf(&mut self.buffer)).await {
            None if begun => Ok(false),
            None => Err(BodyError::Timeout),
            Some(Ok(0) | Err(_)) => Err(BodyError::Disconnected),
            Some(Ok(_)) => Ok(true),
        }
    }

    /// Tells a client that waits for it to go on, unless it has already, or has its answer.
    async fn invite(&mut self, link: &Link) -> Result<(), BodyError> {
        if !self.expects {
            return Ok(());
        }
        self.expects = false;
        if !self.buffer.is_empty() || link.answered.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut interim = &b"HTTP/1.1 100 Continue\r\n\r\n"[..];
        while !interim.is_empty() {
            let slices = [IoSlice::new(interim)];
            match self.deadline.limit(link.limits.client_timeout, link.write(&slices)).await {
                None => return Err(BodyError::Timeout),
                Some(Ok(0) | Err(_)) => return Err(BodyError::Disconnected),
                Some(Ok(bytes)) => interim = interim.get(bytes..).unwrap_or_default(),
            }
        }
        link.flush().await.map_err(|_| BodyError::Disconnected)
    }
}
