//! Disks on a real directory.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::PathBuf;

use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::share::{Named, Shares};

struct Place {
    base: TempDir,
    tree: Tree,
}

fn place() -> Place {
    let base = TempDir::new().unwrap();
    let shares = Shares::unknown("/");
    let named: Named = format!("s=directory:{}", base.path().display()).parse().unwrap();
    shares.replace([(named.name, named.spec)]);
    let tree = shares.get("s").unwrap().unwrap().open().unwrap();
    Place { base, tree }
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn make(&self, name: &str, size: u64, disk: &Disk) -> Result<Made, Error> {
        make(&self.tree, &SubPath::parse(name).unwrap(), owner(), size, disk)
    }

    fn nothing_is_left(&self, name: &str) -> bool {
        let staged = fs::read_dir(self.path(".lb~dcsi/new")).unwrap().count();
        staged == 0 && !self.path(name).exists()
    }
}

/// Whoever runs the tests, with QEMU's mode.
fn owner() -> Owner {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Owner { uid, gid, ..Owner::QEMU }
}

fn from(name: &str, format: Format) -> Disk {
    Disk { thick: false, source: Some((SubPath::parse(name).unwrap(), format)) }
}

#[test]
fn a_disk_is_one_raw_file() {
    let place = place();
    assert_eq!(place.make("team/vm", 1 << 20, &Disk::default()).unwrap(), Made::New);
    let names: Vec<_> =
        fs::read_dir(place.path("team/vm")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["disk.img"]);
    let (directory, file) =
        (fs::metadata(place.path("team/vm")).unwrap(), fs::metadata(place.path("team/vm/disk.img")).unwrap());
    assert_eq!((file.len(), file.blocks()), (1 << 20, 0));
    assert_eq!((directory.mode() & 0o7777, file.mode() & 0o7777), (0o770, 0o660));
    // What is there stays.
    fs::write(place.path("team/vm/disk.img"), "x").unwrap();
    assert_eq!(place.make("team/vm", 1 << 20, &Disk::default()).unwrap(), Made::Existing);
    assert_eq!(fs::read(place.path("team/vm/disk.img")).unwrap(), b"x");
}

#[test]
fn a_thick_disk_takes_its_space_also_when_it_grows() {
    let place = place();
    place.make("vm", 1 << 20, &Disk { thick: true, source: None }).unwrap();
    let size = || fs::metadata(place.path("vm/disk.img")).map(|is| (is.len(), is.blocks() * 512)).unwrap();
    assert_eq!(size(), (1 << 20, 1 << 20));
    let directory = place.tree.open(&SubPath::parse("vm").unwrap()).unwrap();
    let file = open(directory.as_fd(), true).unwrap();
    resize(&file, 2 << 20, true).unwrap();
    assert_eq!(size(), (2 << 20, 2 << 20));
    resize(&file, 3 << 20, false).unwrap();
    assert_eq!(size(), (3 << 20, 2 << 20));
    // Never smaller.
    resize(&file, 1 << 20, false).unwrap();
    assert_eq!(size().0, 3 << 20);
}

#[test]
fn what_cannot_be_allocated_changes_nothing() {
    let place = place();
    let error = place.make("vm", 1 << 60, &Disk { thick: true, source: None }).unwrap_err();
    assert!([Code::ResourceExhausted, Code::Internal].contains(&error.code()), "{error}");
    assert!(place.nothing_is_left("vm"));
    place.make("vm", 1 << 20, &Disk::default()).unwrap();
    let directory = place.tree.open(&SubPath::parse("vm").unwrap()).unwrap();
    assert!(resize(&open(directory.as_fd(), true).unwrap(), 1 << 60, true).is_err());
    assert_eq!(fs::metadata(place.path("vm/disk.img")).unwrap().len(), 1 << 20);
}

#[test]
fn a_disk_begins_as_its_source_is() {
    let place = place();
    fs::create_dir(place.path("golden")).unwrap();
    let raw = fs::File::create(place.path("golden/a.raw")).unwrap();
    raw.write_all_at(b"end", (1 << 20) - 3).unwrap();
    place.make("vm", 2 << 20, &from("golden/a.raw", Format::Raw)).unwrap();
    let disk = fs::read(place.path("vm/disk.img")).unwrap();
    assert_eq!((disk.len(), &disk[(1 << 20) - 3..1 << 20]), (2 << 20, &b"end"[..]));
    // A disk that is too small, or no disk, is refused, and nothing is left.
    symlink("/etc/passwd", place.path("golden/link")).unwrap();
    for (source, size, format, code) in [
        ("golden/a.raw", 1 << 19, Format::Raw, Code::OutOfRange),
        ("golden/a.raw", 2 << 20, Format::Qcow2, Code::FailedPrecondition),
        ("golden/link", 2 << 20, Format::Raw, Code::FailedPrecondition),
        ("golden", 2 << 20, Format::Raw, Code::FailedPrecondition),
        ("golden/none", 2 << 20, Format::Raw, Code::NotFound),
    ] {
        let error = place.make("other", size, &from(source, format)).unwrap_err();
        assert_eq!(error.code(), code, "{source}: {error}");
        assert!(place.nothing_is_left("other"), "{source}");
    }
}
