//! Reading directories.

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::Kind;

/// Large enough that a call returns some thousand names.
const BUFFER: usize = 128 * 1024;

thread_local! {
    /// One buffer per thread; a nested reader finds it taken and makes its own.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Called with the name, the kind and the inode number of an entry.
pub type Visit<'f> = dyn FnMut(&[u8], Option<Kind>, u64) -> ControlFlow<()> + 'f;

/// Calls `f` with the name, kind (`None` where the file system does not tell) and inode number of each entry,
/// without `.` and `..`, in the order of the file system, until the end or until `f` breaks.
///
/// Reads from the beginning and moves the descriptor's position: two readers must not share one. An `O_PATH`
/// descriptor will do too, at the price of opening the directory. An entry added or removed meanwhile may or
/// may not be seen; every other one is seen once.
pub fn read_dir(dir: BorrowedFd<'_>, f: &mut Visit<'_>) -> io::Result<()> {
    match rustix::fs::seek(dir, SeekFrom::Start(0)) {
        Ok(_) => read_open(dir, f),
        Err(Errno::BADF) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::io::retry_on_intr(|| rustix::fs::openat(dir, c".", flags, Mode::empty()))?;
            read_open(std::os::fd::AsFd::as_fd(&opened), f)
        }
        Err(error) => Err(error.into()),
    }
}

fn read_open(dir: BorrowedFd<'_>, f: &mut Visit<'_>) -> io::Result<()> {
    let mut buffer = SPARE.take();
    buffer.reserve_exact(BUFFER);
    let result = read_with(dir, &mut buffer, f);
    SPARE.set(buffer);
    result
}

fn read_with(dir: BorrowedFd<'_>, buffer: &mut Vec<u8>, f: &mut Visit<'_>) -> io::Result<()> {
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    loop {
        let entry = match entries.next() {
            // At the end, or the directory was removed meanwhile: nothing is in it.
            None | Some(Err(Errno::NOENT)) => return Ok(()),
            // The next call asks again from the same position.
            Some(Err(Errno::INTR)) => continue,
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(entry)) => entry,
        };
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if f(name, Kind::of(entry.file_type()), entry.ino()).is_break() {
            return Ok(());
        }
    }
}
