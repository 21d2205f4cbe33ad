//! What a call answers when it does not succeed.

use std::io;

use lustre::pool::PoolError;
use rustix::io::Errno;
use tonic::{Code, Status};

use crate::id::IdError;
use crate::path::PathError;
use crate::template::TemplateError;

/// The variants are the specification's codes; each text says what was wrong and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be right at any time.
    #[error("{0}")]
    Invalid(String),
    /// There is no such volume.
    #[error("{0}")]
    NotFound(String),
    /// There is something else under this name, or at this path.
    #[error("{0}")]
    Exists(String),
    /// Another call for the same volume is under way; or a token to go on from is none.
    #[error("{0}")]
    Aborted(String),
    /// A capacity that cannot be.
    #[error("{0}")]
    Range(String),
    /// Not in this state of things.
    #[error("{0}")]
    Precondition(String),
    /// No space, or not on the nodes asked for.
    #[error("{0}")]
    Exhausted(String),
    /// The share is not there now.
    #[error("{0}")]
    Unavailable(String),
    /// The file system refused.
    #[error("{0}: {said}", said = said(.1))]
    Io(String, #[source] io::Error),
}

impl Error {
    /// For `map_err`: what was tried when the file system refused.
    pub fn io(tried: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        move |error| Error::Io(tried.into(), error)
    }

    /// The code of the specification.
    pub fn code(&self) -> Code {
        match self {
            Error::Invalid(_) => Code::InvalidArgument,
            Error::NotFound(_) => Code::NotFound,
            Error::Exists(_) => Code::AlreadyExists,
            Error::Aborted(_) => Code::Aborted,
            Error::Range(_) => Code::OutOfRange,
            Error::Precondition(_) => Code::FailedPrecondition,
            Error::Exhausted(_) => Code::ResourceExhausted,
            Error::Unavailable(_) => Code::Unavailable,
            Error::Io(_, error) => match Errno::from_io_error(error) {
                Some(Errno::NOSPC | Errno::DQUOT) => Code::ResourceExhausted,
                // A link, a file or another file system where a directory of the share has to be.
                Some(Errno::LOOP | Errno::XDEV | Errno::NOTDIR | Errno::ROFS | Errno::BUSY) => {
                    Code::FailedPrecondition
                }
                Some(Errno::STALE | Errno::NOTCONN | Errno::SHUTDOWN | Errno::TIMEDOUT) => Code::Unavailable,
                _ => Code::Internal,
            },
        }
    }
}

/// What the file system means, where its own words do not say it.
fn said(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::LOOP) => "a symbolic link is in the way, and none is followed".into(),
        Some(Errno::XDEV) => {
            "another file system is mounted there, or the path leads out of the share".into()
        }
        _ => error.to_string(),
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        Status::new(error.code(), error.to_string())
    }
}

impl From<PathError> for Error {
    fn from(error: PathError) -> Error {
        Error::Invalid(error.to_string())
    }
}

impl From<TemplateError> for Error {
    fn from(error: TemplateError) -> Error {
        Error::Invalid(error.to_string())
    }
}

/// No volume has such an id.
impl From<IdError> for Error {
    fn from(error: IdError) -> Error {
        Error::NotFound(error.to_string())
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Error {
        match error {
            PoolError::Busy => {
                Error::Unavailable("the share does not answer: all its threads are busy".into())
            }
            other => Error::Io("a job of the share".into(), io::Error::other(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_the_file_system_means() {
        let of = |errno: Errno| Error::io("cannot open a/b")(errno.into());
        assert_eq!(
            of(Errno::LOOP).to_string(),
            "cannot open a/b: a symbolic link is in the way, and none is followed"
        );
        assert_eq!(of(Errno::LOOP).code(), Code::FailedPrecondition);
        assert!(of(Errno::NOSPC).to_string().contains("No space left on device"));
        assert_eq!(of(Errno::NOSPC).code(), Code::ResourceExhausted);
        assert_eq!(of(Errno::STALE).code(), Code::Unavailable);
        assert!(of(Errno::XDEV).to_string().contains("another file system is mounted there"));
        assert_eq!(of(Errno::XDEV).code(), Code::FailedPrecondition);
        assert_eq!(of(Errno::IO).code(), Code::Internal);
    }

    #[test]
    fn a_share_whose_threads_all_hang_does_not_answer() {
        let busy = Error::from(PoolError::Busy);
        assert_eq!((busy.code(), busy.to_string().contains("does not answer")), (Code::Unavailable, true));
        let lost = Error::from(PoolError::Lost);
        assert_eq!(lost.code(), Code::Internal);
        assert_eq!(lost.to_string(), "a job of the share: a file-system job was lost");
    }
}
