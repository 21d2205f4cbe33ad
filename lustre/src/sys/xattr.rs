//! Extended attributes. An `O_PATH` descriptor will do, by a second call through `/proc` (without it:
//! `EOPNOTSUPP`).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;
use rustix::io::{Errno, retry_on_intr};

use super::ProcPath;

/// What most values fit in, and the largest that Linux has.
const USUAL: usize = 4096;
const LARGEST: usize = 65_536;

/// Replaces `buf` by the attribute's value; `false` and an empty `buf` if there is none. A file system without
/// attributes is an error.
pub fn get_xattr(fd: BorrowedFd<'_>, name: &str, buf: &mut Vec<u8>) -> io::Result<bool> {
    buf.clear();
    // Most values are much shorter, and this costs nothing.
    let mut usual = [MaybeUninit::<u8>::uninit(); USUAL];
    let got = retry_on_intr(|| match rustix::fs::fgetxattr(fd, name, &mut usual) {
        Ok((value, _)) => {
            buf.extend_from_slice(value);
            Ok(())
        }
        Err(Errno::BADF) => by_path(fd, |path| {
            let (value, _) = rustix::fs::getxattr(path, name, &mut usual)?;
            buf.extend_from_slice(value);
            Ok(())
        }),
        Err(error) => Err(error),
    });
    match got {
        Ok(()) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(Errno::RANGE) => get_large(fd, name, buf),
        Err(error) => Err(error.into()),
    }
}

/// Whether `name` in `dir` has any attribute that the caller may list; a symbolic link is not followed. By one call through
/// `/proc`: `EOPNOTSUPP` without it.
pub fn has_xattr_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    let directory = ProcPath::of(dir);
    let path = [directory.as_bytes(), b"/", name].concat();
    let mut names = [MaybeUninit::<u8>::uninit(); 512];
    match retry_on_intr(|| rustix::fs::llistxattr(path.as_slice(), &mut names).map(|(names, _)| names.len()))
    {
        Ok(len) => Ok(len > 0),
        Err(Errno::RANGE) => Ok(true),
        Err(error) if ProcPath::is_missing(error) => Err(Errno::OPNOTSUPP.into()),
        Err(error) => Err(error.into()),
    }
}

fn get_large(fd: BorrowedFd<'_>, name: &str, buf: &mut Vec<u8>) -> io::Result<bool> {
    buf.reserve_exact(LARGEST);
    let got = retry_on_intr(|| match rustix::fs::fgetxattr(fd, name, spare_capacity(buf)) {
        Err(Errno::BADF) => by_path(fd, |path| rustix::fs::getxattr(path, name, spare_capacity(buf))),
        result => result,
    });
    match got {
        Ok(_) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// An `ENOENT` that speaks of `/proc` must not be taken for the file's.
fn by_path<T>(
    fd: BorrowedFd<'_>,
    call: impl FnOnce(&[u8]) -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    call(ProcPath::of(fd).as_bytes())
        .map_err(|error| if ProcPath::is_missing(error) { Errno::OPNOTSUPP } else { error })
}

/// Creates or replaces an attribute.
pub fn set_xattr(fd: BorrowedFd<'_>, name: &str, value: &[u8]) -> io::Result<()> {
    write_xattr(fd, name, value, XattrFlags::empty())
}

/// As [`set_xattr`], but fails with `EEXIST` if there is one.
pub fn create_xattr(fd: BorrowedFd<'_>, name: &str, value: &[u8]) -> io::Result<()> {
    write_xattr(fd, name, value, XattrFlags::CREATE)
}

fn write_xattr(fd: BorrowedFd<'_>, name: &str, value: &[u8], flags: XattrFlags) -> io::Result<()> {
    Ok(retry_on_intr(|| match rustix::fs::fsetxattr(fd, name, value, flags) {
        Err(Errno::BADF) => by_path(fd, |path| rustix::fs::setxattr(path, name, value, flags)),
        result => result,
    })?)
}

/// Removes an attribute; `false` if there was none.
pub fn remove_xattr(fd: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let removed = retry_on_intr(|| match rustix::fs::fremovexattr(fd, name) {
        Err(Errno::BADF) => by_path(fd, |path| rustix::fs::removexattr(path, name)),
        result => result,
    });
    match removed {
        Ok(()) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
