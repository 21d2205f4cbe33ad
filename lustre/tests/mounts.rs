//! What the mount calls do, in a mount namespace of the test's own. Without root they say so and pass.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use lustre::sys::{self, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};
use tempfile::TempDir;

struct Place {
    base: TempDir,
}

impl Place {
    /// `None` if nothing can be mounted. All mounts are shared, as on a host.
    fn new() -> Option<Place> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: not root, so NOTHING was mounted");
            return None;
        }
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
        let base = TempDir::new().unwrap();
        fs::create_dir_all(base.path().join("source/inner")).unwrap();
        fs::write(base.path().join("source/inner/file"), "x").unwrap();
        fs::create_dir(base.path().join("target")).unwrap();
        Some(Place { base })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn open(&self, name: &str) -> OwnedFd {
        File::open(self.path(name)).unwrap().into()
    }

    fn detach(&self, name: &str) -> bool {
        sys::detach(self.path(name).as_os_str().as_bytes()).unwrap()
    }
}

#[test]
fn a_tree_is_restricted_before_it_is_attached() {
    let Some(place) = Place::new() else { return };
    let tree = sys::clone_tree(place.open("source").as_fd()).unwrap();
    sys::restrict(tree.as_fd(), true).unwrap();
    let before = sys::mount_point(place.open("target").as_fd()).unwrap();
    assert!(!before.mounted);
    sys::attach(tree.as_fd(), place.open("target").as_fd()).unwrap();
    let after = sys::mount_point(place.open("target").as_fd()).unwrap();
    assert!(after.mounted && after.read_only);
    assert_eq!(fs::write(place.path("target/no"), "").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    fs::write(place.path("source/yes"), "").unwrap();
    assert!(place.path("target/yes").exists());
    assert!(place.detach("target") && !place.detach("target") && !place.detach("missing"));
    assert!(!place.path("target/yes").exists());
}

#[test]
fn what_covers_a_tree_does_not_cover_its_source() {
    let Some(place) = Place::new() else { return };
    let tree = sys::clone_tree(place.open("source").as_fd()).unwrap();
    sys::restrict(tree.as_fd(), false).unwrap();
    sys::attach(tree.as_fd(), place.open("target").as_fd()).unwrap();
    let inner = place.open("target/inner");
    sys::attach(sys::empty_tree().unwrap().as_fd(), inner.as_fd()).unwrap();
    assert_eq!(fs::read_dir(place.path("target/inner")).unwrap().count(), 0);
    assert_eq!(
        fs::write(place.path("target/inner/no"), "").unwrap_err().kind(),
        ErrorKind::ReadOnlyFilesystem
    );
    assert!(place.path("source/inner/file").exists());
    fs::write(place.path("target/yes"), "").unwrap();
    // With all that is on it.
    assert!(place.detach("target") && !place.detach("target"));
}

#[test]
fn a_link_is_not_detached_through() {
    let Some(place) = Place::new() else { return };
    let tree = sys::clone_tree(place.open("source").as_fd()).unwrap();
    sys::attach(tree.as_fd(), place.open("target").as_fd()).unwrap();
    symlink(place.path("target"), place.path("link")).unwrap();
    assert!(!place.detach("link"));
    assert!(place.path("target/inner").exists());
    assert!(place.detach("target"));
}

#[test]
fn links_and_dots_stay_in_the_root() {
    let base = TempDir::new().unwrap();
    fs::create_dir_all(base.path().join("data/in")).unwrap();
    symlink("/data", base.path().join("link")).unwrap();
    let root = File::open(base.path()).unwrap();
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    for path in ["/data/in", "data/in", "/link/in", "../../data/in"] {
        let opened = sys::open_in_root(root.as_fd(), path.as_bytes(), flags).unwrap();
        let seen = sys::resolved_path(opened.as_fd()).unwrap();
        assert_eq!(
            seen,
            base.path().canonicalize().unwrap().join("data/in").as_os_str().as_bytes(),
            "{path}"
        );
    }
    assert!(sys::open_in_root(root.as_fd(), b"/tmp", flags).is_err());
    assert!(sys::open_in_root(root.as_fd(), b"/data", flags | OFlags::CREATE).is_err());
}
