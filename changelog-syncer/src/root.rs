//! The directory that is followed.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lustre::fs::{Fid, FileSystem, detect};
use lustre::sys::{self, OFlags, Symlinks};
use rustix::fs::{Mode, open};

/// Why a root is none, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It cannot be opened.
    #[error("cannot open the root {path}: it has to be a directory that exists")]
    Open {
        /// The root.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is another directory, or none, where it was.
    #[error(
        "{0} is not the directory that was followed: its file system was unmounted, or the directory was replaced"
    )]
    Gone(PathBuf),
}

/// An open directory; all else is opened beneath it, without following symbolic links.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    dir: OwnedFd,
    fid: Fid,
    device: u64,
    file_system: Arc<dyn FileSystem>,
}

impl Root {
    /// Opens a directory.
    pub fn open(path: &Path) -> Result<Root, RootError> {
        let failed = |source| RootError::Open { path: path.to_owned(), source };
        let dir = open_directory(path).map_err(failed)?;
        let file_system = detect(dir.as_fd());
        let fid = file_system.fid(dir.as_fd()).map_err(failed)?;
        let device = sys::stat(dir.as_fd()).map_err(failed)?.dev;
        Ok(Root { path: path.to_owned(), dir, fid, device, file_system })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, open for reading.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Its identity.
    pub fn fid(&self) -> Fid {
        self.fid
    }

    /// The identity of something open beneath it.
    pub fn fid_of(&self, file: BorrowedFd<'_>) -> io::Result<Fid> {
        self.file_system.fid(file)
    }

    /// Opens a directory beneath it for reading; the root itself if `path` is empty.
    pub fn open_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        sys::open_beneath(self.dir(), path, OFlags::RDONLY | OFlags::DIRECTORY, Symlinks::Never)
    }

    /// Whether the root's path still leads to it.
    pub fn check(&self) -> Result<(), RootError> {
        let gone = |_| RootError::Gone(self.path.clone());
        let dir = open_directory(&self.path).map_err(gone)?;
        let fid = self.file_system.fid(dir.as_fd()).map_err(gone)?;
        let device = sys::stat(dir.as_fd()).map_err(gone)?.dev;
        if (fid, device) == (self.fid, self.device) {
            Ok(())
        } else {
            Err(RootError::Gone(self.path.clone()))
        }
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::io::retry_on_intr(|| open(path, flags, Mode::empty()))?)
}

/// `name` in the directory at `path`.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_was_replaced_is_gone() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("root");
        std::fs::create_dir(&path).unwrap();
        let root = Root::open(&path).unwrap();
        root.check().unwrap();
        std::fs::rename(&path, base.path().join("other")).unwrap();
        assert!(matches!(root.check(), Err(RootError::Gone(_))));
        std::fs::create_dir(&path).unwrap();
        let text = root.check().unwrap_err().to_string();
        assert!(text.contains("unmounted") && text.contains("root"), "{text}");
    }

    #[test]
    fn a_root_is_a_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Root::open(file.path()).unwrap_err().to_string().contains("directory that exists"));
    }

    #[test]
    fn links_are_not_followed() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("d")).unwrap();
        std::os::unix::fs::symlink("d", base.path().join("l")).unwrap();
        let root = Root::open(base.path()).unwrap();
        assert!(root.open_dir(b"d").is_ok() && root.open_dir(b"").is_ok());
        assert!(root.open_dir(b"l").is_err() && root.open_dir(b"d/../..").is_err());
    }
}
