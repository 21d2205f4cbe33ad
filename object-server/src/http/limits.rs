//! What a client may ask of the server.

use std::time::Duration;

/// Bounds on clients. The defaults are documented per field.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of the request line; past it 414. 8,192, as in Swift.
    pub request_line: usize,
    /// Bytes of one header line; past it 400. 8,192, both as in Swift.
    pub header_line: usize,
    /// Bytes of the whole head; past it 431. 64 KiB.
    pub head: usize,
    /// Header fields; past it 431. 640.
    pub headers: usize,
    /// How long a kept-alive connection may stay silent between requests. 60 s.
    pub idle_timeout: Duration,
    /// From the first byte of a head to its last; past it 408. 30 s.
    pub head_timeout: Duration,
    /// How long a client may send nothing of a body it owes, or take nothing of an answer. 60 s.
    pub client_timeout: Duration,
    /// For the TLS handshake. 10 s.
    pub handshake_timeout: Duration,
    /// Bytes of an unread body that are read and dropped after the answer, rather than closing. 1 MiB.
    pub drain: u64,
    /// How long draining may take, and how long a closing connection is read from so that the client sees the
    /// answer. 5 s.
    pub linger: Duration,
    /// Size of the pooled buffers of large bodies, in bytes: what `Body::chunk` gives at most. 128 KiB: of each body that is uploaded some three are in use.
    pub buffer: usize,
    /// Open connections; more are answered 503 and closed. 8,192.
    pub connections: usize,
    /// Open connections from one address (IPv6: one /64); more are answered 503 and closed. 0: no limit. 0.
    pub connections_per_address: usize,
    /// At shutdown, how long requests in flight may take before they are cut. 30 s.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_line: 8192,
            header_line: 8192,
            head: 64 << 10,
            headers: 640,
            idle_timeout: Duration::from_mins(1),
            head_timeout: Duration::from_secs(30),
            client_timeout: Duration::from_mins(1),
            handshake_timeout: Duration::from_secs(10),
            drain: 1 << 20,
            linger: Duration::from_secs(5),
            buffer: 128 << 10,
            connections: 8192,
            connections_per_address: 0,
            grace: Duration::from_secs(30),
        }
    }
}
