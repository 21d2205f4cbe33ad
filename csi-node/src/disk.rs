//! A virtual machine's disk: a directory with exactly one raw file. Everything here blocks.
//!
//! It is built where nobody else is, and renamed into place: there is never half a disk under a volume's path.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use lustre::sys::{self, Kind, OFlags, Symlinks};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::convert::{self, Format};
use crate::error::Error;
use crate::parameters::Disk;
use crate::path::SubPath;
use crate::tree::{Made, Owner, Tree, own};

/// The file, as `KubeVirt` looks for it.
pub const FILE: &str = "disk.img";

/// A disk has whole blocks of this many bytes.
pub const BLOCK: u64 = 4096;

/// How often a long copy says how far it is.
const TOLD: Duration = Duration::from_secs(10);

/// Makes the directory `path` with a disk of `size` bytes. One that is there is whole, and is left as it is.
pub fn make(tree: &Tree, path: &SubPath, owner: Owner, size: u64, disk: &Disk) -> Result<Made, Error> {
    if tree.open(path).is_ok() {
        return Ok(Made::Existing);
    }
    let (parent, name) = path.split().ok_or_else(|| Error::Invalid("a disk is no whole share".into()))?;
    tree.make(&parent, Owner::between())?;
    let parent = tree.open(&parent).map_err(Error::io("cannot open the disk's parent"))?;
    let store = tree.make_store()?;
    let temporary =
        tree.fs().temporary_name(name.as_bytes()).map_err(Error::io("cannot name a directory"))?;
    let built = build(tree, store.staging(), &temporary, owner, size, disk).and_then(|()| {
        sys::rename_exclusive_at(store.staging(), &temporary, parent.as_fd(), name.as_bytes())
            .map_err(Error::io(format!("cannot put the disk at {path}")))
    });
    if let Err(error) = built {
        remove(store.staging(), &temporary);
        return Err(error);
    }
    let durable = tree.fs().persist(parent.as_fd(), None);
    durable.map(|()| Made::New).map_err(Error::io("cannot make the disk's name durable"))
}

fn build(
    tree: &Tree,
    staging: BorrowedFd<'_>,
    name: &[u8],
    owner: Owner,
    size: u64,
    disk: &Disk,
) -> Result<(), Error> {
    let made = sys::make_dir_at(staging, name, 0o700).and_then(|()| open_directory(staging, name));
    let directory = made.map_err(Error::io("cannot make the disk's directory"))?;
    let file = tree.fs().create(directory.as_fd(), FILE.as_bytes(), 0o600, Some(size));
    let file = file.map_err(Error::io(format!("cannot make {FILE}")))?;
    if let Some((source, format)) = &disk.source {
        fill(tree, &file, source, *format, size)?;
    }
    resize(&file, size, disk.thick)?;
    own(file.as_fd(), Owner { mode: owner.mode & 0o666, ..owner })
        .and_then(|()| sys::fsync(file.as_fd()))
        .and_then(|()| own(directory.as_fd(), owner))
        .and_then(|()| sys::fsync(directory.as_fd()))
        .map_err(Error::io("cannot finish the disk"))
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    sys::open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Symlinks::Never)
}

fn remove(staging: BorrowedFd<'_>, name: &[u8]) {
    // What is left is put in the trash one day.
    let _ = open_directory(staging, name).and_then(|directory| {
        let _ = sys::unlink_at(directory.as_fd(), FILE.as_bytes());
        sys::remove_dir_at(staging, name)
    });
}

fn fill(tree: &Tree, file: &File, source: &SubPath, format: Format, size: u64) -> Result<(), Error> {
    let from =
        open_file(tree.root(), source.as_str(), OFlags::RDONLY).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound(format!("there is no source {source} on the share")),
            _ => Error::Precondition(format!("cannot use the source {source}: {error}")),
        })?;
    let mut told = Instant::now();
    let mut progress = |done: u64| {
        if told.elapsed() > TOLD {
            told = Instant::now();
            tracing::info!(%source, done, size, "filling a disk");
        }
    };
    convert::convert(from, format, file, size, &mut progress).map(|_| ())
}

/// Opens a file; `EINVAL` if it is none, without waiting for what else it may be.
fn open_file(dir: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<File> {
    let file = sys::open_beneath(dir, path.as_bytes(), flags | OFlags::NONBLOCK, Symlinks::Never)?;
    if sys::stat(file.as_fd())?.kind != Kind::File {
        return Err(Errno::INVAL.into());
    }
    Ok(file.into())
}

/// Opens the disk in its directory.
pub fn open(directory: BorrowedFd<'_>, writes: bool) -> Result<File, Error> {
    let flags = if writes { OFlags::RDWR } else { OFlags::RDONLY };
    open_file(directory, FILE, flags).map_err(Error::io(format!("cannot open {FILE} of the volume")))
}

/// Makes the disk larger, never smaller. `thick`: all of it takes space from now on, or nothing changes.
pub fn resize(file: &File, size: u64, thick: bool) -> Result<(), Error> {
    let before = sys::stat(file.as_fd()).map_err(Error::io(format!("cannot look at {FILE}")))?.size;
    if thick {
        return allocate(file, before, size);
    }
    if before < size {
        file.set_len(size).map_err(Error::io(format!("cannot make {FILE} {size} bytes long")))?;
    }
    Ok(())
}

fn allocate(file: &File, before: u64, size: u64) -> Result<(), Error> {
    let allocated =
        rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size));
    let Err(error) = allocated else { return Ok(()) };
    // A failed allocation may leave the length, and blocks, behind.
    let undone = file.set_len(before);
    undone.map_err(Error::io(format!("cannot take back what could not be allocated of {FILE}")))?;
    if error == Errno::OPNOTSUPP {
        return Err(Error::Invalid(
            "allocation: thick is not possible on this file system, which cannot reserve space; use thin"
                .into(),
        ));
    }
    Err(Error::Io(format!("cannot allocate {size} bytes for {FILE}"), error.into()))
}

#[cfg(test)]
#[path = "tests/disk.rs"]
mod tests;
