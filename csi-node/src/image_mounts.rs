//! Showing a volume that is an image to a pod: a loop device, ext4 mounted from it, and the volume's directory of
//! that bound to the target. Everything here blocks.
//!
//! One image has one device and one file system on a node, however often it is mounted. Nothing is remembered: the
//! device goes by itself with its last mount, also when this driver is dead.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lustre::sys::{self, Ext4, LoopDevice, LoopOptions, OFlags, Symlinks};
use rustix::io::Errno;

use crate::block;
use crate::error::Error;
use crate::image::{self, BLOCK, ROOT};
use crate::mountinfo;
use crate::mounts::Target;
use crate::tree::open_directory;
use crate::turns::Turns;

const ATTACHED: LoopOptions = LoopOptions { read_only: false, autoclear: true };
/// Of the root of an ext4.
const ROOT_INO: u64 = 2;
/// How often a file system may turn out to be too small still.
const TRIES: u32 = 8;
/// How long a file system may take to write back what it has when its last mount is gone.
const LINGER: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// Who works on which image of this node: its device and inode.
static TURNS: Turns<(u64, u64)> = Turns::new();

/// An open image, and where it is used.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The file, open for writing.
    pub file: BorrowedFd<'a>,
    /// What its users are to have.
    pub capacity: u64,
    /// The directory of device nodes.
    pub dev: &'a Path,
    /// The host's root, where its programs are.
    pub host: &'a Path,
}

/// What is at a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum There {
    Nothing,
    Volume {
        read_only: bool,
    },
    /// All of the file system: a call was interrupted.
    Whole,
    Other,
}

/// Mounts the volume at `target`, as large as it is to be. Done already: nothing happens.
pub fn publish(image: &Image<'_>, target: &Target, read_only: bool) -> Result<(), Error> {
    let key = key(image)?;
    let _turn = TURNS.take(key);
    target.make()?;
    let looked = || Error::io(format!("cannot look at the target {target}"));
    match there(image, target).map_err(looked())? {
        There::Nothing => {}
        There::Volume { read_only: is } if is == read_only => return Ok(()),
        There::Volume { read_only: is } => {
            let how = if is { "read-only" } else { "for writing" };
            return Err(Error::Exists(format!("the volume is published at {target} already, {how}")));
        }
        There::Whole => drop(sys::detach(target.bytes()).map_err(looked())?),
        There::Other => return Err(Error::Exists(format!("something else is mounted at {target}"))),
    }
    let (_device, root) = open_sized(image, InUse::Stays)?;
    let place = target.open().map_err(Error::io(format!("cannot open the target {target}")))?;
    show(root.as_fd(), target, place.as_fd(), read_only)
        .map_err(Error::io(format!("cannot attach the volume at {target}")))
}

fn key(image: &Image<'_>) -> Result<(u64, u64), Error> {
    let is = sys::stat(image.file).map_err(Error::io("cannot look at the volume's image"))?;
    Ok((is.dev, is.ino))
}

fn there(image: &Image<'_>, target: &Target) -> io::Result<There> {
    let place = target.open()?;
    let mount = sys::mount_point(place.as_fd())?;
    if !mount.mounted {
        return Ok(There::Nothing);
    }
    let is = sys::stat(place.as_fd())?;
    let device = sys::loop_find(image.dev, image.file, ATTACHED)?;
    Ok(match device {
        Some(device) if device.number() == is.dev && is.ino == ROOT_INO => There::Whole,
        Some(device) if device.number() == is.dev => There::Volume { read_only: mount.read_only },
        _ => There::Other,
    })
}

/// The volume's directory can only be cloned where the file system is attached: so that is, for a moment, at the
/// target, which no pod has yet.
fn show(root: BorrowedFd<'_>, target: &Target, place: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    sys::restrict(root, read_only)?;
    sys::attach(root, place)?;
    let tree = open_directory(root, ROOT).and_then(|volume| sys::clone_tree(volume.as_fd()));
    sys::detach(target.bytes())?;
    let tree = tree?;
    sys::restrict(tree.as_fd(), read_only)?;
    sys::attach(tree.as_fd(), place)
}

/// What becomes of a file system that is too small, in use, and that this driver may not grow then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InUse {
    /// It stays as it is until it is in use no more.
    Stays,
    Refused,
}

/// The file system, mounted where nobody sees it, once it is as large as it is to be.
fn open_sized(image: &Image<'_>, in_use: InUse) -> Result<(LoopDevice, OwnedFd), Error> {
    for _ in 0..TRIES {
        let device = attach(image)?;
        let root = mount(image, &device)?;
        let asked = || Error::io("cannot ask how large the volume's file system is");
        let shown = sys::statfs(root.as_fd()).map_err(asked())?.total;
        let missing = image::shown(image.capacity).saturating_sub(shown);
        if missing == 0 {
            return Ok((device, root));
        }
        let blocks = image::larger(Ext4::read(device.as_fd()).map_err(asked())?.blocks, missing);
        if blocks * BLOCK > device.size().map_err(asked())? {
            return Err(Error::Aborted("the volume's image is shorter than the volume is to be".into()));
        }
        let directory = sys::open_beneath(root.as_fd(), b".", OFlags::RDONLY, Symlinks::Never);
        match directory.and_then(|directory| sys::resize_ext4(directory.as_fd(), blocks)) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {
                let used = !points_of(&device)?.is_empty();
                match (used, in_use) {
                    (true, InUse::Stays) => return Ok((device, root)),
                    (true, InUse::Refused) => return Err(not_in_use()),
                    (false, _) => drop((root, device)),
                }
                await_gone(image)?;
                image::resize_unmounted(image.host, image.file, blocks)?;
            }
            resized => resized.map_err(Error::io(
                "cannot grow the volume's file system (if it was damaged: e2fsck -f, while no pod has it)",
            ))?,
        }
    }
    Err(Error::Aborted("the volume's file system does not become as large as it is to be".into()))
}

fn not_in_use() -> Error {
    Error::Precondition(
        "a volume grows while pods have it only where the driver has CAP_SYS_RESOURCE; it grows when its pods are gone \
         and the next one comes"
            .into(),
    )
}

/// The image's device, which stays while what this returns is open or its file system is mounted.
fn attach(image: &Image<'_>) -> Result<LoopDevice, Error> {
    let is = sys::stat(image.file).map_err(Error::io("cannot look at the volume's image"))?;
    if let Some(device) = find(image)? {
        block::grow(&device, &is)?;
        return Ok(device);
    }
    let attached = sys::loop_attach(image.dev, image.file, ATTACHED)
        .map_err(Error::io("cannot attach the volume's image to a loop device"))?;
    block::prove(&attached, image.file, &is)?;
    // Some kernels mount nothing that somebody has open for writing.
    attached.reader().map_err(Error::io("cannot open the volume's loop device"))
}

fn find(image: &Image<'_>) -> Result<Option<LoopDevice>, Error> {
    sys::loop_find(image.dev, image.file, ATTACHED)
        .map_err(Error::io("cannot look for the volume's loop device"))
}

fn mount(image: &Image<'_>, device: &LoopDevice) -> Result<OwnedFd, Error> {
    let mounted = device.node_in(image.dev).and_then(|node| {
        let root = sys::mount_ext4(&node)?;
        let right = sys::stat(root.as_fd())?.dev == device.number();
        right.then_some(root).ok_or_else(|| io::Error::other("another device was mounted"))
    });
    mounted.map_err(|error| {
        Error::Precondition(format!(
            "cannot mount the volume's file system: {error}; another node may have it, or it is damaged (e2fsck -f, \
             while no pod has it); the kernel's log says more"
        ))
    })
}

/// Has the volume's file system grow, which is published at `path`.
pub fn expand(image: &Image<'_>, path: &Target) -> Result<(), Error> {
    let _turn = TURNS.take(key(image)?);
    check_published(image, path)?;
    open_sized(image, InUse::Refused).map(drop)
}

/// That the volume is mounted at `path`.
pub fn check_published(image: &Image<'_>, path: &Target) -> Result<(), Error> {
    match there(image, path) {
        Ok(There::Volume { .. }) => Ok(()),
        Ok(_) => Err(Error::NotFound(format!("the volume is not published at {path}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::NotFound(format!("there is nothing at {path}")))
        }
        Err(error) => Err(Error::Io(format!("cannot look at {path}"), error)),
    }
}

/// Where the image's file system is mounted.
pub fn points(image: &Image<'_>) -> Result<Vec<PathBuf>, Error> {
    find(image)?.map_or(Ok(Vec::new()), |device| points_of(&device))
}

fn points_of(device: &LoopDevice) -> Result<Vec<PathBuf>, Error> {
    mountinfo::of_device(device.number()).map_err(Error::io("cannot look where the volume is mounted"))
}

/// Waits until nothing of the image is on its way to the file any more: its last mount is gone, but a process may
/// have a file of it open, or another mount namespace the mount.
pub fn await_gone(image: &Image<'_>) -> Result<(), Error> {
    let start = Instant::now();
    while find(image)?.is_some() {
        if start.elapsed() > LINGER {
            return Err(Error::Aborted(
                "the volume's file system is still in use on this node: a process has a file of it open, or a \
                 container that sees the host's mounts has kept it"
                    .into(),
            ));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
