//! Programs of the host: this driver's image has none. Everything here blocks.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use lustre::sys::{self, Mode, OFlags};
use rustix::fs::CWD;

use crate::error::Error;

/// What a program leaves of what it had to say.
const SAID: usize = 1000;

/// Runs a program of e2fsprogs, with the files `kept` open, on the host whose root is `host`; any status of `good`
/// is right.
pub(crate) fn run(
    host: &Path,
    program: &str,
    arguments: &[String],
    kept: &[BorrowedFd<'_>],
    good: &[i32],
) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, host, flags, Mode::empty())
        .map_err(|error| Error::Io("cannot open the host's root".into(), error.into()))?;
    let done = match sys::run_in_root(root.as_fd(), program, arguments, kept) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(program)),
        done => done.map_err(Error::io(format!("cannot run {program}")))?,
    };
    if done.status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&[done.stderr, done.stdout].concat()).trim().to_owned();
    let said: String = said.chars().take(SAID).collect();
    Err(Error::Precondition(format!("{program} of the host failed ({}): {said}", done.status)))
}

fn missing(program: &str) -> Error {
    Error::Precondition(format!(
        "the host has no {program}, which volumes of quota: image need: install its package e2fsprogs"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_is_said() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let run = |program: &str, arguments: &[&str], good: &[i32]| {
            let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
            super::run(Path::new("/"), program, &arguments, &[], good)
        };
        assert!(run("sh", &["-c", "exit 1"], &[0, 1]).is_ok());
        let failed = run("sh", &["-c", "echo so it is >&2; exit 3"], &[0]).unwrap_err().to_string();
        assert!(failed.contains("so it is") && failed.contains('3'), "{failed}");
        let missing = run("no-such-program", &[], &[0]).unwrap_err();
        assert_eq!(missing.code(), tonic::Code::FailedPrecondition);
        assert!(missing.to_string().contains("e2fsprogs"), "{missing}");
    }
}
