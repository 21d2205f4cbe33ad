//! Files by the handle that the kernel gives them.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::fs::Fid;

/// A file's handle as the kernel gave it: what opens the file again, where a [`Fid`] only names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileHandle<'b> {
    /// The handle's type, the file system's business.
    pub kind: i32,
    /// The handle.
    pub bytes: &'b [u8],
}

impl FileHandle<'_> {
    /// The identity of the file, the same as [`FileSystem::fid`](crate::fs::FileSystem::fid) has.
    pub fn fid(&self) -> Fid {
        Fid::from_handle(self.kind, self.bytes)
    }
}

/// The type and the bytes of an open file's handle; an `O_PATH` descriptor will do.
pub fn file_handle(file: BorrowedFd<'_>) -> io::Result<(i32, Vec<u8>)> {
    let handle = super::raw::name_to_handle(file)?;
    Ok((handle.kind, handle.bytes().to_vec()))
}

/// Opens the file with this handle, on the file system that `mount` is on, which must be open for reading: `O_PATH` will
/// not do. `ESTALE` if there is no such file any more.
/// Needs `CAP_DAC_READ_SEARCH`, as no directory is asked whether it may be passed.
pub fn open_by_handle(mount: BorrowedFd<'_>, handle: FileHandle<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    loop {
        match super::raw::open_by_handle(mount, handle.kind, handle.bytes, flags.bits() as i32) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INTR) => {}
            done => return done,
        }
    }
}
