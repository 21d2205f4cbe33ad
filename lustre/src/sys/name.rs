//! Changing names in directories. None of these calls follows a symbolic link.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;
use rustix::io::retry_on_intr;

/// Gives the file `old` the further name `new`. `EEXIST` if there is one: this is "create exclusively".
pub fn link_at(olddir: BorrowedFd<'_>, old: &[u8], newdir: BorrowedFd<'_>, new: &[u8]) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::linkat(olddir, old, newdir, new, AtFlags::empty()))?)
}

/// Renames `old` to `new`, replacing it.
pub fn rename_at(olddir: BorrowedFd<'_>, old: &[u8], newdir: BorrowedFd<'_>, new: &[u8]) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::renameat(olddir, old, newdir, new))?)
}

/// Renames `old` to `new`; `EEXIST` if there is one.
///
/// Where the file system cannot do that in one step (Lustre), it looks first: the caller keeps others away by a lock.
pub fn rename_exclusive_at(
    olddir: BorrowedFd<'_>,
    old: &[u8],
    newdir: BorrowedFd<'_>,
    new: &[u8],
) -> io::Result<()> {
    match retry_on_intr(|| rustix::fs::renameat_with(olddir, old, newdir, new, RenameFlags::NOREPLACE)) {
        Err(Errno::INVAL | Errno::NOSYS) => match super::stat_at(newdir, new, false) {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(_) => rename_at(olddir, old, newdir, new),
        },
        result => Ok(result?),
    }
}

/// Removes a name that is no directory's.
pub fn unlink_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::unlinkat(dir, name, AtFlags::empty()))?)
}

/// Removes an empty directory.
pub fn remove_dir_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR))?)
}

/// Creates a directory; `mode` is subject to the process's umask.
pub fn make_dir_at(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode)))?)
}

/// What the symbolic link `name` says. With an empty `name`: the link that `dir`, an `O_PATH` descriptor, is.
pub fn read_link_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(retry_on_intr(|| rustix::fs::readlinkat(dir, name, Vec::new()))?.into_bytes())
}
