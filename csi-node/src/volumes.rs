//! Making, finding and deleting volumes of one share. Everything here blocks.
//!
//! The record comes before the directory, and goes after it: what has a directory has a record, and an
//! interrupted call is finished by asking again.

use tonic::Code;

use crate::capability::Capacity;
use crate::error::Error;
use crate::id::Uuid;
use crate::path::SubPath;
use crate::record::{Kind, Record};
use crate::store::Store;
use crate::tree::{Made, Owner, Tree};

/// A volume that is asked for.
#[derive(Debug)]
pub struct Wanted {
    /// Its name: what makes it the same when it is asked for again.
    pub name: String,
    /// Its directory.
    pub path: SubPath,
    /// Whose the directory becomes.
    pub owner: Owner,
    /// How large.
    pub capacity: Capacity,
}

/// Makes a volume, or finds it as an earlier call made it.
pub fn create(tree: &Tree, wanted: &Wanted) -> Result<(Uuid, Record), Error> {
    let total = lustre::sys::statfs(tree.root()).map_err(Error::io("cannot ask the share's space"))?.total;
    wanted.capacity.check_fits(total)?;
    let store = tree.make_store()?;
    let uuid = Uuid::of_name(&wanted.name);
    if let Some(record) = store.read(&uuid)? {
        check_same(&record, wanted)?;
        tree.make(&record.path, wanted.owner)?;
        return Ok((uuid, record));
    }
    let record = Record::new(Kind::Volume, &wanted.name, wanted.path.clone(), wanted.capacity.bytes(), false);
    store.write(&uuid, &record)?;
    make_new(tree, &store, &uuid, wanted)?;
    Ok((uuid, record))
}

fn check_same(record: &Record, wanted: &Wanted) -> Result<(), Error> {
    let name = &wanted.name;
    if record.kind != Kind::Volume || record.path != wanted.path {
        return Err(Error::Exists(format!(
            "there is a volume {name:?} already, with the directory {} instead of {}",
            record.path, wanted.path
        )));
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
fn make_new(tree: &Tree, store: &Store, uuid: &Uuid, wanted: &Wanted) -> Result<(), Error> {
    let made = match tree.make(&wanted.path, wanted.owner) {
        Ok(Made::Existing) => Err(Error::Precondition(format!(
            "the directory {} exists already and belongs to no volume",
            wanted.path
        ))),
        Ok(Made::New) => Ok(()),
        Err(error) => Err(error),
    };
    // After any other error the directory may be there: the record stays for the call that finishes this.
    if made.as_ref().is_err_and(|error| error.code() == Code::FailedPrecondition) {
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
    store.discard(tree, uuid, &record.path)?;
    store.remove(uuid)?;
    Ok(true)
}

/// Records that a directory of the share is a volume, unless that is recorded already.
pub fn grant(tree: &Tree, uuid: &Uuid, name: &str, path: &SubPath, read_only: bool) -> Result<(), Error> {
    let store = tree.make_store()?;
    let wanted = Record::new(Kind::Grant, name, path.clone(), 0, read_only);
    match store.read(uuid)? {
        Some(record) if record.says_the_same(&wanted) => Ok(()),
        _ => store.write(uuid, &wanted),
    }
}

#[cfg(test)]
#[path = "tests/volumes.rs"]
mod tests;
