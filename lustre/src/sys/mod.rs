//! Safe wrappers of the system calls that the bridge is made of.
//!
//! Names and paths are bytes relative to a directory's descriptor; a NUL inside is `EINVAL`. Every descriptor
//! is close-on-exec. One function is one system call, unless its text says otherwise; none stops on a signal.

mod data;
mod dir;
mod ext4;
mod fanotify;
mod handle;
mod inotify;
mod loop_device;
mod mount;
mod name;
mod open;
mod program;
pub(crate) mod raw;
mod stat;
mod xattr;

pub use data::{Lock, fdatasync, fsync, lock, now_ns, send_file, set_mtime, unlock};
pub use dir::{Visit, read_dir};
pub use ext4::{Ext4, mount_ext4, resize_ext4};
pub use fanotify::{Changes, Event, Events, Fanotify, Malformed, Place};
pub use handle::{FileHandle, file_handle, open_by_handle};
pub use inotify::{Half, Inotify, Noticed, Watch};
pub use loop_device::{LoopDevice, LoopOptions, LoopStatus, loop_attach, loop_find};
pub use mount::{MountPoint, allow_device, attach, clone_tree, detach, empty_tree, mount_point, restrict};
pub use name::{
    link_at, make_dir_at, read_link_at, remove_dir_at, rename_at, rename_exclusive_at, unlink_at,
};
pub use open::{Symlinks, is_open_elsewhere, open_beneath, open_in_root, reopen_read, resolved_path};
pub use program::{given, run_in_root};
pub use rustix::fs::{Mode, OFlags};
pub use stat::{Kind, Space, Stat, stat, stat_at, statfs};
pub use xattr::{create_xattr, get_xattr, has_xattr_at, remove_xattr, set_xattr};

use std::io::Write as _;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;

/// A name under `/proc/self/fd`, built without an allocation.
struct ProcPath {
    bytes: [u8; 32],
    len: usize,
}

impl ProcPath {
    fn of(fd: BorrowedFd<'_>) -> ProcPath {
        let mut bytes = [0; 32];
        let mut rest = &mut bytes[..];
        // Fourteen bytes and at most eleven digits: it always fits.
        let _ = write!(rest, "/proc/self/fd/{}", fd.as_raw_fd());
        let len = 32 - rest.len();
        ProcPath { bytes, len }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Whether `error` means that there is no `/proc`. The link leads to the file even when its name is gone,
    /// but on a network file system the file itself may be gone too, which is `ENOENT` as well.
    fn is_missing(error: Errno) -> bool {
        matches!(error, Errno::NOENT | Errno::NOTDIR)
            && rustix::fs::statat(rustix::fs::CWD, c"/proc/self/fd", AtFlags::empty()).is_err()
    }
}
