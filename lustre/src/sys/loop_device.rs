//! Files as block devices.
//!
//! Always through the page cache of the file: never with direct IO, which on Lustre moves wrong data without an
//! error. Needs Linux 5.8 (`LOOP_CONFIGURE`) and `CAP_SYS_ADMIN`. Most functions are several system calls.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, retry_on_intr};

use super::ProcPath;
use super::raw::{self, LoopInfo};
use super::stat::stat;

/// `LO_FLAGS_READ_ONLY`, `_AUTOCLEAR`, `_DIRECT_IO`.
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
/// What the devices are called in `/dev` and in sysfs, before their number.
const NAME: &str = "loop";
/// Where all block devices are, each a directory.
const SYSFS: &str = "/sys/block";
/// Bytes of a sector.
const SECTOR: u32 = 512;
/// How often somebody else may be faster in taking a free device.
const TRIES: u32 = 64;

/// How a file is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoopOptions {
    /// The device refuses to be written to.
    pub read_only: bool,
    /// The device goes when nobody has it open or mounted as a file system any more. A bind mount of its node
    /// does not count.
    pub autoclear: bool,
}

/// The file behind an attached device, and how it is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoopStatus {
    /// Device number of the file's file system.
    pub dev: u64,
    /// Inode number of the file.
    pub ino: u64,
    /// What was asked for when it was attached, or changed since.
    pub options: LoopOptions,
    /// The device is the file from its beginning to its end, by way of the page cache.
    pub plain: bool,
}

impl From<LoopInfo> for LoopStatus {
    fn from(info: LoopInfo) -> LoopStatus {
        let has = |flag| info.flags & flag != 0;
        LoopStatus {
            dev: info.device,
            ino: info.inode,
            options: LoopOptions { read_only: has(READ_ONLY), autoclear: has(AUTOCLEAR) },
            plain: info.offset == 0 && info.size_limit == 0 && !has(DIRECT_IO),
        }
    }
}

/// An open loop device. Closing it detaches nothing, unless it is `autoclear` and was open here last.
#[derive(Debug)]
pub struct LoopDevice {
    fd: OwnedFd,
    number: u64,
}

impl LoopDevice {
    /// Opens the loop device whose node is `node`, which may be an `O_PATH` descriptor; `None` if it is no such
    /// node.
    pub fn of_node(node: BorrowedFd<'_>) -> io::Result<Option<LoopDevice>> {
        let Some(number) = block_device(node)? else { return Ok(None) };
        if !is_loop(number) {
            return Ok(None);
        }
        Ok(Some(LoopDevice { fd: super::reopen_read(node)?.into(), number }))
    }

    fn open(dev: &Path, name: &str, access: OFlags) -> io::Result<LoopDevice> {
        let number = sysfs_number(name)?;
        let path = dev.join(name);
        make_node(&path, number)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = retry_on_intr(|| rustix::fs::openat(CWD, &path, flags, Mode::empty()))?;
        if block_device(node.as_fd())? != Some(number) {
            let what = format!("{} is not the node of the device {}", path.display(), show(number));
            return Err(io::Error::other(what));
        }
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let link = ProcPath::of(node.as_fd());
        let fd = retry_on_intr(|| rustix::fs::openat(CWD, link.as_bytes(), flags, Mode::empty()))?;
        Ok(LoopDevice { fd, number })
    }

    /// The device's number, as `st_rdev` of its nodes.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its node in the directory `dev` of device nodes, as [`loop_attach`] and [`loop_find`] made or checked it.
    pub fn node_in(&self, dev: &Path) -> io::Result<PathBuf> {
        let name = name_of(self.number).ok_or(Errno::NXIO)?;
        Ok(dev.join(name))
    }

    /// Opened once more, only to be read: as long as it is open, the device stays.
    pub fn reader(&self) -> io::Result<LoopDevice> {
        Ok(LoopDevice { fd: super::reopen_read(self.as_fd())?.into(), number: self.number })
    }

    /// What is attached, if anything is. Asks the file's file system, so it may hang with it.
    pub fn status(&self) -> io::Result<Option<LoopStatus>> {
        match raw::loop_status(self.as_fd()) {
            Ok(info) => Ok(Some(info.into())),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it is `image`, attached so.
    pub fn is_of(&self, image: BorrowedFd<'_>, options: LoopOptions) -> io::Result<bool> {
        let file = stat(image)?;
        let wanted = LoopStatus { dev: file.dev, ino: file.ino, options, plain: true };
        Ok(self.status()? == Some(wanted))
    }

    /// Takes `autoclear` away: from now on it stays until it is detached.
    pub fn keep(&self) -> io::Result<()> {
        let mut info = raw::loop_status(self.as_fd())?;
        info.flags &= !AUTOCLEAR;
        raw::loop_set_status(self.as_fd(), &info)
    }

    /// Bytes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(rustix::fs::seek(&self.fd, SeekFrom::End(0))?)
    }

    /// Makes the device as large as its file is now.
    pub fn set_capacity(&self) -> io::Result<()> {
        raw::loop_set_capacity(self.as_fd())
    }

    /// Writes the device's own page cache back to the file's, and drops it.
    pub fn flush_buffers(&self) -> io::Result<()> {
        raw::flush_buffers(self.as_fd())
    }

    /// Detaches it when it is closed, by whoever has it open still. Done already: nothing happens.
    pub fn detach(&self) -> io::Result<()> {
        match raw::loop_clear(self.as_fd()) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => Ok(()),
            done => done,
        }
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Attaches `image` to a device that was free. `dev` is the directory of device nodes; a node that is missing
/// there, as in a container that is older than the device, is made.
pub fn loop_attach(dev: &Path, image: BorrowedFd<'_>, options: LoopOptions) -> io::Result<LoopDevice> {
    let control = File::open(dev.join("loop-control"))?;
    let flags = [(options.read_only, READ_ONLY), (options.autoclear, AUTOCLEAR)];
    let flags = flags.iter().filter(|(on, _)| *on).fold(0, |flags, (_, flag)| flags | flag);
    let access = if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    for _ in 0..TRIES {
        let free = raw::loop_get_free(control.as_fd())?;
        let device = LoopDevice::open(dev, &format!("{NAME}{free}"), access)?;
        match raw::loop_configure(device.as_fd(), image, SECTOR, LoopInfo::new(flags)) {
            Ok(()) => return checked(device, image, options),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::BUSY.into())
}

/// The kernel takes direct IO from an image that is opened so, and read-only from one that is not open for
/// writing.
fn checked(device: LoopDevice, image: BorrowedFd<'_>, options: LoopOptions) -> io::Result<LoopDevice> {
    let right = device.is_of(image, options);
    if !matches!(right, Ok(true)) {
        device.detach()?;
        right?;
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the image is not open for what its loop device is for: read-write unless read-only, no direct IO",
        ));
    }
    Ok(device)
}

/// Finds the device that `image` is attached to with just these options.
///
/// Asks the file system of every attached device's file, so one that is dead makes it hang.
pub fn loop_find(dev: &Path, image: BorrowedFd<'_>, options: LoopOptions) -> io::Result<Option<LoopDevice>> {
    for entry in fs::read_dir(SYSFS)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_name(name)) else { continue };
        // Is only there while something is attached.
        if !entry.path().join("loop/backing_file").exists() {
            continue;
        }
        match LoopDevice::open(dev, name, OFlags::RDONLY).and_then(|device| {
            let found = device.is_of(image, options)?;
            Ok(found.then_some(device))
        }) {
            Ok(None) => {}
            Ok(found) => return Ok(found),
            // Removed since.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NXIO)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn is_name(name: &str) -> bool {
    name.strip_prefix(NAME).is_some_and(|rest| rest.parse::<u32>().is_ok())
}

/// `st_rdev` of a block device's node.
fn block_device(node: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let raw = retry_on_intr(|| rustix::fs::fstat(node))?;
    let block = FileType::from_raw_mode(raw.st_mode) == FileType::BlockDevice;
    Ok(block.then_some(raw.st_rdev))
}

fn show(number: u64) -> String {
    format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number))
}

/// Whether a device number is a whole loop device's, and not a partition's.
fn is_loop(number: u64) -> bool {
    name_of(number).is_some_and(|name| is_name(&name))
}

/// What a block device is called in sysfs.
fn name_of(number: u64) -> Option<String> {
    let link = fs::read_link(format!("/sys/dev/block/{}", show(number))).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

/// The device number by sysfs: where devices have partitions it is not the one in the name.
fn sysfs_number(name: &str) -> io::Result<u64> {
    let path: PathBuf = [SYSFS, name, "dev"].iter().collect();
    let text = fs::read_to_string(path)?;
    let numbers = text.trim_end().split_once(':');
    let number = numbers
        .and_then(|(major, minor)| Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?)));
    number.ok_or_else(|| io::Error::other(format!("{name} has the device number {text:?} in sysfs")))
}

fn make_node(path: &Path, number: u64) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    match rustix::fs::mknodat(CWD, path, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, number) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
