//! Mounts that are built while nobody sees them, and attached when they are right.
//!
//! A tree is a descriptor of a mount that is attached nowhere; it goes when the descriptor is closed. So a
//! volume is read-only before there is a path to it. Needs Linux 5.12 (`mount_setattr`) and `CAP_SYS_ADMIN`.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, StatVfsMountFlags, StatxAttributes, StatxFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use super::raw::{self, MountAttr};

/// `MOUNT_ATTR_RDONLY`, `_NOSUID`, `_NODEV`, `_NOEXEC` of `mount_setattr`.
const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
/// `MS_PRIVATE`.
const PRIVATE: u64 = 1 << 18;

/// A tree of the one directory or file `root`, without what is mounted below it.
pub fn clone_tree(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(retry_on_intr(|| open_tree(root, c"", flags))?)
}

/// Takes set-uid programs and devices from a tree, writing too if it is to be read-only, and takes it out of its
/// peer group: what is mounted on it later is not mounted on the directory that it was cloned from.
pub fn restrict(tree: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let attr_set = NOSUID | NODEV | if read_only { RDONLY } else { 0 };
    raw::mount_setattr(tree, &MountAttr { attr_set, attr_clr: 0, propagation: PRIVATE, userns_fd: 0 })
}

/// Makes a tree of one device node usable as a device, whatever the mount was that it was cloned from, and takes
/// it out of its peer group.
pub fn allow_device(tree: BorrowedFd<'_>) -> io::Result<()> {
    let attr_set = NOSUID | NOEXEC;
    raw::mount_setattr(tree, &MountAttr { attr_set, attr_clr: NODEV, propagation: PRIVATE, userns_fd: 0 })
}

/// A tree that is an empty directory of root's, read-only: to cover what must not be seen. A `tmpfs`; several
/// system calls.
pub fn empty_tree() -> io::Result<OwnedFd> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), c"mode", c"0700")?;
    fsconfig_set_string(context.as_fd(), c"size", c"4096")?;
    fsconfig_set_flag(context.as_fd(), c"ro")?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Attaches a tree at `target`, above what may be mounted there: a directory, or a file if the tree is of one.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(retry_on_intr(|| move_mount(tree, c"", target, c"", flags))?)
}

/// Detaches the uppermost mount at `path`, with what is mounted on it; `false` if nothing is mounted there.
/// Never waits: what is open goes when it is closed. A symbolic link as last component is not followed.
pub fn detach(path: &[u8]) -> io::Result<bool> {
    match retry_on_intr(|| unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What [`mount_point`] says of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MountPoint {
    /// It is the root of a mount.
    pub mounted: bool,
    /// Nothing can be written through the mount that it is in.
    pub read_only: bool,
}

/// Whether a directory is a mount's root, and whether that mount is read-only. Two system calls.
pub fn mount_point(dir: BorrowedFd<'_>) -> io::Result<MountPoint> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = retry_on_intr(|| rustix::fs::statx(dir, c"", flags, StatxFlags::empty()))?;
    let space = retry_on_intr(|| rustix::fs::fstatvfs(dir))?;
    Ok(MountPoint {
        mounted: status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        read_only: space.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}
