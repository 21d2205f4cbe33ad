//! What differs between file systems: the identity of a file, temporary names, durability, copies.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::{Errno, retry_on_intr};
use sha2::{Digest as _, Sha256};

use crate::sys;

mod copy;

/// Identity of a file that no later file of the same file system reuses; it survives rename and remount.
///
/// At most [`Fid::MAX`] bytes, to be compared and stored but not interpreted: the handle type (little-endian)
/// and the handle of `name_to_handle_at`, or where that is longer its SHA-256; or a marker, the inode number
/// and the birth time.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fid {
    /// Zero behind `len`, so that the derived comparison is right.
    bytes: [u8; Fid::MAX],
    len: u8,
}

impl Fid {
    /// The longest, in bytes.
    pub const MAX: usize = 40;

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// From stored bytes; `None` if there are none or too many.
    pub fn from_bytes(stored: &[u8]) -> Option<Fid> {
        if stored.is_empty() || stored.len() > Fid::MAX {
            return None;
        }
        let mut bytes = [0; Fid::MAX];
        bytes[..stored.len()].copy_from_slice(stored);
        Some(Fid { bytes, len: stored.len() as u8 })
    }

    /// From the parts of one of our own making, together at most [`Fid::MAX`] bytes; the rest is cut.
    fn from_parts(parts: &[&[u8]]) -> Fid {
        let mut fid = Fid { bytes: [0; Fid::MAX], len: 0 };
        for byte in parts.iter().flat_map(|part| part.iter()).take(Fid::MAX) {
            fid.bytes[usize::from(fid.len)] = *byte;
            fid.len += 1;
        }
        fid
    }

    /// Of a file whose handle the kernel gave.
    pub(crate) fn from_handle(kind: i32, handle: &[u8]) -> Fid {
        let kind = kind.to_le_bytes();
        if kind.len() + handle.len() <= Fid::MAX {
            return Fid::from_parts(&[&kind, handle]);
        }
        Fid::from_parts(&[&kind, &Sha256::digest(handle)])
    }
}

/// Lower-case hexadecimal.
impl fmt::Display for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fid({self})")
    }
}

/// A file system, as far as its kind matters. Object-safe; every call may block.
pub trait FileSystem: Send + Sync + fmt::Debug {
    /// The identity of an open file or directory; an `O_PATH` descriptor will do.
    fn fid(&self, file: BorrowedFd<'_>) -> io::Result<Fid>;

    /// A name for a temporary file that will be renamed to `target` in the same directory.
    fn temporary_name(&self, target: &[u8]) -> io::Result<Vec<u8>>;

    /// Whether temporary names can look like a user's, so that only a marker attribute tells them apart.
    fn temporaries_look_foreign(&self) -> bool;

    /// Creates the file `name` in `dir` for reading and writing, laid out for `size` bytes if that is known.
    /// `mode` is subject to the process's umask. `EEXIST` if the name is taken, by whatever.
    fn create(&self, dir: BorrowedFd<'_>, name: &[u8], mode: u32, size: Option<u64>) -> io::Result<File>;

    /// Makes a rename, link, unlink or mkdir in `dir` durable. `published` is the file it concerns, open, if
    /// there is one.
    fn persist(&self, dir: BorrowedFd<'_>, published: Option<BorrowedFd<'_>>) -> io::Result<()>;

    /// A number that changes with every write of data; `None` where there is no such thing.
    fn data_version(&self, file: BorrowedFd<'_>) -> io::Result<Option<u64>>;

    /// A digest taken within this many nanoseconds of the file's mtime proves nothing without a data version.
    fn racy_window_ns(&self) -> u64;

    /// Copies `len` bytes from `src_offset` of `src` to `dst_offset` of `dst` in the fastest way that is right
    /// here. Returns how many were copied: fewer only if `src` ends before. The ranges must not overlap in one
    /// file. After an error an unknown part of the destination's range is written.
    fn copy(
        &self,
        src: BorrowedFd<'_>,
        src_offset: u64,
        dst: BorrowedFd<'_>,
        dst_offset: u64,
        len: u64,
    ) -> io::Result<u64>;
}

/// The file system that `root` is on.
pub fn detect(root: BorrowedFd<'_>) -> Arc<dyn FileSystem> {
    // Every file system is treated alike until Lustre has an implementation of its own.
    let _ = root;
    Arc::new(Generic)
}

/// Any POSIX file system: ext4, XFS, Btrfs, tmpfs, overlayfs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Generic;

/// Takes the place of the handle type; the kernel's are not negative.
const BY_INODE: i32 = -1;

impl Generic {
    /// Where there are no handles: the inode number is reused, but not together with its birth time. Where
    /// there is no birth time either it stands alone, which is the best there is.
    fn fid_by_inode(file: BorrowedFd<'_>) -> io::Result<Fid> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let found = retry_on_intr(|| rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted))?;
        let (seconds, nanoseconds) = if found.stx_mask & StatxFlags::BTIME.bits() == 0 {
            (0, 0)
        } else {
            (found.stx_btime.tv_sec, found.stx_btime.tv_nsec)
        };
        Ok(Fid::from_parts(&[
            &BY_INODE.to_le_bytes(),
            &found.stx_ino.to_le_bytes(),
            &seconds.to_le_bytes(),
            &nanoseconds.to_le_bytes(),
        ]))
    }
}

impl FileSystem for Generic {
    /// By `name_to_handle_at`. The inode number and the birth time where the file system has no handles
    /// (`EOPNOTSUPP`), or a sandbox forbids the call (`EPERM`, `ENOSYS`).
    fn fid(&self, file: BorrowedFd<'_>) -> io::Result<Fid> {
        match sys::raw::name_to_handle(file) {
            Ok(handle) => Ok(Fid::from_handle(handle.kind, handle.bytes())),
            Err(error) => match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::EPERM | libc::ENOSYS) => Generic::fid_by_inode(file),
                _ => Err(error),
            },
        }
    }

    /// `.lb~t` and 20 random characters `[a-z0-9]`, whatever the target.
    fn temporary_name(&self, _target: &[u8]) -> io::Result<Vec<u8>> {
        random_name(b".lb~t", 20)
    }

    fn temporaries_look_foreign(&self) -> bool {
        false
    }

    fn create(&self, dir: BorrowedFd<'_>, name: &[u8], mode: u32, _size: Option<u64>) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode)))?;
        Ok(File::from(fd))
    }

    /// `fsync` of the directory.
    fn persist(&self, dir: BorrowedFd<'_>, _published: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match retry_on_intr(|| rustix::fs::fsync(dir)) {
            // An O_PATH descriptor cannot be synced itself.
            Err(Errno::BADF) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = retry_on_intr(|| rustix::fs::openat(dir, c".", flags, Mode::empty()))?;
                sys::fsync(opened.as_fd())
            }
            result => Ok(result?),
        }
    }

    fn data_version(&self, _file: BorrowedFd<'_>) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn racy_window_ns(&self) -> u64 {
        0
    }

    /// Shared blocks where the file system has them, then `copy_file_range`, then reading and writing.
    fn copy(
        &self,
        src: BorrowedFd<'_>,
        src_offset: u64,
        dst: BorrowedFd<'_>,
        dst_offset: u64,
        len: u64,
    ) -> io::Result<u64> {
        copy::copy(src, src_offset, dst, dst_offset, len)
    }
}

/// `prefix` and `count` random characters `[a-z0-9]`.
fn random_name(prefix: &[u8], count: usize) -> io::Result<Vec<u8>> {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut name = Vec::with_capacity(prefix.len() + count);
    name.extend_from_slice(prefix);
    let end = name.len() + count;
    while name.len() < end {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        // 252 is a multiple of 36: no letter is more likely than another.
        let usable = random.iter().filter(|&&byte| byte < 252);
        name.extend(usable.take(end - name.len()).map(|&byte| LETTERS[usize::from(byte) % 36]));
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
