//! What each source says of what happens to a real directory.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use changelog_syncer::root::Root;
use changelog_syncer::source::inotify::Inotify;
use changelog_syncer::source::{self, Choice, Kind, Source};
use namespace::{Mark, Spot};
use tempfile::TempDir;

const INTERVAL: Duration = Duration::from_mins(10);

/// A directory `root` that is followed, and `outside` beside it.
struct Followed {
    base: TempDir,
    source: Box<dyn Source>,
}

impl Followed {
    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join("root").join(name)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.base.path().join("outside").join(name)
    }

    /// All that is told until nothing more is.
    fn told(&mut self) -> Vec<Mark> {
        let mut marks = Vec::new();
        loop {
            let batch = self.source.next(Duration::from_millis(250)).unwrap();
            if batch.marks.is_empty() && batch.drained {
                return marks;
            }
            marks.extend(batch.marks);
        }
    }
}

fn make(base: &Path) {
    fs::create_dir_all(base.join("root/sub/deep")).unwrap();
    fs::create_dir(base.join("outside")).unwrap();
    fs::write(base.join("root/file"), "x").unwrap();
    fs::write(base.join("root/sub/file"), "x").unwrap();
}

/// Follows a new directory in each way that can be used here; says so loudly where one cannot.
fn each(test: impl Fn(&mut Followed)) {
    for base in [std::env::temp_dir(), "/dev/shm".into()] {
        for choice in [Choice::Fanotify, Choice::Inotify] {
            let base = TempDir::new_in(&base).unwrap();
            make(base.path());
            let root = Arc::new(Root::open(&base.path().join("root")).unwrap());
            match source::open(&choice, &root, INTERVAL) {
                Ok(source) => test(&mut Followed { base, source }),
                Err(error) => println!("NOT TESTED: {}", source::chain(&error)),
            }
        }
    }
}

fn full(spot: &Spot) -> String {
    let path = String::from_utf8(spot.path.clone()).unwrap();
    let name = String::from_utf8(spot.name.clone()).unwrap();
    if path.is_empty() { name } else { format!("{path}/{name}") }
}

fn has_entry(marks: &[Mark], path: &str) -> bool {
    marks.iter().any(|mark| matches!(mark, Mark::Entry(spot) if full(spot) == path))
}

fn has_move(marks: &[Mark], from: Option<&str>, to: Option<&str>) -> bool {
    let is = |spot: &Option<Spot>, wanted: Option<&str>| spot.as_ref().map(full).as_deref() == wanted;
    marks.iter().any(|mark| matches!(mark, Mark::Moved { from: f, to: t } if is(f, from) && is(t, to)))
}

fn has_below(marks: &[Mark], path: &str) -> bool {
    marks.iter().any(|mark| matches!(mark, Mark::Below { path: at, .. } if at == path.as_bytes()))
}

#[test]
fn files_come_change_and_go() {
    each(|followed| {
        assert!(followed.told().is_empty());
        fs::write(followed.path("sub/new"), "x").unwrap();
        assert!(has_entry(&followed.told(), "sub/new"));
        fs::write(followed.path("sub/file"), "other").unwrap();
        assert!(has_entry(&followed.told(), "sub/file"));
        fs::remove_file(followed.path("sub/new")).unwrap();
        assert!(has_entry(&followed.told(), "sub/new"));
        fs::hard_link(followed.path("file"), followed.path("sub/deep/link")).unwrap();
        symlink("file", followed.path("symbolic")).unwrap();
        let marks = followed.told();
        assert!(has_entry(&marks, "sub/deep/link") && has_entry(&marks, "symbolic"), "{marks:?}");
        fs::set_permissions(followed.path("file"), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(has_entry(&followed.told(), "file"));
    });
}

#[test]
fn the_directory_of_a_mark_has_the_identity_that_it_has_when_opened() {
    each(|followed| {
        fs::write(followed.path("sub/deep/new"), "").unwrap();
        let root = Root::open(&followed.path("")).unwrap();
        let deep = root.open_dir(b"sub/deep").unwrap();
        let wanted = root.fid_of(std::os::fd::AsFd::as_fd(&deep)).unwrap();
        let marks = followed.told();
        assert!(
            marks.iter().any(|mark| matches!(mark, Mark::Entry(spot) if spot.dir == wanted)),
            "{marks:?}"
        );
    });
}

#[test]
fn truncate_is_seen_without_a_close() {
    each(|followed| {
        truncate(&followed.path("sub/file"));
        assert!(has_entry(&followed.told(), "sub/file"));
    });
}

/// truncate(2), which opens nothing; there is no safe wrapper of it, but in this interpreter.
fn truncate(path: &Path) {
    let program = "truncate($ARGV[0], 0) or die";
    let status = std::process::Command::new("perl").args(["-e", program]).arg(path).status();
    if !status.is_ok_and(|status| status.success()) {
        println!("NOT TESTED: truncate(2): there is no perl");
        OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
    }
}

#[test]
fn a_file_that_is_held_open_is_marked_seldom_but_at_last() {
    each(|followed| {
        let mut file = OpenOptions::new().append(true).open(followed.path("file")).unwrap();
        let (begin, mut marks) = (Instant::now(), Vec::new());
        while begin.elapsed() < Duration::from_secs(2) {
            file.write_all(b"more").unwrap();
            marks.extend(followed.source.next(Duration::from_millis(1)).unwrap().marks);
        }
        let during = marks.len();
        assert!((1..=4).contains(&during), "{during}");
        file.write_all(b"last").unwrap();
        let last = Instant::now();
        while !has_entry(&marks[during..], "file") {
            assert!(last.elapsed() < Duration::from_mins(1));
            marks.extend(followed.source.next(Duration::from_millis(100)).unwrap().marks);
        }
    });
}

#[test]
fn a_rename_has_both_names() {
    each(|followed| {
        fs::rename(followed.path("file"), followed.path("sub/deep/moved")).unwrap();
        let marks = followed.told();
        assert!(has_move(&marks, Some("file"), Some("sub/deep/moved")), "{marks:?}");
    });
}

#[test]
fn what_happens_in_a_directory_that_was_renamed_has_its_new_path() {
    each(|followed| {
        fs::write(followed.path("sub/deep/first"), "").unwrap();
        followed.told();
        fs::rename(followed.path("sub"), followed.path("other")).unwrap();
        fs::write(followed.path("other/deep/second"), "").unwrap();
        let marks = followed.told();
        assert!(has_move(&marks, Some("sub"), Some("other")), "{marks:?}");
        assert!(has_entry(&marks, "other/deep/second"), "{marks:?}");
    });
}

#[test]
fn directories_that_swap_names_are_not_mixed_up() {
    each(|followed| {
        for name in ["a/x", "b/y"] {
            fs::create_dir_all(followed.path(name)).unwrap();
        }
        followed.told();
        fs::rename(followed.path("a"), followed.path("t")).unwrap();
        fs::rename(followed.path("b"), followed.path("a")).unwrap();
        fs::rename(followed.path("t"), followed.path("b")).unwrap();
        followed.told();
        fs::write(followed.path("a/y/f"), "").unwrap();
        fs::write(followed.path("b/x/f"), "").unwrap();
        let marks = followed.told();
        assert!(has_entry(&marks, "a/y/f") && has_entry(&marks, "b/x/f"), "{marks:?}");
    });
}

#[test]
fn a_new_tree_is_seen_to_its_leaves() {
    each(|followed| {
        fs::create_dir_all(followed.path("n/e/w")).unwrap();
        fs::write(followed.path("n/e/w/file"), "").unwrap();
        let marks = followed.told();
        assert!(has_entry(&marks, "n"), "{marks:?}");
        let covered = ["n", "n/e", "n/e/w"].iter().any(|path| has_below(&marks, path));
        assert!(covered || has_entry(&marks, "n/e/w/file"), "{marks:?}");
        fs::write(followed.path("n/e/w/later"), "").unwrap();
        assert!(has_entry(&followed.told(), "n/e/w/later"));
        fs::remove_dir_all(followed.path("n")).unwrap();
        let marks = followed.told();
        assert!(has_entry(&marks, "n"), "{marks:?}");
        fs::create_dir(followed.path("n")).unwrap();
        fs::write(followed.path("n/again"), "").unwrap();
        let marks = followed.told();
        assert!(has_entry(&marks, "n/again") || has_below(&marks, "n"), "{marks:?}");
    });
}

#[test]
fn what_is_outside_is_not_told() {
    each(|followed| {
        fs::create_dir(followed.outside("dir")).unwrap();
        fs::write(followed.outside("dir/file"), "").unwrap();
        fs::rename(followed.outside("dir"), followed.outside("other")).unwrap();
        assert!(followed.told().is_empty());
    });
}

#[test]
fn a_directory_from_outside_is_all_news_and_followed() {
    each(|followed| {
        fs::create_dir_all(followed.outside("dir/in")).unwrap();
        fs::write(followed.outside("dir/in/file"), "").unwrap();
        followed.told();
        fs::rename(followed.outside("dir"), followed.path("sub/dir")).unwrap();
        let marks = followed.told();
        assert!(has_move(&marks, None, Some("sub/dir")), "{marks:?}");
        assert!(has_below(&marks, "sub/dir"), "{marks:?}");
        fs::write(followed.path("sub/dir/in/file"), "y").unwrap();
        assert!(has_entry(&followed.told(), "sub/dir/in/file"));

        fs::rename(followed.path("sub/dir"), followed.outside("dir")).unwrap();
        let marks = followed.told();
        assert!(has_move(&marks, Some("sub/dir"), None), "{marks:?}");
        fs::write(followed.outside("dir/in/file"), "z").unwrap();
        fs::rename(followed.outside("dir/in"), followed.outside("in")).unwrap();
        assert!(followed.told().is_empty());
        fs::rename(followed.outside("dir"), followed.path("dir")).unwrap();
        fs::rename(followed.outside("in"), followed.path("in")).unwrap();
        followed.told();
        fs::write(followed.path("in/file"), "z").unwrap();
        assert!(has_entry(&followed.told(), "in/file"));
    });
}

#[test]
fn files_pass_the_border() {
    each(|followed| {
        fs::rename(followed.path("file"), followed.outside("file")).unwrap();
        assert!(has_move(&followed.told(), Some("file"), None));
        fs::rename(followed.outside("file"), followed.path("sub/back")).unwrap();
        assert!(has_move(&followed.told(), None, Some("sub/back")));
    });
}

#[test]
fn permissions_of_a_directory_concern_all_beneath() {
    each(|followed| {
        fs::set_permissions(followed.path("sub"), fs::Permissions::from_mode(0o700)).unwrap();
        let marks = followed.told();
        assert!(has_entry(&marks, "sub") && has_below(&marks, "sub"), "{marks:?}");
        fs::set_permissions(followed.path(""), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(has_below(&followed.told(), ""));
    });
}

#[test]
fn a_directory_that_is_made_changed_and_removed_leaves_nothing_behind() {
    each(|followed| {
        fs::create_dir(followed.path("brief")).unwrap();
        fs::set_permissions(followed.path("brief"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(followed.path("brief/file"), "").unwrap();
        fs::remove_dir_all(followed.path("brief")).unwrap();
        let marks = followed.told();
        assert!(has_entry(&marks, "brief"), "{marks:?}");
        assert!(!marks.contains(&Mark::Everything), "{marks:?}");
    });
}

#[test]
fn the_end_of_a_root_is_an_error_that_says_so() {
    each(|followed| {
        let base = followed.base.path();
        fs::rename(base.join("root"), base.join("was")).unwrap();
        let error = loop {
            if let Err(error) = followed.source.next(Duration::from_millis(100)) {
                break error;
            }
        };
        assert!(source::chain(&error).contains("unmounted, or the directory was replaced"), "{error}");
    });
}

#[test]
fn an_unmount_ends_the_source() {
    for choice in [Choice::Fanotify, Choice::Inotify, Choice::Scan] {
        let base = TempDir::new().unwrap();
        let none = rustix::mount::MountFlags::empty();
        if let Err(error) = rustix::mount::mount("none", base.path(), "tmpfs", none, None) {
            println!("NOT TESTED: unmount: {error}");
            return;
        }
        let root = Arc::new(Root::open(base.path()).unwrap());
        let opened = source::open(&choice, &root, INTERVAL);
        let unmount = || rustix::mount::unmount(base.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        let Ok(mut source) = opened else {
            unmount();
            println!("NOT TESTED: {choice:?}");
            continue;
        };
        fs::write(base.path().join("file"), "").unwrap();
        if choice != Choice::Scan {
            assert!(has_entry(&source.next(Duration::from_secs(5)).unwrap().marks, "file"));
        }
        unmount();
        let error = loop {
            if let Err(error) = source.next(Duration::from_millis(100)) {
                break error;
            }
        };
        assert!(source::chain(&error).contains("unmounted"), "{error}");
    }
}

#[test]
fn a_full_queue_of_inotify_marks_everything() {
    let most: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    if most > 100_000 {
        println!("NOT TESTED: the queue of inotify holds {most} events");
        return;
    }
    let base = TempDir::new_in("/dev/shm").unwrap();
    make(base.path());
    let root = Arc::new(Root::open(&base.path().join("root")).unwrap());
    let source = Box::new(Inotify::open(&root, INTERVAL).unwrap());
    let mut followed = Followed { base, source };
    for number in 0..=most / 2 {
        let path = followed.path(&format!("sub/{}", number % 10));
        fs::write(&path, "").unwrap();
        fs::remove_file(&path).unwrap();
    }
    // Renamed while nobody was told: the paths have to be right all the same.
    fs::rename(followed.path("sub"), followed.path("other")).unwrap();
    fs::create_dir(followed.path("new")).unwrap();
    assert!(followed.told().contains(&Mark::Everything));
    assert_eq!(followed.source.state().overflows, 1);
    fs::write(followed.path("other/deep/x"), "").unwrap();
    fs::write(followed.path("new/x"), "").unwrap();
    let marks = followed.told();
    assert!(has_entry(&marks, "other/deep/x") && has_entry(&marks, "new/x"), "{marks:?}");
}

#[test]
fn with_too_few_watches_it_scans_and_says_so() {
    let base = TempDir::new().unwrap();
    make(base.path());
    let root = Arc::new(Root::open(&base.path().join("root")).unwrap());
    let interval = Duration::from_millis(500);
    let mut source = Inotify::with_most(&root, interval, 2).unwrap();
    let state = source.state();
    assert!(!state.immediate && state.text.contains("max_user_watches"), "{}", state.text);
    let mut rounds = 0;
    while rounds < 2 {
        let batch = source.next(interval * 2).unwrap();
        rounds += batch.marks.iter().filter(|mark| **mark == Mark::Everything).count();
    }
    // Room again: the next round watches all.
    fs::remove_dir(base.path().join("root/sub/deep")).unwrap();
    while !source.state().immediate {
        source.next(interval * 2).unwrap();
    }
}

#[test]
fn a_scan_marks_everything_again_and_again() {
    let base = TempDir::new().unwrap();
    let root = Arc::new(Root::open(base.path()).unwrap());
    let mut source = source::open(&Choice::Scan, &root, Duration::from_millis(200)).unwrap();
    assert!(source.next(Duration::ZERO).unwrap().marks.is_empty());
    for _ in 0..2 {
        let marks = loop {
            let batch = source.next(Duration::from_secs(5)).unwrap();
            if !batch.marks.is_empty() {
                break batch.marks;
            }
        };
        assert_eq!(marks, [Mark::Everything]);
    }
    assert!(!source.state().immediate);
}

#[test]
fn auto_takes_what_can_be_used() {
    let base = TempDir::new().unwrap();
    let root = Arc::new(Root::open(base.path()).unwrap());
    let chosen = source::open(&Choice::Auto, &root, INTERVAL).unwrap().kind();
    let wanted =
        if source::open(&Choice::Fanotify, &root, INTERVAL).is_ok() { Kind::Fanotify } else { Kind::Inotify };
    assert_eq!(chosen, wanted);
    // Nothing has events in /proc.
    let proc = Arc::new(Root::open(Path::new("/proc/self/fdinfo")).unwrap());
    let error = source::open(&Choice::Fanotify, &proc, INTERVAL).err().unwrap();
    assert!(source::chain(&error).contains("fanotify cannot be used on /proc/self/fdinfo"), "{error}");
}
