//! Showing a volume to a pod: one bind mount of its own directory. Everything here blocks. Disks as block
//! devices are [`block`]'s, volumes that are images [`image_mounts`](crate::image_mounts)'; taking away is the same for
//! all.
//!
//! The mount is made detached, restricted, and only then attached: there is no moment at which a read-only
//! volume could be written to. What it covers is hidden before the call answers, so before a pod sees it.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use lustre::sys::{self, Kind, Mode, OFlags};
use rustix::fs::CWD;

use crate::block;
use crate::error::Error;
use crate::store;
use crate::tree::open_directory;

/// More mounts are never on top of one another.
const STACKED: usize = 64;

/// A target path that may be one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    path: PathBuf,
    /// All targets of this node lie beneath it, where it is known.
    within: Option<PathBuf>,
}

impl Target {
    /// An absolute path in normal form, beneath `within` if that is given.
    pub fn parse(field: &str, text: &str, within: Option<&Path>) -> Result<Target, Error> {
        if text.is_empty() {
            return Err(Error::Invalid(format!("{field} is missing")));
        }
        let path = Path::new(text);
        let mut parts = path.components();
        let rooted = parts.next() == Some(Component::RootDir);
        let normal =
            rooted && parts.clone().count() > 0 && parts.all(|part| matches!(part, Component::Normal(_)));
        if !normal || text.contains('\0') || text.len() > 4095 {
            return Err(Error::Invalid(format!("{field} {text:?} is not an absolute path in normal form")));
        }
        if let Some(within) = within.filter(|within| !path.starts_with(within)) {
            return Err(Error::Invalid(format!("{field} {text:?} is not beneath {}", within.display())));
        }
        Ok(Target { path: path.into(), within: within.map(Into::into) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Those of `points` that are targets too, but others. What is mounted elsewhere is how the host has its mounts.
    pub(crate) fn others(&self, points: Vec<PathBuf>) -> Vec<PathBuf> {
        let mut others = points;
        others.retain(|point| {
            *point != self.path && self.within.as_ref().is_none_or(|within| point.starts_with(within))
        });
        others
    }

    /// Whether a directory, or what is mounted on one, is there.
    pub fn is_directory(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|is| is.is_dir())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }

    /// The directory, or the root of what is mounted on it.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        self.open_path(OFlags::DIRECTORY)
    }

    /// The file or device node, or whatever is there.
    pub(crate) fn open_node(&self) -> io::Result<OwnedFd> {
        self.open_path(OFlags::empty())
    }

    fn open_path(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::io::retry_on_intr(|| rustix::fs::openat(CWD, &*self.path, flags, Mode::empty()))?)
    }

    /// The empty file that [`make_file`](Target::make_file) made, or what is mounted on it.
    pub(crate) fn open_file(&self) -> Result<OwnedFd, Error> {
        let looked = || Error::io(format!("cannot open the target {self}"));
        let place = self.open_node().map_err(looked())?;
        let there = sys::stat(place.as_fd()).map_err(looked())?;
        let mounted = sys::mount_point(place.as_fd()).map_err(looked())?.mounted;
        if mounted || (there.kind == Kind::File && there.size == 0) {
            return Ok(place);
        }
        Err(Error::Exists(format!("at the target {self} is something else than an empty file")))
    }

    pub(crate) fn make(&self) -> Result<(), Error> {
        match fs::DirBuilder::new().mode(0o750).create(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::Io(format!("cannot make the target {}", self.path.display()), error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn make_file(&self) -> Result<(), Error> {
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::Io(format!("cannot make the target {self}"), error))
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.display().fmt(f)
    }
}

/// Mounts the directory `volume` at `target`. Done already: nothing happens.
///
/// `nested` are the places beneath the volume where shares are; their records are covered.
pub fn publish(
    volume: BorrowedFd<'_>,
    target: &Target,
    read_only: bool,
    nested: &[String],
) -> Result<(), Error> {
    if !read_only
        && sys::mount_point(volume).map_err(Error::io("cannot look at the share's mount"))?.read_only
    {
        return Err(Error::Precondition("the share is mounted read-only on this node".into()));
    }
    target.make()?;
    let place = target.open().map_err(Error::io(format!("cannot open the target {target}")))?;
    if is_published(volume, place.as_fd(), target, read_only)? {
        return cover(target, nested);
    }
    let tree = sys::clone_tree(volume).map_err(Error::io("cannot clone the volume's directory"))?;
    sys::restrict(tree.as_fd(), read_only).map_err(Error::io("cannot restrict the volume's mount"))?;
    sys::attach(tree.as_fd(), place.as_fd())
        .map_err(Error::io(format!("cannot attach the volume at {target}")))?;
    cover(target, nested).inspect_err(|_| {
        // Better not published than with the records in sight; the call says what went wrong.
        let _ = sys::detach(target.bytes());
    })
}

fn is_published(
    volume: BorrowedFd<'_>,
    place: BorrowedFd<'_>,
    target: &Target,
    read_only: bool,
) -> Result<bool, Error> {
    let looked = Error::io(format!("cannot look at the target {target}"));
    let (mount, same) =
        sys::mount_point(place).and_then(|mount| Ok((mount, same(volume, place)?))).map_err(looked)?;
    match (mount.mounted, same) {
        (false, _) => Ok(false),
        (true, false) => Err(Error::Exists(format!("something else is mounted at {target}"))),
        (true, true) if mount.read_only == read_only => Ok(true),
        (true, true) => Err(Error::Exists(format!(
            "the volume is published at {target} already, {}",
            if mount.read_only { "read-only" } else { "for writing" }
        ))),
    }
}

/// Whether two descriptors are of one directory.
fn same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
    let (a, b) = (sys::stat(a)?, sys::stat(b)?);
    Ok((a.dev, a.ino) == (b.dev, b.ino))
}

/// Mounts an empty directory on each directory of records.
fn cover(target: &Target, nested: &[String]) -> Result<(), Error> {
    let covered = || {
        let root = target.open()?;
        nested.iter().try_for_each(|share| cover_one(root.as_fd(), share))
    };
    covered().map_err(Error::io(format!("cannot cover {} of the volume at {target}", store::DIRECTORY)))
}

fn cover_one(root: BorrowedFd<'_>, share: &str) -> io::Result<()> {
    let path =
        if share.is_empty() { store::DIRECTORY.to_owned() } else { format!("{share}/{}", store::DIRECTORY) };
    let records = match open_directory(root, &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    if sys::mount_point(records.as_fd())?.mounted {
        return Ok(());
    }
    sys::attach(sys::empty_tree()?.as_fd(), records.as_fd())
}

/// Takes everything away that is mounted at `target`, with the loop device if it is one's last target, and the
/// directory or file that it was mounted on. Done already: nothing happens.
pub fn unpublish(target: &Target) -> Result<(), Error> {
    for _ in 0..STACKED {
        let released = block::release(target);
        let _held = released.map_err(Error::io(format!("cannot detach the loop device at {target}")))?;
        let detached = sys::detach(target.bytes());
        let detached = detached.map_err(Error::io(format!("cannot detach what is mounted at {target}")))?;
        let removed = remove(target);
        // What is in the way may be another mount, below the one that went.
        if removed.is_ok() || !detached {
            return removed;
        }
    }
    remove(target)
}

/// Never more than an empty directory or an empty file: what is in it is not ours.
fn remove(target: &Target) -> Result<(), Error> {
    match fs::remove_dir(&target.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => remove_file(target),
        removed => removed.map_err(Error::io(format!("cannot remove the directory {target}"))),
    }
}

fn remove_file(target: &Target) -> Result<(), Error> {
    let tried = || Error::io(format!("cannot remove the file {target}"));
    let is = fs::symlink_metadata(&target.path).map_err(tried())?;
    if !is.is_file() || is.len() > 0 {
        // Nor more than an empty file.
        return Err(Error::Precondition(format!("{target} is no directory and no empty file: not removed")));
    }
    fs::remove_file(&target.path).map_err(tried())
}

/// That `path` is where the directory `volume` is mounted.
pub fn check_published(volume: BorrowedFd<'_>, path: &Target) -> Result<(), Error> {
    let there =
        path.open().and_then(|place| Ok((same(volume, place.as_fd())?, sys::mount_point(place.as_fd())?)));
    match there {
        Ok((true, mount)) if mount.mounted => Ok(()),
        Ok(_) => Err(Error::NotFound(format!("the volume is not published at {path}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::NotFound(format!("there is nothing at {path}")))
        }
        Err(error) => Err(Error::Io(format!("cannot look at {path}"), error)),
    }
}
