//! The HTTP server as its clients see it, over real sockets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of tests may fail them")]

mod http_bodies;
mod http_files;
mod http_framing;
mod http_lifecycle;
mod http_tls;
mod support;
