//! Making, finding and deleting volumes of one share. Everything here blocks.
//!
//! The record comes before the directory, and goes after it: what has a directory has a record, and an
//! interrupted call is finished by asking again.

use std::os::fd::AsFd as _;

use tonic::Code;

use crate::capability::Capacity;
use crate::disk;
use crate::error::Error;
use crate::id::Uuid;
use crate::image;
use crate::lease;
use crate::parameters::{self, Kind as What};
use crate::path::SubPath;
use crate::record::{Kind, OnDelete, Record, Size, Type};
use crate::store::Store;
use crate::tree::{Built, Made, Owner, Tree};

/// A volume that is asked for.
#[derive(Debug)]
pub struct Wanted {
    /// Its name: what makes it the same when it is asked for again.
    pub name: String,
    /// Its directory.
    pub path: SubPath,
    /// What it is.
    pub what: What,
    /// Whose the directory becomes.
    pub owner: Owner,
    /// How large.
    pub capacity: Capacity,
    /// What holds its users to that.
    pub size: Size,
    /// What becomes of it.
    pub on_delete: OnDelete,
}

impl Wanted {
    fn record(&self) -> Record {
        Record {
            capacity: self.capacity.bytes(),
            type_: self.what.in_record(),
            size: self.size,
            on_delete: self.on_delete,
            thick: matches!(&self.what, What::Disk(disk) if disk.thick),
            ..Record::new(Kind::Volume, &self.name, self.path.clone())
        }
    }
}

/// Makes a volume, or finds it as an earlier call made it.
pub fn create(tree: &Tree, wanted: &Wanted) -> Result<(Uuid, Record), Error> {
    check_possible(tree, wanted)?;
    let store = tree.make_store()?;
    let uuid = Uuid::of_name(&wanted.name);
    if let Some(record) = store.read(&uuid)? {
        check_same(&record, wanted)?;
        make(tree, &uuid, wanted, record.capacity)?;
        return Ok((uuid, record));
    }
    let record = wanted.record();
    // Built before the record is written, a directory is durable with it, in one commit of the file system.
    let built = match wanted.what {
        What::Directory if wanted.size != Size::Image => {
            let built = tree.build(&store, &wanted.path, wanted.owner)?;
            Some(built.ok_or_else(|| taken(&uuid, wanted))?)
        }
        _ => None,
    };
    if let Err(error) = store.write(&uuid, &record) {
        if let Some(built) = built {
            built.remove(&store);
        }
        return Err(error);
    }
    make_new(tree, &store, &uuid, wanted, built)?;
    Ok((uuid, record))
}

fn taken(uuid: &Uuid, wanted: &Wanted) -> Error {
    Error::Precondition(if wanted.size == Size::Image {
        format!("the image {uuid}.img exists already and belongs to no volume")
    } else {
        format!("the directory {} exists already and belongs to no volume", wanted.path)
    })
}

fn check_possible(tree: &Tree, wanted: &Wanted) -> Result<(), Error> {
    check_fits(tree, wanted.capacity)?;
    // A disk is as large as its file.
    let held = wanted.what != What::Directory || wanted.capacity.bytes() == 0;
    if wanted.size == Size::Enforced && !held { Err(not_held()) } else { Ok(()) }
}

fn check_fits(tree: &Tree, capacity: Capacity) -> Result<(), Error> {
    let space = lustre::sys::statfs(tree.root()).map_err(Error::io("cannot ask the share's space"))?;
    capacity.check_fits(space.total)
}

fn not_held() -> Error {
    Error::Invalid(
        "the share's file system cannot hold a directory to a size and show it: the class needs quota: image (a file \
         system of the volume's own, for one node at a time), quota: advisory (the size is written down, and nothing \
         holds to it), or type: disk"
            .into(),
    )
}

fn make(tree: &Tree, uuid: &Uuid, wanted: &Wanted, bytes: u64) -> Result<Made, Error> {
    match &wanted.what {
        What::Directory if wanted.size == Size::Image => image::make(tree, uuid, wanted.owner, bytes),
        What::Directory => tree.make(&wanted.path, wanted.owner),
        What::Disk(disk) => disk::make(tree, &wanted.path, wanted.owner, bytes, disk),
    }
}

fn check_same(record: &Record, wanted: &Wanted) -> Result<(), Error> {
    let name = &wanted.name;
    if record.kind != Kind::Volume || record.path != wanted.path {
        return Err(Error::Exists(format!(
            "there is a volume {name:?} already, with the directory {} instead of {}",
            record.path, wanted.path
        )));
    }
    if record.type_ != wanted.what.in_record() || record.size != wanted.size {
        return Err(Error::Exists(format!("there is a volume {name:?} already, of another type or quota")));
    }
    if !wanted.capacity.admits(record.capacity) {
        return Err(Error::Exists(format!(
            "there is a volume {name:?} already, with another capacity: {} bytes",
            record.capacity
        )));
    }
    Ok(())
}

/// A directory that was there before is somebody's, and a volume that has it would delete it one day.
fn make_new(
    tree: &Tree,
    store: &Store,
    uuid: &Uuid,
    wanted: &Wanted,
    built: Option<Built>,
) -> Result<(), Error> {
    let made = match built {
        Some(built) => built.put(store, &wanted.path),
        None => make(tree, uuid, wanted, wanted.capacity.bytes()),
    };
    let made = match made {
        Ok(Made::Existing) => Err(taken(uuid, wanted)),
        Ok(Made::New) => Ok(()),
        Err(error) => Err(error),
    };
    // After any other error the directory may be there: the record stays for the call that finishes this.
    let refused = [Code::FailedPrecondition, Code::InvalidArgument, Code::NotFound, Code::OutOfRange];
    if made.as_ref().is_err_and(|error| refused.contains(&error.code())) {
        store.remove(uuid)?;
    }
    made
}

/// The record of a volume.
pub fn find(tree: &Tree, uuid: &Uuid) -> Result<Record, Error> {
    let record = tree.store()?.map(|store| store.read(uuid)).transpose()?.flatten();
    record.ok_or_else(|| Error::NotFound(format!("there is no volume {uuid} on this share")))
}

/// Deletes a volume: its directory is put aside at once, to be removed in the background. `false` if there was
/// none.
pub fn delete(tree: &Tree, uuid: &Uuid) -> Result<bool, Error> {
    let Some(store) = tree.store()? else { return Ok(false) };
    let Some(record) = store.read(uuid)? else { return Ok(false) };
    if record.kind == Kind::Grant {
        return Err(Error::Precondition(format!(
            "volume {uuid} is a grant of the share, {}, and goes with it; its files stay",
            record.name
        )));
    }
    let _alone = lease::check_unused(&store, uuid)?;
    match (record.on_delete, record.is_image()) {
        (OnDelete::Remove, false) => store.discard(tree, uuid, &record.path)?,
        (OnDelete::Archive, false) => store.archive(tree, &record.path)?,
        (OnDelete::Remove, true) => store.discard_image(uuid)?,
        (OnDelete::Archive, true) => store.archive_image(uuid, &record.path)?,
    };
    store.remove(uuid)?;
    lease::forget(&store, uuid)?;
    Ok(true)
}

/// Makes a volume larger; one that is as large already stays. Returns what it is then.
pub fn expand(tree: &Tree, uuid: &Uuid, capacity: Capacity) -> Result<Record, Error> {
    let mut record = find(tree, uuid)?;
    if record.kind == Kind::Grant {
        return Err(Error::Invalid(format!("volume {uuid} is a grant of the share, which has no size")));
    }
    let capacity = capacity.rounded(parameters::unit(record.type_, record.size))?;
    if record.capacity >= capacity.bytes() {
        return if capacity.admits(record.capacity) {
            Ok(record)
        } else {
            Err(Error::Range(format!("the volume has {} bytes, and cannot become smaller", record.capacity)))
        };
    }
    if record.type_ == Type::Directory && record.size == Size::Enforced {
        return Err(not_held());
    }
    check_fits(tree, capacity)?;
    record.capacity = capacity.bytes();
    if record.type_ == Type::Disk {
        let directory = tree.open(&record.path).map_err(Error::io("cannot open the volume's directory"))?;
        let file = disk::open(directory.as_fd(), true)?;
        disk::resize(&file, record.capacity, record.thick)?;
        lustre::sys::fsync(file.as_fd()).map_err(Error::io("cannot make the disk's size durable"))?;
    }
    let store = tree.make_store()?;
    if record.is_image() {
        image::extend(&image::open(&store, uuid)?, record.capacity)?;
    }
    store.write(uuid, &record)?;
    Ok(record)
}

/// Records that a directory of the share is a volume, unless that is recorded already.
pub fn grant(tree: &Tree, uuid: &Uuid, name: &str, path: &SubPath, read_only: bool) -> Result<(), Error> {
    let store = tree.make_store()?;
    let wanted = Record { read_only, ..Record::new(Kind::Grant, name, path.clone()) };
    match store.read(uuid)? {
        Some(record) if record.says_the_same(&wanted) => Ok(()),
        _ => store.write(uuid, &wanted),
    }
}

#[cfg(test)]
#[path = "tests/volumes.rs"]
mod tests;
