//! The records of a share's volumes, in the driver's own directory on the share.
//!
//! ```text
//! .lb~dcsi/             root's alone, shown by no volume
//!     volumes/UUID.json a record
//!     trash/            directories of deleted volumes, on their way to be removed
//!     new/              directories that are being made
//!     leases/UUID       which node writes to a volume
//!     nodes/NAME        that a node with leases is alive
//!     images/UUID.img   the file system that is a volume's
//! ```

use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use lustre::fs::FileSystem;
use lustre::sys::{self, OFlags, Symlinks};
use rustix::io::Errno;

use crate::error::Error;
use crate::id::Uuid;
use crate::path::SubPath;
use crate::record::Record;
use crate::tree::{Tree, enter_private, is_ours, open_directory};

/// The driver's directory at the root of each share.
pub const DIRECTORY: &str = ".lb~dcsi";
const VOLUMES: &str = "volumes";
const TRASH: &str = "trash";
const STAGING: &str = "new";
/// Which node writes to a volume.
pub const LEASES: &str = "leases";
/// The file systems of volumes.
pub const IMAGES: &str = "images";
/// Which nodes are alive.
pub const NODES: &str = "nodes";
const SUFFIX: &str = ".json";
/// What temporary names begin with.
const TEMPORARY: &str = ".lb~t";
/// No record is longer by far.
const LONGEST: u64 = 64 * 1024;

/// The opened directory of records.
#[derive(Debug)]
pub struct Store {
    top: OwnedFd,
    volumes: OwnedFd,
    trash: OwnedFd,
    staging: OwnedFd,
    fs: Arc<dyn FileSystem>,
}

impl Store {
    /// `None` where nothing was recorded yet.
    pub(crate) fn open(tree: &Tree) -> Result<Option<Store>, Error> {
        let opened = open_directory(tree.root(), DIRECTORY);
        if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let top = opened.map_err(Error::io(format!("cannot open {DIRECTORY}")))?;
        check_ours(top.as_fd(), DIRECTORY)?;
        match open_parts(top.as_fd()) {
            Ok([volumes, trash, staging]) => {
                Ok(Some(Store { top, volumes, trash, staging, fs: Arc::clone(tree.fs()) }))
            }
            // It was being made when the driver was stopped, and nothing can be in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::Io(format!("cannot open what is in {DIRECTORY}"), error)),
        }
    }

    pub(crate) fn make(tree: &Tree) -> Result<Store, Error> {
        if let Some(store) = Store::open(tree)? {
            return Ok(store);
        }
        let top = enter_private(&**tree.fs(), tree.root(), DIRECTORY)?;
        // The records come last: where they are, the rest is.
        let trash = enter_private(&**tree.fs(), top.as_fd(), TRASH)?;
        let staging = enter_private(&**tree.fs(), top.as_fd(), STAGING)?;
        let volumes = enter_private(&**tree.fs(), top.as_fd(), VOLUMES)?;
        Ok(Store { top, volumes, trash, staging, fs: Arc::clone(tree.fs()) })
    }

    /// The directory of what not every share has: [`LEASES`], [`NODES`], [`IMAGES`]. `None` where it was not needed yet.
    pub fn part(&self, name: &str) -> Result<Option<OwnedFd>, Error> {
        match open_directory(self.top.as_fd(), name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some).map_err(Error::io(format!("cannot open {DIRECTORY}/{name}"))),
        }
    }

    /// As [`part`](Store::part), made when it is missing.
    pub fn make_part(&self, name: &str) -> Result<OwnedFd, Error> {
        enter_private(&*self.fs, self.top.as_fd(), name)
    }

    /// What differs between file systems.
    pub fn fs(&self) -> &dyn FileSystem {
        &*self.fs
    }

    /// Where directories are made before they are renamed into place.
    pub fn staging(&self) -> BorrowedFd<'_> {
        self.staging.as_fd()
    }

    /// Where deleted volumes go.
    pub fn trash(&self) -> BorrowedFd<'_> {
        self.trash.as_fd()
    }

    /// The record of a volume, if there is one.
    pub fn read(&self, uuid: &Uuid) -> Result<Option<Record>, Error> {
        let bytes = match self.read_bytes(&file_name(uuid)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(Error::io(format!("cannot read the record of volume {uuid}")))?,
        };
        let record = Record::from_bytes(&bytes).map_err(|error| {
            Error::Precondition(format!(
                "the record {DIRECTORY}/{VOLUMES}/{uuid}{SUFFIX} is of no use: {error}"
            ))
        })?;
        Ok(Some(record))
    }

    fn read_bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = sys::open_beneath(self.volumes.as_fd(), name.as_bytes(), flags, Symlinks::Never)?;
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(LONGEST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes a record, durable when this returns.
    pub fn write(&self, uuid: &Uuid, record: &Record) -> Result<(), Error> {
        let bytes = record.to_bytes().map_err(|error| Error::Invalid(error.to_string()))?;
        self.write_bytes(&file_name(uuid), &bytes)
            .map_err(Error::io(format!("cannot write the record of volume {uuid}")))
    }

    fn write_bytes(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let volumes = self.volumes.as_fd();
        let temporary = self.fs.temporary_name(name.as_bytes())?;
        let mut file = self.fs.create(volumes, &temporary, 0o600, Some(bytes.len() as u64))?;
        let written = file
            .write_all(bytes)
            .and_then(|()| sys::fsync(file.as_fd()))
            .and_then(|()| sys::rename_at(volumes, &temporary, volumes, name.as_bytes()));
        if written.is_err() {
            // What went wrong is said; a leftover is removed at the next start.
            let _ = sys::unlink_at(volumes, &temporary);
        }
        written?;
        self.fs.persist(volumes, Some(file.as_fd()))
    }

    /// Removes a record, durably; one that is gone is no error.
    pub fn remove(&self, uuid: &Uuid) -> Result<(), Error> {
        let volumes = self.volumes.as_fd();
        let removed = match sys::unlink_at(volumes, file_name(uuid).as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        removed
            .and_then(|()| self.fs.persist(volumes, None))
            .map_err(Error::io(format!("cannot remove the record of volume {uuid}")))
    }

    /// The ids that have a record, in order.
    pub fn list(&self) -> Result<Vec<Uuid>, Error> {
        let mut found = Vec::new();
        for_each_name(self.volumes.as_fd(), |name| {
            found.extend(name.strip_suffix(SUFFIX).and_then(Uuid::parse));
        })
        .map_err(Error::io("cannot list the records"))?;
        found.sort_unstable();
        Ok(found)
    }

    /// Moves a volume's directory to the trash, durably; `false` if it is not there.
    pub fn discard(&self, tree: &Tree, uuid: &Uuid, path: &SubPath) -> Result<bool, Error> {
        put_aside(tree, path, |parent, name| self.discard_from(parent, name, uuid))
    }

    /// Renames a volume's directory, durably, so that it stays: to `archived-NAME`, beside where it was. `false` if
    /// it is not there.
    pub fn archive(&self, tree: &Tree, path: &SubPath) -> Result<bool, Error> {
        put_aside(tree, path, |parent, name| self.archive_in(parent, name, name, ""))
    }

    /// Moves a volume's image to the trash, durably; `false` if it is not there.
    pub fn discard_image(&self, uuid: &Uuid) -> Result<bool, Error> {
        self.put_image_aside(uuid, |images, name| self.discard_from(images, name, uuid))
    }

    /// Renames the image of the volume whose directory would be `path`, durably, so that it stays: to
    /// `archived-NAME.img`. `false` if it is not there.
    pub fn archive_image(&self, uuid: &Uuid, path: &SubPath) -> Result<bool, Error> {
        let label = path.split().map_or("", |(_, name)| name);
        self.put_image_aside(uuid, |images, name| self.archive_in(images, name, label, ".img"))
    }

    fn put_image_aside(
        &self,
        uuid: &Uuid,
        aside: impl FnOnce(BorrowedFd<'_>, &str) -> io::Result<()>,
    ) -> Result<bool, Error> {
        let Some(images) = self.part(IMAGES)? else { return Ok(false) };
        match aside(images.as_fd(), &image_name(uuid)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::Io("cannot put the volume's image aside".into(), error)),
        }
    }

    fn archive_in(&self, parent: BorrowedFd<'_>, name: &str, label: &str, suffix: &str) -> io::Result<()> {
        let plain = format!("archived-{label}{suffix}");
        let archived = match sys::rename_exclusive_at(parent, name.as_bytes(), parent, plain.as_bytes()) {
            // Longer than a name may be: its time has to do.
            Err(error) if is_taken_or_long(&error) => {
                let timed = format!("archived-{}{suffix}", sys::now_ns());
                sys::rename_exclusive_at(parent, name.as_bytes(), parent, timed.as_bytes())
            }
            archived => archived,
        };
        archived.and_then(|()| self.fs.persist(parent, None))
    }

    fn discard_from(&self, parent: BorrowedFd<'_>, name: &str, uuid: &Uuid) -> io::Result<()> {
        // The same volume may be made and deleted again before the first is removed.
        let aside = format!("{uuid}.{}", sys::now_ns());
        sys::rename_exclusive_at(parent, name.as_bytes(), self.trash(), aside.as_bytes())?;
        self.fs.persist(self.trash(), None)?;
        self.fs.persist(parent, None)
    }

    /// Removes what calls left that were interrupted, if it was last touched before `before`, in nanoseconds since
    /// 1970: what is younger may be in use.
    pub fn tidy(&self, before: i64) -> io::Result<()> {
        for directory in [self.volumes.as_fd(), self.staging()] {
            let mut temporary = Vec::new();
            for_each_name(directory, |name| {
                temporary.extend(name.starts_with(TEMPORARY).then(|| name.to_owned()));
            })?;
            for name in temporary {
                if sys::stat_at(directory, name.as_bytes(), false)?.mtime_ns < before {
                    // Half a disk may be in it.
                    sys::rename_exclusive_at(directory, name.as_bytes(), self.trash(), name.as_bytes())?;
                }
            }
        }
        Ok(())
    }
}

/// Has `aside` rename the directory at `path`, named in its parent; `false` if it is not there.
fn put_aside(
    tree: &Tree,
    path: &SubPath,
    aside: impl FnOnce(BorrowedFd<'_>, &str) -> io::Result<()>,
) -> Result<bool, Error> {
    let Some((parent, name)) = path.split() else {
        return Err(Error::Precondition("a volume that is the whole share is not deleted".into()));
    };
    match tree.open(&parent).and_then(|parent| aside(parent.as_fd(), name)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::Io(format!("cannot put the volume's directory {path} aside"), error)),
    }
}

fn is_taken_or_long(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::EXIST | Errno::NAMETOOLONG))
}

fn open_parts(top: BorrowedFd<'_>) -> io::Result<[OwnedFd; 3]> {
    Ok([open_directory(top, VOLUMES)?, open_directory(top, TRASH)?, open_directory(top, STAGING)?])
}

/// The file in [`IMAGES`] that is a volume.
pub(crate) fn image_name(uuid: &Uuid) -> String {
    format!("{uuid}.img")
}

fn file_name(uuid: &Uuid) -> String {
    format!("{uuid}{SUFFIX}")
}

/// Names that are not text are none of ours.
pub(crate) fn for_each_name(directory: BorrowedFd<'_>, mut f: impl FnMut(&str)) -> io::Result<()> {
    sys::read_dir(directory, &mut |name, _, _| {
        if let Ok(name) = std::str::from_utf8(name) {
            f(name);
        }
        ControlFlow::Continue(())
    })
}

/// A directory that others can write to says nothing: whoever owns the share may have made it.
pub(crate) fn check_ours(directory: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    match is_ours(directory) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Precondition(format!(
            "the share's directory {name} is not the driver's alone: it has to be root's with mode 0700; \
             somebody else made it"
        ))),
        Err(error) => Err(Error::Io(format!("cannot look at {name}"), error)),
    }
}
