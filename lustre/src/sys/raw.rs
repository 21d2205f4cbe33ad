//! The calls that rustix does not offer, or offers only for the whole process or with an allocation.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// `MAX_HANDLE_SZ` of the kernel.
const MAX_HANDLE: usize = 128;

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct FileHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; MAX_HANDLE],
}

/// A file's handle as the kernel gives it.
pub(crate) struct Handle {
    pub(crate) kind: i32,
    bytes: [u8; MAX_HANDLE],
    len: usize,
}

impl Handle {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// `name_to_handle_at(fd, "", …, AT_EMPTY_PATH)`.
pub(crate) fn name_to_handle(fd: BorrowedFd<'_>) -> io::Result<Handle> {
    let mut handle =
        FileHandle { handle_bytes: MAX_HANDLE as u32, handle_type: 0, f_handle: [0; MAX_HANDLE] };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the path is a NUL-terminated literal; `handle` announces exactly the room it has and, like
    // `mount_id`, outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    check(result)?;
    let len = (handle.handle_bytes as usize).min(MAX_HANDLE);
    Ok(Handle { kind: handle.handle_type, bytes: handle.f_handle, len })
}

/// `open_by_handle_at(mount, handle, flags)`: on the file system of `mount`. `EINVAL` if the handle is too long to be one.
pub(crate) fn open_by_handle(
    mount: BorrowedFd<'_>,
    kind: i32,
    bytes: &[u8],
    flags: i32,
) -> io::Result<OwnedFd> {
    if bytes.len() > MAX_HANDLE {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut handle =
        FileHandle { handle_bytes: bytes.len() as u32, handle_type: kind, f_handle: [0; MAX_HANDLE] };
    handle.f_handle[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: `handle` announces at most the bytes it has, is only read, and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut handle,
            flags | libc::O_CLOEXEC,
        )
    };
    check(result)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

/// `fanotify_init(flags, O_RDONLY)`.
pub(crate) fn fanotify_init(flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_fanotify_init, flags, libc::O_RDONLY) };
    check(result)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

/// `fanotify_mark(group, flags, mask, dir, ".")`: of a directory, whose `O_PATH` descriptor will do.
pub(crate) fn fanotify_mark(
    group: BorrowedFd<'_>,
    flags: u32,
    mask: u64,
    dir: BorrowedFd<'_>,
) -> io::Result<()> {
    // SAFETY: the path is a NUL-terminated literal; all else is integers.
    let result = unsafe {
        libc::syscall(libc::SYS_fanotify_mark, group.as_raw_fd(), flags, mask, dir.as_raw_fd(), c".".as_ptr())
    };
    check(result)
}

/// `struct file_clone_range`.
#[repr(C)]
struct CloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}

/// `_IOW(0x94, 13, struct file_clone_range)`.
const FICLONERANGE: libc::Ioctl = 0x4020_940d;

/// Makes `len` bytes of `dst` share the blocks of `src`, or changes nothing. A `len` of 0 means to the end.
pub(crate) fn clone_range(
    src: BorrowedFd<'_>,
    src_offset: u64,
    dst: BorrowedFd<'_>,
    dst_offset: u64,
    len: u64,
) -> io::Result<()> {
    let range = CloneRange {
        src_fd: i64::from(src.as_raw_fd()),
        src_offset,
        src_length: len,
        dest_offset: dst_offset,
    };
    // SAFETY: the argument is the struct that this request reads; the kernel keeps no reference to it.
    let result = unsafe { libc::ioctl(dst.as_raw_fd(), FICLONERANGE, &raw const range) };
    check(libc::c_long::from(result))
}

/// `struct mount_attr`.
#[repr(C)]
pub(crate) struct MountAttr {
    pub(crate) attr_set: u64,
    pub(crate) attr_clr: u64,
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

/// `mount_setattr(fd, "", AT_EMPTY_PATH, …)`: of this one mount.
pub(crate) fn mount_setattr(tree: BorrowedFd<'_>, attributes: &MountAttr) -> io::Result<()> {
    // SAFETY: the path is a NUL-terminated literal; the struct has the size that is announced and is only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    check(result)
}

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LoopInfo {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    rdevice: u64,
    pub(crate) offset: u64,
    pub(crate) size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    pub(crate) flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl LoopInfo {
    pub(crate) fn new(flags: u32) -> LoopInfo {
        LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
const LOOP_SET_STATUS64: libc::Ioctl = 0x4c04;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4c07;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
/// `_IO(0x12, 97)`.
const BLKFLSBUF: libc::Ioctl = 0x1261;

/// The number of a loop device that nobody uses, made if there is none.
pub(crate) fn loop_get_free(control: BorrowedFd<'_>) -> io::Result<u32> {
    let number = plain_ioctl(control, LOOP_CTL_GET_FREE)?;
    u32::try_from(number).map_err(io::Error::other)
}

/// Attaches a file to a loop device in one step, with all that `info` says.
pub(crate) fn loop_configure(
    device: BorrowedFd<'_>,
    image: BorrowedFd<'_>,
    block_size: u32,
    info: LoopInfo,
) -> io::Result<()> {
    let config = LoopConfig { fd: image.as_raw_fd() as u32, block_size, info, reserved: [0; 8] };
    // SAFETY: the argument is the struct that this request reads; the kernel keeps no reference to it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    check(libc::c_long::from(result))
}

/// What a loop device is attached to; `ENXIO` if to nothing.
pub(crate) fn loop_status(device: BorrowedFd<'_>) -> io::Result<LoopInfo> {
    let mut info = LoopInfo::new(0);
    // SAFETY: the argument is the struct that this request fills, and outlives the call; any bytes are valid.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    check(libc::c_long::from(result))?;
    Ok(info)
}

/// Sets what can be changed of an attached loop device.
pub(crate) fn loop_set_status(device: BorrowedFd<'_>, info: &LoopInfo) -> io::Result<()> {
    // SAFETY: the argument is the struct that this request reads; the kernel keeps no reference to it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_STATUS64, std::ptr::from_ref(info)) };
    check(libc::c_long::from(result))
}

/// Makes a loop device as large as its file is now.
pub(crate) fn loop_set_capacity(device: BorrowedFd<'_>) -> io::Result<()> {
    plain_ioctl(device, LOOP_SET_CAPACITY).map(|_| ())
}

/// Detaches a loop device, at the last close of it.
pub(crate) fn loop_clear(device: BorrowedFd<'_>) -> io::Result<()> {
    plain_ioctl(device, LOOP_CLR_FD).map(|_| ())
}

/// Writes a block device's page cache back and drops it.
pub(crate) fn flush_buffers(device: BorrowedFd<'_>) -> io::Result<()> {
    plain_ioctl(device, BLKFLSBUF).map(|_| ())
}

fn plain_ioctl(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<libc::c_int> {
    // SAFETY: none of the requests above that come here takes a pointer; the argument is an unused 0.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, 0 as libc::c_ulong) };
    check(libc::c_long::from(result))?;
    Ok(result)
}

/// Asks for a write lease and gives it back: `EAGAIN` while anybody else has the file open.
pub(crate) fn try_write_lease(file: BorrowedFd<'_>) -> io::Result<()> {
    for kind in [libc::F_WRLCK, libc::F_UNLCK] {
        // SAFETY: takes integers only.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
        check(libc::c_long::from(result))?;
    }
    Ok(())
}

/// `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// Makes a mounted ext4 this many of its blocks large.
pub(crate) fn resize_ext4(root: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    // SAFETY: the argument is the number that this request reads; the kernel keeps no reference to it.
    let result = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) };
    check(libc::c_long::from(result))
}

/// Has `command` begin in the directory `root` as its `/`, with the descriptors `kept` open.
pub(crate) fn begin_in_root(command: &mut Command, root: RawFd, kept: Vec<RawFd>) {
    let begin = move || {
        // SAFETY: takes integers only; nothing of another thread's state is touched.
        check(libc::c_long::from(unsafe { libc::fchdir(root) }))?;
        // SAFETY: the path is a NUL-terminated literal.
        check(libc::c_long::from(unsafe { libc::chroot(c".".as_ptr()) }))?;
        for fd in &kept {
            // SAFETY: takes integers only; in the child, whose descriptors are its own.
            check(libc::c_long::from(unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) }))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made: no allocation, no lock.
    unsafe { command.pre_exec(begin) };
}

/// Sets the calling thread's supplementary groups (glibc's wrapper would set those of every thread).
pub(crate) fn set_thread_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length are those of one live slice of gid_t, which is u32.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(result)
}

/// The calling thread's supplementary groups, as the kernel orders them, handed to `f`.
pub(crate) fn with_thread_groups<T>(f: impl FnOnce(&mut [u32]) -> T) -> io::Result<T> {
    const FEW: usize = 64;
    /// `NGROUPS_MAX`.
    const MOST: usize = 65_536;
    let mut few = [0_u32; FEW];
    match get_groups(&mut few) {
        Ok(count) => Ok(f(&mut few[..count])),
        // More groups than the buffer holds.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let mut all = vec![0_u32; MOST];
            let count = get_groups(&mut all)?;
            Ok(f(&mut all[..count]))
        }
        Err(error) => Err(error),
    }
}

fn get_groups(into: &mut [u32]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of one live slice of gid_t, which is u32.
    let result = unsafe { libc::syscall(libc::SYS_getgroups, into.len(), into.as_mut_ptr()) };
    check(result)?;
    Ok(usize::try_from(result).unwrap_or(0).min(into.len()))
}

/// Asks for a file-system user id for the calling thread. The kernel reports no failure: read it back.
pub(crate) fn set_fsuid(uid: u32) {
    // SAFETY: takes and returns integers only.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
}

/// The calling thread's file-system user id.
pub(crate) fn fsuid() -> u32 {
    // SAFETY: takes and returns integers only; -1 is no id, so nothing changes.
    unsafe { libc::syscall(libc::SYS_setfsuid, u32::MAX) as u32 }
}

/// Asks for a file-system group id for the calling thread. The kernel reports no failure: read it back.
pub(crate) fn set_fsgid(gid: u32) {
    // SAFETY: takes and returns integers only.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
}

/// The calling thread's file-system group id.
pub(crate) fn fsgid() -> u32 {
    // SAFETY: takes and returns integers only; -1 is no id, so nothing changes.
    unsafe { libc::syscall(libc::SYS_setfsgid, u32::MAX) as u32 }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
