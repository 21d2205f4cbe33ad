//! Dirty marks: hints that something below the root may have changed.
//!
//! A mark says where to look, never what is there: marks may come late, twice, in any order, and of things long gone. What
//! must not happen is that a change has none, unless [`Mark::Everything`] or [`Mark::Below`] says so.

use lustre::fs::Fid;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spot {
    /// The directory, which keeps its identity when it moves.
    pub dir: Fid,
    /// Where the directory was beneath the root when that was found out, components joined by `/`; empty for the root itself.
    /// By now it may be elsewhere.
    pub path: Vec<u8>,
    /// The entry's file name.
    pub name: Vec<u8>,
}

/// Something may have changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Mark {
    /// An entry: it came, went, was written to, or got other attributes.
    Entry(Spot),
    /// An entry was renamed. Both names are looked at in one step, so that a directory keeps what is known of it.
    Moved {
        /// Its old name; `None` if it came from outside the root.
        from: Option<Spot>,
        /// Its new name; `None` if it left the root.
        to: Option<Spot>,
    },
    /// All beneath a directory, however deep: changes were lost, or its permissions are others.
    Below {
        /// The directory.
        dir: Fid,
        /// As [`Spot::path`].
        path: Vec<u8>,
    },
    /// All there is: changes were lost.
    Everything,
}
