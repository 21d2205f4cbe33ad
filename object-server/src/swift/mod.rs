//! The OpenStack Swift API: what is decided from a request alone, and the handlers on top of it.
//!
//! Status codes, headers and bodies follow OpenStack Swift 2.38. Everything in `text`, `errors`, `path`,
//! `range`, `conditional`, `constraints`, `accept`, `listing`, `slo`, `dlo` and `info` is pure.

pub mod accept;
pub mod account;
pub mod bulk_delete;
pub mod call;
pub mod conditional;
pub mod constraints;
pub mod container;
pub mod content_type;
pub mod cors;
pub mod dates;
pub mod dlo;
pub mod errors;
pub mod info;
pub mod listing;
pub mod meta;
pub mod object;
pub mod path;
pub mod range;
pub mod server;
pub mod slo;
pub mod tally;
pub mod text;
