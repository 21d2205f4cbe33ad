//! Accepting connections, and ending them in good order.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::net::SendFlags;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::buffers::Buffers;
use super::connection;
use super::limits::Limits;
use super::link::{Link, Stream};
use super::message::Handler;
use super::workers::Workers;
use crate::tls::Reloading;

/// Connections that the kernel may complete before they are accepted.
const BACKLOG: i32 = 4096;
/// How often a changed certificate is looked for.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(5);
/// The pause after an accept that failed for want of something (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";

/// A listening socket: address reuse, a backlog of 4,096, and for an IPv6 wildcard address IPv4 as well.
///
/// Call it within a tokio runtime.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves `handler` on `listener` until `shutdown` becomes true or its sender is dropped; connections live on
/// `workers`.
///
/// Then nothing more is accepted, connections that wait between requests are closed at once, requests in flight
/// may finish within `limits.grace`, and what is left is cut. Dropping the future cuts everything at once.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    tls: Option<Reloading>,
    handler: Arc<H>,
    limits: Limits,
    workers: Workers,
    mut shutdown: watch::Receiver<bool>,
) {
    let server = Arc::new(Server {
        handler,
        workers,
        buffers: Arc::new(Buffers::new(limits.buffer)),
        limits: Arc::new(limits),
        tls,
        draining: AtomicBool::new(false),
        open: Mutex::default(),
    });
    let mut connections = JoinSet::new();
    // In a task of its own: its file system may hang. It ends with this future.
    let mut background = JoinSet::new();
    if let Some(tls) = server.tls.clone() {
        background.spawn(async move {
            loop {
                tokio::time::sleep(CERTIFICATE_LOOK).await;
                tls.look().await;
            }
        });
    }
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => note(ended),
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => Server::admit(&server, socket, peer, &mut connections),
                Err(error) => pause_after(&error).await,
            }
        }
    }
    drop(listener);
    server.drain();
    let rest = async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    };
    if tokio::time::timeout(server.limits.grace, rest).await.is_err() {
        tracing::warn!("requests in flight were cut: they took longer than the grace at shutdown");
        connections.shutdown().await;
    }
}

/// Resolves when the server is to stop; a sender that is gone says so too.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// A connection that was reset before it was accepted is its client's affair; anything else may last.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        tracing::error!(%error, "cannot accept a connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

struct Server<H> {
    handler: Arc<H>,
    workers: Workers,
    limits: Arc<Limits>,
    buffers: Arc<Buffers>,
    tls: Option<Reloading>,
    draining: AtomicBool,
    open: Mutex<Open>,
}

/// The open connections.
#[derive(Default)]
struct Open {
    next: u64,
    links: HashMap<u64, Option<Weak<Link>>>,
    addresses: HashMap<IpAddr, usize>,
}

impl<H: Handler> Server<H> {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task for a connection, or turns it away.
    fn admit(server: &Arc<Self>, socket: TcpStream, peer: SocketAddr, connections: &mut JoinSet<()>) {
        let Some(place) = Self::place(server, peer.ip()) else {
            server.handler.refused(peer, 503);
            if server.tls.is_none() {
                // It fits into an empty socket; who has gone does not hear it.
                let _ = rustix::net::send(&socket, FULL, SendFlags::NOSIGNAL);
                let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Write);
            }
            return;
        };
        // Without it answers are late by some milliseconds, not wrong.
        let _ = socket.set_nodelay(true);
        // Off this reactor and, there, onto its worker's. Boxed: a task is moved about while it is made.
        let lost = move |error: io::Error| tracing::warn!(%error, %peer, "a connection was lost");
        let socket = match socket.into_std() {
            Ok(socket) => socket,
            Err(error) => return lost(error),
        };
        let serve = Box::pin(async move {
            match TcpStream::from_std(socket) {
                Ok(socket) => place.serve(socket, peer).await,
                Err(error) => lost(error),
            }
        });
        connections.spawn_on(serve, server.workers.freest());
    }

    fn place(server: &Arc<Self>, address: IpAddr) -> Option<Place<H>> {
        let limits = &server.limits;
        let address = (limits.connections_per_address > 0).then(|| subscriber(address));
        let mut open = server.open();
        if open.links.len() >= limits.connections {
            return None;
        }
        if let Some(address) = address {
            let count = open.addresses.entry(address).or_default();
            if *count >= limits.connections_per_address {
                return None;
            }
            *count += 1;
        }
        let id = open.next;
        open.next += 1;
        open.links.insert(id, None);
        Some(Place { server: Arc::clone(server), id, address })
    }

    /// Wakes the connections that wait between requests, so that they end.
    fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let links: Vec<_> = self.open().links.values().flatten().filter_map(Weak::upgrade).collect();
        for link in links {
            if link.idle.load(Ordering::SeqCst) {
                link.stop_reading();
            }
        }
    }
}

/// Whom connections are counted by: an IPv6 subscriber has a whole /64.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// One connection's place among the open ones; given back when dropped, also by a panic.
struct Place<H: Handler> {
    server: Arc<Server<H>>,
    id: u64,
    address: Option<IpAddr>,
}

impl<H: Handler> Place<H> {
    async fn serve(self, socket: TcpStream, peer: SocketAddr) {
        let server = &self.server;
        let secure = server.tls.is_some();
        let stream = match &server.tls {
            None => Stream::Plain(socket),
            Some(tls) => {
                let handshake = tls.acceptor().accept(socket);
                match tokio::time::timeout(server.limits.handshake_timeout, handshake).await {
                    Ok(Ok(stream)) => Stream::Tls(Box::new(Mutex::new(stream))),
                    Ok(Err(error)) => {
                        tracing::debug!(%error, %peer, "TLS handshake failed");
                        return;
                    }
                    Err(_) => return,
                }
            }
        };
        let link = Link::new(stream, peer, Arc::clone(&server.limits), Arc::clone(&server.buffers));
        let link = Arc::new(link);
        server.open().links.insert(self.id, Some(Arc::downgrade(&link)));
        connection::run(&*server.handler, link, secure, &server.draining).await;
    }
}

impl<H: Handler> Drop for Place<H> {
    fn drop(&mut self) {
        let mut open = self.server.open();
        open.links.remove(&self.id);
        if let Some(address) = self.address
            && let Some(count) = open.addresses.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.addresses.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_server_counts_subscribers() {
        let of = |address: &str| subscriber(address.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
    }
}
