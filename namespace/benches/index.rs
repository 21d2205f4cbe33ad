//! What the index costs and gives, beside what a walk costs, on one file system: `cargo xtask bench index`.
//!
//! Files go beneath `TMPDIR`; `INDEX_BENCH_OBJECTS` of them (1,000,000 if it is not set) lie in one container, and as many in
//! a deep tree. As root the caches are dropped where cold figures are wanted; else they are warm, and said to be.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use lustre::sys;
use namespace::index::{Actor, Index, IndexOptions, Progress};
use namespace::{ListQuery, Mark, Namespace, ObjectMeta, ObjectName, Options, Row, Spot, Timestamp};

const ACCOUNT: &str = "AUTH_bench";
/// Bytes of the index kept in memory.
const CACHE: usize = 64 << 20;
/// Files in each directory of the deep tree.
const FILES: usize = 1000;
/// Names listed at once.
const PAGE: usize = 10_000;
/// Marks handed over at once.
const BATCH: usize = 4096;
/// Requests timed.
const REQUESTS: usize = 5000;

fn main() {
    // `cargo test --all-targets` starts it too.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let objects = std::env::var("INDEX_BENCH_OBJECTS").map_or(1_000_000, |n| n.parse().unwrap());
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("root");
    fs::create_dir(&root).unwrap();
    println!("{objects} objects in one container and as many in a deep tree, on {}", base.path().display());
    let bench = Bench { root, index: base.path().join("index.redb"), objects };
    let start = Instant::now();
    bench.make();
    println!("made in {:.0} s\n", start.elapsed().as_secs_f64());
    println!("| what | figure | beside | wanted |\n|---|---|---|---|");
    bench.run();
}

struct Bench {
    root: PathBuf,
    index: PathBuf,
    objects: usize,
}

/// CPU seconds of this process, all threads.
fn cpu() -> f64 {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    clock.tv_sec as f64 + clock.tv_nsec as f64 / 1e9
}

/// Most memory of our own that was resident: what the page cache holds of files does not count.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Forgets what the kernel has cached; false where that is not allowed.
fn cold() -> bool {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

impl Bench {
    fn make(&self) {
        let account = self.root.join(ACCOUNT);
        fs::create_dir_all(account.join("flat")).unwrap();
        fs::create_dir_all(account.join("deep")).unwrap();
        for i in 0..self.objects {
            File::create(account.join(format!("flat/object-{i:08}"))).unwrap();
        }
        for at in (0..self.objects).step_by(FILES) {
            let dir = account.join(format!("deep/{:02}/{:02}/{:04}", at % 97, at % 89, at / FILES));
            fs::create_dir_all(&dir).unwrap();
            for i in 0..FILES.min(self.objects - at) {
                File::create(dir.join(format!("object-{i:04}"))).unwrap();
            }
        }
        fs::create_dir_all(account.join("prefixes")).unwrap();
        for i in 0..1000 {
            let dir = account.join(format!("prefixes/{i:04}"));
            fs::create_dir(&dir).unwrap();
            (0..10).for_each(|j| drop(File::create(dir.join(format!("{j}"))).unwrap()));
        }
    }

    fn open(&self, index: bool) -> Namespace {
        let options = Options { durable: false, ..Options::default() };
        let namespace = Namespace::open(&self.root, options).unwrap();
        if !index {
            return namespace;
        }
        let options =
            IndexOptions { path: self.index.clone(), cache: CACHE, max_silence: Duration::from_hours(24) };
        namespace.with_index(Index::open(&options, Box::new(|_, _| Ok(Actor::Process))).unwrap())
    }

    fn run(&self) {
        let find = self.find();
        let namespace = self.open(true);
        self.scan(&namespace, find);
        self.pages(&namespace);
        self.prefixes(&namespace);
        self.again(&namespace);
        self.marks(&namespace);
        self.move_directory(&namespace);
        self.requests(&namespace);
        println!("| resident at the end | {:.0} MiB | | < 200 |", resident());
        let size = fs::metadata(&self.index).unwrap().len() as f64 / f64::from(1 << 20);
        println!("| the index's file | {size:.0} MiB | | |");
    }

    fn find(&self) -> f64 {
        let caches = if cold() { "cold" } else { "warm" };
        let start = Instant::now();
        let mut find = Command::new("find");
        find.arg(&self.root).args(["-printf", "%s %T@\n"]).stdout(Stdio::null());
        assert!(find.status().unwrap().success());
        let took = start.elapsed().as_secs_f64();
        println!("| find -printf '%s %T@', {caches} | {took:.1} s | | |");
        took
    }

    fn scan(&self, namespace: &Namespace, find: f64) {
        cold();
        let (start, spent) = (Instant::now(), cpu());
        let left = namespace.prove(2, &AtomicBool::new(false), &|_| {}, &Progress::default()).unwrap();
        assert!(!left);
        let took = start.elapsed().as_secs_f64();
        println!(
            "| first scan | {took:.1} s, {:.1} us CPU an object | {:.2} of find | >= 1 |",
            (cpu() - spent) * 1e6 / (2 * self.objects) as f64,
            find / took
        );
        println!("| resident after it | {:.0} MiB | | < 200 |", resident());
        let index = namespace.index().unwrap();
        index.flush(b"").unwrap();
        index.heard(Duration::ZERO);
    }

    fn pages(&self, namespace: &Namespace) {
        for container in ["flat", "deep"] {
            let (mut marker, mut pages, mut listed) = (String::new(), Vec::new(), 0);
            loop {
                let spent = cpu();
                let query = ListQuery { marker: marker.clone(), limit: PAGE, ..ListQuery::default() };
                let rows = namespace.list_objects(ACCOUNT, container, &query).unwrap();
                pages.push((cpu() - spent) * 1e3);
                listed += rows.len();
                match rows.last() {
                    Some(Row::Object(row)) if rows.len() == PAGE => marker.clone_from(&row.name),
                    _ => break,
                }
            }
            assert_eq!(listed, self.objects);
            let third = pages.len() / 3;
            let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
            println!(
                "| {container}: a page of {PAGE}, CPU | {:.1} ms | first third {:.1}, last third {:.1} | <= 15 with JSON |",
                mean(&pages),
                mean(&pages[..third.max(1)]),
                mean(&pages[pages.len() - third.max(1)..])
            );
        }
    }

    fn prefixes(&self, namespace: &Namespace) {
        let query = ListQuery { delimiter: "/".into(), limit: PAGE, ..ListQuery::default() };
        let spent = cpu();
        let rows = namespace.list_objects(ACCOUNT, "prefixes", &query).unwrap();
        assert_eq!(rows.len(), 1000);
        let indexed = (cpu() - spent) * 1e3;
        let spent = cpu();
        assert_eq!(namespace.list_tree(ACCOUNT, "prefixes", &query).unwrap().len(), 1000);
        println!(
            "| 1,000 prefixes by delimiter, CPU | {indexed:.1} ms | tree {:.1} ms | |",
            (cpu() - spent) * 1e3
        );
    }

    /// A scan that finds nothing new.
    fn again(&self, namespace: &Namespace) {
        let index = namespace.index().unwrap();
        index.lost().unwrap();
        let (start, spent) = (Instant::now(), cpu());
        namespace.prove(2, &AtomicBool::new(false), &|_| {}, &Progress::default()).unwrap();
        let took = start.elapsed().as_secs_f64();
        let each = (cpu() - spent) * 1e6 / (2 * self.objects) as f64;
        println!("| scan of what is known, warm | {took:.1} s, {each:.1} us CPU an object | | |");
    }

    /// Changes on the file side, made before they are timed.
    fn marks(&self, namespace: &Namespace) {
        let changes = self.objects.min(200_000);
        let dirs: Vec<PathBuf> = (0..changes / FILES)
            .map(|i| {
                self.root.join(ACCOUNT).join(format!(
                    "deep/{:02}/{:02}/{i:04}",
                    i * FILES % 97,
                    i * FILES % 89
                ))
            })
            .collect();
        let mut marks = Vec::new();
        for dir in &dirs {
            let open = File::open(dir).unwrap();
            let fs = lustre::fs::detect(open.as_fd());
            let fid = fs.fid(open.as_fd()).unwrap();
            let path = dir.strip_prefix(&self.root).unwrap().as_os_str().as_encoded_bytes().to_vec();
            for i in 0..FILES {
                let name = format!("object-{i:04}");
                sys::set_mtime(File::open(dir.join(&name)).unwrap().as_fd(), sys::now_ns()).unwrap();
                marks.push(Mark::Entry(Spot { dir: fid, path: path.clone(), name: name.into_bytes() }));
            }
        }
        let (start, spent) = (Instant::now(), cpu());
        for batch in marks.chunks(BATCH) {
            namespace.observe(batch).unwrap();
        }
        namespace.index().unwrap().flush(b"").unwrap();
        let rate = marks.len() as f64 / start.elapsed().as_secs_f64();
        let each = (cpu() - spent) * 1e6 / marks.len() as f64;
        println!("| changes looked at and committed | {rate:.0}/s, {each:.1} us CPU each | | >= 60,000/s |");
    }

    fn move_directory(&self, namespace: &Namespace) {
        let account = self.root.join(ACCOUNT);
        let spot = |path: &Path, name: &str| {
            let open = File::open(path).unwrap();
            let dir = lustre::fs::detect(open.as_fd()).fid(open.as_fd()).unwrap();
            let path = path.strip_prefix(&self.root).unwrap().as_os_str().as_encoded_bytes().to_vec();
            Spot { dir, path, name: name.as_bytes().to_vec() }
        };
        let from = spot(&account.join("deep"), "00");
        fs::rename(account.join("deep/00"), account.join("prefixes/moved")).unwrap();
        let to = spot(&account.join("prefixes"), "moved");
        let start = Instant::now();
        namespace.observe(&[Mark::Moved { from: Some(from), to: Some(to) }]).unwrap();
        println!(
            "| a directory of {} objects moves to another container | {:.2} ms | | < 1 s |",
            self.objects.div_ceil(97 * FILES) * FILES,
            start.elapsed().as_secs_f64() * 1e3
        );
    }

    fn requests(&self, indexed: &Namespace) {
        let plain = self.open(false);
        let put = |namespace: &Namespace, container: &str| {
            let spent = cpu();
            for i in 0..REQUESTS {
                let name = ObjectName::new(ACCOUNT, container, format!("put-{i}"));
                let meta = ObjectMeta::default();
                namespace.put_object(&name, b"x", meta, Timestamp::now(), None).unwrap();
            }
            (cpu() - spent) * 1e6 / REQUESTS as f64
        };
        for container in ["with", "without"] {
            indexed.create_container(ACCOUNT, container, vec![], Timestamp::now()).unwrap();
        }
        let (with, without) = (put(indexed, "with"), put(&plain, "without"));
        println!(
            "| PUT with the index, CPU | {with:.1} us | without {without:.1} us: {:.1} more | <= 15 more |",
            with - without
        );
    }
}
