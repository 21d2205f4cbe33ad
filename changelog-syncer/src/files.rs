//! Files that are read again when they change.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

/// What tells that a file is another, or was changed, also behind a symbolic link that was swapped.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
}

/// What was made of some files.
pub struct Reloading<T> {
    files: Vec<PathBuf>,
    present: ArcSwap<T>,
    looked: Mutex<Looked>,
}

struct Looked {
    stamps: Vec<Stamp>,
    failed: bool,
}

impl<T> Reloading<T> {
    /// Of what `read` makes of the files.
    pub fn load<E>(files: Vec<PathBuf>, read: impl FnOnce() -> Result<T, E>) -> Result<Reloading<T>, E> {
        // Before the files: a change in between is then seen by the next look.
        let stamps = files.iter().map(|path| stamp(path)).collect();
        let present = ArcSwap::from_pointee(read()?);
        Ok(Reloading { files, present, looked: Mutex::new(Looked { stamps, failed: false }) })
    }

    /// What is in use.
    pub fn get(&self) -> Arc<T> {
        self.present.load_full()
    }

    /// Looks at the files, and reads them again if they changed; `true` if so. What cannot be used is returned as an error
    /// once and changes nothing, and is tried again at every look: files may be written one after the other.
    pub fn look<E>(&self, read: impl FnOnce() -> Result<T, E>) -> Result<bool, E> {
        let stamps: Vec<Stamp> = self.files.iter().map(|path| stamp(path)).collect();
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = looked.stamps != stamps;
        if !changed && !looked.failed {
            return Ok(false);
        }
        looked.stamps = stamps;
        let made = read();
        looked.failed = made.is_err();
        match made {
            Ok(made) => {
                self.present.store(Arc::new(made));
                Ok(true)
            }
            Err(_) if !changed => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_changes_nothing_and_is_tried_again() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("file");
        let read = || std::fs::read_to_string(&path).unwrap_or_default().parse::<u32>();
        std::fs::write(&path, "1").unwrap();
        let number = Reloading::load(vec![path.clone()], read).unwrap();
        assert_eq!(number.look(read), Ok(false));
        std::fs::write(&path, "one").unwrap();
        assert!(number.look(read).is_err());
        assert_eq!(number.look(read), Ok(false));
        assert_eq!(*number.get(), 1);
        std::fs::write(&path, "22").unwrap();
        assert_eq!(number.look(read), Ok(true));
        assert_eq!(*number.get(), 22);
    }
}
