//! Showing a disk to a pod as a block device: a loop device, whose node is mounted on the target. Everything
//! here blocks.
//!
//! One file has one device on a node, or two if it is also read only: two page caches of one disk would not
//! agree. Nothing is remembered: the device is found from the file or from the target. Until it is right a
//! device goes with the process that attached it; then it stays, also without anybody who has it open, until
//! the last target is gone.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use lustre::sys::{self, Kind, LoopDevice, LoopOptions, Stat};
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use rustix::io::retry_on_intr;

use crate::error::Error;
use crate::mountinfo;
use crate::mounts::Target;
use crate::turns::{Turn, Turns};

/// What is read twice to prove a device, at both ends.
const PROOF: u64 = 4096;
/// Somebody else may write to the file between the two reads.
const PROOFS: u32 = 8;
/// A device that was found may be detached before its turn comes.
const TRIES: u32 = 8;
/// Loop devices are made of whole sectors.
const SECTOR: u64 = 512;

/// Who works on what on this node. A file's turn is taken before a device's.
static TURNS: Turns<Key> = Turns::new();

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    File { dev: u64, ino: u64 },
    Device(u64),
}

fn kept(read_only: bool) -> LoopOptions {
    LoopOptions { read_only, autoclear: false }
}

/// Shows the raw disk `image` at `target` as a block device. Done already: nothing happens.
///
/// `image` is open for writing unless `read_only`. `dev` is the directory of device nodes: `/dev`, or where the
/// host's is.
pub fn publish(image: BorrowedFd<'_>, target: &Target, read_only: bool, dev: &Path) -> Result<(), Error> {
    let disk = check_image(image)?;
    let _turn = TURNS.take(Key::File { dev: disk.dev, ino: disk.ino });
    target.make_file()?;
    let place = target.open_file()?;
    if is_published(image, place.as_fd(), target, read_only)? {
        return Ok(());
    }
    let device = Held::of(image, &disk, read_only, dev)?;
    show(&device.device, place.as_fd()).map_err(|error| {
        // One that others use is not taken from them.
        if let Err(error) = device.release(target) {
            tracing::warn!(%target, %error, "a loop device stays that nobody uses");
        }
        Error::Io(format!("cannot attach the disk's device at {target}"), error)
    })
}

fn check_image(image: BorrowedFd<'_>) -> Result<Stat, Error> {
    let disk = sys::stat(image).map_err(Error::io("cannot look at the disk"))?;
    if disk.kind != Kind::File || disk.size == 0 || !disk.size.is_multiple_of(SECTOR) {
        return Err(Error::Precondition(format!(
            "the disk is no file of whole sectors of {SECTOR} bytes: {:?} of {} bytes",
            disk.kind, disk.size
        )));
    }
    Ok(disk)
}

fn is_published(
    image: BorrowedFd<'_>,
    place: BorrowedFd<'_>,
    target: &Target,
    read_only: bool,
) -> Result<bool, Error> {
    let looked = || Error::io(format!("cannot look at the target {target}"));
    if !sys::mount_point(place).map_err(looked())?.mounted {
        return Ok(false);
    }
    let device = LoopDevice::of_node(place).map_err(looked())?;
    let is = |read_only| device.as_ref().map_or(Ok(false), |device| device.is_of(image, kept(read_only)));
    if is(read_only).map_err(looked())? {
        return Ok(true);
    }
    let otherwise = is(!read_only).map_err(looked())?;
    let there = match (otherwise, read_only) {
        (false, _) => "something else is mounted",
        (true, true) => "the disk is published for writing already",
        (true, false) => "the disk is published read-only already",
    };
    Err(Error::Exists(format!("{there} at {target}")))
}

/// A device, and the right to mount or detach it.
pub(crate) struct Held {
    device: LoopDevice,
    _turn: Turn<'static, Key>,
}

impl Held {
    fn take(device: LoopDevice) -> Held {
        let turn = TURNS.take(Key::Device(device.number()));
        Held { device, _turn: turn }
    }

    /// The device of `image`: found, or attached and proven.
    fn of(image: BorrowedFd<'_>, disk: &Stat, read_only: bool, dev: &Path) -> Result<Held, Error> {
        for _ in 0..TRIES {
            let Some(found) = find(image, read_only, dev)? else {
                return Held::attach(image, disk, read_only, dev);
            };
            let held = Held::take(found);
            // It may have been detached meanwhile.
            if held.device.is_of(image, kept(read_only)).is_ok_and(|same| same) {
                grow(&held.device, disk)?;
                return Ok(held);
            }
        }
        Err(Error::Aborted("the disk's loop device is being detached".into()))
    }

    fn attach(image: BorrowedFd<'_>, disk: &Stat, read_only: bool, dev: &Path) -> Result<Held, Error> {
        let passing = LoopOptions { read_only, autoclear: true };
        let attached = sys::loop_attach(dev, image, passing);
        let held = Held::take(attached.map_err(Error::io("cannot attach the disk to a loop device"))?);
        prove(&held.device, image, disk)?;
        held.device.keep().map_err(Error::io("cannot keep the disk's loop device"))?;
        Ok(held)
    }

    /// Detaches the device unless it is mounted somewhere other than at `target`. Who has it open keeps it until
    /// it is closed.
    fn release(&self, target: &Target) -> io::Result<()> {
        if is_elsewhere(self.device.number(), target)? { Ok(()) } else { self.device.detach() }
    }
}

/// That what is read through the device is what is read through another open of the file: from kernel pages
/// some file systems read wrong data.
pub(crate) fn prove(device: &LoopDevice, image: BorrowedFd<'_>, disk: &Stat) -> Result<(), Error> {
    let tried = || Error::io("cannot prove the disk's loop device");
    let file = sys::reopen_read(image).map_err(tried())?;
    for _ in 0..PROOFS {
        if reads_the_same(device, file.as_fd(), disk.size).map_err(tried())? {
            return Ok(());
        }
    }
    Err(Error::Precondition(
        "through a loop device other data is read than through the file: on this node the share cannot have \
         volumes of volumeMode Block or of quota: image"
            .into(),
    ))
}

fn reads_the_same(device: &LoopDevice, file: BorrowedFd<'_>, size: u64) -> io::Result<bool> {
    if device.size()? != size {
        return Ok(false);
    }
    device.flush_buffers()?;
    let len = PROOF.min(size);
    for offset in [0, size - len] {
        if read(device.as_fd(), offset, len)? != read(file, offset, len)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read(from: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let mut done = 0;
    while done < bytes.len() {
        let count =
            rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut bytes[done..], offset + done as u64))?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        done += count;
    }
    Ok(bytes)
}

fn show(device: &LoopDevice, place: BorrowedFd<'_>) -> io::Result<()> {
    let tree = sys::clone_tree(device.as_fd())?;
    sys::allow_device(tree.as_fd())?;
    sys::attach(tree.as_fd(), place)
}

pub(crate) fn grow(device: &LoopDevice, disk: &Stat) -> Result<(), Error> {
    let grown = || if device.size()? < disk.size { device.set_capacity() } else { Ok(()) };
    grown().map_err(Error::io("cannot grow the disk's loop device"))
}

/// Makes the devices that `image` has on this node as large as it is now.
pub fn expand(image: BorrowedFd<'_>, dev: &Path) -> Result<(), Error> {
    let disk = check_image(image)?;
    devices(image, dev)?.iter().try_for_each(|device| grow(device, &disk))
}

/// Where the raw disk `image` is shown as a block device.
pub fn points(image: BorrowedFd<'_>, dev: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut points = Vec::new();
    for device in devices(image, dev)? {
        points.extend(points_of(device.number()).map_err(Error::io("cannot look for the disk's targets"))?);
    }
    Ok(points)
}

/// The devices that `image` has on this node: to write, and to read only.
fn devices(image: BorrowedFd<'_>, dev: &Path) -> Result<Vec<LoopDevice>, Error> {
    let found = [false, true].into_iter().map(|read_only| find(image, read_only, dev));
    Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

fn find(image: BorrowedFd<'_>, read_only: bool, dev: &Path) -> Result<Option<LoopDevice>, Error> {
    sys::loop_find(dev, image, kept(read_only)).map_err(Error::io("cannot look for the disk's loop device"))
}

/// That `image` is shown at `path`, and how many bytes it has there.
pub fn check_published(image: BorrowedFd<'_>, path: &Target) -> Result<u64, Error> {
    let missing = || Error::NotFound(format!("the disk is not published at {path}"));
    let looked = || Error::io(format!("cannot look at {path}"));
    let place = match path.open_node() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        opened => opened.map_err(looked())?,
    };
    let device = LoopDevice::of_node(place.as_fd()).map_err(looked())?.ok_or_else(missing)?;
    for read_only in [false, true] {
        if device.is_of(image, kept(read_only)).map_err(looked())? {
            return device.size().map_err(looked());
        }
    }
    Err(missing())
}

/// Before what is mounted at `target` goes: if it is a loop device that nothing else on this node shows, it is
/// detached. Nobody else mounts or detaches it until what this returns is dropped.
///
/// Detached first, because once the mount is gone nobody would know of the device.
pub(crate) fn release(target: &Target) -> io::Result<Option<Held>> {
    if !is_block(target) {
        return Ok(None);
    }
    let node = target.open_node()?;
    if !sys::mount_point(node.as_fd())?.mounted {
        return Ok(None);
    }
    let Some(device) = LoopDevice::of_node(node.as_fd())? else { return Ok(None) };
    drop(node);
    let held = Held::take(device);
    held.release(target)?;
    Ok(Some(held))
}

/// Without asking a server: what is there may be a directory of a share that does not answer. What cannot even be
/// looked at is none of ours, and goes all the same.
fn is_block(target: &Target) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let there = retry_on_intr(|| statx(CWD, target.path(), flags, StatxFlags::TYPE));
    there.is_ok_and(|is| FileType::from_raw_mode(is.stx_mode.into()) == FileType::BlockDevice)
}

/// Whether the node of the device `number` is mounted anywhere other than at `target`.
fn is_elsewhere(number: u64, target: &Target) -> io::Result<bool> {
    Ok(!target.others(points_of(number)?).is_empty())
}

/// Where the node of the device `number` is mounted.
fn points_of(number: u64) -> io::Result<Vec<PathBuf>> {
    let mut mounts = mountinfo::read()?;
    // Only devices' nodes are looked at: other mounts may not answer.
    mounts.retain(|mount| {
        mount.root.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"loop"))
            && fs::symlink_metadata(&mount.point).is_ok_and(|is| is.rdev() == number && is_device(&is))
    });
    Ok(mounts.into_iter().map(|mount| mount.point).collect())
}

fn is_device(is: &fs::Metadata) -> bool {
    FileType::from_raw_mode(is.mode()) == FileType::BlockDevice
}
