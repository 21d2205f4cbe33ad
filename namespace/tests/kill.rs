//! kill -9 at any moment, under load: what was acknowledged holds, and nothing is half done.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "common/workload.rs"]
mod workload;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::options;
use namespace::{MetadataMode, Namespace, Options};
use workload::{Allowed, Random, allow, clear, judge, perform, plan, prepare};

const CHILD: &str = "LB_KILL_CHILD";
const THREADS: usize = 3;
const STEPS: usize = 500;
const ROUNDS: usize = 20;

/// Metadata in attributes, or in side files.
fn with_side_files(sidecar: bool) -> Options {
    let metadata = if sidecar { MetadataMode::Sidecar } else { MetadataMode::Auto };
    Options { metadata, ..options() }
}

/// Not a test of its own: what the killed process runs. It tells of each step when it was acknowledged.
#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let [seed, sidecar, dir] = order.splitn(3, '|').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let seed = seed.parse().unwrap();
    let ns = Namespace::open(Path::new(dir), with_side_files(sidecar == "true")).unwrap();
    std::thread::scope(|s| {
        for thread in 0..THREADS {
            let ns = &ns;
            s.spawn(move || {
                for (at, step) in plan(seed, thread, THREADS, STEPS).iter().enumerate() {
                    let done = perform(ns, step);
                    let line = match &done {
                        Ok(()) => format!("acknowledged {thread} {at}\n"),
                        Err(e) => format!("failed {step:?}: {e:?}\n"),
                    };
                    std::io::stderr().write_all(line.as_bytes()).unwrap();
                    if done.is_err() {
                        std::process::abort();
                    }
                }
            });
        }
    });
}

#[test]
fn killed_at_any_moment_under_load_what_was_acknowledged_holds_and_nothing_is_half_done() {
    let seed = Random::seed();
    let mut random = Random::new(seed);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::hint::black_box(common::md5(&[0; 4096]));
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..ROUNDS {
                let what = format!("LB_SEED={seed}, round {round}");
                kill_once(random.next(), random.below(300), round % 2 == 1, &what);
            }
        }));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Kills a process after it has acknowledged `after` steps, and looks at what it left.
fn kill_once(seed: u64, after: usize, sidecar: bool, what: &str) {
    let dir = tempfile::tempdir().unwrap();
    let ns = Namespace::open(dir.path(), with_side_files(sidecar)).unwrap();
    prepare(&ns);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, format!("{seed}|{sidecar}|{}", dir.path().display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut done = [0; THREADS];
    for (seen, line) in BufReader::new(child.stderr.take().unwrap()).lines().enumerate() {
        let line = line.unwrap();
        let ["acknowledged", thread, at] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{what}: {line}");
        };
        done[thread.parse::<usize>().unwrap()] = at.parse::<usize>().unwrap() + 1;
        if seen == after {
            // What it acknowledged until it died is still in the pipe.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(done.iter().sum::<usize>() > after, "{what}: the process ended by itself");
    let mut allowed = Allowed::new();
    for (thread, done) in done.into_iter().enumerate() {
        let plan = plan(seed, thread, THREADS, STEPS);
        allow(&mut allowed, &plan, &|at| at < done, &|at| at == done);
    }
    judge(&ns, &allowed).unwrap_or_else(|e| panic!("{what}: {e}"));
    clear(&ns, dir.path(), &allowed).unwrap_or_else(|e| panic!("{what}: {e}"));
}
