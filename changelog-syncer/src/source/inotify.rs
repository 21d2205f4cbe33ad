//! inotify: a watch on each directory beneath the root.
//!
//! A directory is watched before it is read, so that what comes meanwhile is either read or told. A new one is all news: what
//! was made in it before the watch had no event. The halves of a rename are two events, with others in between.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lustre::sys::{self, Changes, Half, Noticed, Watch};
use namespace::Spot;

use super::batch::Gathering;
use super::pacer::Pacer;
use super::{Batch, Deadline, Kind, Source, SourceError, State, Watchman, wait_for};
use crate::root::{Root, join};
use watches::{Added, Watches};

mod watches;

/// Events that are taken at once.
const FULL: usize = 8192;
/// How long half a rename waits for the other.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long it may be unclear where a directory is, if events do not end.
const MUDDLED: Duration = Duration::from_secs(1);

/// See the module.
pub struct Inotify {
    root: Arc<Root>,
    watchman: Watchman,
    instance: sys::Inotify,
    watches: Watches,
    pacer: Pacer,
    /// Names that went by a rename, in the order of the events.
    halves: Vec<Gone>,
    overflows: u64,
    /// Since when it is not clear where some directory is; what happened in it since is not marked.
    muddled: Option<Instant>,
    interval: Duration,
    /// Of the scan that stands in for watches.
    next_scan: Instant,
}

struct Gone {
    cookie: u32,
    spot: Spot,
    /// The directory that it concerned, if it is one that is watched.
    watch: Option<Watch>,
    until: Instant,
}

impl Inotify {
    /// Watches each directory. If there are more than may be watched, scans each `interval` instead.
    pub fn open(root: &Arc<Root>, interval: Duration) -> Result<Inotify, SourceError> {
        Self::with_most(root, interval, usize::MAX)
    }

    /// As [`Self::open`], with at most so many watches, whatever the kernel allows.
    pub fn with_most(root: &Arc<Root>, interval: Duration, most: usize) -> Result<Inotify, SourceError> {
        let unusable = |source| SourceError::Unusable {
            kind: Kind::Inotify,
            path: root.path().to_owned(),
            hint: "it needs /proc, and fewer than fs.inotify.max_user_instances in use",
            source,
        };
        let inotify = sys::Inotify::new().map_err(unusable)?;
        let watches = Watches::new(&inotify, root, most).map_err(unusable)?;
        Ok(Inotify {
            root: Arc::clone(root),
            watchman: Watchman::new(root),
            instance: inotify,
            watches,
            pacer: Pacer::default(),
            halves: Vec::new(),
            overflows: 0,
            muddled: None,
            interval,
            next_scan: Instant::now() + interval,
        })
    }

    fn read(&mut self, marks: &mut Gathering) -> Result<bool, SourceError> {
        let mut events = Vec::new();
        let empty = self
            .instance
            .read(FULL, &mut |event| events.push(event))
            .map_err(|error| SourceError::Read(Kind::Inotify, error))?;
        for event in events {
            self.event(&event, marks)?;
        }
        Ok(empty)
    }

    fn event(&mut self, event: &Noticed, marks: &mut Gathering) -> Result<(), SourceError> {
        if event.changes.any(Changes::LOST) {
            tracing::warn!("inotify's queue was full and changes were lost: everything is looked at");
            self.overflows += 1;
            self.begin_again(marks);
        } else if event.unmounted {
            if event.watch == self.watches.root() {
                return Err(crate::root::RootError::Gone(self.root.path().to_owned()).into());
            }
        } else if event.ended {
            self.watches.ended(event.watch);
        } else if let Some((dir, path)) = self.watches.place(event.watch) {
            match &event.name {
                Some(name) => {
                    let spot = Spot { dir, path, name: name.clone() };
                    self.entry(event, spot, marks);
                }
                // Its entry in the directory above has an event of its own.
                None if event.changes.any(Changes::ATTRIBUTES) => {
                    self.pacer.note((dir, None), path, Instant::now());
                }
                None => {}
            }
        } else if self.watches.knows(event.watch) && !self.is_leaving(event.watch) {
            // Watching sees the present and events tell of the past: for a moment they may contradict each other.
            self.muddled.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Whether a directory is, or is in, one that went and came nowhere yet; where it hung may be gone.
    fn is_leaving(&self, watch: Watch) -> bool {
        let way = self.watches.way(watch);
        self.halves.iter().filter_map(|half| half.watch).any(|gone| way.contains(&gone))
    }

    fn entry(&mut self, event: &Noticed, spot: Spot, marks: &mut Gathering) {
        let (changes, key) = (event.changes, (spot.dir, Some(spot.name.clone())));
        if changes.only(Changes::MODIFIED) && event.half.is_none() {
            self.pacer.note(key, spot.path, Instant::now());
            return;
        }
        self.pacer.told(&key);
        match event.half {
            Some(Half::From) => self.went(event, spot),
            Some(Half::To) => self.came(event, spot, marks),
            None => {
                let directory = changes.any(Changes::DIRECTORY) && !changes.any(Changes::DELETED);
                let path = join(&spot.path, &spot.name);
                if changes.any(Changes::DELETED)
                    && let Some(gone) = self.watches.unname(event.watch, &spot.name)
                {
                    // The kernel says so too, but maybe only after the directory above is gone.
                    self.watches.ended(gone);
                }
                marks.entry(spot.clone());
                if directory {
                    self.follow(event.watch, &spot.name, &path, changes.any(Changes::CREATED), marks);
                }
            }
        }
    }

    /// Watches the directory at `path`. All beneath is marked if it was not watched before.
    fn follow(&mut self, parent: Watch, name: &[u8], path: &[u8], created: bool, marks: &mut Gathering) {
        match self.watches.add(&self.instance, &self.root, Some((parent, name)), path) {
            Added::New(fid) | Added::Refused(Some(fid)) => marks.below(fid, path.to_vec()),
            Added::Known(fid) if created => marks.below(fid, path.to_vec()),
            // Followed all along; or gone again or not to be opened, and its entry is marked.
            Added::Known(_) | Added::Refused(None) => {}
        }
    }

    fn went(&mut self, event: &Noticed, spot: Spot) {
        let watch = self.watches.unname(event.watch, &spot.name);
        self.halves.push(Gone { cookie: event.cookie, spot, watch, until: Instant::now() + PATIENCE });
    }

    fn came(&mut self, event: &Noticed, to: Spot, marks: &mut Gathering) {
        let other = self.halves.iter().position(|half| half.cookie == event.cookie);
        let from = other.map(|index| self.halves.remove(index));
        let (parent, name, path) = (event.watch, to.name.clone(), join(&to.path, &to.name));
        if let Some(watch) = from.as_ref().and_then(|from| from.watch) {
            self.watches.rename(watch, parent, &name);
        }
        let known = from.is_some();
        marks.moved(from.map(|from| from.spot), Some(to));
        if event.changes.any(Changes::DIRECTORY) {
            // What has the name now may be another directory than the one that the event is about.
            self.follow(parent, &name, &path, !known, marks);
            for (dir, path) in self.watches.find_stale(&self.instance, &self.root) {
                marks.below(dir, path);
            }
        }
    }

    /// Marks names that went nowhere that is watched.
    fn settle(&mut self, now: Instant, marks: &mut Gathering) {
        while self.halves.first().is_some_and(|half| half.until <= now) {
            let half = self.halves.remove(0);
            // It may have come back, by a rename with another cookie.
            if let Some(watch) = half.watch.filter(|watch| !self.watches.has_name(*watch)) {
                self.watches.forget(&self.instance, watch);
            }
            marks.moved(Some(half.spot), None);
        }
    }

    /// Watches what there is now, whatever was known.
    fn begin_again(&mut self, marks: &mut Gathering) {
        for half in std::mem::take(&mut self.halves) {
            marks.moved(Some(half.spot), None);
        }
        self.watches.begin_again(&self.instance, &self.root);
        self.muddled = None;
        // After the watches: what happened before them is found now, what happens from now on is told.
        marks.everything();
    }

    fn due(&mut self, now: Instant, marks: &mut Gathering) {
        self.settle(now, marks);
        for ((dir, name), _) in self.pacer.due(now) {
            match (self.watches.path_of(dir), name) {
                (Some(path), Some(name)) => marks.entry(Spot { dir, path, name }),
                (Some(path), None) => marks.below(dir, path),
                // Its directory is gone, and was marked.
                (None, _) => {}
            }
        }
        if now >= self.next_scan {
            self.next_scan = now + self.interval;
            if self.watches.exhausted() {
                self.begin_again(marks);
            }
        }
    }

    /// When something is to be marked without an event.
    fn next_due(&self) -> Option<Instant> {
        let half = self.halves.first().map(|half| half.until);
        let scan = self.watches.exhausted().then_some(self.next_scan);
        [half, scan, self.pacer.next()].into_iter().flatten().min()
    }
}

impl Source for Inotify {
    fn kind(&self) -> Kind {
        Kind::Inotify
    }

    fn next(&mut self, timeout: Duration) -> Result<Batch, SourceError> {
        let deadline = Deadline::after(timeout);
        loop {
            let mut marks = Gathering::default();
            self.watchman.look()?;
            let empty = self.read(&mut marks)?;
            let now = Instant::now();
            if self.muddled.is_some_and(|since| empty || since + MUDDLED <= now) {
                tracing::warn!(
                    "directories were renamed faster than they could be followed: everything is looked at"
                );
                self.overflows += 1;
                self.begin_again(&mut marks);
            }
            self.due(now, &mut marks);
            if !marks.is_empty() || deadline.left().is_zero() {
                return Ok(marks.finish(
                    empty && self.muddled.is_none() && self.halves.is_empty() && !self.pacer.has_below(),
                ));
            }
            let due = self.next_due().map(|due| due.saturating_duration_since(now));
            let pause = deadline.left().min(due.unwrap_or(Watchman::EVERY)).min(Watchman::EVERY);
            wait_for(self.instance.as_fd(), pause)
                .map_err(|error| SourceError::Read(Kind::Inotify, error))?;
        }
    }

    fn state(&self) -> State {
        let count = self.watches.len();
        let mut text = format!("inotify on {count} directories");
        if self.watches.exhausted() {
            text = format!(
                "{text}, and no more are allowed (fs.inotify.max_user_watches): a scan every {} seconds finds the rest",
                self.interval.as_secs()
            );
        }
        if self.watches.unreadable() > 0 {
            text = format!(
                "{text}; {} directories may not be read and are not watched",
                self.watches.unreadable()
            );
        }
        State {
            text,
            immediate: !self.watches.exhausted(),
            overflows: self.overflows,
            directories: count as u64,
        }
    }
}
