//! The file system below lustre-bridge: system calls, identities, the identity and durability of files.
//!
//! Everything here is synchronous and may block for as long as the file system does. Async code reaches it
//! through a [`pool::Pool`], which has one bounded set of threads per mount, so that a hung server stops
//! nothing else. The only unsafe code of the workspace is in `sys::raw`.

pub mod fs;
pub mod identity;
pub mod pool;
pub mod sys;
