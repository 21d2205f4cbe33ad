//! A file that is read again when it changes.
//!
//! A file that has become wrong or has gone is reported once, and what was read last stays in force: half a file must
//! lock nobody out.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;

/// A file's contents as a `T`, and what they were read from.
#[derive(Debug)]
pub struct Reloading<T> {
    path: PathBuf,
    current: ArcSwap<T>,
    seen: Mutex<Option<Stamp>>,
}

/// Changes whenever the file does.
#[derive(PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What a look at the file gave.
#[derive(PartialEq, Eq, Debug)]
pub enum Reload<E> {
    /// The file is as it was.
    Unchanged,
    /// It was read anew.
    Loaded,
    /// It cannot be used; what was read before stays in force.
    Failed(E),
}

impl<T> Reloading<T> {
    /// Reads the file for the first time.
    pub fn new<E: From<io::Error>>(path: &Path, parse: impl Fn(&str) -> Result<T, E>) -> Result<Self, E> {
        let (stamp, text) = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            current: ArcSwap::from_pointee(parse(&text)?),
            seen: Mutex::new(stamp),
        })
    }

    /// What was read last.
    pub fn get(&self) -> arc_swap::Guard<Arc<T>> {
        self.current.load()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks whether the file has changed and, if so, reads it. Makes file-system calls.
    pub fn refresh<E: From<io::Error>>(&self, parse: impl Fn(&str) -> Result<T, E>) -> Reload<E> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match fs::metadata(&self.path) {
            Ok(metadata) => stamp(&metadata),
            Err(_) if *seen == Some(Stamp::GONE) => return Reload::Unchanged,
            Err(error) => {
                *seen = Some(Stamp::GONE);
                return Reload::Failed(error.into());
            }
        };
        if *seen == Some(now) {
            return Reload::Unchanged;
        }
        let (stamp, text) = match read(&self.path) {
            Ok(read) => read,
            Err(error) => return Reload::Failed(error.into()),
        };
        *seen = stamp;
        match parse(&text) {
            Ok(value) => {
                self.current.store(Arc::new(value));
                Reload::Loaded
            }
            Err(error) => Reload::Failed(error),
        }
    }
}

impl Stamp {
    const GONE: Self = Self { device: 0, inode: 0, size: 0, modified: (0, 0), changed: (0, 0) };
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// The contents, with the stamp from before they were read; none where the file changed so lately that the next change
/// could leave its times as they are.
fn read(path: &Path) -> io::Result<(Option<Stamp>, String)> {
    let metadata = fs::metadata(path)?;
    let age = SystemTime::now().duration_since(metadata.modified()?);
    let settled = age.is_ok_and(|age| age > Duration::from_secs(2));
    Ok((settled.then(|| stamp(&metadata)), fs::read_to_string(path)?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes a file as if it had been there for a while, each time a little less long.
    pub(crate) fn write_settled(path: &Path, text: &str, age_seconds: u64) {
        fs::write(path, text).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age_seconds)).unwrap();
    }

    fn parse(text: &str) -> Result<u32, io::Error> {
        text.trim().parse().map_err(io::Error::other)
    }

    #[test]
    fn changes_are_seen_and_mistakes_leave_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(Reloading::new(&path, parse).is_err());
        write_settled(&path, "1", 100);
        let file = Reloading::new(&path, parse).unwrap();
        assert_eq!((**file.get(), file.path()), (1, path.as_path()));
        assert!(matches!(file.refresh(parse), Reload::Unchanged));

        write_settled(&path, "2", 90);
        assert!(matches!(file.refresh(parse), Reload::Loaded));
        assert_eq!(**file.get(), 2);

        write_settled(&path, "x", 80);
        assert!(matches!(file.refresh(parse), Reload::Failed(_)));
        assert!(matches!(file.refresh(parse), Reload::Unchanged));
        assert_eq!(**file.get(), 2);

        fs::remove_file(&path).unwrap();
        assert!(matches!(file.refresh(parse), Reload::Failed(_)));
        assert!(matches!(file.refresh(parse), Reload::Unchanged));
        assert_eq!(**file.get(), 2);

        // A directory can be looked at but not read.
        fs::create_dir(&path).unwrap();
        assert!(matches!(file.refresh(parse), Reload::Failed(_)));
        fs::remove_dir(&path).unwrap();

        fs::write(&path, "3").unwrap();
        assert!(matches!(file.refresh(parse), Reload::Loaded));
        // Too young to be trusted: read again, though it looks the same.
        assert!(matches!(file.refresh(parse), Reload::Loaded));
        assert_eq!(**file.get(), 3);
    }

    #[test]
    fn a_file_put_in_its_place_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let other = folder.path().join("other");
        write_settled(&path, "1", 100);
        let file = Reloading::new(&path, parse).unwrap();
        write_settled(&other, "2", 100);
        fs::rename(&other, &path).unwrap();
        assert!(matches!(file.refresh(parse), Reload::Loaded));
    }
}
