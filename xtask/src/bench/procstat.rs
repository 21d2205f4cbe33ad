//! What processes cost: CPU time and resident memory, from /proc.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// One process: its parent, and its CPU time with that of children it has waited for, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    ticks: u64,
}

/// Reads a line of `/proc/PID/stat`; the program's name may hold anything, also spaces and brackets.
fn parse(stat: &str) -> Option<Stat> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|f| f.parse::<u64>()).sum::<Result<u64, _>>().ok()?;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}

/// The processes given and all below them.
fn family(roots: &[u32]) -> HashMap<u32, Stat> {
    let all: HashMap<u32, Stat> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    let belongs = |mut pid: u32| {
        loop {
            if roots.contains(&pid) {
                return true;
            }
            match all.get(&pid) {
                Some(stat) if stat.parent > 1 => pid = stat.parent,
                _ => return false,
            }
        }
    };
    all.iter().filter(|(pid, _)| belongs(**pid)).map(|(pid, stat)| (*pid, *stat)).collect()
}

/// CPU time, user and system, that the processes and all below them have taken.
pub(crate) fn cpu(roots: &[u32]) -> Duration {
    let ticks: u64 = family(roots).values().map(|s| s.ticks).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident memory now, in bytes. Pages that processes share count in each.
fn resident(roots: &[u32]) -> u64 {
    let pages = |pid: &u32| -> Option<u64> {
        fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split(' ').nth(1)?.parse().ok()
    };
    family(roots).keys().filter_map(pages).sum::<u64>() * rustix::param::page_size() as u64
}

/// Watches resident memory until it is asked for the peak.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(roots: &[u32]) -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(resident(roots))));
        let thread = thread::spawn({
            let (stop, peak, roots) = (Arc::clone(&stop), Arc::clone(&peak), roots.to_vec());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(100));
                    peak.fetch_max(resident(&roots), Ordering::Relaxed);
                }
            }
        });
        Self { stop, peak, thread: Some(thread) }
    }

    /// The most seen, in bytes.
    pub(crate) fn peak(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.peak.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_with_a_hostile_name() {
        let line = "12 (a) b (c) S 7 12 12 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7";
        assert_eq!(parse(line), Some(Stat { parent: 7, ticks: 100 }));
    }

    #[test]
    fn our_own_process_takes_memory() {
        assert!(resident(&[std::process::id()]) > 1 << 20);
    }
}
