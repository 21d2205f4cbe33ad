//! Connections from bridges.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::tls::{self, Tls};

/// Connections at a time, and how long a handshake may take.
const MOST: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// Where bridges come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A socket in the file system, and its mode: who may open it may follow all.
    Unix(PathBuf, u32),
    /// TCP, with certificates on both sides.
    Tcp(SocketAddr),
}

/// Who is at the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    /// Somebody who may open the socket.
    Local,
    /// Somebody with a certificate of these names.
    Named(Arc<[String]>),
}

trait Io: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// A connection.
pub struct Connection {
    io: Pin<Box<dyn Io>>,
    peer: Peer,
    _room: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(context)
    }
}

/// What accepts them.
pub enum Listener {
    /// Of a Unix socket.
    Unix(UnixListener),
    /// Of TCP with TLS.
    Tls(TcpListener, Arc<Tls>),
}

/// Listens at `path`. What an earlier process left there is replaced.
pub fn unix(path: &Path, mode: u32) -> io::Result<Listener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(Listener::Unix(listener))
}

/// Accepts until the stream is dropped.
pub fn incoming(listener: Listener) -> ReceiverStream<io::Result<Connection>> {
    let (accepted, connections) = mpsc::channel(1);
    tokio::spawn(accept(listener, accepted));
    ReceiverStream::new(connections)
}

async fn accept(listener: Listener, accepted: mpsc::Sender<io::Result<Connection>>) {
    let room = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let connection = tokio::select! {
            () = accepted.closed() => return,
            connection = accept_one(&listener) => connection,
        };
        match connection {
            Ok(stream) => {
                tokio::spawn(begin(stream, permit, accepted.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

enum Raw {
    Unix(UnixStream),
    Tls(TcpStream, SocketAddr, Arc<Tls>),
}

async fn accept_one(listener: &Listener) -> io::Result<Raw> {
    Ok(match listener {
        Listener::Unix(listener) => Raw::Unix(listener.accept().await?.0),
        Listener::Tls(listener, tls) => {
            let (stream, from) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Raw::Tls(stream, from, Arc::clone(tls))
        }
    })
}

async fn begin(raw: Raw, room: OwnedSemaphorePermit, accepted: mpsc::Sender<io::Result<Connection>>) {
    let connection = match raw {
        Raw::Unix(stream) => Connection { io: Box::pin(stream), peer: Peer::Local, _room: room },
        Raw::Tls(stream, from, tls) => {
            match tokio::time::timeout(PATIENCE, tls.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => {
                    let names = tls::names(stream.get_ref().1).into();
                    Connection { io: Box::pin(stream), peer: Peer::Named(names), _room: room }
                }
                Ok(Err(error)) => {
                    tracing::info!(%from, %error, "a connection was refused");
                    return;
                }
                Err(_) => return,
            }
        }
    };
    // Nobody takes it if the relay stops.
    let _ = accepted.send(Ok(connection)).await;
}
