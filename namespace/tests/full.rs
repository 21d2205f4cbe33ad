//! No room: what cannot be done is refused as such, the old object stays whole, and nothing is left.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "common/mounts.rs"]
mod mounts;
#[path = "common/workload.rs"]
mod workload;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use common::{ACCOUNT, CONTAINER, md5, object};
use mounts::{Mount, alone, make_image, run};
use namespace::{Error, Namespace, ObjectMeta, ObjectPost, Options, Result, Timestamp};
use workload::{Content, files, prepare, seen};

/// What takes the room away.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Filling {
    /// One file of bytes, given back in pieces of this size.
    Bytes(u64),
    /// Files of this size.
    Files(usize),
}

struct Disk {
    root: PathBuf,
    filling: Filling,
}

impl Disk {
    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }

    /// Takes all room but `pieces`.
    fn fill(&self, pieces: u64) {
        let filler = self.filler();
        match self.filling {
            Filling::Bytes(piece) => {
                let mut file = File::create(&filler).unwrap();
                for len in [1 << 16, 4096] {
                    while file.write_all(&vec![1; len]).is_ok() {}
                }
                let len = file.metadata().unwrap().len();
                file.set_len(len.saturating_sub(pieces * piece)).unwrap();
            }
            Filling::Files(bytes) => {
                fs::create_dir(&filler).unwrap();
                let (mut count, mut before) = (0, None);
                while before != Some(count) {
                    before = Some(count);
                    while fs::write(filler.join(count.to_string()), vec![1; bytes]).is_ok() {
                        count += 1;
                    }
                    // What was set aside for what is not written yet comes back.
                    self.sync();
                }
                for given in 0..count.min(pieces) {
                    fs::remove_file(filler.join(given.to_string())).unwrap();
                }
            }
        }
        self.sync();
    }

    fn free(&self) {
        match self.filling {
            Filling::Bytes(_) => fs::remove_file(self.filler()).unwrap(),
            Filling::Files(_) => fs::remove_dir_all(self.filler()).unwrap(),
        }
        self.sync();
    }

    /// What is freed counts from here on.
    fn sync(&self) {
        rustix::fs::syncfs(File::open(&self.root).unwrap()).unwrap();
    }
}

type Operation = fn(&Namespace) -> Result<()>;

const OPERATIONS: [(&str, Operation); 13] = [
    ("PUT of a new object", |ns| put(ns, "new", 100, 0)),
    ("PUT over an object", |ns| put(ns, "a", 100, 0)),
    ("PUT below new directories", |ns| put(ns, "p/q/r", 100, 0)),
    ("PUT with much metadata", |ns| put(ns, "new", 100, 8000)),
    ("PUT over an object with much metadata", |ns| put(ns, "rich", 100, 9000)),
    ("PUT of many bytes, piece by piece", |ns| {
        let mut upload = ns.begin(&object("a"), None, Timestamp::now())?;
        for _ in 0..12 {
            if let Err(e) = upload.write(&vec![7; 1 << 16].into()) {
                upload.abort(ns);
                return Err(e);
            }
        }
        ns.finish(upload, ObjectMeta::default(), None).map(drop)
    }),
    ("PUT of a directory", |ns| put_directory(ns, "marker")),
    ("PUT over a directory that is an object", |ns| put(ns, "marked", 100, 8000)),
    ("PUT below an object", |ns| put(ns, "a/below", 100, 0)),
    ("PUT above an object", |ns| put(ns, "d", 100, 0)),
    ("POST of much metadata", |ns| {
        let post = ObjectPost { headers: headers(8000), ..ObjectPost::default() };
        ns.post_object(&object("a"), post, Timestamp::now()).map(drop)
    }),
    ("COPY", |ns| {
        let from = ns.open_object(&object("large"))?;
        let mut upload = ns.begin(&object("copy/of"), Some(from.info.size), Timestamp::now())?;
        if let Err(e) = upload.copy_from(ns, &from.file, from.info.size, from.info.etag.unwrap()) {
            upload.abort(ns);
            return Err(e);
        }
        ns.finish(upload, ObjectMeta::default(), None).map(drop)
    }),
    ("creating a container", |ns| {
        let update = headers(8000).into_iter().map(|(key, value)| (key, Some(value))).collect();
        ns.create_container(ACCOUNT, "another", update, Timestamp::now()).map(drop)
    }),
];

fn headers(bytes: usize) -> Vec<(String, Vec<u8>)> {
    if bytes == 0 { Vec::new() } else { vec![("x-meta-much".to_string(), vec![b'v'; bytes])] }
}

fn put(ns: &Namespace, name: &str, bytes: usize, metadata: usize) -> Result<()> {
    let body = vec![name.as_bytes()[0]; bytes];
    let meta = ObjectMeta { headers: headers(metadata), ..ObjectMeta::default() };
    ns.put_object(&object(name), &body, meta, Timestamp::now(), Some(md5(&body))).map(drop)
}

fn put_directory(ns: &Namespace, name: &str) -> Result<()> {
    let meta = ObjectMeta { directory: true, headers: headers(8000), ..ObjectMeta::default() };
    ns.put_object(&object(name), b"", meta, Timestamp::now(), None).map(drop)
}

/// Objects, and files: those of the account's service too, whose directories stay once they are made.
fn snapshot(ns: &Namespace, root: &Path) -> (BTreeMap<String, Content>, Vec<String>) {
    let account = root.join(ACCOUNT);
    let ours =
        |path: &String| path != ".lb~dlock" && (!path.starts_with(".lb~d") || account.join(path).is_file());
    (seen(ns).unwrap(), files(&account).into_iter().filter(ours).collect())
}

/// Tries the operation with room for `pieces`; true if it had enough.
fn attempt(ns: &Namespace, disk: &Disk, what: &str, operation: Operation, pieces: u64) -> bool {
    let what = format!("{what}, with {pieces} of {:?} left", disk.filling);
    ns.create_container(ACCOUNT, CONTAINER, vec![], Timestamp::now()).unwrap();
    put(ns, "a", 5000, 0).unwrap();
    put(ns, "rich", 5000, 8000).unwrap();
    put(ns, "d/inner", 10, 0).unwrap();
    put(ns, "large", 300_000, 0).unwrap();
    put_directory(ns, "marked").unwrap();
    disk.sync();
    let before = snapshot(ns, &disk.root);
    disk.fill(pieces);
    let done = operation(ns);
    if done.is_err() {
        assert_eq!(snapshot(ns, &disk.root), before, "{what}: {done:?}");
    }
    disk.free();
    let enough = match done {
        Ok(()) => true,
        Err(Error::NoSpace { .. }) => {
            operation(ns).unwrap_or_else(|e| panic!("{what}, and then more: {e}"));
            false
        }
        Err(e) => panic!("{what}: {e:?}"),
    };
    for name in seen(ns).unwrap().into_keys() {
        ns.delete_object(&object(&name), Timestamp::now()).unwrap_or_else(|e| panic!("{what}, {name}: {e}"));
    }
    for container in ns.container_names(ACCOUNT).unwrap() {
        ns.delete_container(ACCOUNT, &container).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    let left = snapshot_files(&disk.root);
    assert!(left.is_empty(), "{what}: {left:?}");
    enough
}

fn snapshot_files(root: &Path) -> Vec<String> {
    let account = root.join(ACCOUNT);
    let lasting =
        |path: &String| path == ".lb~dlock" || (path.starts_with(".lb~d") && account.join(path).is_dir());
    files(&account).into_iter().filter(|path| !lasting(path)).collect()
}

/// Tries everything with ever more room; each must be refused when there is none.
fn refused_or_done(disk: &Disk, refused: &dyn Fn(&str) -> bool) {
    let ns = Namespace::open(&disk.root, Options::default()).unwrap();
    prepare(&ns);
    for (what, operation) in OPERATIONS {
        let mut enough = 0;
        for pieces in [0, 1, 2, 3, 4, 5, 6, 8, 12, 20, 40] {
            let done = attempt(&ns, disk, what, operation, pieces);
            assert!(
                !(done && pieces == 0 && refused(what)),
                "{what} needed no room on {disk:?}",
                disk = disk.filling
            );
            enough += u64::from(done);
            if enough == 3 {
                break;
            }
        }
    }
    everything_can_be_deleted(&ns, disk);
}

fn everything_can_be_deleted(ns: &Namespace, disk: &Disk) {
    ns.create_container(ACCOUNT, CONTAINER, vec![], Timestamp::now()).unwrap();
    for name in ["a", "a/b", "c/d/e", "c/d", "f"] {
        put(ns, name, 5000, if name == "f" { 8000 } else { 0 }).unwrap();
    }
    disk.fill(0);
    for name in ["a/b", "c/d/e", "f", "a", "c/d"] {
        ns.delete_object(&object(name), Timestamp::now())
            .unwrap_or_else(|e| panic!("{name}, with all of {:?} taken: {e:?}", disk.filling));
        assert!(!seen(ns).unwrap().contains_key(name));
    }
    assert!(seen(ns).unwrap().is_empty());
    ns.delete_container(ACCOUNT, CONTAINER).unwrap();
    disk.free();
    let left = snapshot_files(&disk.root);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_full_tmpfs_refuses_and_leaves_nothing() {
    alone("a_full_tmpfs_refuses_and_leaves_nothing", &[], |work| {
        for filling in [Filling::Bytes(4096), Filling::Files(0)] {
            let root = work.join("small");
            fs::create_dir_all(&root).unwrap();
            let mount = Mount::new(&["-t", "tmpfs", "-o", "size=3m,nr_inodes=600", "none"], &root);
            // Names take no bytes there, and what a directory says of itself none either.
            let refused = |what: &str| filling == Filling::Files(0) || what.starts_with("PUT of many");
            refused_or_done(&Disk { root, filling }, &refused);
            mount.unmount();
        }
    });
}

#[test]
fn a_full_ext4_refuses_and_leaves_nothing() {
    alone("a_full_ext4_refuses_and_leaves_nothing", &["mkfs.ext4", "/dev/loop-control"], |work| {
        for filling in [Filling::Bytes(4096), Filling::Files(0)] {
            let (image, root) = (work.join("image"), work.join("small"));
            File::create(&image).unwrap().set_len(12 << 20).unwrap();
            let small = ["-q", "-F", "-b", "4096", "-m", "0", "-N", "1024", "-J", "size=4"];
            run("mkfs.ext4", &[&small[..], &[image.to_str().unwrap()]].concat());
            let mount = Mount::image(&image, &root);
            refused_or_done(&Disk { root, filling }, &|_| true);
            mount.unmount();
        }
    });
}

/// XFS and ext4 answer alike, where the kernel has their quotas.
#[test]
fn a_reached_quota_refuses_and_leaves_nothing() {
    let needs = ["mkfs.btrfs", "btrfs", "/dev/loop-control"];
    alone("a_reached_quota_refuses_and_leaves_nothing", &needs, |work| {
        let (image, top) = (work.join("image"), work.join("top"));
        make_image("btrfs", &image);
        let mount = Mount::image(&image, &top);
        let root = top.join("limited");
        let (top, path) = (top.to_str().unwrap(), root.to_str().unwrap());
        run("btrfs", &["quota", "enable", top]);
        run("btrfs", &["subvolume", "create", path]);
        run("btrfs", &["qgroup", "limit", "8M", path]);
        let disk = Disk { root: root.clone(), filling: Filling::Files(1 << 16) };
        refused_or_done(&disk, &|_| true);
        mount.unmount();
    });
}
