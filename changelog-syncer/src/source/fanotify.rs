//! fanotify on the whole file system of the root.
//!
//! Events on the same name merge while they wait and lose their order, so one is no more than a mark. Renames do not merge.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lustre::fs::Fid;
use lustre::sys::{self, Changes, Event, FileHandle, OFlags, Place};
use namespace::Spot;

use super::batch::Gathering;
use super::pacer::Pacer;
use super::tree::{Tree, Whereabouts};
use super::{Batch, Deadline, Kind, Source, SourceError, State, Watchman, wait_for};
use crate::root::{Root, join};

/// Of what is read at once.
const BUFFER: usize = 256 * 1024;
/// Marks in a batch, about.
const FULL: usize = 8192;
/// Between two marks of everything for changes that cannot be placed.
const PAUSE: Duration = Duration::from_secs(30);

/// See the module.
pub struct Fanotify {
    root: Arc<Root>,
    watchman: Watchman,
    group: sys::Fanotify,
    buffer: Vec<u8>,
    follower: Follower,
}

/// What becomes of events.
struct Follower {
    tree: Tree,
    pacer: Pacer,
    overflows: u64,
    /// A change that nobody can say the place of waits until then.
    unplaced: Option<Instant>,
    marked: Option<Instant>,
}

impl Fanotify {
    /// Begins to watch.
    pub fn open(root: &Arc<Root>) -> Result<Fanotify, SourceError> {
        let unusable = |source: io::Error| {
            let hint = match source.raw_os_error() {
                Some(1) => {
                    "it needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH, and a file system that is not another user namespace's"
                }
                Some(22) => "it needs Linux 5.17",
                _ => "this file system does not support it",
            };
            SourceError::Unusable { kind: Kind::Fanotify, path: root.path().to_owned(), hint, source }
        };
        let group = sys::Fanotify::watch(root.dir()).map_err(unusable)?;
        // What events say is of use only where it can be opened.
        let (kind, bytes) = sys::file_handle(root.dir()).map_err(unusable)?;
        let handle = FileHandle { kind, bytes: &bytes };
        sys::open_by_handle(root.dir(), handle, OFlags::PATH).map_err(unusable)?;
        let follower = Follower {
            tree: Tree::new(root),
            pacer: Pacer::default(),
            overflows: 0,
            unplaced: None,
            marked: None,
        };
        let watchman = Watchman::new(root);
        Ok(Fanotify { root: Arc::clone(root), watchman, group, buffer: vec![0; BUFFER], follower })
    }

    /// Reads until the queue is empty or the batch is full. Whether it is empty.
    fn read(&mut self, marks: &mut Gathering) -> Result<bool, SourceError> {
        while marks.len() < FULL {
            let events = self
                .group
                .read(&mut self.buffer)
                .map_err(|error| SourceError::Read(Kind::Fanotify, error))?;
            if events.is_empty() {
                return Ok(true);
            }
            for event in events {
                match event {
                    Ok(event) => self.follower.event(event, marks),
                    Err(error) => {
                        tracing::error!(%error, "changes were lost: everything is looked at");
                        self.follower.lost(marks);
                    }
                }
            }
        }
        Ok(false)
    }
}

impl Source for Fanotify {
    fn kind(&self) -> Kind {
        Kind::Fanotify
    }

    fn next(&mut self, timeout: Duration) -> Result<Batch, SourceError> {
        let deadline = Deadline::after(timeout);
        loop {
            let mut marks = Gathering::default();
            self.watchman.look()?;
            let empty = self.read(&mut marks)?;
            let now = Instant::now();
            self.follower.due(now, &mut marks);
            if !marks.is_empty() || deadline.left().is_zero() {
                return Ok(marks.finish(empty && !self.follower.waits()));
            }
            let due = self.follower.next().map(|due| due.saturating_duration_since(now));
            let pause = deadline.left().min(due.unwrap_or(Watchman::EVERY)).min(Watchman::EVERY);
            wait_for(self.group.as_fd(), pause).map_err(|error| SourceError::Read(Kind::Fanotify, error))?;
        }
    }

    fn state(&self) -> State {
        let queue = if self.group.unlimited() { "a queue without bound" } else { "a bounded queue" };
        let path = self.root.path().display();
        State {
            text: format!("fanotify on the file system of {path}, with {queue}"),
            immediate: true,
            overflows: self.follower.overflows,
            directories: self.follower.tree.len() as u64,
        }
    }
}

impl Follower {
    fn event(&mut self, event: Event<'_>, marks: &mut Gathering) {
        let changes = event.changes;
        if changes.any(Changes::LOST) {
            tracing::warn!("fanotify's queue was full and changes were lost: everything is looked at");
            self.lost(marks);
        } else if changes.any(Changes::RENAMED) {
            self.renamed(event, marks);
        } else if let Some(place) = event.place {
            if changes.any(Changes::DIRECTORY) && place.name == b"." {
                self.itself(place.dir, marks);
            } else {
                self.entry(event, place, marks);
            }
        } else if !changes.only(Changes::ATTRIBUTES) {
            // A file that was opened by its handle, as an NFS server does.
            self.unplaced.get_or_insert_with(Instant::now);
        }
        // A number of links that changed has no place; the name that came or went has an event of its own.
    }

    fn lost(&mut self, marks: &mut Gathering) {
        self.overflows += 1;
        self.tree.clear();
        marks.everything();
    }

    /// The path of a directory that is inside.
    fn path(&mut self, dir: FileHandle<'_>) -> Option<Vec<u8>> {
        match self.tree.find(dir) {
            Ok(Whereabouts::Inside(path)) => Some(path),
            Ok(Whereabouts::Outside) => None,
            Err(error) => {
                tracing::warn!(dir = %dir.fid(), %error, "cannot find out where a directory is: everything is looked at");
                self.unplaced.get_or_insert_with(Instant::now);
                None
            }
        }
    }

    fn spot(&mut self, place: Option<Place<'_>>) -> Option<Spot> {
        let place = place?;
        let path = self.path(place.dir)?;
        Some(Spot { dir: place.dir.fid(), path, name: place.name.to_vec() })
    }

    /// An entry came, went, or is another.
    fn entry(&mut self, event: Event<'_>, place: Place<'_>, marks: &mut Gathering) {
        let Some(spot) = self.spot(Some(place)) else { return };
        let changes = event.changes;
        let key = (spot.dir, Some(spot.name.clone()));
        if changes.only(Changes::MODIFIED) {
            self.pacer.note(key, spot.path, Instant::now());
            return;
        }
        self.pacer.told(&key);
        if let Some(object) = event.object.filter(|_| changes.any(Changes::DIRECTORY)) {
            if changes.any(Changes::DELETED) {
                self.tree.remove(object.fid());
                self.pacer.told(&(object.fid(), None));
            } else if changes.any(Changes::CREATED) {
                self.tree.put(object.fid(), spot.dir, &spot.name);
            }
        }
        marks.entry(spot);
    }

    /// A directory's own attributes: it may now be readable, or not.
    fn itself(&mut self, dir: FileHandle<'_>, marks: &mut Gathering) {
        let Some(path) = self.path(dir) else { return };
        let fid = dir.fid();
        if let Some((parent, name)) = self.tree.parent(fid).map(|(parent, name)| (parent, name.to_vec()))
            && let Some(Whereabouts::Inside(path)) = self.tree.known(parent)
        {
            marks.entry(Spot { dir: parent, path, name });
        }
        self.pacer.note((fid, None), path, Instant::now());
    }

    fn renamed(&mut self, event: Event<'_>, marks: &mut Gathering) {
        let from = self.spot(event.from);
        let to = self.spot(event.to);
        for spot in from.iter().chain(&to) {
            self.pacer.told(&(spot.dir, Some(spot.name.clone())));
        }
        let below = if event.changes.any(Changes::DIRECTORY) {
            self.directory_renamed(event.object, from.as_ref(), to.as_ref())
        } else {
            None
        };
        marks.moved(from, to);
        if let Some((dir, path)) = below {
            marks.below(dir, path);
        }
    }

    /// What came from outside is returned: all beneath it is news.
    fn directory_renamed(
        &mut self,
        object: Option<FileHandle<'_>>,
        from: Option<&Spot>,
        to: Option<&Spot>,
    ) -> Option<(Fid, Vec<u8>)> {
        let Some(fid) = object.map(|object| object.fid()) else {
            self.tree.clear();
            return None;
        };
        let Some(to) = to else {
            self.tree.leave(fid);
            return None;
        };
        if from.is_some() {
            self.tree.put(fid, to.dir, &to.name);
            return None;
        }
        self.tree.enter(fid, to.dir, &to.name);
        Some((fid, join(&to.path, &to.name)))
    }

    /// Marks what was held back and is due.
    fn due(&mut self, now: Instant, marks: &mut Gathering) {
        for ((dir, name), before) in self.pacer.due(now) {
            let path = match self.tree.known(dir) {
                Some(Whereabouts::Inside(path)) => path,
                Some(Whereabouts::Outside) => continue,
                // Forgotten, or gone.
                None => before,
            };
            match name {
                Some(name) => marks.entry(Spot { dir, path, name }),
                None => marks.below(dir, path),
            }
        }
        let pause_over = self.marked.is_none_or(|marked| marked + PAUSE <= now);
        if self.unplaced.is_some() && pause_over {
            (self.unplaced, self.marked) = (None, Some(now));
            marks.everything();
        }
    }

    fn next(&self) -> Option<Instant> {
        let unplaced = self.unplaced.map(|since| self.marked.map_or(since, |marked| marked + PAUSE));
        self.pacer.next().into_iter().chain(unplaced).min()
    }

    /// Whether something that happened is not marked yet.
    fn waits(&self) -> bool {
        self.unplaced.is_some() || self.pacer.has_below()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::path::Path;

    use namespace::Mark;

    use super::*;

    fn follower(path: &Path) -> Follower {
        Follower {
            tree: Tree::new(&Arc::new(Root::open(path).unwrap())),
            pacer: Pacer::default(),
            overflows: 0,
            unplaced: None,
            marked: None,
        }
    }

    fn marks(follower: &mut Follower, event: Event<'_>, now: Instant) -> Vec<Mark> {
        let mut marks = Gathering::default();
        follower.event(event, &mut marks);
        follower.due(now, &mut marks);
        marks.finish(true).marks
    }

    #[test]
    fn a_full_queue_marks_everything_and_nothing_is_known_any_more() {
        let base = tempfile::tempdir().unwrap();
        let mut follower = follower(base.path());
        let fid = Fid::from_bytes(b"d").unwrap();
        follower.tree.put(fid, follower.tree.top(), b"d");
        let lost = Event { changes: Changes::LOST, ..Event::default() };
        assert_eq!(marks(&mut follower, lost, Instant::now()), [Mark::Everything]);
        assert_eq!((follower.overflows, follower.tree.known(fid)), (1, None));
    }

    #[test]
    fn a_write_without_a_place_marks_everything_but_seldom() {
        let base = tempfile::tempdir().unwrap();
        let mut follower = follower(base.path());
        let event = |changes| Event { changes, ..Event::default() };
        let now = Instant::now();
        assert!(marks(&mut follower, event(Changes::ATTRIBUTES), now).is_empty());
        assert_eq!(marks(&mut follower, event(Changes::CLOSED), now), [Mark::Everything]);
        assert!(marks(&mut follower, event(Changes::MODIFIED), now).is_empty());
        assert!(follower.waits() && follower.next().is_some_and(|next| next > now));
        assert_eq!(marks(&mut follower, event(Changes::MODIFIED), now + PAUSE), [Mark::Everything]);
    }

    #[test]
    fn a_directory_that_cannot_be_opened_marks_everything() {
        let base = tempfile::tempdir().unwrap();
        let mut follower = follower(base.path());
        // Not a handle at all: too long to be one.
        let dir = FileHandle { kind: 1, bytes: &[0; 200] };
        let place = Some(Place { dir, name: b"x" });
        let event = Event { changes: Changes::CREATED, place, ..Event::default() };
        assert_eq!(marks(&mut follower, event, Instant::now()), [Mark::Everything]);
    }

    #[test]
    fn a_rename_that_does_not_say_of_what_forgets_all() {
        let base = tempfile::tempdir().unwrap();
        let mut follower = follower(base.path());
        let (kind, bytes) = sys::file_handle(Root::open(base.path()).unwrap().dir().as_fd()).unwrap();
        let dir = FileHandle { kind, bytes: &bytes };
        let fid = Fid::from_bytes(b"d").unwrap();
        follower.tree.put(fid, dir.fid(), b"old");
        let event = Event {
            changes: Changes::RENAMED | Changes::DIRECTORY,
            from: Some(Place { dir, name: b"old" }),
            to: Some(Place { dir, name: b"new" }),
            ..Event::default()
        };
        let told = marks(&mut follower, event, Instant::now());
        assert!(matches!(&told[..], [Mark::Moved { from: Some(_), to: Some(_) }]), "{told:?}");
        assert_eq!(follower.tree.known(fid), None);
    }
}
