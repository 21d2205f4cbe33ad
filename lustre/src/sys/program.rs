//! Programs of the host, which the bridge's own images do not have.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::process::{Command, Output, Stdio};

use super::raw;

/// Where a host may have what an administrator runs.
const PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin";

/// Runs `program` in the directory `root` as its `/`, and waits for it; `NotFound` if it is not there. The files
/// `kept` are open in it, and named by [`given`]. Needs `CAP_SYS_CHROOT`.
pub fn run_in_root(
    root: BorrowedFd<'_>,
    program: &str,
    arguments: &[String],
    kept: &[BorrowedFd<'_>],
) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C");
    let kept = kept.iter().map(BorrowedFd::as_raw_fd).collect();
    raw::begin_in_root(&mut command, root.as_raw_fd(), kept);
    command.output()
}

/// What a program calls an open file that it is given. Its root needs `/proc`.
pub fn given(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use super::*;

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn a_program_gets_the_files_and_says_what_it_did() {
        if !is_root() {
            return;
        }
        let root = File::open("/").unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let done = run_in_root(root.as_fd(), "cat", &[given(file.as_fd())], &[file.as_fd()]).unwrap();
        assert!(done.status.success() && done.stdout == b"content");
        let hidden = run_in_root(root.as_fd(), "cat", &[given(file.as_fd())], &[]).unwrap();
        assert!(!hidden.status.success() && !hidden.stderr.is_empty());
    }

    #[test]
    fn another_root_has_its_own_programs() {
        if !is_root() {
            return;
        }
        let base = tempfile::tempdir().unwrap();
        let root = File::open(base.path()).unwrap();
        let error = run_in_root(root.as_fd(), "cat", &[], &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
