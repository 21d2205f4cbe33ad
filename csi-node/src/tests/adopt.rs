//! Files and directories of a real share.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::PathBuf;

use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::capability::Capacity;
use crate::share::{Named, Shares};

const SIZE: u64 = 1 << 20;

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
    fs::create_dir(base.path().join("images")).unwrap();
    Place { base, tree }
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn file(&self, name: &str) {
        fs::write(self.path(name), vec![7; SIZE as usize]).unwrap();
    }

    fn adopt(&self, from: &str, name: &str) -> Result<(Uuid, Record), Error> {
        self.adopt_as(from, name, None)
    }

    fn adopt_as(&self, from: &str, name: &str, size: Option<u64>) -> Result<(Uuid, Record), Error> {
        adopt(&self.tree, &Adoption::new(name, SubPath::parse(from)?, None, size)?)
    }

    fn refused(&self, from: &str, code: Code, word: &str) {
        let error = self.adopt(from, "refused").unwrap_err();
        assert!(error.code() == code && error.to_string().contains(word), "{from}: {error}");
        assert!(
            volumes::find(&self.tree, &Uuid::of_name("refused")).is_err() && !self.path("refused").exists()
        );
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_file_becomes_a_disk_and_a_file_again() {
    if !is_root() {
        return;
    }
    let place = place();
    place.file("images/old.img");
    let before = fs::metadata(place.path("images/old.img")).unwrap().ino();
    let (uuid, record) = place.adopt("images/old.img", "old").unwrap();
    assert_eq!((record.type_, record.capacity, record.on_delete), (Type::Disk, SIZE, OnDelete::Archive));
    let is = fs::metadata(place.path("old/disk.img")).unwrap();
    assert_eq!((is.ino(), is.uid(), is.gid(), is.mode() & 0o7777), (before, 107, 107, 0o660));
    let directory = fs::metadata(place.path("old")).unwrap();
    assert_eq!((directory.uid(), directory.mode() & 0o7777), (107, 0o770));
    assert!(!place.path("images/old.img").exists());
    // Asked again, it is the same; and it is a volume as others are.
    assert_eq!(place.adopt("images/old.img", "old").unwrap(), (uuid.clone(), record));
    let grown = volumes::expand(&place.tree, &uuid, Capacity::exactly(2 * SIZE)).unwrap();
    assert_eq!(grown.capacity, 2 * SIZE);
    assert_eq!(release(&place.tree, "old").unwrap(), "old/disk.img");
    assert_eq!(release(&place.tree, "old").unwrap_err().code(), Code::NotFound);
    assert_eq!(fs::metadata(place.path("old/disk.img")).unwrap().ino(), before);
}

#[test]
fn a_directory_stays_where_it_is() {
    if !is_root() {
        return;
    }
    let place = place();
    fs::create_dir_all(place.path("data/deep")).unwrap();
    let (uuid, record) = place.adopt_as("data/deep", "kept", Some(5)).unwrap();
    assert_eq!((record.type_, record.capacity, record.path.as_str()), (Type::Directory, 5, "data/deep"));
    assert_eq!(place.adopt_as("data/deep", "kept", Some(5)).unwrap().0, uuid);
    // With its volume it is not removed.
    fs::write(place.path("data/deep/file"), "kept").unwrap();
    assert!(volumes::delete(&place.tree, &uuid).unwrap());
    assert_eq!(fs::read_to_string(place.path("data/archived-deep/file")).unwrap(), "kept");
}

#[test]
fn an_interrupted_call_is_finished() {
    if !is_root() {
        return;
    }
    let place = place();
    place.file("images/a.img");
    let (uuid, record) = place.adopt("images/a.img", "a").unwrap();
    // The record was there, and maybe the directory.
    fs::rename(place.path("a/disk.img"), place.path("images/a.img")).unwrap();
    assert_eq!(place.adopt("images/a.img", "a").unwrap().0, uuid);
    fs::rename(place.path("a/disk.img"), place.path("images/a.img")).unwrap();
    fs::remove_dir(place.path("a")).unwrap();
    assert_eq!(place.adopt("images/a.img", "a").unwrap(), (uuid, record));
    assert!(place.path("a/disk.img").exists());
    // Another file is not the same.
    place.file("images/a.img");
    assert_eq!(place.adopt("images/a.img", "a").unwrap_err().code(), Code::AlreadyExists);
    assert!(place.path("images/a.img").exists());
}

#[test]
fn what_is_no_disk_of_ones_own_is_refused() {
    if !is_root() {
        return;
    }
    let place = place();
    place.file("images/a.img");
    fs::hard_link(place.path("images/a.img"), place.path("images/b.img")).unwrap();
    place.refused("images/a.img", Code::FailedPrecondition, "2 names");
    fs::remove_file(place.path("images/b.img")).unwrap();
    let open = fs::File::open(place.path("images/a.img")).unwrap();
    place.refused("images/a.img", Code::FailedPrecondition, "open");
    drop(open);
    fs::write(place.path("images/c.img"), b"QFI\xfb and more").unwrap();
    place.refused("images/c.img", Code::FailedPrecondition, "sourceFormat");
    fs::write(place.path("images/empty.img"), b"").unwrap();
    place.refused("images/empty.img", Code::FailedPrecondition, "empty");
    symlink("a.img", place.path("images/link")).unwrap();
    place.refused("images/link", Code::FailedPrecondition, "Symlink");
    place.refused("images/none.img", Code::NotFound, "images/none.img");
    place.refused("", Code::FailedPrecondition, "whole share");
    for outside in ["../x", "/etc/passwd", ".lb~dcsi/volumes"] {
        assert!(place.adopt(outside, "refused").is_err(), "{outside}");
    }
    fs::create_dir(place.path("refused")).unwrap();
    assert_eq!(place.adopt("images/a.img", "refused").unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(place.adopt_as("images/a.img", "small", Some(1)).unwrap_err().code(), Code::OutOfRange);
    let (_, record) = place.adopt_as("images/a.img", "large", Some(2 * SIZE - 1)).unwrap();
    assert_eq!(
        (record.capacity, fs::metadata(place.path("large/disk.img")).unwrap().len()),
        (2 * SIZE, 2 * SIZE)
    );
}

#[test]
fn no_two_volumes_have_the_same_files() {
    if !is_root() {
        return;
    }
    let place = place();
    place.file("images/a.img");
    place.adopt("images/a.img", "a").unwrap();
    place.refused("a/disk.img", Code::FailedPrecondition, "one in the other");
    place.refused("a", Code::FailedPrecondition, "one in the other");
    // A grant may have it, but not be in it.
    fs::create_dir_all(place.path("team/project/deep")).unwrap();
    let grant = SubPath::parse("team/project").unwrap();
    volumes::grant(&place.tree, &Uuid::of_name("grant"), "ns/claim", &grant, false).unwrap();
    place.refused("team", Code::FailedPrecondition, "ns/claim");
    place.adopt("team/project/deep", "deep").unwrap();
    assert_eq!(release(&place.tree, "grant").unwrap_err().code(), Code::FailedPrecondition);
}

#[test]
fn a_name_is_of_one_volume() {
    let place = place();
    for name in ["one", "other"] {
        fs::create_dir(place.path(name)).unwrap();
    }
    let (_, record) = place.adopt_as("one", "v", Some(SIZE)).unwrap();
    assert_eq!(place.adopt_as("one", "v", Some(SIZE)).unwrap().1, record);
    for (from, size) in [("other", None), ("one", Some(2 * SIZE))] {
        let error = place.adopt_as(from, "v", size).unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists, "{from}");
        assert_eq!(error.to_string(), format!("there is a volume \"v\" already, at one, with {SIZE} bytes"));
    }
}
