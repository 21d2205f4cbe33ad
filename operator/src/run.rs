//! Running: watches, then workers, for as long as this instance leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Client;

use crate::cluster::watch::Watching;
use crate::cluster::{Cache, Key, Kind, Writer};
use crate::lease::Claim;
use crate::metrics::Metrics;
use crate::queue::{Next, Queue};
use crate::{Settings, World, bridge, share};

/// How many shares and bridges are reconciled at a time.
const WORKERS: usize = 4;

/// What runs.
#[derive(Clone)]
pub struct Operator {
    /// All that a reconciliation works with.
    pub world: World,
    /// Who has work to do.
    pub queue: Arc<Queue>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    client: Client,
}

impl Operator {
    /// An operator that may write while the claim holds.
    pub fn new(client: Client, claim: Claim, settings: Settings, metrics: Arc<Metrics>) -> Self {
        let cache = Arc::new(Cache::default());
        let writer = Writer::new(client.clone(), claim, Arc::clone(&cache), Arc::clone(&metrics));
        Self { world: World { cache, writer, settings }, queue: Arc::default(), metrics, client }
    }

    /// Watches and works, for ever. `ready` becomes true when the cluster is known.
    pub async fn run(self, ready: Arc<AtomicBool>) {
        let watching = Watching {
            cache: Arc::clone(&self.world.cache),
            queue: Arc::clone(&self.queue),
            metrics: Arc::clone(&self.metrics),
        };
        let mut tasks = tokio::task::JoinSet::new();
        for kind in Kind::WATCHED {
            tasks.spawn(watching.clone().run(self.client.clone(), kind));
        }
        for kind in Kind::OPTIONAL {
            tasks.spawn(watching.clone().run_when_there(self.client.clone(), kind));
        }
        while !Kind::WATCHED.iter().all(|kind| self.world.cache.is_ready(*kind)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tracing::info!("the cluster is known");
        ready.store(true, Ordering::Relaxed);
        for _ in 0..WORKERS {
            tasks.spawn(self.clone().work());
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn work(self) {
        loop {
            let key = self.queue.next().await;
            self.metrics.waiting.set(self.queue.waiting() as i64);
            let next = self.reconcile(&key).await;
            self.queue.done(key, next);
        }
    }

    /// Reconciles one share or bridge. A panic would be a mistake of ours, and is no more than a failure of the one.
    async fn reconcile(&self, key: &Key) -> Next {
        let (world, of) = (self.world.clone(), key.clone());
        let task = tokio::spawn(async move {
            match of.kind {
                Kind::LustreShare => share::reconcile(&world, &of).await,
                _ => bridge::reconcile(&world, &of).await,
            }
        });
        match task.await {
            Ok(Ok(next)) => {
                self.metrics.reconciled(key.kind, "success");
                next
            }
            Ok(Err(error)) => {
                self.metrics.reconciled(key.kind, "failure");
                tracing::warn!(object = %key, %error, said = error.said(), "cannot be reconciled; trying again");
                Next::Retry(error.retry_after())
            }
            Err(error) => {
                self.metrics.reconciled(key.kind, "panic");
                tracing::error!(object = %key, %error, "a mistake of the operator's");
                Next::Retry(None)
            }
        }
    }
}
