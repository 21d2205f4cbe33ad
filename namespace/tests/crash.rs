//! kill -9 between any two steps, and two servers at once.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{ACCOUNT, CONTAINER, Site, get, list, object, options, put};
use namespace::metadata::Slo;
use namespace::{
    Error, ListQuery, MetadataMode, Namespace, ObjectMeta, ObjectPost, Options, Orphans, Timestamp,
};

/// What a child does until it is killed. The first element of each result is what must hold if it was not reached.
const SCENARIOS: [&str; 13] = [
    "put new",
    "put over",
    "put below",
    "put deep below",
    "put above",
    "delete below",
    "delete plain",
    "post",
    "marker over",
    "delete above",
    "assemble",
    "assemble within",
    "expire",
];

const MANIFEST: &str = "[{}]";
const SEGMENTS: &str = "all segments";

fn put_large(ns: &Namespace, name: &str) {
    let slo = Some(Slo { etag: [7; 16], size: SEGMENTS.len() as u64, kept: None });
    let headers = vec![("x-object-meta-k".to_string(), vec![b'v'; 5000])];
    let meta = ObjectMeta { slo, headers, delete_at: Some(1), ..ObjectMeta::default() };
    ns.put_object(&object(name), MANIFEST.as_bytes(), meta, Timestamp::now(), None).unwrap();
}

fn prepare(ns: &Namespace, scenario: &str) {
    match scenario {
        "put over" | "put below" | "put deep below" | "delete plain" | "post" | "marker over" => {
            put(ns, "a", "old").unwrap();
        }
        "put above" => {
            put(ns, "a/b", "child").unwrap();
        }
        "delete below" | "delete above" => {
            put(ns, "a", "old").unwrap();
            put(ns, "a/b", "child").unwrap();
        }
        "assemble" | "expire" => put_large(ns, "a"),
        "assemble within" => {
            put_large(ns, "a");
            put(ns, "a/b", "child").unwrap();
        }
        _ => {}
    }
}

fn act(ns: &Namespace, scenario: &str) {
    let now = Timestamp::now();
    match scenario {
        "put new" => drop(put(ns, "x/y/z", "new").unwrap()),
        "put over" | "put above" => drop(put(ns, "a", "new").unwrap()),
        "put below" => drop(put(ns, "a/b", "child").unwrap()),
        "put deep below" => drop(put(ns, "a/b/c/d", "child").unwrap()),
        "delete below" => drop(ns.delete_object(&object("a/b"), now).unwrap()),
        "delete plain" | "delete above" => drop(ns.delete_object(&object("a"), now).unwrap()),
        "post" => {
            let headers = vec![("x-object-meta-k".to_string(), vec![b'v'; 5000])];
            drop(ns.post_object(&object("a"), ObjectPost { headers, ..ObjectPost::default() }, now).unwrap());
        }
        "assemble" | "assemble within" => {
            let opened = ns.open_object(&object("a")).unwrap();
            let manifest = ns.manifest(&object("a"), &opened).unwrap().unwrap();
            let mut assembly = ns.begin_assembly(&object("a"), &opened, manifest).unwrap().unwrap();
            assembly.write(SEGMENTS.as_bytes()).unwrap();
            assert!(ns.finish_assembly(assembly).unwrap());
        }
        "expire" => assert!(ns.expire_object(&object("a")).unwrap()),
        "marker over" => {
            let meta = ObjectMeta { directory: true, ..ObjectMeta::default() };
            ns.put_object(&object("a"), b"", meta, now, None).map(|_| ()).unwrap();
        }
        _ => panic!("{scenario}"),
    }
}

/// What may be seen afterwards: each object with its allowed contents before and after. `None`: absent.
fn allowed(scenario: &str) -> Vec<(&'static str, [Option<&'static str>; 2])> {
    match scenario {
        "put new" => vec![("x/y/z", [None, Some("new")])],
        "put over" => vec![("a", [Some("old"), Some("new")])],
        "put below" => vec![("a", [Some("old"); 2]), ("a/b", [None, Some("child")])],
        "put deep below" => vec![("a", [Some("old"); 2]), ("a/b/c/d", [None, Some("child")])],
        "put above" => vec![("a", [None, Some("new")]), ("a/b", [Some("child"); 2])],
        "delete below" => vec![("a", [Some("old"); 2]), ("a/b", [Some("child"), None])],
        "delete plain" => vec![("a", [Some("old"), None])],
        "delete above" => vec![("a", [Some("old"), None]), ("a/b", [Some("child"); 2])],
        "post" => vec![("a", [Some("old"); 2])],
        "marker over" => vec![("a", [Some("old"), Some("")])],
        "assemble" => vec![("a", [Some(MANIFEST), Some(SEGMENTS)])],
        "assemble within" => vec![("a", [Some(MANIFEST), Some(SEGMENTS)]), ("a/b", [Some("child"); 2])],
        "expire" => vec![("a", [Some(MANIFEST), None])],
        _ => panic!("{scenario}"),
    }
}

fn with_side_files(sidecar: bool) -> Options {
    let metadata = if sidecar { MetadataMode::Sidecar } else { MetadataMode::Auto };
    Options { metadata, ..options() }
}

/// A large object is whole, whichever of the two it is.
fn check_large(ns: &Namespace) {
    let Ok(opened) = ns.open_object(&object("a")) else { return };
    let slo = opened.info.slo.unwrap();
    assert_eq!(slo.kept.is_some(), opened.info.size == SEGMENTS.len() as u64);
    assert_eq!(ns.manifest(&object("a"), &opened).unwrap().unwrap(), MANIFEST.as_bytes());
    assert_eq!((opened.info.etag, opened.info.headers.len()), (Some(common::md5(MANIFEST.as_bytes())), 1));
}

/// Paths of spill and side files beneath their directory.
fn side_files(site: &Site) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let Ok(shards) = std::fs::read_dir(site.dir.path().join(ACCOUNT).join(".lb~dm")) else { return found };
    for shard in shards {
        found.extend(std::fs::read_dir(shard.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    found
}

/// Not a test of its own: what the killed process runs.
#[test]
fn child() {
    let Ok(order) = std::env::var("LB_CRASH_CHILD") else { return };
    let [sidecar, scenario, stop, dir] = order.splitn(4, '|').collect::<Vec<_>>()[..] else {
        panic!("{order}")
    };
    let stop: usize = stop.parse().unwrap();
    let steps = AtomicUsize::new(0);
    let ns = Namespace::open(Path::new(dir), with_side_files(sidecar == "true")).unwrap();
    let ns = ns.with_hook(Box::new(move |_| {
        if steps.fetch_add(1, Ordering::SeqCst) == stop {
            // As kill -9: nothing is cleaned up.
            std::process::abort();
        }
    }));
    act(&ns, scenario);
}

/// Runs a scenario in a process of its own, killed at its step `stop`; true if it came to its end.
fn run(site: &Site, sidecar: bool, scenario: &str, stop: usize) -> bool {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("LB_CRASH_CHILD", format!("{sidecar}|{scenario}|{stop}|{}", site.dir.path().display()))
        .output()
        .unwrap();
    output.status.success()
}

#[test]
fn killed_at_any_step_nothing_acknowledged_is_lost_and_nothing_is_half_done() {
    for (scenario, sidecar) in SCENARIOS.iter().flat_map(|s| [(*s, false), (*s, true)]) {
        let mut stop = 0;
        loop {
            let site = Site::with(with_side_files(sidecar));
            let own = side_files(&site);
            prepare(&site.ns, scenario);
            let finished = run(&site, sidecar, scenario, stop);
            let what = format!("{scenario}, side files: {sidecar}, killed at step {stop}");
            let mut present = Vec::new();
            for (name, contents) in allowed(scenario) {
                let seen = site.get(name);
                let seen = seen.as_deref();
                if finished {
                    assert_eq!(seen, contents[1], "{what}: {name}");
                } else {
                    assert!(contents.contains(&seen), "{what}: {name} is {seen:?}");
                }
                if seen.is_some() {
                    present.push(name);
                }
            }
            assert_eq!(site.list(), present, "{what}");
            if scenario.starts_with("assemble") {
                check_large(&site.ns);
            }
            site.ns
                .sweep(ACCOUNT, CONTAINER, Duration::ZERO, &mut |_| std::ops::ControlFlow::Continue(()))
                .unwrap();
            for file in site.files() {
                assert!(!file.contains(".lb~t"), "{what}: {file} was left");
            }
            assert_eq!(site.list(), present, "{what}, after the sweep");
            // And everything works as before.
            for name in &present {
                site.delete(name).unwrap();
            }
            assert_eq!(site.list(), [""; 0], "{what}");
            let mut orphans = Orphans::default();
            for _ in 0..2 {
                let proceed = &mut || std::ops::ControlFlow::Continue(());
                site.ns.reap_orphans(ACCOUNT, Duration::ZERO, &mut orphans, proceed).unwrap();
            }
            // Directories that were made for what never came have theirs.
            let most = own.len() + if sidecar { site.files().len() } else { 0 };
            let left = side_files(&site);
            assert!(left.len() <= most, "{what}: metadata is left without its file: {left:?}");
            if finished {
                assert!(stop > 0, "{scenario} has no steps");
                break;
            }
            stop += 1;
        }
    }
}

#[test]
fn two_servers_change_the_same_names_and_readers_never_miss_an_object() {
    let site = Site::new();
    site.put("a", "parent");
    let (one, two) = (site.peer(), site.peer());
    let stop = Arc::new(AtomicBool::new(false));
    let site = &site;
    std::thread::scope(|s| {
        let stop = &stop;
        let reader = s.spawn(move || {
            let peer = site.peer();
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                // The object is there all the time, wherever it lies.
                assert_eq!(get(&peer, "a").as_deref(), Some("parent"));
                let names = list(&peer, &ListQuery { limit: 100, ..ListQuery::default() });
                assert!(names.contains(&"a".to_string()), "{names:?}");
                reads += 1;
            }
            reads
        });
        let writers: Vec<_> = [one, two]
            .into_iter()
            .enumerate()
            .map(|(who, ns)| {
                s.spawn(move || {
                    for round in 0..150 {
                        let name = format!("a/{who}");
                        put(&ns, &name, "child").unwrap_or_else(|e| panic!("{round}: {e}"));
                        assert_eq!(get(&ns, &name).as_deref(), Some("child"), "{round}");
                        ns.delete_object(&object(&name), Timestamp::now())
                            .unwrap_or_else(|e| panic!("{round}: {e}"));
                        assert_eq!(get(&ns, &name), None);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let reads = reader.join().unwrap();
        assert!(reads > 0);
        assert_eq!(site.list(), ["a"]);
        assert_eq!(site.files(), ["a"], "with the last child gone, the object is a plain file again");
    });
}

#[test]
fn two_servers_put_the_parent_and_the_child_at_once() {
    let site = Site::new();
    let (one, two) = (site.peer(), site.peer());
    for round in 0..100 {
        std::thread::scope(|s| {
            s.spawn(|| put(&one, "p", &format!("parent {round}")).unwrap());
            s.spawn(|| put(&two, "p/c", &format!("child {round}")).unwrap());
        });
        assert_eq!(site.get("p"), Some(format!("parent {round}")));
        assert_eq!(site.get("p/c"), Some(format!("child {round}")));
        assert_eq!(site.list(), ["p", "p/c"]);
        std::thread::scope(|s| {
            s.spawn(|| one.delete_object(&object("p"), Timestamp::now()).unwrap());
            s.spawn(|| two.delete_object(&object("p/c"), Timestamp::now()).unwrap());
        });
        assert_eq!(site.list(), [""; 0], "{round}");
        assert_eq!(site.files(), [""; 0], "{round}");
    }
}

#[test]
fn a_container_that_does_not_want_both_refuses_the_second() {
    let strict = namespace::Options { prefixes_may_be_objects: false, ..options() };
    let site = Site::with(strict);
    site.put("a", "x");
    assert!(matches!(put(&site.ns, "a/b", "y"), Err(Error::PrefixConflict { .. })));
    assert_eq!(site.files(), ["a"]);
}
