//! Keeps the index proven: a thread of its own scans what is to be scanned.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use namespace::Namespace;
use namespace::index::{Index, IndexOptions, Progress};
use tokio::sync::watch;

use crate::config;
use crate::http::stopped;
use crate::identities::Identities;
use crate::metrics::Metrics;

/// Pause before what could not be scanned is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// Between two rounds for which nobody called.
const ROUND: Duration = Duration::from_mins(10);

/// A round that takes longer is told about.
const LONG: Duration = Duration::from_secs(10);

/// Opens the index.
pub fn open(config: &config::Index, identities: &Arc<Identities>) -> Result<Index> {
    let options = IndexOptions {
        path: config.path.clone(),
        cache: config.cache_bytes,
        max_silence: Duration::from_secs(config.max_lag_seconds),
    };
    let identities = Arc::clone(identities);
    let owner = move |namespace: &Namespace, account: &str| identities.actor(namespace, account);
    Index::open(&options, Box::new(owner)).with_context(|| format!("index.path: {}", config.path.display()))
}

/// Shows the index in the metrics.
pub fn watch(metrics: &Metrics, namespace: &Arc<Namespace>) {
    let gauges = metrics.index.clone();
    let of = |what: fn(&Index) -> u64| {
        let namespace = Arc::clone(namespace);
        move || namespace.index().map_or(0, what) as usize
    };
    metrics.watch(gauges.current, of(|index| u64::from(index.current())));
    metrics.watch(gauges.containers, of(|index| index.containers().map_or(0, |(all, _)| all)));
    metrics.watch(gauges.unproven, of(|index| index.containers().map_or(0, |(_, rest)| rest)));
    metrics.watch(gauges.looks, of(Index::looks));
    metrics.watch(gauges.lag, of(|index| index.lag().map_or(0, |lag| lag.as_secs())));
}

/// Scans until `shutdown` becomes true.
pub async fn run(namespace: Arc<Namespace>, config: config::Index, shutdown: watch::Receiver<bool>) {
    let stop = Arc::new(AtomicBool::new(false));
    let scanner = {
        let (namespace, stop) = (Arc::clone(&namespace), Arc::clone(&stop));
        tokio::task::spawn_blocking(move || scan(&namespace, &config, &stop))
    };
    let mut shutdown = shutdown;
    stopped(&mut shutdown).await;
    stop.store(true, Ordering::Relaxed);
    if let Some(index) = namespace.index() {
        index.call();
    }
    let _ = scanner.await;
}

fn scan(namespace: &Namespace, config: &config::Index, stop: &AtomicBool) {
    let Some(index) = namespace.index() else { return };
    let mut pause = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        index.wait(pause);
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (progress, start) = (Progress::default(), Instant::now());
        let pace = Pace::new(config.scan_entries_per_second, &progress, stop);
        let spend = |entries| {
            if pace.spend(entries) {
                // What was scanned stays scanned, whatever happens.
                if let Err(error) = index.sync() {
                    tracing::warn!(%error, "the index could not be made durable");
                }
            }
        };
        let result = namespace.prove(config.scan_threads, stop, &spend, &progress);
        pause = match result {
            Ok(false) => ROUND,
            Ok(true) => AGAIN,
            Err(error) => {
                tracing::error!(%error, "a round of the index");
                // Whoever calls meanwhile would have it fail again.
                rest(AGAIN, stop);
                Duration::ZERO
            }
        };
        if start.elapsed() > LONG {
            let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            let (proven, failed) = (count(&progress.proven), count(&progress.failed));
            tracing::info!(
                proven,
                failed,
                entries = count(&progress.entries),
                seconds = start.elapsed().as_secs(),
                "scanned"
            );
        }
    }
}

fn rest(pause: Duration, stop: &AtomicBool) {
    let start = Instant::now();
    while start.elapsed() < pause && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Entries per second, and word of them now and then.
struct Pace<'p> {
    rate: u64,
    progress: &'p Progress,
    stop: &'p AtomicBool,
    start: Instant,
    told: Mutex<Instant>,
    done: std::sync::atomic::AtomicU64,
}

impl<'p> Pace<'p> {
    fn new(rate: u64, progress: &'p Progress, stop: &'p AtomicBool) -> Self {
        let start = Instant::now();
        Self {
            rate,
            progress,
            stop,
            start,
            told: Mutex::new(start),
            done: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// True every now and then.
    fn spend(&self, entries: u64) -> bool {
        let mut long = false;
        let done = self.done.fetch_add(entries, Ordering::Relaxed) + entries;
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() > LONG {
                *told = Instant::now();
                long = true;
                let directories = self.progress.directories.load(Ordering::Relaxed);
                tracing::info!(entries = done, directories, "scanning");
            }
        }
        while self.rate > 0 && !self.stop.load(Ordering::Relaxed) {
            let due = Duration::from_secs_f64(done as f64 / self.rate as f64);
            let ahead = due.saturating_sub(self.start.elapsed());
            if ahead < Duration::from_millis(5) {
                break;
            }
            std::thread::sleep(ahead.min(Duration::from_millis(100)));
        }
        long
    }
}
