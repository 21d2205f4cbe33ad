//! Checking a user's key: dear by design, so it is done seldom, few at a time, and never for who guesses.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::address::network_of;
use super::backoff::Backoff;
use super::clock::Clock;
use super::generations::Generations;
use super::users::{KeyHash, User};

/// Right keys that are remembered, so that the next log-in with them is cheap.
const REMEMBERED: usize = 10_000;
/// Log-ins that wait for a check, per check that runs.
const QUEUE: usize = 32;
/// Failures before a user must wait, and before an address must (many users can share one).
const FREE_PER_USER: u32 = 5;
const FREE_PER_ADDRESS: u32 = 30;

/// What came of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is the user's key.
    Right,
    /// It is not, or there is no such user.
    Wrong,
    /// Too many failures: not checked, wait this long.
    Wait(Duration),
    /// Too many checks wait already.
    Busy,
}

/// Checks keys.
#[derive(Debug)]
pub(super) struct Keys {
    shared: Arc<Shared>,
    running: Arc<Semaphore>,
    waiting: Semaphore,
}

struct Shared {
    /// Random, so that what is remembered is worth nothing outside this process.
    pepper: [u8; 32],
    known: Mutex<Generations<[u8; 32], ()>>,
    users: Backoff,
    addresses: Backoff,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// At most `concurrent` checks run at once.
    pub(super) fn new(clock: &Arc<dyn Clock>, concurrent: usize) -> io::Result<Self> {
        let mut pepper = [0; 32];
        getrandom::fill(&mut pepper).map_err(io::Error::other)?;
        Ok(Self {
            shared: Arc::new(Shared {
                pepper,
                known: Mutex::new(Generations::new(REMEMBERED)),
                users: Backoff::new(clock.clone(), FREE_PER_USER),
                addresses: Backoff::new(clock.clone(), FREE_PER_ADDRESS),
            }),
            running: Arc::new(Semaphore::new(concurrent)),
            waiting: Semaphore::new(concurrent * (QUEUE + 1)),
        })
    }

    /// Checks the key that `client` gives for `name`. A key that was right before is known without a check, and lets a
    /// user in even while others guess at its name.
    pub(super) async fn check(&self, name: &str, user: Option<&User>, key: &str, client: IpAddr) -> Verdict {
        let hash = user.map_or_else(KeyHash::of_nobody, |user| user.key_hash.clone());
        let digest = self.shared.digest(name, &hash, key);
        let who = (name.to_owned(), network_of(client));
        if let Some(verdict) = self.shared.foregone(digest, &who) {
            return verdict;
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return Verdict::Busy };
        let Ok(permit) = self.running.clone().acquire_owned().await else { return Verdict::Busy };
        // Meanwhile another log-in may have proved the same key, or used up the failures.
        if let Some(verdict) = self.shared.foregone(digest, &who) {
            return verdict;
        }
        let shared = self.shared.clone();
        let (key, exists) = (key.to_owned(), user.is_some());
        // The permit and the bookkeeping go with the check: a client that hangs up saves itself nothing.
        let checked = tokio::task::spawn_blocking(move || {
            let right = hash.verify(key.as_bytes()) && exists;
            shared.note(right, digest, &who);
            drop(permit);
            right
        });
        match checked.await {
            Ok(true) => Verdict::Right,
            Ok(false) => Verdict::Wrong,
            Err(_) => Verdict::Busy,
        }
    }
}

impl Shared {
    /// What is remembered of a right key. It holds the hash, so that a changed key is not known any more.
    fn digest(&self, name: &str, hash: &KeyHash, key: &str) -> [u8; 32] {
        let mut digest = Sha256::new().chain_update(self.pepper);
        for part in [name, hash.as_str(), key] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    fn foregone(&self, digest: [u8; 32], (name, client): &(String, impl Hash)) -> Option<Verdict> {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).is_some() {
            return Some(Verdict::Right);
        }
        self.users.wait(name).max(self.addresses.wait(client)).map(Verdict::Wait)
    }

    fn note(&self, right: bool, digest: [u8; 32], (name, client): &(String, impl Hash)) {
        if right {
            // The address keeps its failures: who has one key of its own must not guess at others for free.
            self.users.succeeded(name);
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, (), |()| false);
        } else {
            self.users.failed(name);
            self.addresses.failed(client);
        }
    }
}
