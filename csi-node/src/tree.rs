//! An opened share: directories beneath it, made whole or not at all.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use lustre::fs::{FileSystem, detect};
use lustre::sys::{self, Mode, OFlags, Symlinks};
use rustix::fs::{Gid, Uid, fchmod, fchown};
use rustix::io::Errno;

use crate::error::Error;
use crate::path::SubPath;
use crate::store::{self, Store};

/// Whose a directory becomes when the driver makes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Owner {
    /// Where nothing else is said.
    pub const DEFAULT: Owner = Owner { uid: 0, gid: 0, mode: 0o2770 };

    /// QEMU's, as `KubeVirt` runs it: user and group 107.
    pub const QEMU: Owner = Owner { uid: 107, gid: 107, mode: 0o770 };

    /// Of directories on the way to others: the driver's, so that nobody else can exchange what lies below them.
    pub fn between() -> Owner {
        Owner::driver(0o755)
    }

    /// Root, but for tests.
    fn driver(mode: u32) -> Owner {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Owner { uid: uid.as_raw(), gid: gid.as_raw(), mode }
    }
}

/// What [`Tree::make`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Made {
    /// The directory is new.
    New,
    /// It was there, and was left as it is.
    Existing,
}

/// An opened share. Nothing outside of it is reached, whatever is in it: no symbolic link is followed.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    fs: Arc<dyn FileSystem>,
    host: Arc<Path>,
}

impl Tree {
    /// Of an opened directory.
    pub fn new(root: OwnedFd) -> Tree {
        let fs = detect(root.as_fd());
        Tree { root, fs, host: Path::new("/").into() }
    }

    /// On a host whose root is `host`.
    #[must_use]
    pub fn on(self, host: &Arc<Path>) -> Tree {
        Tree { host: Arc::clone(host), ..self }
    }

    /// The host's root, where its programs are.
    pub fn host(&self) -> &Path {
        &self.host
    }

    /// The directory of the share itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// What differs between file systems.
    pub fn fs(&self) -> &Arc<dyn FileSystem> {
        &self.fs
    }

    /// Opens a directory as a place (`O_PATH`); `ELOOP` or `ENOTDIR` where it leads through anything else.
    pub fn open(&self, path: &SubPath) -> io::Result<OwnedFd> {
        open_directory(self.root(), path.as_str())
    }

    /// The records, if there are any yet.
    pub fn store(&self) -> Result<Option<Store>, Error> {
        Store::open(self)
    }

    /// The records; their directory is made when it is missing.
    pub fn make_store(&self) -> Result<Store, Error> {
        Store::make(self)
    }

    /// Makes a directory with its owner and mode, and those on the way to it as [`Owner::between`], each durable
    /// before it is used. One that exists is left as it is.
    pub fn make(&self, path: &SubPath, owner: Owner) -> Result<Made, Error> {
        if let Ok(_there) = self.open(path) {
            return Ok(Made::Existing);
        }
        let store = self.make_store()?;
        let built = self.build(&store, path, owner)?;
        built.map_or(Ok(Made::Existing), |built| built.put(&store, path))
    }

    /// Builds a directory with its owner and mode where nobody sees it, and makes those on the way to it as
    /// [`Owner::between`], durably. `None` if it exists.
    pub fn build(&self, store: &Store, path: &SubPath, owner: Owner) -> Result<Option<Built>, Error> {
        let mut parent = self.open(&SubPath::share()).map_err(Error::io("cannot open the share"))?;
        let mut names = path.components().peekable();
        while let Some(name) = names.next() {
            let failed = Error::io(format!("cannot make {name:?} of the directory {path}"));
            if names.peek().is_none() {
                let built = match open_directory(parent.as_fd(), name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        Built::new(&*self.fs, store.staging(), parent, name, owner).map(Some)
                    }
                    found => found.map(|_| None),
                };
                return built.map_err(failed);
            }
            let between = enter(&*self.fs, store.staging(), parent.as_fd(), name, Owner::between());
            (parent, _) = between.map_err(failed)?;
        }
        Ok(None)
    }
}

/// A directory that has its owner and mode, and is not in its place yet. Whoever lets go of it leaves it to
/// [`Store::tidy`].
#[derive(Debug)]
pub struct Built {
    parent: OwnedFd,
    name: String,
    temporary: Vec<u8>,
    directory: File,
}

impl Built {
    fn new(
        fs: &dyn FileSystem,
        staging: BorrowedFd<'_>,
        parent: OwnedFd,
        name: &str,
        owner: Owner,
    ) -> io::Result<Built> {
        let temporary = fs.temporary_name(name.as_bytes())?;
        let directory = build(staging, &temporary, owner)?;
        Ok(Built { parent, name: name.to_owned(), temporary, directory })
    }

    /// Puts it where it belongs, durably. What came there meanwhile is left as it is.
    pub fn put(self, store: &Store, path: &SubPath) -> Result<Made, Error> {
        let placed = self.place(store.fs(), store.staging());
        placed.map_err(Error::io(format!("cannot put the directory {path} in its place")))
    }

    /// Takes it away again.
    pub fn remove(self, store: &Store) {
        // What stays is tidied away.
        let _ = sys::remove_dir_at(store.staging(), &self.temporary);
    }

    fn place(self, fs: &dyn FileSystem, staging: BorrowedFd<'_>) -> io::Result<Made> {
        sys::fsync(self.directory.as_fd())?;
        let parent = self.parent.as_fd();
        match sys::rename_exclusive_at(staging, &self.temporary, parent, self.name.as_bytes()) {
            Ok(()) => fs.persist(parent, None).map(|()| Made::New),
            Err(error) => {
                sys::remove_dir_at(staging, &self.temporary)?;
                if Errno::from_io_error(&error) != Some(Errno::EXIST) {
                    return Err(error);
                }
                open_directory(parent, &self.name).map(|_| Made::Existing)
            }
        }
    }
}

/// Opens `name` in `parent`, made with `owner` if it is missing.
///
/// It is built in `staging`, where nobody else is, and renamed into place: so it never exists with another owner
/// or mode, and what is given away is never something that somebody put in its place.
pub fn enter(
    fs: &dyn FileSystem,
    staging: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &str,
    owner: Owner,
) -> io::Result<(OwnedFd, Made)> {
    match open_directory(parent, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return Ok((found?, Made::Existing)),
    }
    let built = Built::new(fs, staging, parent.try_clone_to_owned()?, name, owner)?;
    let made = built.place(fs, staging)?;
    Ok((open_directory(parent, name)?, made))
}

/// A new directory in a place that is ours alone.
fn build(staging: BorrowedFd<'_>, name: &[u8], owner: Owner) -> io::Result<File> {
    sys::make_dir_at(staging, name, 0o700)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let directory = File::from(sys::open_beneath(staging, name, flags, Symlinks::Never)?);
    own(directory.as_fd(), owner)?;
    Ok(directory)
}

/// The mode comes last: chown takes set-user-id and set-group-id away.
pub(crate) fn own(directory: BorrowedFd<'_>, owner: Owner) -> io::Result<()> {
    let is = sys::stat(directory)?;
    if (is.uid, is.gid) != (owner.uid, owner.gid) {
        fchown(directory, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    }
    Ok(fchmod(directory, Mode::from_raw_mode(owner.mode))?)
}

/// Opens a directory beneath another as a place.
pub fn open_directory(dir: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    sys::open_beneath(dir, path.as_bytes(), OFlags::PATH | OFlags::DIRECTORY, Symlinks::Never)
}

/// Whether a directory is the driver's alone, so that its content is what the driver wrote.
pub fn is_ours(directory: BorrowedFd<'_>) -> io::Result<bool> {
    let is = sys::stat(directory)?;
    Ok(is.uid == rustix::process::geteuid().as_raw()
        && !Mode::from_raw_mode(is.mode).intersects(Mode::RWXG | Mode::RWXO))
}

/// Opens the driver's own directory `name`, made when it is missing.
pub fn enter_private(fs: &dyn FileSystem, parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Error> {
    let (directory, _) = enter(fs, parent, parent, name, Owner::driver(0o700))
        .map_err(Error::io(format!("cannot make the driver's directory {name:?}")))?;
    store::check_ours(directory.as_fd(), name)?;
    Ok(directory)
}
