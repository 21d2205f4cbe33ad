//! The cluster as the operator sees it: what it watches, what it keeps of that, and how it writes.

pub mod cache;
pub mod kind;
pub mod same;
pub mod watch;
pub mod write;

pub use cache::Cache;
pub use kind::{Key, Kind};
pub use write::{WriteError, Writer};
