//! What happens without a request: objects expire, missing ETags are learned, large objects are assembled, what crashes
//! left is removed.
//!
//! One round goes through every container as its account's owner, at a bounded rate, on threads of its own.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lustre::pool::Pool;
use namespace::{Namespace, ObjectName, Orphans, Seen, index};
use tokio::sync::watch;

use crate::assembler::Assembler;
use crate::config;
use crate::http::stopped;
use crate::identities::Identities;
use crate::metrics::{Metrics, Worker};

/// Objects looked at per second at most.
const OBJECTS_PER_SECOND: u64 = 5_000;

/// An upload that nobody has written to for so long was abandoned by a crash.
const ABANDONED: Duration = Duration::from_hours(24);

/// How long a round may take to end when the server stops. What it leaves is reaped later.
const LAST: Duration = Duration::from_secs(20);

/// A file that changed within this time may still be written to: hashing it would be in vain.
const SETTLED: Duration = Duration::from_secs(10);

/// How often an account is looked at for metadata files whose object is gone.
const ORPHANS: Duration = Duration::from_hours(1);

/// How often the tree is walked where there is an index: for what is no object, and nobody tells of.
const SWEEP: Duration = Duration::from_hours(24);

/// Names that the index is asked for at once.
const PAGE: usize = 1000;

/// The background of one namespace.
#[derive(Debug)]
pub struct Background {
    /// Whose objects.
    pub namespace: Arc<Namespace>,
    /// As whom.
    pub identities: Arc<Identities>,
    /// Expiry.
    pub expirer: config::Expirer,
    /// Hashing.
    pub hasher: config::Hasher,
    /// Assembly.
    pub assembler: config::Assembler,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// What a round does with the objects that it comes by.
#[derive(Debug, Clone)]
enum Task {
    /// Expire and hash them, and remove what was left over.
    Tidy { expire: bool, hash_rate: Option<u64>, known: Arc<Accounts> },
    /// Assemble the large ones.
    Assemble(Arc<Mutex<(Assembler, Pace)>>),
}

/// What one container's sweep needs.
struct Round {
    namespace: Arc<Namespace>,
    task: Task,
    metrics: Arc<Metrics>,
    stop: Arc<AtomicBool>,
    start: Instant,
    seen: u64,
}

/// What is remembered of an account between two rounds.
#[derive(Debug, Default)]
struct Account {
    orphans: Orphans,
    looked: Option<Instant>,
}

type Accounts = Mutex<HashMap<String, Account>>;

impl Background {
    /// Goes round until `shutdown` becomes true.
    pub async fn run(self, shutdown: watch::Receiver<bool>) {
        let Self { expirer, hasher, assembler, .. } = &self;
        let tidy = async {
            if expirer.enabled || hasher.enabled {
                let hash_rate = hasher.enabled.then_some(hasher.bytes_per_second);
                let task = Task::Tidy { expire: expirer.enabled, hash_rate, known: Arc::default() };
                self.go_round(
                    "background",
                    task,
                    expirer.interval_seconds.min(hasher.interval_seconds),
                    &shutdown,
                )
                .await;
            }
        };
        // On a thread of its own: what expires does not wait for what is copied.
        let assemble = async {
            if assembler.enabled {
                let pace = Pace::new(assembler.bytes_per_second);
                let task = Task::Assemble(Arc::new(Mutex::new((Assembler::default(), pace))));
                self.go_round("assembler", task, assembler.interval_seconds, &shutdown).await;
            }
        };
        tokio::join!(tidy, assemble);
    }

    async fn go_round(&self, name: &str, task: Task, interval: u64, shutdown: &watch::Receiver<bool>) {
        let mut shutdown = shutdown.clone();
        let pool = Pool::new(name, 1, 4);
        let stop = Arc::new(AtomicBool::new(false));
        let pause = Duration::from_secs(interval.max(1));
        let mut swept = Instant::now();
        loop {
            let round = async {
                let current = self.namespace.index().is_some_and(index::Index::current);
                if current && swept.elapsed() < SWEEP {
                    self.round_by_index(&pool, &task, &stop).await;
                } else {
                    self.round(&pool, &task, &stop).await;
                    swept = Instant::now();
                }
            };
            tokio::pin!(round);
            tokio::select! {
                () = &mut round => {}
                () = stopped(&mut shutdown) => {
                    stop.store(true, Ordering::Relaxed);
                    // What is in the middle of a copy takes away what it made; but a file system that hangs does
                    // not keep the server from stopping.
                    let _ = tokio::time::timeout(LAST, round).await;
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopped(&mut shutdown) => return,
            }
        }
    }

    async fn round(&self, pool: &Pool, task: &Task, stop: &Arc<AtomicBool>) {
        let namespace = Arc::clone(&self.namespace);
        let accounts = match pool.run(None, move || namespace.accounts()).await {
            Ok(Ok(accounts)) => accounts,
            Ok(Err(error)) => return self.failed(task, "accounts", &error),
            Err(error) => return self.failed(task, "accounts", &error),
        };
        let mut unserved = BTreeMap::<&'static str, u64>::new();
        for account in accounts {
            // An account that this server may not act for has no background either.
            let Ok(who) = self.identities.of_owner(&self.namespace, pool, &account).await else { continue };
            let (namespace, name) = (Arc::clone(&self.namespace), account.clone());
            let containers = match pool.run(who.clone(), move || namespace.container_names(&name)).await {
                Ok(Ok(containers)) => containers,
                Ok(Err(error)) => {
                    self.failed(task, &account, &error);
                    continue;
                }
                Err(error) => return self.failed(task, &account, &error),
            };
            for container in containers {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if matches!(task, Task::Assemble(_)) && !self.assembler.covers(&account, &container) {
                    continue;
                }
                let round = self.of_container(task, stop);
                let (account, name) = (account.clone(), container.clone());
                match pool.run(who.clone(), move || round.sweep(&account, &name)).await {
                    Ok(Ok(sweep)) => {
                        self.metrics.reaped.inc_by(sweep.reaped);
                        for (reason, count) in sweep.unserved {
                            *unserved.entry(reason).or_default() += count;
                        }
                    }
                    Ok(Err(namespace::Error::NoContainer)) => {}
                    Ok(Err(error)) => self.failed(task, &container, &error),
                    Err(error) => self.failed(task, &container, &error),
                }
            }
            if matches!(task, Task::Tidy { .. }) {
                let (round, name) = (self.of_container(task, stop), account.clone());
                match pool.run(who, move || round.reap_orphans(&name)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => self.failed(task, &account, &error),
                    Err(error) => self.failed(task, &account, &error),
                }
            }
        }
        if matches!(task, Task::Tidy { .. }) {
            self.metrics.set_unserved(&unserved);
        }
        self.ended(task);
    }

    /// Counts a round.
    fn ended(&self, task: &Task) {
        match task {
            Task::Tidy { .. } => {
                self.metrics.expirer.rounds.inc();
                self.metrics.hasher.rounds.inc();
            }
            Task::Assemble(_) => _ = self.metrics.assembler.rounds.inc(),
        }
    }

    /// As `round`, of the objects alone for which the index knows something to do.
    async fn round_by_index(&self, pool: &Pool, task: &Task, stop: &Arc<AtomicBool>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let wanted = match task {
            Task::Tidy { expire, hash_rate, .. } => {
                [expire.then_some(index::Task::Expire(now)), hash_rate.map(|_| index::Task::Hash)]
            }
            Task::Assemble(_) => [Some(index::Task::Assemble), None],
        };
        for wanted in wanted.into_iter().flatten() {
            let mut from = None;
            while !stop.load(Ordering::Relaxed) {
                let namespace = Arc::clone(&self.namespace);
                let page = pool.run(None, move || namespace.tasks(wanted, from.as_ref(), PAGE)).await;
                let (names, next) = match page {
                    Ok(Ok(page)) => page.unwrap_or_default(),
                    Ok(Err(error)) => return self.failed(task, "index", &error),
                    Err(error) => return self.failed(task, "index", &error),
                };
                self.do_tasks(pool, task, stop, names).await;
                from = next;
                if from.is_none() {
                    break;
                }
            }
        }
        self.ended(task);
    }

    async fn do_tasks(&self, pool: &Pool, task: &Task, stop: &Arc<AtomicBool>, names: Vec<ObjectName>) {
        let mut by_account = BTreeMap::<String, Vec<ObjectName>>::new();
        for name in names {
            let covered = self.assembler.covers(&name.account, &name.container);
            if matches!(task, Task::Tidy { .. }) || covered {
                by_account.entry(name.account.clone()).or_default().push(name);
            }
        }
        for (account, names) in by_account {
            let Ok(who) = self.identities.of_owner(&self.namespace, pool, &account).await else { continue };
            let round = self.of_container(task, stop);
            if let Err(error) = pool.run(who, move || round.visit(names)).await {
                self.failed(task, &account, &error);
            }
        }
    }

    fn of_container(&self, task: &Task, stop: &Arc<AtomicBool>) -> Round {
        Round {
            namespace: Arc::clone(&self.namespace),
            task: task.clone(),
            metrics: Arc::clone(&self.metrics),
            stop: Arc::clone(stop),
            start: Instant::now(),
            seen: 0,
        }
    }

    fn failed(&self, task: &Task, what: &str, error: &dyn std::fmt::Display) {
        let worker = match task {
            Task::Tidy { .. } => &self.metrics.expirer,
            Task::Assemble(_) => &self.metrics.assembler,
        };
        worker.errors.inc();
        tracing::warn!(what, %error, "background round");
    }
}

impl Round {
    fn sweep(mut self, account: &str, container: &str) -> namespace::Result<namespace::Sweep> {
        let namespace = Arc::clone(&self.namespace);
        namespace.sweep(account, container, ABANDONED, &mut |seen| self.look(&seen))
    }

    fn visit(mut self, names: Vec<ObjectName>) {
        for name in names {
            // What is gone since has nothing to be done.
            let Ok(object) = self.namespace.open_object(&name) else { continue };
            if self.look(&Seen { name, info: object.info }).is_break() {
                return;
            }
        }
    }

    /// Goes on, at the rate for objects, unless it is to stop.
    fn proceed(&mut self) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        self.seen += 1;
        keep_rate(self.start, self.seen, OBJECTS_PER_SECOND);
        ControlFlow::Continue(())
    }

    fn look(&mut self, seen: &Seen) -> ControlFlow<()> {
        self.proceed()?;
        match &self.task {
            Task::Tidy { expire, hash_rate, .. } => self.tidy(seen, *expire, *hash_rate),
            Task::Assemble(assembler) => {
                let assembler = Arc::clone(assembler);
                self.assemble(seen, &assembler);
            }
        }
        ControlFlow::Continue(())
    }

    fn tidy(&self, seen: &Seen, expire: bool, hash_rate: Option<u64>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if expire && seen.info.has_expired() {
            match self.namespace.expire_object(&seen.name) {
                Ok(true) => _ = self.metrics.expirer.objects.inc(),
                Ok(false) => {}
                Err(error) => failed(&self.metrics.expirer, &seen.name.object, &error),
            }
            return;
        }
        let age = (now.as_nanos() as i64).saturating_sub(seen.info.mtime_ns);
        let settled = age > SETTLED.as_nanos() as i64;
        if let Some(rate) = hash_rate.filter(|_| seen.info.etag.is_none() && settled) {
            self.hash(seen, rate);
        }
    }

    fn hash(&self, seen: &Seen, rate: u64) {
        let (start, mut read) = (Instant::now(), 0);
        let result = self.namespace.compute_etag(&seen.name, &mut |bytes| {
            read += bytes;
            self.metrics.hasher.bytes.inc_by(bytes);
            keep_rate(start, read, rate);
            !self.stop.load(Ordering::Relaxed)
        });
        match result {
            Ok(Some(_)) => _ = self.metrics.hasher.objects.inc(),
            Ok(None) | Err(namespace::Error::NoObject | namespace::Error::NoContainer) => {}
            Err(error) => failed(&self.metrics.hasher, &seen.name.object, &error),
        }
    }

    fn assemble(&mut self, seen: &Seen, assembler: &Mutex<(Assembler, Pace)>) {
        if seen.info.slo.is_none_or(|slo| slo.kept.is_some()) {
            return;
        }
        let mut assembler = assembler.lock().unwrap_or_else(PoisonError::into_inner);
        let (assembler, pace) = &mut *assembler;
        let (namespace, metrics) = (Arc::clone(&self.namespace), Arc::clone(&self.metrics));
        let stop = Arc::clone(&self.stop);
        let mut look = || self.proceed().is_continue();
        let mut spend = |bytes| {
            metrics.assembler.bytes.inc_by(bytes);
            pace.spend(bytes, &stop)
        };
        match assembler.assemble(&namespace, &seen.name, &mut look, &mut spend) {
            Ok(Some(_)) => _ = self.metrics.assembler.objects.inc(),
            Ok(None) => {}
            Err(error) => {
                self.metrics.assembler.errors.inc();
                let ObjectName { account, container, object } = &seen.name;
                tracing::warn!(account, container, object, %error, "a large object stays a manifest");
            }
        }
    }

    fn reap_orphans(mut self, account: &str) -> namespace::Result<()> {
        let Task::Tidy { known, .. } = &self.task else { return Ok(()) };
        let known = Arc::clone(known);
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let Account { orphans, looked } = known.entry(account.to_owned()).or_default();
        if looked.is_some_and(|looked| looked.elapsed() < ORPHANS) {
            return Ok(());
        }
        *looked = Some(Instant::now());
        let namespace = Arc::clone(&self.namespace);
        let reaped = namespace.reap_orphans(account, ABANDONED, orphans, &mut || self.proceed())?;
        self.metrics.orphans.inc_by(reaped);
        Ok(())
    }
}

/// Bytes per second, however large the pieces; idle time is not made up for.
#[derive(Debug)]
struct Pace {
    rate: u64,
    due: Instant,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate, due: Instant::now() }
    }

    /// Sleeps until so many bytes more are no more than the rate; false if it is to stop. A rate of 0 is no limit.
    fn spend(&mut self, bytes: u64, stop: &AtomicBool) -> bool {
        if self.rate > 0 {
            let cost = Duration::try_from_secs_f64(bytes as f64 / self.rate as f64).unwrap_or(Duration::MAX);
            let due = self.due.max(Instant::now()).checked_add(cost);
            self.due = due.unwrap_or(self.due);
            while !stop.load(Ordering::Relaxed) {
                let left = self.due.saturating_duration_since(Instant::now());
                // Short debts are slept off together.
                if left < Duration::from_millis(5) {
                    break;
                }
                std::thread::sleep(left.min(Duration::from_millis(100)));
            }
        }
        !stop.load(Ordering::Relaxed)
    }
}

fn failed(worker: &Worker, what: &str, error: &dyn std::fmt::Display) {
    worker.errors.inc();
    tracing::warn!(what, %error, "background");
}

/// Sleeps until `done` units since `start` are no more than `rate` a second; 0 is no limit.
fn keep_rate(start: Instant, done: u64, rate: u64) {
    if rate == 0 {
        return;
    }
    let due = Duration::from_secs_f64(done as f64 / rate as f64);
    let spent = start.elapsed();
    // Short debts are slept off together.
    if due > spent + Duration::from_millis(5) {
        std::thread::sleep(due.saturating_sub(spent).min(Duration::from_secs(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swift::slo::stored::{Entry, Manifest, Source};
    use namespace::metadata::Slo;
    use namespace::{ObjectMeta, ObjectName, Options, Timestamp};

    #[tokio::test]
    async fn objects_expire_foreign_files_are_hashed_and_a_stop_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let namespace =
            Arc::new(Namespace::open(dir.path(), Options { durable: false, ..Options::default() }).unwrap());
        let now = Timestamp::now();
        namespace.create_account("AUTH_a", vec![], now).unwrap();
        namespace.create_container("AUTH_a", "c", vec![], now).unwrap();
        let name = |n: &str| ObjectName::new("AUTH_a", "c", n);
        let expiring = |at| ObjectMeta { delete_at: Some(at), ..ObjectMeta::default() };
        namespace.put_object(&name("gone"), b"x", expiring(1), now, None).unwrap();
        namespace.put_object(&name("kept"), b"x", expiring(4_000_000_000), now, None).unwrap();
        let foreign = dir.path().join("AUTH_a/c/foreign");
        std::fs::write(&foreign, "bytes").unwrap();
        let old = SystemTime::now() - Duration::from_mins(1);
        std::fs::File::options().write(true).open(&foreign).unwrap().set_modified(old).unwrap();
        std::fs::write(dir.path().join("AUTH_a/c/fresh"), "still written").unwrap();
        let metrics = Arc::new(Metrics::default());
        let background = Background {
            namespace: Arc::clone(&namespace),
            identities: Arc::new(Identities::new(config::Identity::default()).unwrap()),
            expirer: config::Expirer { enabled: true, interval_seconds: 1 },
            hasher: config::Hasher { enabled: true, bytes_per_second: 1 << 30, interval_seconds: 1 },
            assembler: config::Assembler::default(),
            metrics: Arc::clone(&metrics),
        };
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(background.run(stopped));
        while metrics.expirer.rounds.get() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.send(true).unwrap();
        task.await.unwrap();
        assert!(matches!(namespace.open_object(&name("gone")), Err(namespace::Error::NoObject)));
        assert!(namespace.open_object(&name("kept")).is_ok());
        assert!(namespace.open_object(&name("foreign")).unwrap().info.etag.is_some());
        assert!(namespace.open_object(&name("fresh")).unwrap().info.etag.is_none());
        assert_eq!(metrics.expirer.objects.get(), 1);
        assert_eq!(metrics.hasher.objects.get(), 1);
        assert_eq!(metrics.expirer.errors.get() + metrics.hasher.errors.get(), 0);
    }

    /// A large object of two segments, in `AUTH_a/c/NAME`.
    fn put_large(namespace: &Namespace, name: &str, segments: [&[u8]; 2]) {
        let now = Timestamp::now();
        let entries = segments.iter().enumerate().map(|(at, segment)| {
            let object = format!("{name}-{at}");
            let full = ObjectName::new("AUTH_a", "c", &object);
            let put = namespace.put_object(&full, segment, ObjectMeta::default(), now, None).unwrap();
            let source = Source::Object {
                container: "c".to_owned(),
                object,
                bytes: segment.len() as u64,
                hash: crate::swift::text::hex(&put.md5),
                content_type: String::new(),
                last_modified: 0,
                range: None,
                sub_slo: false,
            };
            Entry { length: segment.len() as u64, source }
        });
        let manifest = Manifest { entries: entries.collect() };
        let slo = Some(Slo { etag: manifest.etag(), size: manifest.size(), kept: None });
        let meta = ObjectMeta { slo, ..ObjectMeta::default() };
        let name = ObjectName::new("AUTH_a", "c", name);
        namespace.put_object(&name, manifest.to_json().as_bytes(), meta, now, None).unwrap();
    }

    /// A namespace with the container `AUTH_a/c`, and its background that only assembles.
    fn assembling(assembler: config::Assembler) -> (tempfile::TempDir, Background) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { durable: false, ..Options::default() };
        let namespace = Arc::new(Namespace::open(dir.path(), options).unwrap());
        namespace.create_account("AUTH_a", vec![], Timestamp::now()).unwrap();
        namespace.create_container("AUTH_a", "c", vec![], Timestamp::now()).unwrap();
        let background = Background {
            namespace,
            identities: Arc::new(Identities::new(config::Identity::default()).unwrap()),
            expirer: config::Expirer { enabled: false, interval_seconds: 1 },
            hasher: config::Hasher { enabled: false, ..config::Hasher::default() },
            assembler: config::Assembler { enabled: true, interval_seconds: 1, ..assembler },
            metrics: Arc::new(Metrics::default()),
        };
        (dir, background)
    }

    #[tokio::test]
    async fn large_objects_are_assembled_where_that_is_wanted() {
        for (containers, wanted) in [(vec![], true), (vec!["AUTH_a/other".to_owned()], false)] {
            let (dir, background) = assembling(config::Assembler { containers, ..Default::default() });
            put_large(&background.namespace, "slo", [b"one", b"two"]);
            put_large(&background.namespace, "broken", [b"one", b"two"]);
            std::fs::write(dir.path().join("AUTH_a/c/broken-1"), "TWO").unwrap();
            let metrics = Arc::clone(&background.metrics);
            let (stop, stopped) = watch::channel(false);
            let task = tokio::spawn(background.run(stopped));
            while metrics.assembler.rounds.get() < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            stop.send(true).unwrap();
            task.await.unwrap();
            let counted = |counter: &crate::metrics::Counter| counter.get();
            let text = std::fs::read_to_string(dir.path().join("AUTH_a/c/slo")).unwrap();
            assert_eq!(text == "onetwo", wanted);
            let worker = &metrics.assembler;
            let counts = (counted(&worker.objects), counted(&worker.errors), counted(&worker.bytes));
            assert_eq!(counts, if wanted { (1, 1, 12) } else { (0, 0, 0) });
        }
    }

    #[tokio::test]
    async fn a_stop_in_the_middle_of_a_copy_leaves_nothing() {
        // At this rate it would take days.
        let (dir, background) = assembling(config::Assembler { bytes_per_second: 1, ..Default::default() });
        put_large(&background.namespace, "slo", [&vec![b'x'; 500_000], &vec![b'y'; 500_000]]);
        let files = || std::fs::read_dir(dir.path().join("AUTH_a/c")).unwrap().count();
        let (before, metrics) = (files(), Arc::clone(&background.metrics));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(background.run(stopped));
        while metrics.assembler.bytes.get() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(files(), before + 1, "what is gathered");
        stop.send(true).unwrap();
        task.await.unwrap();
        assert_eq!(files(), before);
        assert_eq!((metrics.assembler.objects.get(), metrics.assembler.errors.get()), (0, 0));
    }

    #[test]
    fn a_rate_of_nothing_is_no_limit() {
        let start = Instant::now();
        keep_rate(start, u64::MAX, 0);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
