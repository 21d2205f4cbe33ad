//! Where directories are, by their identity.
//!
//! Events name a directory by its handle alone. What is not known is found out by climbing from the directory to the root;
//! what is known is kept right by the events of renames. Climbing sees the present and events tell of the past: a path may be
//! wrong until the queue is read, and the events that make it right are in the queue.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use lustre::fs::Fid;
use lustre::sys::{self, FileHandle, OFlags};
use rustix::fs::{Mode, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::root::Root;

/// Directories in memory; with more, all are forgotten and found out again as they are needed.
const MOST: usize = 250_000;
/// A path has at most half as many components as bytes; deeper trees cannot be reached by a path in one step, but exist.
const DEEPEST: usize = 16_384;

/// Where a directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Whereabouts {
    /// Beneath the root, or the root itself with an empty path.
    Inside(Vec<u8>),
    /// Not beneath the root, or gone.
    Outside,
}

pub(super) struct Tree {
    root: Arc<Root>,
    parents: HashMap<Fid, (Fid, Box<[u8]>)>,
    outside: HashSet<Fid>,
    /// The one that was asked for last: events come in runs.
    last: Option<(Fid, Vec<u8>)>,
    bound: usize,
}

impl Tree {
    pub(super) fn new(root: &Arc<Root>) -> Tree {
        Tree {
            root: Arc::clone(root),
            parents: HashMap::new(),
            outside: HashSet::new(),
            last: None,
            bound: MOST,
        }
    }

    /// The root.
    #[cfg(test)]
    pub(super) fn top(&self) -> Fid {
        self.root.fid()
    }

    pub(super) fn len(&self) -> usize {
        self.parents.len()
    }

    /// Where a directory is. Fails if that cannot be found out although it may be there.
    pub(super) fn find(&mut self, dir: FileHandle<'_>) -> io::Result<Whereabouts> {
        let fid = dir.fid();
        if let Some((last, path)) = &self.last
            && *last == fid
        {
            return Ok(Whereabouts::Inside(path.clone()));
        }
        if let Some(known) = self.known(fid) {
            return Ok(self.remember(fid, known));
        }
        let found = if self.climb(dir)? { self.known(fid) } else { None };
        if let Some(found) = found {
            return Ok(self.remember(fid, found));
        }
        self.note_outside(fid);
        Ok(Whereabouts::Outside)
    }

    fn remember(&mut self, fid: Fid, found: Whereabouts) -> Whereabouts {
        if let Whereabouts::Inside(path) = &found {
            self.last = Some((fid, path.clone()));
        }
        found
    }

    /// Where a directory is, as far as is in memory.
    pub(super) fn known(&self, fid: Fid) -> Option<Whereabouts> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = fid;
        while at != self.root.fid() {
            if self.outside.contains(&at) {
                return Some(Whereabouts::Outside);
            }
            let (parent, name) = self.parents.get(&at)?;
            names.push(name);
            at = *parent;
            if names.len() > DEEPEST {
                return None;
            }
        }
        names.reverse();
        Some(Whereabouts::Inside(names.join(&b'/')))
    }

    /// The parent and the name of a directory in memory.
    pub(super) fn parent(&self, fid: Fid) -> Option<(Fid, &[u8])> {
        self.parents.get(&fid).map(|(parent, name)| (*parent, &**name))
    }

    /// A directory has this name now.
    pub(super) fn put(&mut self, fid: Fid, parent: Fid, name: &[u8]) {
        if fid == self.root.fid() {
            return;
        }
        if self.parents.len() >= self.bound {
            self.clear();
        }
        self.last = None;
        self.outside.remove(&fid);
        self.parents.insert(fid, (parent, name.into()));
    }

    /// A directory is no more.
    pub(super) fn remove(&mut self, fid: Fid) {
        self.last = None;
        self.parents.remove(&fid);
        self.outside.remove(&fid);
    }

    /// A directory left the root, and what is beneath with it.
    pub(super) fn leave(&mut self, fid: Fid) {
        self.remove(fid);
        self.note_outside(fid);
    }

    /// A directory came from outside: what is beneath it may be known as outside.
    pub(super) fn enter(&mut self, fid: Fid, parent: Fid, name: &[u8]) {
        self.outside.clear();
        self.put(fid, parent, name);
    }

    /// Events were lost: nothing is known.
    pub(super) fn clear(&mut self) {
        self.last = None;
        self.parents.clear();
        self.outside.clear();
    }

    fn note_outside(&mut self, fid: Fid) {
        if self.outside.len() >= self.bound {
            self.outside.clear();
        }
        self.outside.insert(fid);
    }

    /// Goes from a directory up to one that is known, and puts down the way. Whether there is one.
    fn climb(&mut self, dir: FileHandle<'_>) -> io::Result<bool> {
        let mut fid = dir.fid();
        let mut at = match sys::open_by_handle(self.root.dir(), dir, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(opened) => opened,
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut way = Vec::new();
        while self.known(fid).is_none() {
            let Some((parent, name)) = step_up(&at)? else { return Ok(false) };
            let above = self.root.fid_of(parent.as_fd())?;
            // The top of the file system.
            if above == fid || way.len() > DEEPEST {
                return Ok(false);
            }
            way.push((fid, above, name));
            (fid, at) = (above, parent);
        }
        if self.known(fid) == Some(Whereabouts::Outside) {
            return Ok(false);
        }
        if self.parents.len() + way.len() > self.bound && fid != self.root.fid() {
            // No room: begin again, from nothing that is known.
            self.clear();
            return self.climb(dir);
        }
        self.last = None;
        let way = way.into_iter().map(|(fid, parent, name)| (fid, (parent, name.into())));
        self.parents.extend(way);
        Ok(true)
    }
}

/// The directory above and the name in it; `None` if there is no way up: it was deleted, or is the top of a mount.
fn step_up(dir: &OwnedFd) -> io::Result<Option<(OwnedFd, Vec<u8>)>> {
    if sys::stat(dir.as_fd())?.nlink == 0 {
        return Ok(None);
    }
    let path = sys::resolved_path(dir.as_fd())?;
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || openat2(dir, c"..", flags, Mode::empty(), ResolveFlags::NO_XDEV);
    match rustix::io::retry_on_intr(open) {
        Ok(parent) => Ok(Some((parent, name))),
        Err(Errno::XDEV | Errno::STALE | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The directory is no more, or was none.
fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::STALE | Errno::NOENT | Errno::NOTDIR))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    struct Handle(i32, Vec<u8>);

    impl Handle {
        fn of(path: &Path) -> Handle {
            let (kind, bytes) = sys::file_handle(fs::File::open(path).unwrap().as_fd()).unwrap();
            Handle(kind, bytes)
        }

        fn get(&self) -> FileHandle<'_> {
            FileHandle { kind: self.0, bytes: &self.1 }
        }
    }

    fn inside(path: &str) -> Whereabouts {
        Whereabouts::Inside(path.into())
    }

    #[test]
    fn what_is_not_known_is_climbed_from() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("root");
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(base.path().join("out/x")).unwrap();
        let [b, c, x] = ["root/a/b", "root/a/b/c", "out/x"].map(|path| Handle::of(&base.path().join(path)));
        let mut tree = Tree::new(&Arc::new(Root::open(&root).unwrap()));
        if let Err(error) = tree.find(c.get()) {
            println!("NOT TESTED: open_by_handle_at: {error}");
            return;
        }
        assert_eq!(tree.find(c.get()).unwrap(), inside("a/b/c"));
        assert_eq!(tree.len(), 3);
        assert_eq!(tree.find(b.get()).unwrap(), inside("a/b"));
        assert_eq!(tree.find(Handle::of(&root).get()).unwrap(), inside(""));
        assert_eq!(tree.find(x.get()).unwrap(), Whereabouts::Outside);

        // What an event tells counts, whatever is there now.
        tree.put(b.get().fid(), tree.root.fid(), b"z");
        assert_eq!(tree.find(c.get()).unwrap(), inside("z/c"));
        tree.leave(b.get().fid());
        assert_eq!(tree.find(c.get()).unwrap(), Whereabouts::Outside);
        tree.enter(b.get().fid(), tree.root.fid(), b"y");
        assert_eq!(tree.find(c.get()).unwrap(), inside("y/c"));
        fs::remove_dir(root.join("a/b/c")).unwrap();
        tree.clear();
        assert_eq!(tree.find(c.get()).unwrap(), Whereabouts::Outside);
    }

    #[test]
    fn memory_is_bounded() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir_all(base.path().join("a/b/c/d")).unwrap();
        let mut tree = Tree::new(&Arc::new(Root::open(base.path()).unwrap()));
        tree.bound = 4;
        for round in 0..20 {
            let path = base.path().join(format!("a/b/e{round}"));
            fs::create_dir(&path).unwrap();
            match tree.find(Handle::of(&path).get()) {
                Ok(found) => assert_eq!(found, inside(&format!("a/b/e{round}"))),
                Err(error) => {
                    println!("NOT TESTED: open_by_handle_at: {error}");
                    return;
                }
            }
            assert!(tree.len() <= 4);
        }
    }
}
