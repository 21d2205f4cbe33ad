//! Data, time, durability and locks of open files.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FlockOperation, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::{Errno, retry_on_intr};

/// Sends up to `len` bytes of `file` from `offset` to `socket` and returns how many: fewer than asked when the
/// socket is full, 0 at the end of the file. A full non-blocking socket is `WouldBlock`.
pub fn send_file(socket: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
    let mut offset = offset;
    Ok(retry_on_intr(|| rustix::fs::sendfile(socket, file, Some(&mut offset), len))?)
}

/// Makes a file's data and attributes durable. On a directory: its names, but not on Lustre (see
/// [`FileSystem::persist`](crate::fs::FileSystem::persist)).
pub fn fsync(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::fsync(fd))?)
}

/// Makes a file's data durable, and of its attributes what is needed to read them.
pub fn fdatasync(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::fdatasync(fd))?)
}

/// Sets the modification time, in nanoseconds since 1970, and leaves the access time.
pub fn set_mtime(fd: BorrowedFd<'_>, ns: i64) -> io::Result<()> {
    const SECOND: i64 = 1_000_000_000;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: ns.div_euclid(SECOND), tv_nsec: ns.rem_euclid(SECOND) as _ },
    };
    // By way of the empty path an O_PATH descriptor will do too.
    Ok(retry_on_intr(|| rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH))?)
}

/// The wall clock, in nanoseconds since 1970.
pub fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    super::stat::nanoseconds(now.tv_sec, now.tv_nsec as i64)
}

/// How a file is locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// Beside other shared locks.
    Shared,
    /// Alone.
    Exclusive,
}

/// Takes a lock (flock) without waiting; `false` if another open file has it. Closing the file gives it back.
pub fn lock(fd: BorrowedFd<'_>, lock: Lock) -> io::Result<bool> {
    let operation = match lock {
        Lock::Shared => FlockOperation::NonBlockingLockShared,
        Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match retry_on_intr(|| rustix::fs::flock(fd, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives a lock back before the file is closed.
pub fn unlock(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::flock(fd, FlockOperation::Unlock))?)
}
