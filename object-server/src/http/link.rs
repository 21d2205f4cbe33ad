//! One client's connection: reading, writing and waiting, on plain TCP or TLS.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

use super::buffers::Buffers;
use super::intake::Intake;
use super::limits::Limits;

/// The transport below.
pub(super) enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS. The lock is held during polls only, so that a body can be read while an answer is written.
    Tls(Box<Mutex<TlsStream<TcpStream>>>),
}

/// What the connection's task, the body in a handler's hands and jobs on a pool share.
pub(super) struct Link {
    stream: Stream,
    /// The client's address.
    pub(super) peer: SocketAddr,
    /// The server's limits.
    pub(super) limits: Arc<Limits>,
    /// The server's buffers.
    pub(super) buffers: Arc<Buffers>,
    /// Whether the connection waits between requests.
    pub(super) idle: AtomicBool,
    /// Body bytes received of the present request.
    pub(super) received: AtomicU64,
    /// Whether the present request's answer has begun, after which no interim answer may be sent.
    pub(super) answered: AtomicBool,
    returned: Mutex<Option<Box<Intake>>>,
    back: Notify,
}

impl Link {
    pub(super) fn new(stream: Stream, peer: SocketAddr, limits: Arc<Limits>, buffers: Arc<Buffers>) -> Self {
        Self {
            stream,
            peer,
            limits,
            buffers,
            idle: AtomicBool::new(false),
            received: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            returned: Mutex::default(),
            back: Notify::new(),
        }
    }

    /// The socket, if nothing lies between it and HTTP.
    pub(super) fn plain(&self) -> Option<&TcpStream> {
        match &self.stream {
            Stream::Plain(socket) => Some(socket),
            Stream::Tls(_) => None,
        }
    }

    /// Hands the reading side back to the connection.
    pub(super) fn give_back(&self, intake: Box<Intake>) {
        *self.returned.lock().unwrap_or_else(PoisonError::into_inner) = Some(intake);
        self.back.notify_one();
    }

    /// The reading side, if it was handed back.
    pub(super) fn take_back(&self) -> Option<Box<Intake>> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The reading side; waits for whoever still holds the body.
    pub(super) async fn wait_back(&self, longest: Duration) -> Option<Box<Intake>> {
        let wait = async {
            loop {
                if let Some(intake) = self.take_back() {
                    return intake;
                }
                self.back.notified().await;
            }
        };
        tokio::time::timeout(longest, wait).await.ok()
    }

    /// Reads into the spare room of `buffer`, of which there must be some. 0 is the end of the stream.
    pub(super) async fn read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match &self.stream {
            Stream::Plain(socket) => {
                let room = buffer.capacity() - buffer.len();
                poll_fn(|context| poll_read(socket, context, room, || socket.try_read_buf(buffer))).await
            }
            Stream::Tls(stream) => TlsIo(stream).read_buf(buffer).await,
        }
    }

    /// Reads into `room`, which must not be empty. 0 is the end of the stream.
    pub(super) async fn read(&self, room: &mut [u8]) -> io::Result<usize> {
        match &self.stream {
            Stream::Plain(socket) => {
                let length = room.len();
                poll_fn(|context| poll_read(socket, context, length, || socket.try_read(room))).await
            }
            Stream::Tls(stream) => TlsIo(stream).read(room).await,
        }
    }

    /// Waits until there is something to read, so that no large buffer waits for a slow client. With TLS, which
    /// cannot tell, it reads into `buffer` instead.
    pub(super) async fn readable(&self, buffer: &mut BytesMut) -> io::Result<()> {
        match &self.stream {
            Stream::Plain(socket) => poll_fn(|context| socket.poll_read_ready(context)).await,
            Stream::Tls(stream) => match TlsIo(stream).read_buf(buffer).await? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            },
        }
    }

    /// Writes a beginning of what the slices hold.
    pub(super) async fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.stream {
            Stream::Plain(socket) => {
                poll_fn(|context| {
                    loop {
                        let result = match slices {
                            [one] => socket.try_write(one),
                            _ => socket.try_write_vectored(slices),
                        };
                        match result {
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                                ready!(socket.poll_write_ready(context))?;
                            }
                            result => return Poll::Ready(result),
                        }
                    }
                })
                .await
            }
            Stream::Tls(stream) => {
                let first = slices.iter().find(|slice| !slice.is_empty());
                TlsIo(stream).write(first.map_or(&[][..], |slice| slice)).await
            }
        }
    }

    /// Writes without asking the runtime whether the socket is ready. The kernel reports a socket writable only
    /// when a third of its buffer is free, which a slow client may take minutes for.
    pub(super) fn write_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.stream {
            Stream::Plain(socket) => Ok(rustix::io::writev(socket, slices)?),
            Stream::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Brings out what TLS still holds.
    pub(super) async fn flush(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(stream) => TlsIo(stream).flush().await,
        }
    }

    /// Waits until the socket is writable, after another thread has found that it is not.
    pub(super) async fn writable(&self) -> io::Result<()> {
        let socket = self.socket();
        poll_fn(|context| {
            loop {
                ready!(socket.lock().poll_write_ready(context))?;
                let guard = socket.lock();
                // The runtime may still hold the readiness from before: the socket itself is asked, and asked
                // inside try_io, which then forgets exactly what it knew before the question.
                match guard.try_io(Interest::WRITABLE, || ask_writable(&guard)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return Poll::Ready(result),
                }
            }
        })
        .await
    }

    /// Ends our direction of the stream; with TLS after its own goodbye.
    pub(super) async fn finish(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Plain(socket) => Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Write)?),
            Stream::Tls(stream) => TlsIo(stream).shutdown().await,
        }
    }

    /// Reads and drops what the client still sends, below TLS, until it closes.
    pub(super) async fn swallow(&self) -> io::Result<()> {
        let socket = self.socket();
        let mut scratch = vec![0; 64 << 10];
        loop {
            let read = poll_fn(|context| {
                let guard = socket.lock();
                poll_read(&guard, context, scratch.len(), || guard.try_read(&mut scratch))
            });
            if read.await? == 0 {
                return Ok(());
            }
        }
    }

    /// Ends the direction from the client: a read that waits returns the end of the stream.
    pub(super) fn stop_reading(&self) {
        // Fails when the client has gone, which is as good.
        let _ = rustix::net::shutdown(&*self.socket().lock(), rustix::net::Shutdown::Read);
    }

    /// Ends both directions at once, whoever still holds the link.
    pub(super) fn stop(&self) {
        let _ = rustix::net::shutdown(&*self.socket().lock(), rustix::net::Shutdown::Both);
    }

    /// Makes the close a reset, where a plain one would look like the end of a body.
    pub(super) fn reset_on_close(&self) {
        let socket = self.socket();
        let guard = socket.lock();
        // Without it the close is an ordinary one.
        let _ = socket2::SockRef::from(&*guard).set_linger(Some(Duration::ZERO));
    }

    fn socket(&self) -> Socket<'_> {
        Socket(&self.stream)
    }
}

/// The TCP socket, under TLS or not.
struct Socket<'a>(&'a Stream);

enum SocketGuard<'a> {
    Plain(&'a TcpStream),
    Tls(MutexGuard<'a, TlsStream<TcpStream>>),
}

impl Socket<'_> {
    fn lock(&self) -> SocketGuard<'_> {
        match self.0 {
            Stream::Plain(socket) => SocketGuard::Plain(socket),
            Stream::Tls(stream) => SocketGuard::Tls(lock(stream)),
        }
    }
}

impl std::ops::Deref for SocketGuard<'_> {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(guard) => guard.get_ref().0,
        }
    }
}

impl std::os::fd::AsFd for SocketGuard<'_> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        (**self).as_fd()
    }
}

fn lock(stream: &Mutex<TlsStream<TcpStream>>) -> MutexGuard<'_, TlsStream<TcpStream>> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads by `read` when there is something. A read that leaves room has emptied the socket: the runtime is told
/// so, which saves the next read a system call that would only say so again.
fn poll_read(
    socket: &TcpStream,
    context: &mut Context<'_>,
    room: usize,
    mut read: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_read_ready(context))?;
        let mut got = None;
        let result = socket.try_io(Interest::READABLE, || {
            let bytes = read()?;
            got = Some(bytes);
            if bytes > 0 && bytes < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (got, result) {
            (Some(bytes), _) => return Poll::Ready(Ok(bytes)),
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                return Poll::Ready(Err(error));
            }
            (None, _) => {}
        }
    }
}

fn ask_writable(socket: &TcpStream) -> io::Result<()> {
    let mut asked = [PollFd::new(socket, PollFlags::OUT)];
    match rustix::event::poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

/// TLS through a shared reference.
struct TlsIo<'a>(&'a Mutex<TlsStream<TcpStream>>);

impl AsyncRead for TlsIo<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(self.0)).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsIo<'_> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(self.0)).poll_write(context, data)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(self.0)).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(self.0)).poll_shutdown(context)
    }
}
