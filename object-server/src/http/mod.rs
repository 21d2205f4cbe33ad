//! HTTP/1.1 and 1.0, the front door for clients that nobody trusts.
//!
//! The design decision: a connection is one task with one input buffer, one output buffer and one timer per
//! direction, all used again; a request is parsed in place and its small answer leaves in one write. Bodies of files
//! leave by sendfile(2), run on the file system's own pool and never on a reactor thread, because a hung file system
//! must not stall the other connections. That is about as cheap per request as nginx; the price is that this is
//! neither a general server (no upgrades, no HTTP/2, no trailers) nor a generic transport.
//!
//! `head` and `chunked` are pure and strict; `intake` reads, `outlet` writes, `connection` is one client's loop,
//! `server` accepts, `workers` are the threads.

mod body;
mod buffers;
pub mod chunked;
mod connection;
mod date;
mod deadline;
pub mod head;
mod headers;
mod intake;
mod limits;
mod link;
mod message;
mod outlet;
mod render;
mod report;
mod server;
mod workers;

pub use body::{Body, BodyError};
pub use headers::Headers;
pub use limits::Limits;
pub use message::{Done, FileRange, Handler, Outcome, Pace, Piece, Request, Response, ResponseBody, Version};
pub use render::reason;
pub(crate) use server::stopped;
pub use server::{bind, serve};
pub use workers::Workers;
