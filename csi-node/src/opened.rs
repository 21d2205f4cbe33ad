//! A volume as a node has it: its record, and what its files are in. Everything here blocks.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use lustre::sys::Space;

use crate::block;
use crate::capability::{Access, Use, signed};
use crate::disk;
use crate::error::Error;
use crate::id::VolumeId;
use crate::image;
use crate::image_mounts::{self, Image};
use crate::mountinfo;
use crate::mounts::{self, Target};
use crate::proto::csi::VolumeUsage;
use crate::proto::csi::volume_usage::Unit;
use crate::record::{Record, Type};
use crate::tree::Tree;
use crate::volumes;

/// What a volume's files are in.
#[derive(Debug)]
enum Data {
    Directory(OwnedFd),
    Image(File),
}

/// An opened volume.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    /// What is known of it.
    pub(crate) record: Record,
    data: Data,
    devices: &'a Path,
    host: &'a Path,
}

impl Opened<'_> {
    fn image<'i>(&'i self, file: &'i File) -> Image<'i> {
        Image { file: file.as_fd(), capacity: self.record.capacity, dev: self.devices, host: self.host }
    }

    /// Mounts the volume, or its device.
    pub(crate) fn show(&self, target: &Target, how: Use, nested: &[String]) -> Result<(), Error> {
        let reads_only = how.access == Access::ReadOnly;
        match &self.data {
            Data::Image(file) => image_mounts::publish(&self.image(file), target, reads_only),
            Data::Directory(directory) if how.block => {
                let disk = disk::open(directory.as_fd(), !reads_only)?;
                block::publish(disk.as_fd(), target, reads_only, self.devices)
            }
            Data::Directory(directory) => mounts::publish(directory.as_fd(), target, reads_only, nested),
        }
    }

    /// The disk in the directory, if it is that which is at `path`, and not the directory.
    fn device_at(&self, directory: &OwnedFd, path: &Target) -> Result<Option<File>, Error> {
        let device = self.record.type_ == Type::Disk && !path.is_directory();
        device.then(|| disk::open(directory.as_fd(), false)).transpose()
    }

    pub(crate) fn expand(&self, path: &Target) -> Result<(), Error> {
        let directory = match &self.data {
            Data::Image(file) => return image_mounts::expand(&self.image(file), path),
            Data::Directory(directory) => directory,
        };
        match self.device_at(directory, path)? {
            Some(disk) => {
                block::check_published(disk.as_fd(), path)?;
                block::expand(disk.as_fd(), self.devices)
            }
            None => mounts::check_published(directory.as_fd(), path),
        }
    }

    pub(crate) fn stats(&self, path: &Target) -> Result<Vec<VolumeUsage>, Error> {
        let asked = || Error::io("cannot ask the volume's space");
        let space = match &self.data {
            Data::Image(file) => {
                image_mounts::check_published(&self.image(file), path)?;
                path.open().and_then(|place| lustre::sys::statfs(place.as_fd()))
            }
            Data::Directory(directory) => {
                if let Some(disk) = self.device_at(directory, path)? {
                    block::check_published(disk.as_fd(), path)?;
                    return Ok(vec![bytes(self.record.capacity, 0, 0)]);
                }
                mounts::check_published(directory.as_fd(), path)?;
                lustre::sys::statfs(directory.as_fd())
            }
        };
        Ok(usage(&space.map_err(asked())?))
    }

    /// Where the volume, but not its device, is mounted on this node.
    fn points(&self) -> Result<Vec<PathBuf>, Error> {
        match &self.data {
            Data::Image(file) => image_mounts::points(&self.image(file)),
            Data::Directory(directory) => mountinfo::points(directory.as_fd())
                .map_err(Error::io("cannot look where the volume is mounted")),
        }
    }

    /// That the volume is published nowhere else on this node.
    pub(crate) fn check_alone(&self, target: &Target) -> Result<(), Error> {
        match target.others(self.points()?).first() {
            Some(other) => Err(Error::Precondition(format!(
                "the volume is for one pod (ReadWriteOncePod), and is published at {} already",
                other.display()
            ))),
            None => Ok(()),
        }
    }

    /// Whether the volume is published anywhere on this node. If it is an image that is not, nothing of it is on its
    /// way to the file any more.
    pub(crate) fn is_used(&self, targets: Option<&Path>) -> Result<bool, Error> {
        let mut points = self.points()?;
        if let (Type::Disk, Data::Directory(directory)) = (self.record.type_, &self.data) {
            points.extend(block::points(disk::open(directory.as_fd(), false)?.as_fd(), self.devices)?);
        }
        let used = points.iter().any(|point| targets.is_none_or(|targets| point.starts_with(targets)));
        if let (false, Data::Image(file)) = (used, &self.data) {
            image_mounts::await_gone(&self.image(file))?;
        }
        Ok(used)
    }
}

/// A volume's record, and what that says its files are in.
pub(crate) fn open<'a>(tree: &'a Tree, id: &VolumeId, devices: &'a Path) -> Result<Opened<'a>, Error> {
    let record = volumes::find(tree, &id.uuid)?;
    let data = if record.is_image() {
        Data::Image(image::open(&tree.make_store()?, &id.uuid)?)
    } else {
        Data::Directory(open_directory(tree, id, &record)?)
    };
    Ok(Opened { record, data, devices, host: tree.host() })
}

fn open_directory(tree: &Tree, id: &VolumeId, record: &Record) -> Result<OwnedFd, Error> {
    tree.open(&record.path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::NotFound(format!("volume {id} has lost its directory {}", record.path))
        }
        _ => Error::Io(format!("cannot open the directory {} of volume {id}", record.path), error),
    })
}

fn bytes(total: u64, free: u64, available: u64) -> VolumeUsage {
    of_unit(Unit::Bytes, total, free, available)
}

fn of_unit(unit: Unit, total: u64, free: u64, available: u64) -> VolumeUsage {
    VolumeUsage {
        available: signed(available),
        total: signed(total),
        used: signed(total.saturating_sub(free)),
        unit: unit.into(),
    }
}

fn usage(space: &Space) -> Vec<VolumeUsage> {
    let inodes = of_unit(Unit::Inodes, space.files, space.files_free, space.files_free);
    vec![bytes(space.total, space.free, space.available), inodes]
}
