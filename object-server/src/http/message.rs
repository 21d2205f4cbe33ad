//! What a handler is given and what it gives back.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lustre::pool::Pool;
use tokio::sync::mpsc;

use super::{Body, Headers};

/// The protocol version of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// A request whose head is complete; the body is still on its way.
pub struct Request {
    /// The method as sent (methods are case-sensitive).
    pub method: String,
    /// The raw request-target, undecoded: path and query. An absolute-form target has lost scheme and
    /// authority (the authority is in `Host`).
    pub target: Vec<u8>,
    /// The protocol version.
    pub version: Version,
    /// The header fields.
    pub headers: Headers,
    /// The body.
    pub body: Body,
    /// The client's address.
    pub peer: SocketAddr,
    /// Whether it came by TLS.
    pub secure: bool,
    /// When the first byte of the head was seen.
    pub received: Instant,
}

impl Request {
    /// A request that did not come from a connection (internal requests, tests).
    pub fn new(method: &str, target: impl Into<Vec<u8>>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.into(),
            version: Version::Http11,
            headers: Headers::new(),
            body: Body::empty(),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            secure: false,
            received: Instant::now(),
        }
    }
}

/// Says how fast the bodies of a request move.
pub trait Pace: Send + Sync {
    /// Counts bytes that have moved either way. So long nothing more may move.
    fn take(&self, bytes: u64) -> Duration;

    /// So many bytes may move between two questions.
    fn stride(&self) -> u64;
}

/// Called once when an answer has left, or could not leave.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// The answer to a request.
pub struct Response {
    /// Status code, 200 to 999.
    pub status: u16,
    /// Header fields. `Connection`, `Transfer-Encoding` and (unless the body is `Empty`) `Content-Length` are
    /// the layer's; CR, LF and NUL in a value become spaces, a field whose name is no token is left out.
    pub headers: Headers,
    /// The body.
    pub body: ResponseBody,
    /// How fast the body moves; `None` is as fast as the client takes it.
    pub pace: Option<Arc<dyn Pace>>,
    /// Called exactly once, when the last byte was handed to the kernel or the client has gone.
    pub done: Option<Done>,
}

impl Response {
    /// An answer without body or header fields.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Headers::new(), body: ResponseBody::Empty, pace: None, done: None }
    }

    /// An answer with this body.
    pub fn with_body(status: u16, body: impl Into<Bytes>) -> Self {
        Self { body: ResponseBody::Bytes(body.into()), ..Self::new(status) }
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.append(name, value);
        self
    }
}

/// The body of an answer. To HEAD, and with 204 and 304, no body is ever sent.
#[derive(Debug)]
pub enum ResponseBody {
    /// None. A `Content-Length` among the header fields is kept where the answer cannot have a body (HEAD, 204,
    /// 304), else it is 0.
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// A part of a file.
    File(FileRange),
    /// Pieces as they come. With a `length`, a stream that ends short, goes over or fails closes the connection.
    /// Without, the body is chunked (HTTP/1.0: delimited by the close). If the first message is an error or the
    /// end of a stream that promised bytes, the answer becomes a 500.
    Pieces {
        /// Bytes in all, where known.
        length: Option<u64>,
        /// The pieces; the end of the channel is the end of the body.
        pieces: mpsc::Receiver<io::Result<Piece>>,
    },
}

/// A piece of a body.
#[derive(Debug)]
pub enum Piece {
    /// These bytes.
    Bytes(Bytes),
    /// A part of a file.
    File(FileRange),
}

impl Piece {
    /// Bytes in this piece.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(range) => range.len,
        }
    }
}

/// A part of an open file.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The file, open for reading.
    pub file: Arc<File>,
    /// First byte.
    pub offset: u64,
    /// Bytes. If the file proves shorter, the connection is closed.
    pub len: u64,
    /// Where its file-system calls run.
    pub pool: Pool,
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Body bytes handed to the kernel (framing of chunks not counted).
    pub sent: u64,
    /// Body bytes received.
    pub received: u64,
    /// The status sent; 499 if the client went away; 500 if the body could not be finished for a reason on our
    /// side (a file that was cut, a producer that failed), 503 if the pool of its file was full.
    pub status: u16,
    /// From the request's first byte to the first byte of the answer (equal to `total` if none was sent).
    pub first_byte: Duration,
    /// From the request's first byte to the last of the answer.
    pub total: Duration,
}

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The connection serves no other meanwhile. A panic closes the connection.
    fn call(&self, request: Request) -> impl Future<Output = Response> + Send;

    /// Told of requests that were refused before they became a `Request` (bad framing, limits, timeouts).
    fn refused(&self, _peer: SocketAddr, _status: u16) {}
}
