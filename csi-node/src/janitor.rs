//! Empties the shares' trash in the background.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::error::Error;
use crate::share::{Share, Shares};
use crate::trash;
use crate::tree::Tree;

/// Nothing that is being made is as old as this, a large disk not either: a day.
const LEFT_NS: i64 = 86_400_000_000_000;

/// One sweep at a time for each share. Clones are the same janitor.
#[derive(Clone, Debug)]
pub struct Janitor {
    shares: Shares,
    calls: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
    stop: Arc<AtomicBool>,
}

impl Janitor {
    /// For these shares.
    pub fn new(shares: Shares) -> Janitor {
        Janitor { shares, calls: Arc::default(), stop: Arc::default() }
    }

    /// Has a share's trash emptied, now or after the sweep that is under way.
    pub fn call(&self, share: &str) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let call = calls.entry(share.to_owned()).or_insert_with(|| {
            let call = Arc::new(Notify::new());
            tokio::spawn(self.clone().work(share.to_owned(), Arc::clone(&call)));
            call
        });
        call.notify_one();
    }

    /// Ends what is under way at the next file; the rest goes on after the next start.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    async fn work(self, name: String, call: Arc<Notify>) {
        loop {
            call.notified().await;
            // A share that is gone has nobody to sweep it for.
            let Ok(Some(share)) = self.shares.get(&name) else { continue };
            if let Err(error) = self.sweep(&share).await {
                tracing::warn!(share = name, %error, "the trash of a share is not empty");
            }
        }
    }

    async fn sweep(&self, share: &Arc<Share>) -> Result<(), Error> {
        let stop = Arc::clone(&self.stop);
        let sweep = move |tree: &Tree| {
            let Some(store) = tree.store()? else { return Ok(()) };
            store.tidy(lustre::sys::now_ns() - LEFT_NS).map_err(Error::io("cannot tidy"))?;
            trash::sweep(store.trash(), &stop).map(|_| ()).map_err(Error::io("cannot read the trash"))
        };
        share.run(sweep).await
    }
}
