//! Which watch is of which directory.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;

use lustre::fs::Fid;
use lustre::sys::{self, Inotify, Kind, Watch};
use rustix::io::Errno;

use crate::root::{Root, join};

pub(super) struct Watches {
    root: Watch,
    nodes: HashMap<Watch, Node>,
    names: HashMap<(Watch, Vec<u8>), Watch>,
    by_fid: HashMap<Fid, Watch>,
    /// Directories that were not where they were thought to be when something in them was to be watched. A rename of which
    /// the event is still to come says where they are.
    stale: HashSet<Watch>,
    most: usize,
    exhausted: bool,
    unreadable: u64,
}

struct Node {
    fid: Fid,
    /// The watch of the directory that this one is in, and its name there; `None` for the root.
    parent: Option<(Watch, Vec<u8>)>,
}

/// What became of a directory that was to be watched.
pub(super) enum Added {
    /// It is watched, and was not before.
    New(Fid),
    /// It was watched already.
    Known(Fid),
    /// It is not; its identity, if it is there.
    Refused(Option<Fid>),
}

impl Watches {
    /// Watches all directories beneath the root.
    pub(super) fn new(inotify: &Inotify, root: &Root, most: usize) -> io::Result<Watches> {
        let mut watches = Watches {
            root: inotify.watch(root.dir())?,
            nodes: HashMap::new(),
            names: HashMap::new(),
            by_fid: HashMap::new(),
            stale: HashSet::new(),
            most,
            exhausted: false,
            unreadable: 0,
        };
        watches.begin_again(inotify, root);
        Ok(watches)
    }

    /// Watches all directories that there are now, and forgets the others.
    pub(super) fn begin_again(&mut self, inotify: &Inotify, root: &Root) {
        let before: Vec<Watch> = self.nodes.keys().copied().collect();
        self.nodes.clear();
        self.names.clear();
        self.by_fid.clear();
        self.stale.clear();
        (self.exhausted, self.unreadable) = (false, 0);
        self.add(inotify, root, None, b"");
        for watch in before.into_iter().filter(|watch| !self.nodes.contains_key(watch)) {
            end(inotify, watch);
        }
    }

    /// Watches the directory at `path` and all beneath it; what is watched already is not gone into.
    pub(super) fn add(
        &mut self,
        inotify: &Inotify,
        root: &Root,
        parent: Option<(Watch, &[u8])>,
        path: &[u8],
    ) -> Added {
        let mut waiting = vec![(parent.map(|(watch, name)| (watch, name.to_vec())), path.to_vec())];
        let mut first = None;
        while let Some((parent, path)) = waiting.pop() {
            let (added, beneath) = self.add_one(inotify, root, parent, &path);
            first.get_or_insert(added);
            waiting.extend(beneath);
        }
        first.unwrap_or(Added::Refused(None))
    }

    fn add_one(
        &mut self,
        inotify: &Inotify,
        root: &Root,
        parent: Option<(Watch, Vec<u8>)>,
        path: &[u8],
    ) -> (Added, Vec<Waiting>) {
        let none = |fid| (Added::Refused(fid), Vec::new());
        if let Some((above, _)) = &parent
            && !self.is_there(root, *above, path)
        {
            self.stale.insert(*above);
            return none(None);
        }
        let dir = match root.open_dir(path) {
            Ok(dir) => dir,
            Err(error) => {
                self.unreadable += u64::from(error.kind() == io::ErrorKind::PermissionDenied);
                return none(None);
            }
        };
        let Ok(fid) = root.fid_of(dir.as_fd()) else { return none(None) };
        if self.nodes.len() >= self.most && !self.by_fid.contains_key(&fid) {
            self.exhausted = true;
            return none(Some(fid));
        }
        let watch = match inotify.watch(dir.as_fd()) {
            Ok(watch) => watch,
            Err(error) => {
                match Errno::from_io_error(&error) {
                    Some(Errno::NOSPC | Errno::NOMEM) => self.exhausted = true,
                    _ => self.unreadable += 1,
                }
                return none(Some(fid));
            }
        };
        let known = self.nodes.contains_key(&watch);
        self.put(watch, fid, parent);
        if known {
            return (Added::Known(fid), Vec::new());
        }
        (Added::New(fid), self.children(&dir, watch, path))
    }

    /// Whether the directory of a watch is where something at `path` would be in it.
    fn is_there(&self, root: &Root, watch: Watch, path: &[u8]) -> bool {
        let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let found = root.open_dir(&path[..end]).and_then(|dir| root.fid_of(dir.as_fd()));
        self.nodes.get(&watch).is_some_and(|node| found.is_ok_and(|found| found == node.fid))
    }

    /// Looks again at directories that were elsewhere, and returns those that are found, which are all news.
    pub(super) fn find_stale(&mut self, inotify: &Inotify, root: &Root) -> Vec<(Fid, Vec<u8>)> {
        let mut found = Vec::new();
        for watch in self.stale.clone() {
            let Some((fid, path)) = self.place(watch) else {
                if !self.nodes.contains_key(&watch) {
                    self.stale.remove(&watch);
                }
                continue;
            };
            let Ok(dir) = root.open_dir(&path) else { continue };
            if root.fid_of(dir.as_fd()).is_ok_and(|there| there == fid) {
                self.stale.remove(&watch);
                for (parent, path) in self.children(&dir, watch, &path) {
                    let parent = parent.as_ref().map(|(watch, name)| (*watch, &**name));
                    self.add(inotify, root, parent, &path);
                }
                found.push((fid, path));
            }
        }
        found
    }

    fn children(&mut self, dir: &std::os::fd::OwnedFd, watch: Watch, path: &[u8]) -> Vec<Waiting> {
        let mut beneath = Vec::new();
        let read = sys::read_dir(dir.as_fd(), &mut |name, kind, _| {
            if is_directory(dir, name, kind) {
                beneath.push((Some((watch, name.to_vec())), join(path, name)));
            }
            ControlFlow::Continue(())
        });
        // Directories that are not known are not watched, as if they might not be.
        self.unreadable += u64::from(read.is_err());
        beneath
    }

    fn put(&mut self, watch: Watch, fid: Fid, parent: Option<(Watch, Vec<u8>)>) {
        if let Some(Node { parent: Some(old), .. }) = self.nodes.remove(&watch)
            && self.names.get(&old) == Some(&watch)
        {
            self.names.remove(&old);
        }
        if let Some(place) = &parent {
            self.names.insert(place.clone(), watch);
        }
        self.by_fid.insert(fid, watch);
        self.nodes.insert(watch, Node { fid, parent });
    }

    /// A directory that is watched has another name now.
    pub(super) fn rename(&mut self, watch: Watch, parent: Watch, name: &[u8]) {
        if let Some(node) = self.nodes.get(&watch) {
            self.put(watch, node.fid, Some((parent, name.to_vec())));
        }
    }

    /// A name went; the watch of the directory that had it.
    pub(super) fn unname(&mut self, parent: Watch, name: &[u8]) -> Option<Watch> {
        self.names.remove(&(parent, name.to_vec()))
    }

    /// The kernel ended a watch.
    pub(super) fn ended(&mut self, watch: Watch) {
        self.stale.remove(&watch);
        let Some(node) = self.nodes.remove(&watch) else { return };
        if self.by_fid.get(&node.fid) == Some(&watch) {
            self.by_fid.remove(&node.fid);
        }
        if let Some(place) = node.parent
            && self.names.get(&place) == Some(&watch)
        {
            self.names.remove(&place);
        }
    }

    /// Ends the watches of a directory that left, and of all beneath it.
    pub(super) fn forget(&mut self, inotify: &Inotify, gone: Watch) {
        let mut beneath = HashSet::from([gone]);
        let mut above = HashSet::from([self.root]);
        let all: Vec<Watch> = self.nodes.keys().copied().collect();
        for watch in all {
            let mut way = Vec::new();
            let mut at = Some(watch);
            while let Some(watch) = at.filter(|watch| !beneath.contains(watch) && !above.contains(watch)) {
                way.push(watch);
                at = self.nodes.get(&watch).and_then(|node| node.parent.as_ref()).map(|(parent, _)| *parent);
            }
            // What hangs nowhere is none of ours either.
            let set = if at.is_none_or(|at| beneath.contains(&at)) { &mut beneath } else { &mut above };
            set.extend(way);
        }
        for watch in beneath {
            self.ended(watch);
            end(inotify, watch);
        }
    }

    pub(super) fn root(&self) -> Watch {
        self.root
    }

    /// Whether a watched directory has a name, as far as the events tell.
    pub(super) fn has_name(&self, watch: Watch) -> bool {
        let place = self.nodes.get(&watch).and_then(|node| node.parent.as_ref());
        place.is_some_and(|place| self.names.get(place) == Some(&watch))
    }

    pub(super) fn knows(&self, watch: Watch) -> bool {
        self.nodes.contains_key(&watch)
    }

    /// A watch, and those of the directories above as far as they are known.
    pub(super) fn way(&self, watch: Watch) -> Vec<Watch> {
        let above = |watch: &Watch| self.nodes.get(watch)?.parent.as_ref().map(|(parent, _)| *parent);
        std::iter::successors(Some(watch), above).take(self.nodes.len() + 1).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are more directories than may be watched.
    pub(super) fn exhausted(&self) -> bool {
        self.exhausted
    }

    /// Directories that could not be watched for other reasons.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Identity and path of a watched directory.
    pub(super) fn place(&self, watch: Watch) -> Option<(Fid, Vec<u8>)> {
        let fid = self.nodes.get(&watch)?.fid;
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = watch;
        while at != self.root {
            let (parent, name) = self.nodes.get(&at)?.parent.as_ref()?;
            names.push(name);
            at = *parent;
            if names.len() > self.nodes.len() {
                return None;
            }
        }
        names.reverse();
        Some((fid, names.join(&b'/')))
    }

    /// The path of a directory, if it is watched.
    pub(super) fn path_of(&self, dir: Fid) -> Option<Vec<u8>> {
        self.place(*self.by_fid.get(&dir)?).map(|(_, path)| path)
    }
}

/// A directory that is to be watched: the watch above and its name, and its path.
type Waiting = (Option<(Watch, Vec<u8>)>, Vec<u8>);

fn is_directory(dir: &std::os::fd::OwnedFd, name: &[u8], kind: Option<Kind>) -> bool {
    match kind {
        Some(kind) => kind == Kind::Directory,
        None => sys::stat_at(dir.as_fd(), name, false).is_ok_and(|stat| stat.kind == Kind::Directory),
    }
}

fn end(inotify: &Inotify, watch: Watch) {
    if let Err(error) = inotify.forget(watch) {
        tracing::debug!(watch, %error, "a watch does not end");
    }
}
