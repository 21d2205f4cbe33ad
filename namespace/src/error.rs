//! What can go wrong in a namespace, as the caller must tell it apart.

use std::io;

use crate::timestamp::Timestamp;

/// An operation on the namespace that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The account's directory is not there.
    #[error("no such account")]
    NoAccount,
    /// The container's directory is not there.
    #[error("no such container")]
    NoContainer,
    /// No file holds the object.
    #[error("no such object")]
    NoObject,
    /// The identity may not do this (EACCES, EPERM).
    #[error("permission denied: {what}")]
    Forbidden {
        /// The step that was refused.
        what: String,
    },
    /// The file system or a quota is full (ENOSPC, EDQUOT).
    #[error("no space left: {what}")]
    NoSpace {
        /// The step that found no room.
        what: String,
    },
    /// A container or account that still holds something.
    #[error("not empty: it holds {first:?}")]
    NotEmpty {
        /// Path of the first thing found, relative to the directory that was to go.
        first: String,
    },
    /// There is such an object, and the upload was to make a new one.
    #[error("there is such an object already")]
    Exists,
    /// A version with this or a newer X-Timestamp is there already, or was deleted with one.
    #[error("a version of {existing} is there already")]
    Superseded {
        /// The X-Timestamp that wins.
        existing: Timestamp,
    },
    /// The request's X-Timestamp is older than the memory of deletions, so it cannot be ordered.
    #[error("the timestamp is older than {oldest}, from when on deletions are remembered")]
    TooOld {
        /// The oldest X-Timestamp accepted.
        oldest: Timestamp,
    },
    /// Something that is neither a file nor a directory of ours stands in the object's place.
    #[error("{path:?} is in the way: {reason}")]
    Blocked {
        /// The path beneath the container.
        path: String,
        /// What stands there.
        reason: &'static str,
    },
    /// The container refuses an object beside objects below its name.
    #[error("{path:?} is both an object and a prefix of objects, which this container does not allow")]
    PrefixConflict {
        /// The path beneath the container.
        path: String,
    },
    /// The name cannot be an object, container or account.
    #[error("bad name: {0}")]
    Name(String),
    /// The body did not have the MD5 that was promised.
    #[error("the MD5 of the body is {found}, not {expected}")]
    Digest {
        /// Hex MD5 of what arrived.
        found: String,
        /// Hex MD5 that was promised.
        expected: String,
    },
    /// Other writers kept changing the same names; nothing was done.
    #[error("too many concurrent changes: {what}")]
    Contended {
        /// The step that was given up.
        what: &'static str,
    },
    /// What lies on disk was written by a newer version of this software.
    #[error("written by a newer version: {what}")]
    Newer {
        /// What could not be read.
        what: String,
    },
    /// The index could not be read or written. The files are as they were.
    #[error("the index failed: {0}")]
    Index(String),
    /// Any other failure of the file system.
    #[error("{what}")]
    Io {
        /// The step that failed.
        what: String,
        /// Why.
        source: io::Error,
    },
}

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Sorts an I/O error of the step `what`.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Forbidden { what },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { what },
            _ => Self::Io { what, source },
        }
    }
}

/// Adds the step to an I/O result.
pub(crate) trait Step<T> {
    /// Names the step that failed.
    fn step(self, what: &'static str) -> Result<T>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, what: &'static str) -> Result<T> {
        self.map_err(|e| Error::io(what, e))
    }
}

/// Whether an I/O error has this errno.
pub(crate) fn is(error: &io::Error, errno: rustix::io::Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Whether an I/O error says that the name, or a directory on the way to it, is not there.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV, Errno::STALE].iter().any(|e| is(error, *e))
}
