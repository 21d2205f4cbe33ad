//! A storm of changes, and a mirror that knows of it by marks alone: in the end it is what is there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use changelog_syncer::root::Root;
use changelog_syncer::source::{self, Choice};
use lustre::fs::{Fid, FileSystem as _, Generic};
use namespace::{Mark, Spot};
use tempfile::TempDir;

/// What is known of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    fid: Fid,
    directory: bool,
    mode: u32,
    /// Size and time of the last write, of a file.
    data: Option<(u64, i64, i64)>,
}

fn row(path: &Path) -> Option<Row> {
    let fd = rustix::fs::open(
        path,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .ok()?;
    let found = fs::symlink_metadata(path).ok()?;
    let data = found.is_file().then(|| (found.size(), found.mtime(), found.mtime_nsec()));
    let (directory, mode) = (found.is_dir(), found.mode());
    Some(Row { fid: Generic.fid(fd.as_fd()).ok()?, directory, mode, data })
}

/// All that is there beneath a directory, by path.
fn walk(root: &Path, at: &Path, all: &mut BTreeMap<PathBuf, Row>) {
    let Ok(entries) = fs::read_dir(at) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(row) = row(&path) else { continue };
        let directory = row.directory;
        all.insert(path.strip_prefix(root).unwrap().to_owned(), row);
        if directory {
            walk(root, &path, all);
        }
    }
}

struct Mirror {
    root: PathBuf,
    top: Fid,
    rows: HashMap<(Fid, Vec<u8>), Row>,
    /// Marks of directories that were found nowhere, maybe because they moved while they were looked for.
    again: Vec<Mark>,
}

impl Mirror {
    fn new(root: &Path) -> Mirror {
        let top = row(root).unwrap().fid;
        let mut mirror = Mirror { root: root.to_owned(), top, rows: HashMap::new(), again: Vec::new() };
        mirror.scan(top);
        mirror
    }

    /// Where a directory is now: its identity counts, not the path in a mark.
    fn place(&self, dir: Fid) -> Option<PathBuf> {
        if dir == self.top {
            return Some(self.root.clone());
        }
        let mut all = BTreeMap::new();
        walk(&self.root, &self.root, &mut all);
        all.into_iter().find(|(_, row)| row.directory && row.fid == dir).map(|(path, _)| self.root.join(path))
    }

    fn look(&mut self, dir: Fid, name: &[u8]) -> Option<Row> {
        let path = self.place(dir).map(|place| place.join(String::from_utf8(name.to_vec()).unwrap()));
        let found = path.and_then(|path| row(&path));
        let key = (dir, name.to_vec());
        let before = self.rows.remove(&key);
        if let Some(found) = &found {
            self.rows.insert(key.clone(), found.clone());
        }
        // A file with several names is written to by one of them.
        for fid in before.iter().chain(&found).filter(|row| !row.directory).map(|row| row.fid) {
            let others = self.rows.iter().filter(|(other, row)| row.fid == fid && **other != key);
            let others: Vec<_> = others.map(|(other, _)| other.clone()).collect();
            for (dir, name) in others {
                let path = self.place(dir).map(|place| place.join(String::from_utf8(name.clone()).unwrap()));
                match path.and_then(|path| row(&path)) {
                    Some(found) => self.rows.insert((dir, name), found),
                    None => self.rows.remove(&(dir, name)),
                };
            }
        }
        found
    }

    fn scan(&mut self, dir: Fid) {
        let Some(place) = self.place(dir) else { return };
        let mut all = BTreeMap::new();
        walk(&place, &place, &mut all);
        let fids: HashMap<PathBuf, Fid> = all.iter().map(|(path, row)| (path.clone(), row.fid)).collect();
        let parent = |path: &Path| {
            let above = path.parent().unwrap();
            if above.as_os_str().is_empty() { Some(dir) } else { fids.get(above).copied() }
        };
        let inside: Vec<Fid> = fids.values().copied().chain([dir]).collect();
        self.rows.retain(|(dir, _), _| !inside.contains(dir));
        for (path, row) in all {
            let name = path.file_name().unwrap().as_encoded_bytes().to_vec();
            if let Some(above) = parent(&path) {
                self.rows.insert((above, name), row);
            }
        }
    }

    fn apply(&mut self, mark: Mark) {
        let dirs: Vec<Fid> = match &mark {
            Mark::Entry(spot) => vec![spot.dir],
            Mark::Moved { from, to } => from.iter().chain(to).map(|spot| spot.dir).collect(),
            Mark::Below { dir, .. } => vec![*dir],
            Mark::Everything => Vec::new(),
        };
        if dirs.into_iter().any(|dir| self.place(dir).is_none()) {
            self.again.push(mark.clone());
        }
        match mark {
            Mark::Entry(Spot { dir, name, .. }) => {
                self.look(dir, &name);
            }
            Mark::Moved { from, to } => {
                let known: Vec<Fid> =
                    self.rows.values().filter(|row| row.directory).map(|row| row.fid).collect();
                if let Some(from) = &from {
                    self.look(from.dir, &from.name);
                }
                let Some(to) = to else { return };
                if let Some(row) = self.look(to.dir, &to.name)
                    && row.directory
                    // It came from outside, or a scan passed it by while it moved.
                    && (from.is_none() || !known.contains(&row.fid))
                {
                    self.scan(row.fid);
                }
            }
            Mark::Below { dir, .. } => self.scan(dir),
            Mark::Everything => {
                self.rows.clear();
                self.scan(self.top);
            }
        }
    }

    /// What can be reached from the root.
    fn tree(&self) -> BTreeMap<PathBuf, Row> {
        let mut all = BTreeMap::new();
        let mut waiting = vec![(self.top, PathBuf::new())];
        while let Some((dir, path)) = waiting.pop() {
            assert!(path.components().count() < 50, "a loop: {}", path.display());
            for ((_, name), row) in self.rows.iter().filter(|((above, _), _)| *above == dir) {
                let path = path.join(String::from_utf8(name.clone()).unwrap());
                if row.directory {
                    waiting.push((row.fid, path.clone()));
                }
                all.insert(path, row.clone());
            }
        }
        all
    }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// Sometimes outside.
    fn path(&mut self, base: &Path) -> PathBuf {
        let mut path = base.join(if self.below(12) == 0 { "outside" } else { "root" });
        for _ in 0..=self.below(3) {
            path.push(["a", "b", "c", "d"][self.below(4) as usize]);
        }
        path
    }
}

/// Most of these fail at any moment, as they should.
fn change(base: &Path, chance: &mut Chance) {
    let (one, other) = (chance.path(base), chance.path(base));
    let _ = match chance.below(14) {
        0..=2 => fs::write(&one, b"new"),
        3 => OpenOptions::new().append(true).open(&one).and_then(|mut file| file.write_all(b"more")),
        4 => OpenOptions::new().write(true).open(&one).and_then(|file| file.set_len(1)),
        5..=7 => fs::create_dir_all(&one),
        8 | 9 => fs::rename(&one, &other),
        10 => fs::remove_file(&one),
        11 => fs::remove_dir_all(&one),
        12 => fs::hard_link(&one, &other),
        _ => fs::set_permissions(&one, fs::Permissions::from_mode(0o700 + chance.below(8) as u32)),
    };
}

fn storm(choice: &Choice, place: &Path, seed: u64) {
    let base = TempDir::new_in(place).unwrap();
    for name in ["root/a/b", "outside/a"] {
        fs::create_dir_all(base.path().join(name)).unwrap();
    }
    let path = base.path().join("root");
    let root = Arc::new(Root::open(&path).unwrap());
    let mut source = match source::open(choice, &root, Duration::from_mins(10)) {
        Ok(source) => source,
        Err(error) => {
            println!("NOT TESTED: {}", source::chain(&error));
            return;
        }
    };
    let mut mirror = Mirror::new(&path);
    let storm = {
        let base = base.path().to_owned();
        std::thread::spawn(move || {
            let mut chance = Chance(seed);
            for _ in 0..400 {
                change(&base, &mut chance);
            }
        })
    };
    let mut quiet = 0;
    while quiet < 2 {
        let over = storm.is_finished();
        let batch = source.next(Duration::from_millis(120)).unwrap();
        quiet = if over && batch.marks.is_empty() && batch.drained { quiet + 1 } else { 0 };
        for mark in batch.marks {
            // Nothing was lost, so nothing has to be looked at in vain. Inotify may lose sight of a directory, and on a disk
            // that others use there are changes that have no place.
            let spared = *choice == Choice::Fanotify && place == Path::new("/dev/shm");
            assert!(mark != Mark::Everything || !spared, "seed {seed}");
            mirror.apply(mark);
        }
    }
    storm.join().unwrap();
    for mark in std::mem::take(&mut mirror.again) {
        mirror.apply(mark);
    }
    let mut there = BTreeMap::new();
    walk(&path, &path, &mut there);
    let known = mirror.tree();
    let paths: std::collections::BTreeSet<_> = there.keys().chain(known.keys()).collect();
    for path in paths {
        assert_eq!(known.get(path), there.get(path), "{choice:?}, seed {seed}: {}", path.display());
    }
}

#[test]
fn a_mirror_by_fanotify_is_what_is_there() {
    for seed in 1..=8 {
        storm(&Choice::Fanotify, Path::new("/dev/shm"), seed);
        storm(&Choice::Fanotify, &std::env::temp_dir(), seed + 100);
    }
}

#[test]
fn a_mirror_by_inotify_is_what_is_there() {
    for seed in 1..=8 {
        storm(&Choice::Inotify, Path::new("/dev/shm"), seed);
        storm(&Choice::Inotify, &std::env::temp_dir(), seed + 100);
    }
}
