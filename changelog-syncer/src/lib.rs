//! Follows what changes beneath a directory, and tells the object servers where to look.
//!
//! A [`source`] yields dirty marks: a name in a directory that may be another than it was. It says when it lost some, and
//! never what changed: whoever gets a mark looks at the present. The [`hub`] keeps marks for each bridge until they are
//! durable there, and the [`relay`] is how bridges get them.

pub mod admin;
pub mod client;
pub mod daemon;
pub mod files;
pub mod grants;
pub mod hub;
pub mod listen;
pub mod metrics;
pub mod proto;
pub mod relay;
pub mod root;
pub mod scope;
pub mod source;
pub mod tls;
