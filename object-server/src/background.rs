//! What happens without a request: objects expire, missing ETags are learned, abandoned uploads are removed.
//!
//! One round goes through every container as its account's owner, at a bounded rate, on threads of its own.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lustre::pool::Pool;
use namespace::{Namespace, Seen};
use tokio::sync::watch;

use crate::config;
use crate::http::stopped;
use crate::identities::Identities;
use crate::metrics::{Metrics, Worker};

/// Objects looked at per second at most.
const OBJECTS_PER_SECOND: u64 = 5_000;

/// An upload that nobody has written to for so long was abandoned by a crash.
const ABANDONED: Duration = Duration::from_hours(24);

/// A file that changed within this time may still be written to: hashing it would be in vain.
const SETTLED: Duration = Duration::from_secs(10);

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
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// What one container's sweep needs.
struct Round {
    namespace: Arc<Namespace>,
    expire: bool,
    hash_rate: Option<u64>,
    metrics: Arc<Metrics>,
    stop: Arc<AtomicBool>,
    start: Instant,
    seen: u64,
}

impl Background {
    /// Goes round until `shutdown` becomes true.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        if !self.expirer.enabled && !self.hasher.enabled {
            return;
        }
        let pool = Pool::new("background", 1, 4);
        let stop = Arc::new(AtomicBool::new(false));
        let pause =
            Duration::from_secs(self.expirer.interval_seconds.min(self.hasher.interval_seconds).max(1));
        loop {
            let round = self.round(&pool, &stop);
            tokio::select! {
                () = round => {}
                () = stopped(&mut shutdown) => break,
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopped(&mut shutdown) => break,
            }
        }
        stop.store(true, Ordering::Relaxed);
    }

    async fn round(&self, pool: &Pool, stop: &Arc<AtomicBool>) {
        let namespace = Arc::clone(&self.namespace);
        let accounts = match pool.run(None, move || namespace.accounts()).await {
            Ok(Ok(accounts)) => accounts,
            Ok(Err(error)) => return self.failed("accounts", &error),
            Err(error) => return self.failed("accounts", &error),
        };
        let mut unserved = BTreeMap::<&'static str, u64>::new();
        for account in accounts {
            // An account that this server may not act for has no background either.
            let Ok(who) = self.identities.of_owner(&self.namespace, pool, &account).await else { continue };
            let (namespace, name) = (Arc::clone(&self.namespace), account.clone());
            let containers = match pool.run(who.clone(), move || namespace.container_names(&name)).await {
                Ok(Ok(containers)) => containers,
                Ok(Err(error)) => {
                    self.failed(&account, &error);
                    continue;
                }
                Err(error) => return self.failed(&account, &error),
            };
            for container in containers {
                let round = Round {
                    namespace: Arc::clone(&self.namespace),
                    expire: self.expirer.enabled,
                    hash_rate: self.hasher.enabled.then_some(self.hasher.bytes_per_second),
                    metrics: Arc::clone(&self.metrics),
                    stop: Arc::clone(stop),
                    start: Instant::now(),
                    seen: 0,
                };
                let (account, name) = (account.clone(), container.clone());
                match pool.run(who.clone(), move || round.sweep(&account, &name)).await {
                    Ok(Ok(sweep)) => {
                        self.metrics.reaped.inc_by(sweep.reaped);
                        for (reason, count) in sweep.unserved {
                            *unserved.entry(reason).or_default() += count;
                        }
                    }
                    Ok(Err(namespace::Error::NoContainer)) => {}
                    Ok(Err(error)) => self.failed(&container, &error),
                    Err(error) => self.failed(&container, &error),
                }
            }
        }
        self.metrics.set_unserved(&unserved);
        self.metrics.expirer.rounds.inc();
        self.metrics.hasher.rounds.inc();
    }

    fn failed(&self, what: &str, error: &dyn std::fmt::Display) {
        self.metrics.expirer.errors.inc();
        tracing::warn!(what, %error, "background round");
    }
}

impl Round {
    fn sweep(mut self, account: &str, container: &str) -> namespace::Result<namespace::Sweep> {
        let namespace = Arc::clone(&self.namespace);
        namespace.sweep(account, container, ABANDONED, &mut |seen| self.look(&seen))
    }

    fn look(&mut self, seen: &Seen) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        self.seen += 1;
        keep_rate(self.start, self.seen, OBJECTS_PER_SECOND);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.expire && seen.info.delete_at.is_some_and(|at| at <= now.as_secs()) {
            match self.namespace.expire_object(&seen.name) {
                Ok(true) => _ = self.metrics.expirer.objects.inc(),
                Ok(false) => {}
                Err(error) => failed(&self.metrics.expirer, &seen.name.object, &error),
            }
            return ControlFlow::Continue(());
        }
        let age = (now.as_nanos() as i64).saturating_sub(seen.info.mtime_ns);
        let settled = age > SETTLED.as_nanos() as i64;
        if let Some(rate) = self.hash_rate.filter(|_| seen.info.etag.is_none() && settled) {
            self.hash(seen, rate);
        }
        ControlFlow::Continue(())
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

    #[test]
    fn a_rate_of_nothing_is_no_limit() {
        let start = Instant::now();
        keep_rate(start, u64::MAX, 0);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
