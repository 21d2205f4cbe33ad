//! Files and directories of a share that were there before become volumes, and volumes become plain files again,
//! without a byte copied: what Cinder calls manage and unmanage. Everything here blocks.
//!
//! The record comes first: a call that is interrupted is finished by asking again. What was adopted is never removed
//! with its volume: it is archived.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use lustre::sys::{self, Kind as FileKind, OFlags, Symlinks};

use crate::disk;
use crate::error::Error;
use crate::id::Uuid;
use crate::lease;
use crate::path::SubPath;
use crate::qcow2;
use crate::record::{Kind, OnDelete, Record, Size, Type};
use crate::request;
use crate::store::{self, IMAGES, Store, image_name};
use crate::template;
use crate::tree::{Owner, Tree, own};
use crate::volumes;

/// What is to become a volume.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// What it is: a raw disk if it is a file, else a directory.
    pub from: SubPath,
    /// The volume's name.
    pub name: String,
    /// The directory of a disk.
    pub directory: SubPath,
    /// Bytes; of a disk at least as many as the file has.
    pub size: Option<u64>,
}

impl Adoption {
    /// Of what is at `from`, for the claim with this namespace and name: a disk's directory is where a class without a
    /// template would have it.
    pub fn new(
        name: &str,
        from: SubPath,
        claim: Option<&(String, String)>,
        size: Option<u64>,
    ) -> Result<Adoption, Error> {
        request::check_name(name)?;
        let said = claim.into_iter().flat_map(|(namespace, claim)| {
            [("csi.storage.k8s.io/pvc/namespace", namespace), ("csi.storage.k8s.io/pvc/name", claim)]
        });
        let said: HashMap<_, _> = said.map(|(key, value)| (key.to_owned(), value.clone())).collect();
        Ok(Adoption { from, name: name.into(), directory: template::directory(name, &said)?, size })
    }
}

/// Makes a file or directory of the share a volume. Done already: nothing happens.
///
/// A file becomes the disk in a directory of its own, a directory stays where it is.
pub fn adopt(tree: &Tree, wanted: &Adoption) -> Result<(Uuid, Record), Error> {
    let uuid = Uuid::of_name(&wanted.name);
    let store = tree.make_store()?;
    let record = if let Some(record) = store.read(&uuid)? {
        again(record, wanted)?
    } else {
        let record = judge(tree, &store, wanted)?;
        store.write(&uuid, &record)?;
        record
    };
    if record.type_ == Type::Disk {
        move_in(tree, wanted, &record)?;
    }
    Ok((uuid, record))
}

/// The record of an earlier call for the same.
fn again(record: Record, wanted: &Adoption) -> Result<Record, Error> {
    let path = if record.type_ == Type::Disk { &wanted.directory } else { &wanted.from };
    let adopted = record.kind == Kind::Volume && record.on_delete == OnDelete::Archive && !record.is_image();
    if adopted && record.path == *path && wanted.size.is_none_or(|size| size <= record.capacity) {
        return Ok(record);
    }
    Err(Error::Exists(format!(
        "there is a volume {:?} already, at {}, with {} bytes",
        record.name, record.path, record.capacity
    )))
}

/// The record of what may be adopted.
fn judge(tree: &Tree, store: &Store, wanted: &Adoption) -> Result<Record, Error> {
    let (parent, name) = open_parent(tree, &wanted.from)?;
    let is = sys::stat_at(parent.as_fd(), name.as_bytes(), false).map_err(cannot_open(&wanted.from))?;
    check_records(store, &wanted.from)?;
    let new = |path: &SubPath| Record {
        on_delete: OnDelete::Archive,
        ..Record::new(Kind::Volume, &wanted.name, path.clone())
    };
    match is.kind {
        FileKind::Directory => {
            Ok(Record { capacity: wanted.size.unwrap_or(0), size: Size::Advisory, ..new(&wanted.from) })
        }
        FileKind::File => {
            let capacity = check_file(&open_file(parent.as_fd(), name, &wanted.from)?, wanted)?;
            check_free(tree, &wanted.directory)?;
            Ok(Record { capacity, type_: Type::Disk, size: Size::Enforced, ..new(&wanted.directory) })
        }
        other => Err(Error::Precondition(format!("{} is no file and no directory: {other:?}", wanted.from))),
    }
}

fn open_parent<'p>(tree: &Tree, path: &'p SubPath) -> Result<(OwnedFd, &'p str), Error> {
    let whole = || Error::Precondition("the whole share is not adopted: name what is in it".into());
    let (parent, name) = path.split().ok_or_else(whole)?;
    Ok((tree.open(&parent).map_err(cannot_open(&parent))?, name))
}

fn open_file(parent: BorrowedFd<'_>, name: &str, path: &SubPath) -> Result<File, Error> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK;
    let opened = sys::open_beneath(parent, name.as_bytes(), flags, Symlinks::Never);
    opened.map(File::from).map_err(cannot_open(path))
}

fn cannot_open(path: &SubPath) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound(format!("there is no {path} on the share")),
        _ => Error::Io(format!("cannot open {path} of the share"), error),
    }
}

/// That the file is a raw disk that nobody uses; the bytes that the volume has.
fn check_file(file: &File, wanted: &Adoption) -> Result<u64, Error> {
    let looked = || Error::io(format!("cannot look at {}", wanted.from));
    let refused = |why: &str| Err(Error::Precondition(format!("{} {why}", wanted.from)));
    let is = sys::stat(file.as_fd()).map_err(looked())?;
    if is.nlink != 1 {
        return refused(&format!(
            "has {} names, and another could write to the disk: remove the others",
            is.nlink
        ));
    }
    if is.size == 0 {
        return refused("is empty");
    }
    if qcow2::has_magic(file).map_err(looked())? {
        return refused(
            "is a qcow2 image, and a disk is a raw file: make a volume of a class with source and sourceFormat: \
             qcow2, or convert it with qemu-img convert -O raw",
        );
    }
    if sys::is_open_elsewhere(file.as_fd()).map_err(looked())? {
        return refused("is open in some process of this node: stop who uses it");
    }
    let size = wanted.size.unwrap_or(is.size);
    if size < is.size {
        return Err(Error::Range(format!(
            "{} has {} bytes, and cannot become smaller",
            wanted.from, is.size
        )));
    }
    size.checked_next_multiple_of(disk::BLOCK)
        .ok_or_else(|| Error::Range(format!("{size} bytes are too many")))
}

/// No two volumes have the same files, and no grant loses what it shows.
fn check_records(store: &Store, path: &SubPath) -> Result<(), Error> {
    for uuid in store.list()? {
        let Some(record) = store.read(&uuid)?.filter(|record| !record.is_image()) else { continue };
        let within = record.kind == Kind::Volume && is_within(path, &record.path);
        if within || is_within(&record.path, path) {
            return Err(Error::Precondition(format!(
                "{path} and {}, which is the volume {}, are one in the other",
                record.path, record.name
            )));
        }
    }
    Ok(())
}

fn is_within(path: &SubPath, above: &SubPath) -> bool {
    std::path::Path::new(path.as_str()).starts_with(above.as_str())
}

fn check_free(tree: &Tree, directory: &SubPath) -> Result<(), Error> {
    match tree.open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(cannot_open(directory)(error)),
        Ok(_) => {
            Err(Error::Precondition(format!("the directory {directory} of the new volume exists already")))
        }
    }
}

/// Makes the file the disk of its volume, unless that was done.
fn move_in(tree: &Tree, wanted: &Adoption, record: &Record) -> Result<(), Error> {
    let from = &wanted.from;
    let tried = || Error::io(format!("cannot make {from} the disk of the volume"));
    tree.make(&record.path, Owner::QEMU)?;
    let directory = tree.open(&record.path).map_err(cannot_open(&record.path))?;
    let (parent, name) = open_parent(tree, from)?;
    let there = sys::stat_at(directory.as_fd(), disk::FILE.as_bytes(), false).is_ok();
    let file = match open_file(parent.as_fd(), name, from) {
        Err(Error::NotFound(_)) if there => return Ok(()),
        opened => opened?,
    };
    if there {
        return Err(Error::Exists(format!("the volume has its disk already, and {from} is another file")));
    }
    // Who may write beside it may have put another there since.
    check_file(&file, wanted)?;
    disk::resize(&file, record.capacity, false)?;
    own(file.as_fd(), Owner { mode: 0o660, ..Owner::QEMU })
        .and_then(|()| sys::fsync(file.as_fd()))
        .and_then(|()| {
            sys::rename_exclusive_at(
                parent.as_fd(),
                name.as_bytes(),
                directory.as_fd(),
                disk::FILE.as_bytes(),
            )
        })
        .and_then(|()| tree.fs().persist(directory.as_fd(), Some(file.as_fd())))
        .and_then(|()| tree.fs().persist(parent.as_fd(), None))
        .map_err(tried())
}

/// Makes a volume plain files again: only its record goes. Returns where they are beneath the share.
pub fn release(tree: &Tree, name: &str) -> Result<String, Error> {
    let uuid = Uuid::of_name(name);
    let record = volumes::find(tree, &uuid)?;
    if record.kind == Kind::Grant {
        return Err(Error::Precondition(format!("{name} is a grant of the share, and goes with it")));
    }
    let store = tree.make_store()?;
    let _alone = lease::check_unused(&store, &uuid)?;
    store.remove(&uuid)?;
    lease::forget(&store, &uuid)?;
    Ok(match (record.is_image(), record.type_) {
        (true, _) => format!("{}/{IMAGES}/{}", store::DIRECTORY, image_name(&uuid)),
        (false, Type::Disk) => format!("{}/{}", record.path.as_str(), disk::FILE),
        (false, Type::Directory) => record.path.into(),
    })
}

#[cfg(test)]
#[path = "tests/adopt.rs"]
mod tests;
