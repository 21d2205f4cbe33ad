//! What volumes cost beside the bare system calls, in the same run on the same file system: `cargo xtask bench csi`.
//!
//! Needs root. Files go beneath `TMPDIR`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use csi_node::proto::csi::volume_capability::access_mode::Mode;
use csi_node::proto::csi::{
    CapacityRange, CreateVolumeRequest, NodeGetCapabilitiesRequest, NodePublishVolumeRequest,
    NodeUnpublishVolumeRequest,
};
use harness::{Driver, alone, capability, is_root, publish, wanted, with};
use lustre::sys;

/// Volumes that are made, and then live at the same time.
const VOLUMES: usize = 1000;
/// At the same time.
const WORKERS: usize = 10;
/// What a disk is read and written with.
const DISK: usize = 256 << 20;

fn main() {
    // `cargo test --all-targets` starts it too.
    if !std::env::args().any(|argument| argument == "--bench") || !is_root() {
        return;
    }
    alone();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run());
}

async fn run() {
    let driver = Arc::new(Driver::start().await);
    println!("{VOLUMES} volumes, {WORKERS} at a time, on {}", driver.base.path().display());
    println!(
        "| what | bare calls/s | driver/s | ratio | wanted | p50 ms | p99 ms |\n|---|---|---|---|---|---|---|"
    );
    let bare_made = bare_create(&driver.path("share/bare"));
    let ids = create(&driver, bare_made).await;
    let bare_mounted = bare_mount(&driver);
    publish_all(&driver, &ids, bare_mounted.0).await;
    println!("resident with {VOLUMES} volumes: {:.1} MiB (wanted: under 64)", resident(&driver));
    unpublish_all(&driver, &ids, bare_mounted.1).await;
    nothing(&driver, bare_mounted.1).await;
    disk(&driver).await;
}

/// How many a second, and how long each took.
struct Run {
    rate: f64,
    took: Vec<Duration>,
}

impl Run {
    fn new(start: Instant, mut took: Vec<Duration>) -> Run {
        took.sort_unstable();
        Run { rate: took.len() as f64 / start.elapsed().as_secs_f64(), took }
    }

    fn line(&self, what: &str, bare: f64, wanted: &str) {
        let at = |part: usize| self.took[(self.took.len() - 1) * part / 100].as_secs_f64() * 1e3;
        let ratio = self.rate / bare;
        println!(
            "| {what} | {bare:.0} | {:.0} | {ratio:.2} | {wanted} | {:.2} | {:.2} |",
            self.rate,
            at(50),
            at(99)
        );
    }
}

/// Runs `work` for each of the volumes, on as many threads as the driver has callers.
fn on_threads(work: impl Fn(usize) + Sync) -> Run {
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    let took = std::thread::scope(|s| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                s.spawn(|| {
                    let mut took = Vec::new();
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= VOLUMES {
                            return took;
                        }
                        let began = Instant::now();
                        work(at);
                        took.push(began.elapsed());
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    Run::new(start, took)
}

fn bare_create(dir: &Path) -> f64 {
    fs::create_dir_all(dir.join("records")).unwrap();
    let record = [b'x'; 300];
    let run = on_threads(|at| {
        fs::create_dir(dir.join(format!("v{at}"))).unwrap();
        let (new, name) = (dir.join(format!("records/new{at}")), dir.join(format!("records/{at}")));
        let mut file = fs::File::create(&new).unwrap();
        file.write_all(&record).unwrap();
        file.sync_all().unwrap();
        fs::rename(new, name).unwrap();
    });
    run.rate
}

/// As many callers as workers, over one connection, as the kubelet has it.
async fn at_once<F: Future<Output = ()> + Send>(
    call: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
) -> Run {
    let (next, start) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (next, call) = (Arc::clone(&next), call.clone());
            async move {
                let mut took = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= VOLUMES {
                        return took;
                    }
                    let began = Instant::now();
                    call(at).await;
                    took.push(began.elapsed());
                }
            }
        })
        .collect();
    let took = futures::future::join_all(workers).await.concat();
    Run::new(start, took)
}

async fn create(driver: &Arc<Driver>, bare: f64) -> Vec<String> {
    let client = driver.controller().await;
    let run = at_once(move |at| {
        let mut client = client.clone();
        async move {
            client.create_volume(wanted(&format!("pvc-{at}"))).await.unwrap();
        }
    })
    .await;
    run.line("CreateVolume / mkdir, write, fsync, rename", bare, ">= 0.50");
    let mut ids = Vec::new();
    for at in 0..VOLUMES {
        ids.push(driver.create(wanted(&format!("pvc-{at}"))).await.unwrap());
    }
    ids
}

/// Rates of mounting a directory and of taking that away, while as many are mounted as there are volumes.
fn bare_mount(driver: &Driver) -> (f64, f64) {
    let target = |at: usize| driver.path(&format!("kubelet/bare{at}"));
    let source = driver.path("share/bare");
    let mount = on_threads(|at| {
        let place = target(at);
        fs::create_dir(&place).unwrap();
        let (from, to) =
            (fs::File::open(source.join(format!("v{at}"))).unwrap(), fs::File::open(&place).unwrap());
        let tree = sys::clone_tree(from.as_fd()).unwrap();
        sys::restrict(tree.as_fd(), false).unwrap();
        sys::attach(tree.as_fd(), to.as_fd()).unwrap();
    });
    let unmount = on_threads(|at| {
        sys::detach(target(at).to_str().unwrap().as_bytes()).unwrap();
        fs::remove_dir(target(at)).unwrap();
    });
    (mount.rate, unmount.rate)
}

async fn publish_all(driver: &Arc<Driver>, ids: &[String], bare: f64) {
    let client = driver.node().await;
    let calls: Arc<Vec<NodePublishVolumeRequest>> = Arc::new(
        ids.iter().enumerate().map(|(at, id)| publish(id, &driver.target(&at.to_string()))).collect(),
    );
    let run = at_once(move |at| {
        let (mut client, call) = (client.clone(), calls[at].clone());
        async move {
            client.node_publish_volume(call).await.unwrap();
        }
    })
    .await;
    run.line("NodePublishVolume / open_tree, move_mount", bare, ">= 0.25, p99 < 10 ms");
}

async fn unpublish_all(driver: &Arc<Driver>, ids: &[String], bare: f64) {
    let client = driver.node().await;
    let call = |(at, id): (usize, &String)| NodeUnpublishVolumeRequest {
        volume_id: id.clone(),
        target_path: driver.target(&at.to_string()),
    };
    let calls: Arc<Vec<NodeUnpublishVolumeRequest>> = Arc::new(ids.iter().enumerate().map(call).collect());
    let run = at_once(move |at| {
        let (mut client, call) = (client.clone(), calls[at].clone());
        async move {
            client.node_unpublish_volume(call).await.unwrap();
        }
    })
    .await;
    run.line("NodeUnpublishVolume / umount2, rmdir", bare, ">= 0.67");
}

/// A call that does nothing: what the protocol leaves of the bare calls' rate.
async fn nothing(driver: &Arc<Driver>, bare: f64) {
    let client = driver.node().await;
    let run = at_once(move |_| {
        let mut client = client.clone();
        async move {
            client.node_get_capabilities(NodeGetCapabilitiesRequest {}).await.unwrap();
        }
    })
    .await;
    run.line("NodeGetCapabilities, which does nothing / umount2, rmdir", bare, "the limit");
}

/// Of the driver, in MiB.
fn resident(driver: &Driver) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", driver.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// A disk as a pod sees it beside a file.
async fn disk(driver: &Driver) {
    let request = CreateVolumeRequest {
        capacity_range: Some(CapacityRange { required_bytes: DISK as i64, limit_bytes: 0 }),
        ..with("disk", &[("type", "disk"), ("uid", "0"), ("gid", "0")])
    };
    let id = driver.create(request).await.unwrap();
    let target = driver.target("disk");
    let how = NodePublishVolumeRequest {
        volume_capability: Some(capability(Mode::MultiNodeMultiWriter)),
        ..publish(&id, &target)
    };
    driver.publish(how).await.unwrap();
    let raw = driver.path("share/raw");
    fs::File::create(&raw).unwrap().set_len(DISK as u64).unwrap();
    // In turns, the best of five: what differs is what the volume costs.
    let volume = format!("{target}/disk.img");
    let (mut best_raw, mut best_volume) = ([0.0_f64; 2], [0.0_f64; 2]);
    for _ in 0..5 {
        for (path, best) in [(raw.as_path(), &mut best_raw), (Path::new(&volume), &mut best_volume)] {
            let [write, read] = io(path);
            *best = [best[0].max(write), best[1].max(read)];
        }
    }
    for (what, at) in [("write and fsync", 0), ("read", 1)] {
        println!(
            "disk.img, {what}: {:.0} MB/s; raw file {:.0} MB/s; ratio {:.2} (wanted: 1)",
            best_volume[at],
            best_raw[at],
            best_volume[at] / best_raw[at]
        );
    }
    driver.unpublish(&id, &target).await.unwrap();
}

/// MB/s of writing with fsync, and of reading what is cached.
fn io(path: &Path) -> [f64; 2] {
    let mut file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut buffer = vec![7; 1 << 20];
    let rate = |start: Instant| DISK as f64 / 1e6 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    for at in 0..DISK >> 20 {
        file.write_all_at(&buffer, (at << 20) as u64).unwrap();
    }
    file.sync_all().unwrap();
    let write = rate(start);
    let start = Instant::now();
    for _ in 0..DISK >> 20 {
        file.read_exact(&mut buffer).unwrap();
    }
    [write, rate(start)]
}
