//! Copying between open files.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, retry_on_intr};

use crate::sys;

/// Of one `copy_file_range`: a signal or a deadline should not wait for terabytes.
const STEP: u64 = 1 << 30;
/// Of the buffer, where the kernel does not copy by itself.
const BUFFER: usize = 1 << 20;

/// A copy under way: both offsets move on with every byte that is done.
struct Copy<'fd> {
    src: BorrowedFd<'fd>,
    src_offset: u64,
    dst: BorrowedFd<'fd>,
    dst_offset: u64,
    left: u64,
}

/// See [`FileSystem::copy`](super::FileSystem::copy).
pub(super) fn copy(
    src: BorrowedFd<'_>,
    src_offset: u64,
    dst: BorrowedFd<'_>,
    dst_offset: u64,
    len: u64,
) -> io::Result<u64> {
    // Some file systems copy nothing and say 0 from an inode nobody has stat'ed: so its end is asked first.
    let size = sys::stat(src)?.size;
    let wanted = len.min(size.saturating_sub(src_offset));
    if wanted == 0 {
        return Ok(0);
    }
    // Whole blocks, or everything to the end, can be shared; the kernel is the judge of the alignment. Why it
    // could not does not matter: copying tells what is really wrong.
    if sys::raw::clone_range(src, src_offset, dst, dst_offset, wanted).is_ok() {
        return Ok(wanted);
    }
    let mut copy = Copy { src, src_offset, dst, dst_offset, left: wanted };
    if !copy.in_kernel()? {
        copy.by_buffer()?;
    }
    Ok(wanted - copy.left)
}

impl Copy<'_> {
    /// Copies with `copy_file_range`; `false` if something is left that it would not copy.
    fn in_kernel(&mut self) -> io::Result<bool> {
        while self.left > 0 {
            let step = self.left.min(STEP) as usize;
            let (mut from, mut to) = (self.src_offset, self.dst_offset);
            match retry_on_intr(|| {
                rustix::fs::copy_file_range(self.src, Some(&mut from), self.dst, Some(&mut to), step)
            }) {
                // Before the known end a 0 is not the end.
                Ok(0) => return Ok(false),
                Ok(count) => self.advance(count as u64),
                Err(
                    error @ (Errno::NOSPC
                    | Errno::DQUOT
                    | Errno::IO
                    | Errno::FBIG
                    | Errno::ROFS
                    | Errno::STALE),
                ) => return Err(error.into()),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Copies by reading and writing, until the source really ends.
    fn by_buffer(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; (self.left.min(BUFFER as u64)) as usize];
        while self.left > 0 {
            let step = self.left.min(buffer.len() as u64) as usize;
            let count = retry_on_intr(|| rustix::io::pread(self.src, &mut buffer[..step], self.src_offset))?;
            if count == 0 {
                break;
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let written = retry_on_intr(|| rustix::io::pwrite(self.dst, rest, self.dst_offset))?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.advance(written as u64);
                rest = &rest[written..];
            }
        }
        Ok(())
    }

    fn advance(&mut self, count: u64) {
        self.src_offset += count;
        self.dst_offset += count;
        self.left = self.left.saturating_sub(count);
    }
}

/// The second way alone, within the source's end.
#[cfg(test)]
pub(super) fn in_kernel_only(
    src: BorrowedFd<'_>,
    src_offset: u64,
    dst: BorrowedFd<'_>,
    dst_offset: u64,
    len: u64,
) -> io::Result<u64> {
    let len = len.min(sys::stat(src)?.size.saturating_sub(src_offset));
    let mut copy = Copy { src, src_offset, dst, dst_offset, left: len };
    assert!(copy.in_kernel()?, "copy_file_range does not work here");
    Ok(len - copy.left)
}

/// The third way alone, which finds the source's end itself.
#[cfg(test)]
pub(super) fn by_buffer_only(
    src: BorrowedFd<'_>,
    src_offset: u64,
    dst: BorrowedFd<'_>,
    dst_offset: u64,
    len: u64,
) -> io::Result<u64> {
    let mut copy = Copy { src, src_offset, dst, dst_offset, left: len };
    copy.by_buffer()?;
    Ok(len - copy.left)
}
