//! What the kernel says about a file and a file system.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType};

/// The kinds of file that the bridge tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO or socket: never opened.
    Other,
}

impl Kind {
    /// `None` where the file system does not say (`DT_UNKNOWN`).
    pub(super) fn of(kind: FileType) -> Option<Kind> {
        match kind {
            FileType::RegularFile => Some(Kind::File),
            FileType::Directory => Some(Kind::Directory),
            FileType::Symlink => Some(Kind::Symlink),
            FileType::Unknown => None,
            _ => Some(Kind::Other),
        }
    }
}

/// The attributes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Time of the last change of data, nanoseconds since 1970, clamped to the years 1678 to 2262.
    pub mtime_ns: i64,
    /// Time of the last change of anything, as `mtime_ns`.
    pub ctime_ns: i64,
    /// Inode number; reused after the file is gone.
    pub ino: u64,
    /// Device number of the file system.
    pub dev: u64,
    /// Number of names (of a directory: implementation-defined).
    pub nlink: u64,
    /// Permission bits with set-uid, set-gid and sticky (`0o7777`), without the file type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
}

impl From<rustix::fs::Stat> for Stat {
    fn from(raw: rustix::fs::Stat) -> Stat {
        Stat {
            kind: Kind::of(FileType::from_raw_mode(raw.st_mode)).unwrap_or(Kind::Other),
            size: raw.st_size as u64,
            mtime_ns: nanoseconds(raw.st_mtime, raw.st_mtime_nsec as i64),
            ctime_ns: nanoseconds(raw.st_ctime, raw.st_ctime_nsec as i64),
            ino: raw.st_ino,
            dev: raw.st_dev,
            nlink: raw.st_nlink,
            mode: raw.st_mode & 0o7777,
            uid: raw.st_uid,
            gid: raw.st_gid,
            blocks: raw.st_blocks as u64,
        }
    }
}

pub(super) fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// The attributes of an open file; an `O_PATH` descriptor will do.
pub fn stat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    Ok(rustix::io::retry_on_intr(|| rustix::fs::fstat(fd))?.into())
}

/// The attributes of `name` in `dir`; `follow`: of what a symbolic link leads to, wherever that is.
pub fn stat_at(dir: BorrowedFd<'_>, name: &[u8], follow: bool) -> io::Result<Stat> {
    let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    Ok(rustix::io::retry_on_intr(|| rustix::fs::statat(dir, name, flags))?.into())
}

/// The space of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// The kind of file system (`f_type`), such as `0x0BD0_0BD0` for Lustre.
    pub magic: u64,
    /// Bytes in all.
    pub total: u64,
    /// Free bytes, with those kept for root.
    pub free: u64,
    /// Bytes that an ordinary user may still take.
    pub available: u64,
    /// Inodes in all; 0 where they are not counted.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Bytes of the longest file name.
    pub name_max: u64,
}

/// The file system that `fd` is on. On Lustre it lags behind by seconds and may hang with a dead server.
pub fn statfs(fd: BorrowedFd<'_>) -> io::Result<Space> {
    let raw = rustix::io::retry_on_intr(|| rustix::fs::fstatfs(fd))?;
    let unit = raw.f_bsize as u64;
    Ok(Space {
        magic: raw.f_type as u64,
        total: raw.f_blocks.saturating_mul(unit),
        free: raw.f_bfree.saturating_mul(unit),
        available: raw.f_bavail.saturating_mul(unit),
        files: raw.f_files,
        files_free: raw.f_ffree,
        name_max: raw.f_namelen as u64,
    })
}
