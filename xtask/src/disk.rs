//! A place for objects: a directory given, or an XFS of its own in a file. (ext4 holds 4 KiB of attributes for a file,
//! less than what OpenStack Swift needs.)

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{paths, proc, tools};

/// Size of the file; it is sparse.
const SIZE: u64 = 40 << 30;

/// The place, unmounted when dropped if we mounted it.
pub(crate) struct Disk {
    dir: PathBuf,
    image: Option<PathBuf>,
    kind: String,
}

impl Disk {
    /// `name` tells the file systems of different commands apart.
    pub(crate) fn open(name: &str, dir: Option<&Path>) -> Result<Self> {
        let (dir, image) = match dir {
            Some(dir) => {
                fs::create_dir_all(dir)?;
                (dir.canonicalize()?, None)
            }
            None => make(name)?,
        };
        let kind = proc::output(Command::new("stat").args(["-f", "-c", "%T"]).arg(&dir))?;
        let on = if image.is_some() { " in a file" } else { "" };
        Ok(Self { kind: format!("{}{on}", kind.trim()), dir, image })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }
}

fn make(name: &str) -> Result<(PathBuf, Option<PathBuf>)> {
    tools::debian(&["xfsprogs"])?;
    let base = paths::cache().join("disk");
    let (dir, image) = (base.join(name), base.join(format!("{name}.img")));
    fs::create_dir_all(&dir)?;
    // What an interrupted run left mounted.
    let _ = proc::output(Command::new("umount").arg(&dir));
    let _ = fs::remove_file(&image);
    File::create(&image)?.set_len(SIZE)?;
    proc::output(Command::new("mkfs.xfs").arg("-q").arg(&image))?;
    proc::output(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&dir))
        .context("mounting needs root; give a directory by --dir")?;
    Ok((dir, Some(image)))
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(image) = &self.image {
            if proc::output(Command::new("umount").arg(&self.dir)).is_err() {
                let _ = proc::output(Command::new("umount").arg("-l").arg(&self.dir));
            }
            let _ = fs::remove_file(image);
        }
    }
}
