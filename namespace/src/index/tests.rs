use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::listing::{ListQuery, Row};
use crate::{Mark, Namespace, ObjectMeta, ObjectName, Options, Spot, Timestamp};

/// A namespace with an index, and a hand on its files that says what it did as a source of changes would.
struct Site {
    namespace: Namespace,
    root: tempfile::TempDir,
    marks: Vec<Mark>,
}

const ACCOUNT: &str = "AUTH_a";

impl Site {
    fn new() -> Self {
        Self::with(Options { durable: false, ..Options::default() })
    }

    fn with(options: Options) -> Self {
        let root = tempfile::tempdir().unwrap();
        let namespace = open(root.path(), options);
        let mut site = Self { namespace, root, marks: Vec::new() };
        site.namespace.create_account(ACCOUNT, vec![], Timestamp::now()).unwrap();
        for container in ["c", "d"] {
            site.namespace.create_container(ACCOUNT, container, vec![], Timestamp::now()).unwrap();
        }
        site.settle();
        site
    }

    fn index(&self) -> &Index {
        self.namespace.index().unwrap()
    }

    /// Hands over the marks, scans what is to be scanned.
    fn settle(&mut self) {
        let marks = std::mem::take(&mut self.marks);
        self.namespace.observe(&marks).unwrap();
        self.prove();
    }

    fn prove(&self) {
        self.index().heard(Duration::ZERO);
        let left = self.namespace.prove(2, &AtomicBool::new(false), &|_| {}, &Progress::default()).unwrap();
        assert!(!left, "something could not be scanned");
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(ACCOUNT).join(path)
    }

    fn spot(&self, path: &Path) -> Option<Spot> {
        let parent = path.parent()?;
        let dir = std::fs::File::open(parent).ok()?;
        let beneath = parent.strip_prefix(self.root.path()).ok()?;
        Some(Spot {
            dir: self.namespace.fs.fid(dir.as_fd()).ok()?,
            path: beneath.as_os_str().as_encoded_bytes().to_vec(),
            name: path.file_name()?.as_encoded_bytes().to_vec(),
        })
    }

    fn mark(&mut self, path: &str) {
        let spot = self.spot(&self.path(path));
        self.marks.extend(spot.map(Mark::Entry));
    }

    fn write(&mut self, path: &str, text: &str) {
        if std::fs::write(self.path(path), text).is_ok() {
            self.mark(path);
        }
    }

    fn make_dir(&mut self, path: &str) {
        if std::fs::create_dir(self.path(path)).is_ok() {
            self.mark(path);
        }
    }

    fn link(&mut self, target: &str, path: &str) {
        if symlink(target, self.path(path)).is_ok() {
            self.mark(path);
        }
    }

    fn remove(&mut self, path: &str) {
        let full = self.path(path);
        if std::fs::remove_file(&full).or_else(|_| std::fs::remove_dir(&full)).is_ok() {
            self.mark(path);
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let (old, new) = (self.path(from), self.path(to));
        let from = self.spot(&old);
        if std::fs::rename(&old, &new).is_ok() {
            let to = self.spot(&new);
            self.marks.push(Mark::Moved { from, to });
        }
    }

    fn put(&self, container: &str, name: &str, body: &str) {
        let name = ObjectName::new(ACCOUNT, container, name);
        let meta = ObjectMeta { content_type: Some("text/plain".into()), ..ObjectMeta::default() };
        match self.namespace.put_object(&name, body.as_bytes(), meta, Timestamp::now(), None) {
            Ok(_) | Err(Error::Superseded { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn delete(&self, container: &str, name: &str) {
        let _ = self.namespace.delete_object(&ObjectName::new(ACCOUNT, container, name), Timestamp::now());
    }

    /// What a source of changes says of a request of our own.
    fn echo(&mut self, container: &str, name: &str) {
        let mut path = container.to_owned();
        for part in name.split('/') {
            path = format!("{path}/{part}");
            self.mark(&path);
            self.mark(&format!("{path}/.lb~self"));
        }
    }

    fn names(&self, container: &str) -> Vec<String> {
        let query = ListQuery { limit: 10_000, ..ListQuery::default() };
        let rows = self.namespace.list_indexed(ACCOUNT, container, &query).unwrap().expect("not proven");
        rows.into_iter()
            .map(|row| match row {
                Row::Object(row) => row.name,
                Row::Subdir(name) => name,
            })
            .collect()
    }

    #[track_caller]
    fn assert_exact(&self) {
        for container in self.namespace.container_names(ACCOUNT).unwrap() {
            let mut differences = Vec::new();
            self.namespace
                .verify(ACCOUNT, &container, &mut |difference| {
                    if !matches!(difference, Difference::Unserved { .. }) {
                        differences.push(difference.to_string());
                    }
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert_eq!(differences, Vec::<String>::new(), "in {container}");
        }
        let query = ListQuery { limit: 10_000, ..ListQuery::default() };
        let rows = self.namespace.list_containers_indexed(ACCOUNT, &query).unwrap().expect("not proven");
        let names: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
        assert_eq!(names.len(), self.namespace.container_names(ACCOUNT).unwrap().len());
    }
}

fn options(path: &Path) -> IndexOptions {
    IndexOptions { path: path.to_owned(), cache: 8 << 20, max_silence: Duration::from_hours(1) }
}

fn open(root: &Path, settings: Options) -> Namespace {
    // Where no account is: a name that decodes to nothing.
    std::fs::create_dir_all(root.join(".lb~dindex")).unwrap();
    let index =
        Index::open(&options(&root.join(".lb~dindex/index.redb")), Box::new(|_, _| Ok(Actor::Process)))
            .unwrap();
    Namespace::open(root, settings).unwrap().with_index(index)
}

/// Numbers that repeat from run to run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[test]
fn what_files_do_shows_after_their_marks() {
    let mut site = Site::new();
    site.write("c/a", "1");
    site.make_dir("c/dir");
    site.write("c/dir/b", "22");
    site.settle();
    assert_eq!(site.names("c"), ["a", "dir/b"]);
    assert_eq!(site.namespace.count_indexed(ACCOUNT, "c").unwrap().unwrap().bytes, 3);
    site.write("c/a", "longer");
    site.remove("c/dir/b");
    site.settle();
    assert_eq!(site.names("c"), ["a"]);
    assert_eq!(site.namespace.count_indexed(ACCOUNT, "c").unwrap().unwrap().bytes, 6);
    site.assert_exact();
}

#[test]
fn our_own_requests_show_at_once_without_any_mark() {
    let site = Site::new();
    site.put("c", "a/b/c", "x");
    site.put("c", "a", "yy");
    site.put("c", "a/b", "zzz");
    assert_eq!(site.names("c"), ["a", "a/b", "a/b/c"]);
    site.delete("c", "a/b/c");
    assert_eq!(site.names("c"), ["a", "a/b"]);
    site.delete("c", "a");
    site.delete("c", "a/b");
    assert!(site.names("c").is_empty());
    site.namespace.create_container(ACCOUNT, "new", vec![], Timestamp::now()).unwrap();
    assert!(site.names("new").is_empty());
    site.namespace.delete_container(ACCOUNT, "new").unwrap();
    site.assert_exact();
}

#[test]
fn a_write_by_one_name_of_a_file_shows_under_its_others() {
    let mut site = Site::new();
    site.make_dir("c/dir");
    site.write("c/dir/a", "1");
    site.settle();
    std::fs::hard_link(site.path("c/dir/a"), site.path("d/b")).unwrap();
    site.mark("d/b");
    site.link("dir/a", "c/link");
    site.settle();
    site.write("d/b", "longer");
    site.settle();
    site.assert_exact();
    site.write("c/dir/a", "x");
    site.settle();
    site.assert_exact();
    site.rename("d/b", "c/b");
    std::fs::write(site.path("c/new"), "a third").unwrap();
    site.rename("c/new", "c/dir/a");
    site.settle();
    site.assert_exact();
    site.remove("c/b");
    site.settle();
    site.assert_exact();
}

#[test]
fn what_went_where_nobody_watches_is_scanned_when_it_is_back_in_one_batch() {
    let mut site = Site::new();
    site.make_dir("c/dir");
    site.write("c/dir/old", "1");
    site.settle();
    let outside = site.root.path().join(".lb~dindex/outside");
    let from = site.spot(&site.path("c/dir"));
    std::fs::rename(site.path("c/dir"), &outside).unwrap();
    std::fs::write(outside.join("new"), "2").unwrap();
    std::fs::rename(&outside, site.path("c/dir")).unwrap();
    let to = site.spot(&site.path("c/dir"));
    site.marks.push(Mark::Moved { from, to: None });
    site.marks.push(Mark::Moved { from: None, to });
    site.settle();
    assert_eq!(site.names("c"), ["dir/new", "dir/old"]);
    site.assert_exact();
}

#[test]
fn what_was_written_while_it_was_in_another_account_shows_when_it_is_back() {
    let mut site = Site::new();
    site.namespace.create_account("AUTH_b", vec![], Timestamp::now()).unwrap();
    site.namespace.create_container("AUTH_b", "x", vec![], Timestamp::now()).unwrap();
    site.make_dir("c/dir");
    site.write("c/dir/old", "1");
    site.settle();
    site.rename("c/dir", "../AUTH_b/x/dir");
    site.write("../AUTH_b/x/dir/new", "2");
    site.rename("../AUTH_b/x/dir", "c/dir");
    // The paths as a source gives them.
    for mark in &mut site.marks {
        let spots: Vec<&mut Spot> = match mark {
            Mark::Entry(spot) => vec![spot],
            Mark::Moved { from, to } => from.iter_mut().chain(to).collect(),
            _ => vec![],
        };
        for spot in spots {
            let path = String::from_utf8(spot.path.clone()).unwrap();
            spot.path = path.replace("AUTH_a/../", "").into_bytes();
        }
    }
    site.settle();
    assert_eq!(site.names("c"), ["dir/new", "dir/old"]);
    site.assert_exact();
}

#[test]
fn an_account_that_was_away_is_scanned() {
    let mut site = Site::new();
    site.put("c", "a", "1");
    assert_eq!(site.names("c"), ["a"]);
    let (home, away) = (site.path(""), site.root.path().join(".lb~dindex/away"));
    let from = site.spot(&site.root.path().join(ACCOUNT));
    std::fs::rename(&home, &away).unwrap();
    std::fs::write(away.join("c/new"), "2").unwrap();
    std::fs::rename(&away, &home).unwrap();
    let to = site.spot(&site.root.path().join(ACCOUNT));
    site.marks.push(Mark::Moved { from, to: None });
    site.marks.push(Mark::Moved { from: None, to });
    site.settle();
    assert_eq!(site.names("c"), ["a", "new"]);
    site.assert_exact();
}

#[test]
fn a_link_is_listed_while_it_leads_to_a_file() {
    let mut site = Site::new();
    site.make_dir("c/dir");
    site.write("c/dir/f", "1");
    site.link("dir/f", "c/link");
    site.settle();
    assert_eq!(site.names("c"), ["dir/f", "link"]);
    site.remove("c/dir/f");
    site.settle();
    assert!(site.names("c").is_empty());
    site.write("c/dir/f", "again");
    site.settle();
    assert_eq!(site.names("c"), ["dir/f", "link"]);
    site.rename("c/dir", "c/other");
    site.settle();
    assert_eq!(site.names("c"), ["other/f"]);
    site.rename("c/other", "c/dir");
    site.settle();
    assert_eq!(site.names("c"), ["dir/f", "link"]);
    site.assert_exact();
}

#[test]
fn what_a_crash_left_in_transit_is_listed() {
    let mut site = Site::new();
    site.write("c/a", "1");
    site.settle();
    let transit = crate::name::transit_of(b"a");
    let transit = site.path("c").join(std::str::from_utf8(&transit).unwrap());
    std::fs::rename(site.path("c/a"), &transit).unwrap();
    site.mark("c/a");
    let marks = std::mem::take(&mut site.marks);
    site.namespace.observe(&marks).unwrap();
    assert_eq!(site.names("c"), ["a"]);
    site.assert_exact();
}

#[test]
fn what_moves_before_it_was_scanned_is_scanned_where_it_went() {
    let mut site = Site::new();
    for path in ["c/p", "c/p/q", "c/p/q/r"] {
        site.make_dir(path);
    }
    site.write("c/p/q/r/old", "1");
    site.settle();
    std::fs::write(site.path("c/p/q/r/unseen"), "2").unwrap();
    site.namespace.observe(&[Mark::Everything]).unwrap();
    // One of the two containers is proven already.
    let index = site.namespace.index().unwrap();
    let epoch = index.epoch.load(Ordering::SeqCst);
    let id = marks::entry_of(&*index.read().unwrap(), row::TOP, row::Kind::Directory, ACCOUNT)
        .unwrap()
        .unwrap()
        .id;
    let d = marks::child(&*index.read().unwrap(), id, b"d").unwrap().unwrap();
    site.namespace.scan_directory(index, d, usize::MAX).unwrap();
    index.change(&mut |change| change.alter_container(d, |c| c.epoch = epoch)).unwrap();
    site.rename("c/p", "d/p");
    let marks = std::mem::take(&mut site.marks);
    site.namespace.observe(&marks).unwrap();
    let query = ListQuery { limit: 10, ..ListQuery::default() };
    assert!(
        site.namespace.list_indexed(ACCOUNT, "d", &query).unwrap().is_none(),
        "not all of it was scanned"
    );
    site.prove();
    assert_eq!(site.names("d"), ["p/q/r/old", "p/q/r/unseen"]);
    site.assert_exact();
}

#[test]
fn a_directory_moves_as_one_row() {
    let mut site = Site::new();
    site.make_dir("c/from");
    for i in 0..500 {
        site.write(&format!("c/from/{i:03}"), "x");
    }
    site.settle();
    let before = site.index().looks();
    site.rename("c/from", "c/to");
    site.settle();
    assert!(site.index().looks() - before < 10, "its entries were looked at");
    assert_eq!(site.names("c").len(), 500);
    assert_eq!(site.names("c")[0], "to/000");
    // Into another container: its sums move along.
    site.rename("c/to", "d/there");
    let before = site.index().looks();
    site.settle();
    assert!(site.index().looks() - before < 10, "its entries were looked at");
    assert_eq!(site.namespace.count_indexed(ACCOUNT, "c").unwrap().unwrap().objects, 0);
    assert_eq!(site.namespace.count_indexed(ACCOUNT, "d").unwrap().unwrap().objects, 500);
    site.assert_exact();
}

#[test]
fn directories_that_change_places_keep_what_is_theirs() {
    let mut site = Site::new();
    for name in ["x", "y"] {
        site.make_dir(&format!("c/{name}"));
        site.write(&format!("c/{name}/of-{name}"), name);
    }
    site.settle();
    site.rename("c/x", "c/t");
    site.rename("c/y", "c/x");
    site.rename("c/t", "c/y");
    // This mark was made before the move, with the path of then.
    let mut stale = site.spot(&site.path("c/y/late")).unwrap();
    stale.path = b"AUTH_a/c/x".to_vec();
    std::fs::write(site.path("c/y/late"), "l").unwrap();
    site.marks.insert(0, Mark::Entry(stale));
    site.settle();
    assert_eq!(site.names("c"), ["x/of-y", "y/late", "y/of-x"]);
    site.assert_exact();
}

#[test]
fn a_directory_that_was_away_is_scanned_when_it_comes_back() {
    let mut site = Site::new();
    site.make_dir("c/dir");
    site.write("c/dir/old", "1");
    site.settle();
    let outside = site.root.path().join(".lb~dindex/outside");
    let from = site.spot(&site.path("c/dir"));
    std::fs::rename(site.path("c/dir"), &outside).unwrap();
    site.marks.push(Mark::Moved { from, to: None });
    site.settle();
    assert!(site.names("c").is_empty());
    std::fs::write(outside.join("new"), "2").unwrap();
    std::fs::remove_file(outside.join("old")).unwrap();
    std::fs::rename(&outside, site.path("c/dir")).unwrap();
    let to = site.spot(&site.path("c/dir"));
    site.marks.push(Mark::Moved { from: None, to });
    site.settle();
    assert_eq!(site.names("c"), ["dir/new"]);
    site.assert_exact();
}

#[test]
fn lost_changes_make_everything_unproven_until_it_was_scanned() {
    let mut site = Site::new();
    site.put("c", "a", "1");
    assert_eq!(site.names("c"), ["a"]);
    std::fs::write(site.path("c/unseen"), "x").unwrap();
    std::fs::remove_file(site.path("c/a")).unwrap();
    assert_eq!(site.names("c"), ["a"]);
    site.namespace.observe(&[Mark::Everything]).unwrap();
    let query = ListQuery { limit: 10, ..ListQuery::default() };
    assert!(site.namespace.list_indexed(ACCOUNT, "c", &query).unwrap().is_none());
    // Listings are exact meanwhile.
    assert_eq!(site.namespace.list_objects(ACCOUNT, "c", &query).unwrap().len(), 1);
    site.settle();
    assert_eq!(site.names("c"), ["unseen"]);
    site.assert_exact();
}

#[test]
fn without_word_from_the_source_listings_come_from_the_tree() {
    let site = Site::new();
    site.put("c", "a", "1");
    std::fs::write(site.path("c/unseen"), "x").unwrap();
    let query = ListQuery { limit: 10, ..ListQuery::default() };
    assert_eq!(site.namespace.list_objects(ACCOUNT, "c", &query).unwrap().len(), 1);
    site.index().silent();
    assert_eq!(site.namespace.list_objects(ACCOUNT, "c", &query).unwrap().len(), 2);
    assert_eq!(site.namespace.container_info(ACCOUNT, "c").unwrap().count.objects, 2);
}

#[test]
fn a_directory_that_cannot_be_read_leaves_its_container_to_the_tree() {
    let mut site = Site::new();
    site.make_dir("c/sub");
    site.write("c/sub/a", "1");
    site.settle();
    let spot = site.spot(&site.path("c/sub/a")).unwrap();
    let below = Mark::Below { dir: spot.dir, path: spot.path };
    std::fs::write(site.path("c/sub/b"), "2").unwrap();
    site.namespace.observe(&[below]).unwrap();
    let query = ListQuery { limit: 10, ..ListQuery::default() };
    assert!(site.namespace.list_indexed(ACCOUNT, "c", &query).unwrap().is_none());
    assert!(site.namespace.list_indexed(ACCOUNT, "d", &query).unwrap().is_some());
    site.prove();
    assert_eq!(site.names("c"), ["sub/a", "sub/b"]);
}

#[test]
fn a_restart_keeps_what_was_flushed_and_no_more_is_needed() {
    let mut site = Site::new();
    site.make_dir("c/dir");
    site.write("c/dir/a", "1");
    site.settle();
    site.index().flush(b"point 7").unwrap();
    let Site { namespace, root, .. } = site;
    drop(namespace);
    let namespace = open(root.path(), Options::default());
    let site = Site { namespace, root, marks: Vec::new() };
    assert_eq!(site.index().checkpoint().unwrap(), b"point 7");
    site.index().heard(Duration::ZERO);
    assert_eq!(site.names("c"), ["dir/a"]);
    site.assert_exact();
}

#[test]
fn a_damaged_or_foreign_file_is_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("index");
    std::fs::write(&path, b"no database").unwrap();
    let index = Index::open(&options(&path), Box::new(|_, _| Ok(Actor::Process))).unwrap();
    assert!(index.checkpoint().unwrap().is_empty());
    index.engine.write(true, &mut |store| store.put(&meta_key("format"), &row::number(FORMAT + 1))).unwrap();
    index.flush(b"x").unwrap();
    drop(index);
    let index = Index::open(&options(&path), Box::new(|_, _| Ok(Actor::Process))).unwrap();
    assert!(index.checkpoint().unwrap().is_empty());
}

#[test]
fn the_index_is_its_owners_alone_and_a_place_where_none_can_be_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("index");
    Index::open(&options(&path), Box::new(|_, _| Ok(Actor::Process))).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let first = Index::open(&options(&path), Box::new(|_, _| Ok(Actor::Process))).unwrap();
    let error = Index::open(&options(&path), Box::new(|_, _| Ok(Actor::Process))).unwrap_err();
    assert!(error.to_string().contains("another server uses this index"), "{error}");
    drop(first);
    let nowhere = root.path().join("no/index");
    let error = Index::open(&options(&nowhere), Box::new(|_, _| Ok(Actor::Process))).unwrap_err();
    assert!(error.to_string().contains("no/index"), "{error}");
}

#[test]
fn a_container_that_went_is_not_listed_though_its_mark_is_late() {
    let site = Site::new();
    std::fs::remove_dir(site.path("d")).unwrap();
    let query = ListQuery { limit: 10, ..ListQuery::default() };
    assert!(matches!(site.namespace.list_objects(ACCOUNT, "d", &query), Err(Error::NoContainer)));
}

#[test]
fn links_runs_and_long_names_are_listed_as_from_the_tree() {
    let mut site = Site::new();
    let long = "é".repeat(200);
    let names = [
        "a", "a/b", "a/", "a//b", "//x", "/x", "/", "/-", "/0", "./y", "../z", ".lb~q", "b-", "b/c", "b-c/d",
        "b!/e", "zz/",
    ];
    for name in names {
        site.put("c", name, name);
    }
    for name in [long.clone(), format!("{long}/below"), format!("{long}x"), "p".repeat(300), "p".repeat(246)]
    {
        site.put("c", &name, "long");
    }
    site.put("c", &format!("{}/q", "p".repeat(246)), "beside a part");
    site.link("a/b", "c/link");
    site.link("../d", "c/out");
    site.settle();
    site.assert_exact();
    site.namespace.observe(&[Mark::Everything]).unwrap();
    site.prove();
    site.assert_exact();
    let query = |f: &dyn Fn(&mut ListQuery)| {
        let mut query = ListQuery { limit: 1000, ..ListQuery::default() };
        f(&mut query);
        query
    };
    let mut dice = Dice(42);
    let parts = ["", "/", "a", "a/", "b", "b-", "-", "p", "//", "./", "é", "l", ".", "b-c/", "ppp"];
    for _ in 0..3000 {
        let (prefix, marker, end, delimiter) =
            (dice.of(&parts), dice.of(&parts), dice.of(&parts), dice.of(&["", "/", "-", "b", "/-", "é"]));
        let (reverse, limit) = (dice.below(2) == 0, dice.below(6) + 1);
        let limit = if limit == 6 { 1000 } else { limit };
        let query = query(&|q| {
            prefix.clone_into(&mut q.prefix);
            marker.clone_into(&mut q.marker);
            end.clone_into(&mut q.end_marker);
            delimiter.clone_into(&mut q.delimiter);
            q.reverse = reverse;
            q.limit = limit as usize;
        });
        let tree = site.namespace.list_tree(ACCOUNT, "c", &query).unwrap();
        let index = site.namespace.list_indexed(ACCOUNT, "c", &query).unwrap().unwrap();
        assert_eq!(index, tree, "{query:?}");
        let path = ListQuery {
            delimiter: "/".into(),
            path: true,
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            ..query
        };
        let tree = site.namespace.list_tree(ACCOUNT, "c", &path).unwrap();
        let index = site.namespace.list_indexed(ACCOUNT, "c", &path).unwrap().unwrap();
        assert_eq!(index, tree, "{path:?}");
    }
}

#[test]
fn what_is_to_be_done_is_found_without_a_walk() {
    let site = Site::new();
    let name = ObjectName::new(ACCOUNT, "c", "dir/expires");
    let meta = ObjectMeta { delete_at: Some(1000), ..ObjectMeta::default() };
    site.namespace.put_object(&name, b"x", meta, Timestamp::now(), None).unwrap();
    let mut site = site;
    site.write("c/foreign", "not hashed");
    site.settle();
    let tasks = |task| {
        site.names("c");
        site.namespace.tasks(task, None, 10).unwrap().unwrap().0
    };
    assert_eq!(tasks(Task::Expire(999)), []);
    assert_eq!(tasks(Task::Expire(1000)), std::slice::from_ref(&name));
    assert_eq!(tasks(Task::Hash), [ObjectName::new(ACCOUNT, "c", "foreign")]);
    assert!(site.namespace.expire_object(&name).unwrap());
    assert_eq!(tasks(Task::Expire(1000)), []);
    site.namespace.compute_etag(&ObjectName::new(ACCOUNT, "c", "foreign"), &mut |_| true).unwrap();
    assert_eq!(tasks(Task::Hash), []);
    assert_eq!(tasks(Task::Assemble), []);
    site.assert_exact();
}

#[test]
fn rows_of_what_left_are_removed() {
    let mut site = Site::new();
    site.make_dir("c/dir");
    site.make_dir("c/dir/below");
    for i in 0..50 {
        site.write(&format!("c/dir/below/{i}"), "x");
    }
    site.settle();
    let rows = |site: &Site| {
        let mut count = 0;
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        let mut add = |_: &[u8], _: &[u8]| {
            count += 1;
            Ok(ControlFlow::Continue(()))
        };
        site.index().read().unwrap().scan(all, false, &mut add).unwrap();
        count
    };
    let full = rows(&site);
    let from = site.spot(&site.path("c/dir"));
    std::fs::remove_dir_all(site.path("c/dir")).unwrap();
    site.marks.extend(from.map(Mark::Entry));
    site.settle();
    assert!(site.names("c").is_empty());
    // Two directories: each a record, a FID, a row; the objects' rows; that there is something to be hashed.
    assert_eq!(full - rows(&site), 2 * 3 + 50 + 1);
    site.assert_exact();
}

/// Random operations on both sides; marks come in batches, some twice, some late.
fn storm(seed: u64, shuffle: bool, lose: bool) {
    let mut dice = Dice(seed);
    let mut site = Site::new();
    let dirs = ["c", "d", "c/p", "c/q", "c/p/r", "d/p", "d/p/q"];
    let leaves = ["a", "b", "p", "q", "r"];
    let mut late: Vec<Mark> = Vec::new();
    for step in 0..400 {
        let path = format!("{}/{}", dice.of(&dirs), dice.of(&leaves));
        let other = format!("{}/{}", dice.of(&dirs), dice.of(&leaves));
        let (container, name) = other.split_once('/').map(|(c, n)| (c.to_owned(), n.to_owned())).unwrap();
        match dice.below(14) {
            13 => {
                let target = dice.of(&["a", "p/a", "../c/p/a", "q", "p/q/r"]);
                site.link(target, &path);
            }
            12 => {
                let (from, to) = (site.path(&path), site.path(&format!("{container}/{name}")));
                if std::fs::hard_link(from, to).is_ok() {
                    site.mark(&format!("{container}/{name}"));
                }
            }
            0..3 => site.write(&path, &format!("{step}")),
            3..5 => site.make_dir(&path),
            5..7 => site.remove(&path),
            7..10 => site.rename(&path, &other),
            10 => {
                let object = ObjectName::new(ACCOUNT, container.clone(), name.clone());
                let meta = ObjectMeta::default();
                let _ = site.namespace.put_object(&object, b"put", meta, Timestamp::now(), None);
                site.echo(&container, &name);
            }
            _ => {
                site.delete(&container, &name);
                site.echo(&container, &name);
            }
        }
        if shuffle && dice.below(4) == 0 {
            for i in (1..site.marks.len()).rev() {
                site.marks.swap(i, dice.below(i as u64 + 1) as usize);
            }
        }
        if dice.below(8) == 0 && !site.marks.is_empty() {
            let keep = dice.below(site.marks.len() as u64) as usize;
            late.extend(site.marks.split_off(keep));
        }
        if dice.below(5) == 0 {
            let marks = std::mem::take(&mut site.marks);
            if lose && dice.below(6) == 0 {
                site.namespace.observe(&[Mark::Everything]).unwrap();
            } else {
                site.namespace.observe(&marks).unwrap();
                if dice.below(3) == 0 {
                    site.namespace.observe(&marks).unwrap();
                }
            }
        }
        if dice.below(40) == 0 {
            site.prove();
        }
    }
    site.marks.extend(late);
    site.settle();
    site.settle();
    site.assert_exact();
}

#[test]
fn a_storm_ends_with_an_exact_index() {
    for seed in 1..12 {
        storm(seed, false, false);
    }
}

#[test]
fn a_storm_of_marks_out_of_order_ends_with_an_exact_index() {
    for seed in 100..112 {
        storm(seed, true, false);
    }
}

#[test]
fn a_storm_with_lost_marks_ends_with_an_exact_index() {
    for seed in 200..212 {
        storm(seed, true, true);
    }
}

#[test]
fn requests_marks_and_scans_at_once_end_with_an_exact_index() {
    let site = Site::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let site = &site;
            scope.spawn(move || {
                let mut dice = Dice(worker + 1);
                for step in 0..150 {
                    let name = format!("{}/{}", dice.of(&["x", "y", "x/z"]), dice.of(&["1", "2", "3", "z"]));
                    if dice.below(3) == 0 {
                        site.delete("c", &name);
                    } else {
                        site.put("c", &name, &step.to_string());
                    }
                }
            });
        }
        let (site, stop) = (&site, &stop);
        scope.spawn(move || {
            for _ in 0..40 {
                site.namespace.observe(&[Mark::Everything]).unwrap();
                let _ = site.namespace.prove(2, stop, &|_| {}, &Progress::default());
            }
        });
    });
    site.prove();
    site.assert_exact();
    let names = BTreeSet::from_iter(site.names("c"));
    assert_eq!(names.len() as u64, site.namespace.count_indexed(ACCOUNT, "c").unwrap().unwrap().objects);
}
