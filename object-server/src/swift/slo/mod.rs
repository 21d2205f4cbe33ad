//! Static large objects: manifests as clients write them, as they are stored, and as they are served.

pub mod manifest;
pub mod plan;
pub mod report;
pub mod stored;

/// How deep manifests may refer to manifests.
pub const MAX_DEPTH: usize = 10;
