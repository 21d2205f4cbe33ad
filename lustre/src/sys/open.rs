//! Opening beneath a directory, and reopening what was found.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::ProcPath;

/// What [`open_beneath`] does with symbolic links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Symlinks {
    /// A link anywhere in the path is `ELOOP`. With `O_PATH | O_NOFOLLOW` a link as the last component is
    /// opened itself.
    Never,
    /// Links are followed as long as they stay beneath the directory; one that leaves it is `EXDEV`.
    Beneath,
}

/// The longest path that the kernel takes, without its NUL.
const PATH_MAX: usize = 4095;
/// A longer path is walked in pieces of at most this size.
const PIECE: usize = 3800;
/// How often a resolution that raced with a rename is begun again before `EAGAIN` is passed up.
const TRIES: u32 = 128;

/// Opens `path` beneath `dir`. Nothing outside `dir` is ever opened: not by `..`, an absolute path, a symbolic
/// link or one of `/proc`'s links (`EXDEV`, `ELOOP`). `O_CREAT` and `O_TMPFILE` are refused with `EINVAL`:
/// creating is [`FileSystem::create`](crate::fs::FileSystem::create)'s.
///
/// A path longer than `PATH_MAX` is walked in several steps; then `..` and links must stay beneath the
/// directory in which their step begins, which is stricter.
pub fn open_beneath(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    symlinks: Symlinks,
) -> io::Result<OwnedFd> {
    if flags.intersects(OFlags::CREATE | OFlags::TMPFILE.difference(OFlags::DIRECTORY)) {
        return Err(Errno::INVAL.into());
    }
    if path.len() <= PATH_MAX {
        open_step(dir, path, flags, symlinks)
    } else {
        walk(dir, path, flags, symlinks)
    }
}

fn open_step(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags, symlinks: Symlinks) -> io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    if symlinks == Symlinks::Never {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    open_resolved(dir, path, flags, resolve)
}

fn open_resolved(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let mut tries = TRIES;
    loop {
        match rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if tries > 0 => tries -= 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn walk(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags, symlinks: Symlinks) -> io::Result<OwnedFd> {
    if path.first() == Some(&b'/') {
        return Err(Errno::XDEV.into());
    }
    let mut held: Option<OwnedFd> = None;
    let mut rest = path;
    while rest.len() > PIECE {
        // Without a slash a single component is too long: the kernel says so.
        let Some(cut) = rest[..PIECE].iter().rposition(|&byte| byte == b'/') else { break };
        let base = held.as_ref().map_or(dir, |fd| fd.as_fd());
        held = Some(open_step(base, &rest[..cut], OFlags::PATH | OFlags::DIRECTORY, symlinks)?);
        let next = rest[cut..].iter().position(|&byte| byte != b'/').unwrap_or(rest.len() - cut);
        rest = &rest[cut + next..];
    }
    let base = held.as_ref().map_or(dir, |fd| fd.as_fd());
    if rest.is_empty() {
        // The path ended in slashes: the directory itself.
        return open_step(base, b".", flags | OFlags::DIRECTORY, symlinks);
    }
    open_step(base, rest, flags, symlinks)
}

/// Opens `path` as if `root` were `/`: an absolute path or link begins there, and `..` does not leave it.
///
/// For paths that an administrator names on a host whose root is mounted somewhere else.
pub fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    if flags.intersects(OFlags::CREATE | OFlags::TMPFILE.difference(OFlags::DIRECTORY)) {
        return Err(Errno::INVAL.into());
    }
    open_resolved(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// The path by which the process sees what `fd` refers to now. A name that is gone ends in ` (deleted)`.
pub fn resolved_path(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let link = ProcPath::of(fd);
    Ok(rustix::io::retry_on_intr(|| rustix::fs::readlinkat(CWD, link.as_bytes(), Vec::new()))?.into_bytes())
}

/// Whether anybody but the caller, who opened it once, has a file open on this machine. Two system calls; `false` also
/// where the file system cannot tell.
pub fn is_open_elsewhere(file: BorrowedFd<'_>) -> io::Result<bool> {
    match super::raw::try_write_lease(file) {
        Ok(()) => Ok(false),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => Ok(true),
            Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Opens for reading what an `O_PATH` descriptor refers to, whatever happened to its name since.
///
/// Never blocks in the open (`O_NONBLOCK`) and takes no terminal, but a device would still be opened: look at
/// [`stat`](super::stat) of `path_fd` first. Needs `/proc`; without it the error says so.
pub fn reopen_read(path_fd: BorrowedFd<'_>) -> io::Result<File> {
    let path = ProcPath::of(path_fd);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::io::retry_on_intr(|| rustix::fs::openat(CWD, path.as_bytes(), flags, Mode::empty())) {
        Ok(fd) => Ok(File::from(fd)),
        Err(error) if ProcPath::is_missing(error) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "cannot reopen a file: /proc is not mounted"))
        }
        Err(error) => Err(error.into()),
    }
}
