//! The writing side of a connection: heads, bytes, files and pieces.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lustre::pool::{Pool, PoolError};
use rustix::io::Errno;
use rustix::net::SendFlags;
use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::time::Instant;

use super::Headers;
use super::body::LONGEST_WAIT;
use super::buffers::Buffer;
use super::deadline::Deadline;
use super::link::Link;
use super::message::{FileRange, Pace, Piece, Response, ResponseBody};
use super::render::{self, Asked, Delimiter, Plan, Size};
use super::report::Report;

/// Pieces up to this size, and with TLS whole bodies, are copied behind what goes before them, so that they share
/// its record; larger ones go out beside it.
const COPIED: usize = 16 << 10;
/// On plain TCP writev(2) is cheaper than copying from about this size on.
const COPIED_PLAIN: usize = 2 << 10;
/// What an output buffer may keep between answers.
const KEPT: usize = 32 << 10;
/// Small pieces are gathered up to this size.
const GATHERED: usize = 64 << 10;
/// How much of a file one job on the pool sends before others get their turn.
const SHARE: u64 = 4 << 20;
/// How long the first piece of a body is waited for, so that it goes out with the head, and an early failure can
/// still be told by the status.
const FIRST_PIECE: Duration = Duration::from_millis(500);

/// Why an answer could not be sent to its end. The connection is of no use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// The client has gone or takes nothing.
    Client,
    /// The body ended short, failed or was too long.
    Body,
    /// The pool that a file is read on is full.
    Busy,
}

impl Cut {
    fn status(self) -> u16 {
        match self {
            Self::Client => 499,
            Self::Body => 500,
            Self::Busy => 503,
        }
    }
}

/// The writing side: one output buffer and one timer, used again.
pub(super) struct Outlet {
    link: Arc<Link>,
    out: Vec<u8>,
    /// Body bytes in `out`.
    body: u64,
    deadline: Deadline,
    /// How fast the present answer moves.
    pace: Option<Arc<dyn Pace>>,
    /// When more of it may move.
    due: Option<Instant>,
}

impl Outlet {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            out: Vec::with_capacity(1024),
            body: 0,
            deadline: Deadline::default(),
            pace: None,
            due: None,
        }
    }

    /// Sends an answer; tells whether the connection may go on.
    pub(super) async fn answer(
        &mut self,
        response: Response,
        asked: Asked,
        report: &mut Report,
    ) -> Result<bool, Cut> {
        let Response { status, headers, body, pace, done: _ } = response;
        (self.pace, self.due) = (pace, None);
        let status = if (200..1000).contains(&status) { status } else { 500 };
        report.status = status;
        let size = match &body {
            ResponseBody::Empty => Size::Empty,
            ResponseBody::Bytes(bytes) => Size::Known(bytes.len() as u64),
            ResponseBody::File(range) => Size::Known(range.len),
            ResponseBody::Pieces { length, .. } => length.map_or(Size::Unknown, Size::Known),
        };
        let plan = Plan::new(status, size, asked, &headers);
        self.reset();
        render::head(&mut self.out, status, &headers, &plan, asked.version);
        let sent = match body {
            ResponseBody::Empty => self.flush(report).await,
            _ if plan.delimiter == Delimiter::NoBody => self.flush(report).await,
            ResponseBody::Bytes(bytes) => self.bytes(&bytes, report).await,
            ResponseBody::File(range) => self.file(&range, report).await,
            ResponseBody::Pieces { length, mut pieces } => {
                self.pieces(&mut pieces, length, plan.delimiter == Delimiter::Chunked, report).await
            }
        };
        // The pace may hold a place among the requests under way, which ends with the answer.
        (self.pace, self.due) = (None, None);
        if self.out.capacity() > KEPT {
            self.out.shrink_to(KEPT);
        }
        match sent {
            Ok(()) => Ok(plan.keep_alive),
            Err(Cut::Client) => {
                report.status = 499;
                Err(Cut::Client)
            }
            Err(cut) if report.is_silent() => self.refuse(cut.status(), asked, report).await,
            Err(cut) => {
                report.status = cut.status();
                if plan.delimiter == Delimiter::Close {
                    self.link.reset_on_close();
                }
                Err(cut)
            }
        }
    }

    /// Answers a request that never became one, or whose answer failed before it began.
    pub(super) async fn refuse(
        &mut self,
        status: u16,
        asked: Asked,
        report: &mut Report,
    ) -> Result<bool, Cut> {
        report.status = status;
        let mut headers = Headers::new();
        headers.append("Content-Type", "text/plain; charset=utf-8");
        if status == 503 {
            headers.append("Retry-After", "1");
        }
        let plan = Plan::new(status, Size::Known(0), asked, &headers);
        self.reset();
        render::head(&mut self.out, status, &headers, &plan, asked.version);
        self.flush(report).await.map(|()| plan.keep_alive).inspect_err(|_| report.status = 499)
    }

    fn reset(&mut self) {
        self.out.clear();
        self.body = 0;
    }

    async fn bytes(&mut self, bytes: &Bytes, report: &mut Report) -> Result<(), Cut> {
        if bytes.len() <= if self.link.plain().is_some() { COPIED_PLAIN } else { COPIED } {
            self.out.extend_from_slice(bytes);
            self.body += bytes.len() as u64;
            return self.flush(report).await;
        }
        self.write(bytes, report).await
    }

    async fn flush(&mut self, report: &mut Report) -> Result<(), Cut> {
        self.write(&[], report).await
    }

    /// Writes what was gathered, and `tail`, which is body, behind it.
    async fn write(&mut self, tail: &[u8], report: &mut Report) -> Result<(), Cut> {
        self.turn().await;
        let total = self.out.len() + tail.len();
        let mut written = 0;
        while written < total {
            let front = self.out.get(written..).unwrap_or_default();
            let back = tail.get(written.saturating_sub(self.out.len())..).unwrap_or_default();
            let slices = [IoSlice::new(front), IoSlice::new(back)];
            let slices = match (front.is_empty(), back.is_empty()) {
                (true, _) => &slices[1..],
                (_, true) => &slices[..1],
                _ => &slices[..],
            };
            let result =
                match self.deadline.limit(self.link.limits.client_timeout, self.link.write(slices)).await {
                    Some(result) => result,
                    None => self.link.write_now(slices),
                };
            match result {
                Ok(0) | Err(_) => return Err(Cut::Client),
                Ok(bytes) => {
                    written += bytes;
                    report.began();
                }
            }
        }
        match self.deadline.limit(self.link.limits.client_timeout, self.link.flush()).await {
            Some(Ok(())) => {}
            _ => return Err(Cut::Client),
        }
        let moved = self.body + tail.len() as u64;
        report.sent += moved;
        self.out.clear();
        self.body = 0;
        self.moved(moved);
        Ok(())
    }

    /// Waits until more may move.
    async fn turn(&mut self) {
        if let Some(due) = self.due.take() {
            tokio::time::sleep_until(due).await;
        }
    }

    /// Counts bytes of the body that have moved.
    fn moved(&mut self, bytes: u64) {
        let Some(pace) = self.pace.as_ref().filter(|_| bytes > 0) else { return };
        let wait = pace.take(bytes).min(LONGEST_WAIT);
        self.due = (!wait.is_zero()).then(|| Instant::now() + wait);
    }

    /// Sends what was gathered and then a part of a file.
    async fn file(&mut self, range: &FileRange, report: &mut Report) -> Result<(), Cut> {
        if range.len == 0 {
            self.flush(report).await
        } else if self.link.plain().is_some() {
            self.sendfile(range, report).await
        } else {
            self.file_by_reads(range, report).await
        }
    }

    /// sendfile(2) on the pool until the socket is full, then the reactor waits. The gathered bytes go first, from
    /// the same job, held back in the kernel so that they share a packet with the file's first bytes.
    async fn sendfile(&mut self, range: &FileRange, report: &mut Report) -> Result<(), Cut> {
        let front = Arc::new(std::mem::take(&mut self.out));
        let mut left = Left { front: 0, offset: range.offset, len: range.len };
        let mut overdue = false;
        let share = self.pace.as_ref().map_or(SHARE, |pace| pace.stride().clamp(1, SHARE));
        while left.len > 0 {
            self.turn().await;
            let before = left;
            let patience = self.patience(report);
            let (after, stop) = on_pool(&range.pool, patience, || {
                let (link, file, front) =
                    (Arc::clone(&self.link), Arc::clone(&range.file), Arc::clone(&front));
                move || send_some(&link, &file, &front, left, share)
            })
            .await?;
            left = after;
            report.sent += before.len - left.len;
            self.moved(before.len - left.len);
            let progress = left.front > before.front || left.len < before.len;
            if progress {
                report.began();
            }
            match stop {
                Stop::Share => {}
                Stop::Full if overdue && !progress => return Err(Cut::Client),
                Stop::Full => {
                    let wait = self.deadline.limit(self.link.limits.client_timeout, self.link.writable());
                    overdue = match wait.await {
                        None => true,
                        Some(Ok(())) => false,
                        Some(Err(_)) => return Err(Cut::Client),
                    };
                }
                Stop::Short => {
                    tracing::warn!(missing = left.len, "a file was cut while it was sent");
                    return Err(Cut::Body);
                }
                Stop::Failed(error) => return Err(whose(&error)),
            }
        }
        let gathered = std::mem::take(&mut self.body);
        report.sent += gathered;
        self.moved(gathered);
        self.out = Arc::try_unwrap(front).unwrap_or_default();
        self.out.clear();
        Ok(())
    }

    /// Reads on the pool into pooled buffers and writes them; the next part is read meanwhile.
    async fn file_by_reads(&mut self, range: &FileRange, report: &mut Report) -> Result<(), Cut> {
        let (mut offset, mut left) = (range.offset, range.len);
        let link = Arc::clone(&self.link);
        let mut ready = read_some(&link, range, offset, left, self.patience(report)).await?;
        loop {
            offset += ready.filled() as u64;
            left = left.saturating_sub(ready.filled() as u64);
            if left == 0 {
                return self.write(ready.as_ref(), report).await;
            }
            let next = read_some(&link, range, offset, left, link.limits.client_timeout);
            let (written, next) = tokio::join!(self.write(ready.as_ref(), report), next);
            written?;
            ready = next?;
        }
    }

    /// How long a full pool is waited for: while nothing of the answer is out it can still become a 503.
    fn patience(&self, report: &Report) -> Duration {
        if report.is_silent() { Duration::ZERO } else { self.link.limits.client_timeout }
    }

    /// Sends pieces as they come.
    async fn pieces(
        &mut self,
        pieces: &mut mpsc::Receiver<io::Result<Piece>>,
        length: Option<u64>,
        chunked: bool,
        report: &mut Report,
    ) -> Result<(), Cut> {
        let mut left = length;
        let mut next = match self.deadline.limit(FIRST_PIECE, pieces.recv()).await {
            Some(first) => whole(first)?,
            None => self.next_piece(pieces, report).await?,
        };
        while let Some(piece) = next {
            let bytes = piece.len();
            if let Some(left) = &mut left {
                *left = left.checked_sub(bytes).ok_or(Cut::Body)?;
            }
            if bytes > 0 {
                if chunked {
                    render::chunk_size(&mut self.out, bytes);
                }
                match piece {
                    Piece::Bytes(bytes) if bytes.len() <= COPIED => {
                        self.out.extend_from_slice(&bytes);
                        self.body += bytes.len() as u64;
                    }
                    Piece::Bytes(bytes) => self.write(&bytes, report).await?,
                    Piece::File(range) => self.file(&range, report).await?,
                }
                if chunked {
                    self.out.extend_from_slice(b"\r\n");
                }
            }
            next = self.next_piece(pieces, report).await?;
        }
        if left.is_some_and(|left| left > 0) {
            return Err(Cut::Body);
        }
        if chunked {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
        self.flush(report).await
    }

    /// The next piece; what was gathered goes out first if there is none yet, or enough was gathered.
    async fn next_piece(
        &mut self,
        pieces: &mut mpsc::Receiver<io::Result<Piece>>,
        report: &mut Report,
    ) -> Result<Option<Piece>, Cut> {
        if self.out.len() >= GATHERED {
            self.flush(report).await?;
        }
        let next = match pieces.try_recv() {
            Ok(next) => Some(next),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => {
                self.flush(report).await?;
                pieces.recv().await
            }
        };
        whole(next)
    }
}

fn whole(piece: Option<io::Result<Piece>>) -> Result<Option<Piece>, Cut> {
    piece.transpose().map_err(|error| {
        tracing::warn!(%error, "the body of an answer failed");
        Cut::Body
    })
}

/// What is still to be sent of a file, and how much of what goes before it is sent.
#[derive(Clone, Copy)]
struct Left {
    front: usize,
    offset: u64,
    len: u64,
}

/// Why a job stopped sending.
enum Stop {
    /// It has sent its share, or all.
    Share,
    /// The socket takes no more now.
    Full,
    /// The file has ended.
    Short,
    Failed(io::Error),
}

/// Runs on the pool: sends until the socket is full or the share is done. The socket never blocks; the file may.
fn send_some(link: &Link, file: &File, front: &[u8], mut left: Left, share: u64) -> (Left, Stop) {
    let Some(socket) = link.plain() else {
        return (left, Stop::Failed(io::ErrorKind::Unsupported.into()));
    };
    while let Some(rest) = front.get(left.front..).filter(|rest| !rest.is_empty()) {
        match rustix::net::send(socket, rest, SendFlags::MORE | SendFlags::NOSIGNAL) {
            Ok(bytes) => left.front += bytes,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return (left, Stop::Full),
            Err(error) => return (left, Stop::Failed(error.into())),
        }
    }
    let end = left.len.saturating_sub(share);
    while left.len > end {
        let wanted = (left.len - end) as usize;
        match lustre::sys::send_file(socket.as_fd(), file.as_fd(), left.offset, wanted) {
            Ok(0) => return (left, Stop::Short),
            Ok(bytes) => {
                left.offset += bytes as u64;
                left.len -= bytes as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (left, Stop::Full),
            Err(error) => return (left, Stop::Failed(error)),
        }
    }
    (left, Stop::Share)
}

/// Whether an error of sendfile is the socket's or the file's.
fn whose(error: &io::Error) -> Cut {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, NotConnected, TimedOut,
    };
    match error.kind() {
        BrokenPipe | ConnectionReset | ConnectionAborted | NotConnected | TimedOut | HostUnreachable => {
            Cut::Client
        }
        _ => {
            tracing::error!(%error, "a file could not be sent");
            Cut::Body
        }
    }
}

/// Reads at `offset`, as much as a buffer holds and `left` allows.
async fn read_some(
    link: &Link,
    range: &FileRange,
    offset: u64,
    left: u64,
    patience: Duration,
) -> Result<Buffer, Cut> {
    let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(link.buffers.size());
    let read = on_pool(&range.pool, patience, || {
        let (mut buffer, file) = (link.buffers.take(), Arc::clone(&range.file));
        move || {
            while buffer.filled() < wanted {
                let at = offset + buffer.filled() as u64;
                match file.read_at(buffer.room(wanted), at) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(bytes) => buffer.fill(bytes),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(buffer)
        }
    });
    read.await?.map_err(|error| {
        tracing::warn!(%error, "a file could not be read to its end while it was sent");
        Cut::Body
    })
}

/// Runs a job, and where the pool is full tries again for so long: a body that has begun must not be cut for it.
async fn on_pool<T: Send + 'static, J: FnOnce() -> T + Send + 'static>(
    pool: &Pool,
    patience: Duration,
    job: impl Fn() -> J,
) -> Result<T, Cut> {
    const PAUSE: Duration = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        match pool.run(None, job()).await {
            Ok(result) => return Ok(result),
            Err(PoolError::Busy) if waited < patience => {
                tokio::time::sleep(PAUSE).await;
                waited += PAUSE;
            }
            Err(PoolError::Busy) => return Err(Cut::Busy),
            Err(error) => {
                tracing::error!(%error, "a file could not be sent");
                return Err(Cut::Body);
            }
        }
    }
}
