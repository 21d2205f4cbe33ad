//! A bounded pool of blocking threads, one per mount.
//!
//! A file-system call may hang for as long as its server is dead. A mount's calls therefore have threads and a
//! queue of their own, both bounded: when they are full a request is refused ([`PoolError::Busy`]) instead of
//! waiting, and other mounts are not touched.
//!
//! A job is pushed onto one queue, and a sleeping thread is woken for it, the last one to fall asleep first (its
//! caches are warm), unless one is on its way already: that one wakes the next if it leaves jobs behind. So short
//! jobs that come together wake few threads, and a job that hangs keeps no other waiting. A thread that ends a job
//! takes the next without sleeping.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use tokio::sync::oneshot;

use crate::identity::{self, Identity};

/// Why a job has no result.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All threads are taken and the queue is full; the job was not run. Answer 503.
    #[error("all file-system threads are busy and their queue is full")]
    Busy,
    /// The job panicked; how far it came is unknown.
    #[error("a file-system job was lost")]
    Lost,
    /// The identity could not be assumed; the job was not run.
    #[error("cannot act as the request's identity")]
    Identity(#[source] io::Error),
}

type Job = Box<dyn FnOnce() + Send>;

/// The threads and the queue of one mount. Clones share them; when the last is dropped the threads end after
/// the jobs that are queued.
#[derive(Clone, Debug)]
pub struct Pool {
    handle: Arc<Handle>,
}

/// Separate from what the threads hold, so that dropping the last one can tell them to end.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    threads: usize,
    queue: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Asleep, the last to fall asleep at the end.
    idle: Vec<Arc<Sleeper>>,
    started: usize,
    /// Threads that were started or woken for a job and have not come for one yet.
    coming: usize,
    closed: bool,
}

impl State {
    /// Who is to be woken next, if jobs wait and nobody is on its way.
    fn call(&mut self) -> Option<Arc<Sleeper>> {
        if self.waiting.is_empty() || self.coming > 0 {
            return None;
        }
        let sleeper = self.idle.pop()?;
        self.coming += 1;
        Some(sleeper)
    }
}

struct Sleeper {
    thread: Thread,
    woken: AtomicBool,
}

impl Pool {
    /// A pool of up to `threads` (at least one), started when needed and named after `name`, with room for
    /// `queue` jobs that wait for one.
    pub fn new(name: &str, threads: usize, queue: usize) -> Pool {
        let shared = Shared {
            // A NUL in a thread's name would be a panic.
            name: name.replace('\0', "?"),
            threads: threads.max(1),
            queue,
            state: Mutex::default(),
        };
        Pool { handle: Arc::new(Handle { shared: Arc::new(shared) }) }
    }

    /// Runs `job` on one of the threads as `who` (`None`: as the process) and returns its result.
    ///
    /// If the future is dropped while the job waits, the job is skipped; one that runs is run to its end and
    /// its result dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        who: Option<Arc<Identity>>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (answer, result) = oneshot::channel();
        self.handle.shared.submit(Box::new(move || {
            if !answer.is_closed() {
                // Nobody to hear it: dropped here.
                let _ = answer.send(run_as(who.as_deref(), job));
            }
        }))?;
        match result.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(PoolError::Identity(error)),
            Err(_) => Err(PoolError::Lost),
        }
    }

    /// Runs `job` as `who` without anybody waiting for it, such as a clean-up after a client that went away.
    /// It is never skipped; if the identity cannot be assumed it is not run, and that is logged.
    pub fn run_detached(
        &self,
        who: Option<Arc<Identity>>,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), PoolError> {
        self.handle.shared.submit(Box::new(move || {
            if let Err(error) = run_as(who.as_deref(), job) {
                tracing::warn!(%error, "a clean-up was not run: cannot act as its identity");
            }
        }))
    }

    /// Jobs that wait for a thread.
    pub fn depth(&self) -> usize {
        self.handle.shared.lock().waiting.len()
    }

    /// Jobs that are run.
    pub fn running(&self) -> usize {
        let state = self.handle.shared.lock();
        state.started.saturating_sub(state.idle.len() + state.coming)
    }
}

/// The identity is given back before the result is handed over, and also when the job panics.
fn run_as<T>(who: Option<&Identity>, job: impl FnOnce() -> T) -> io::Result<T> {
    let _guard = who.map(Identity::assume).transpose()?;
    Ok(job())
}

impl Shared {
    /// No job runs and no destructor of one is called under this lock, so it is never poisoned half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(self: &Arc<Self>, job: Job) -> Result<(), PoolError> {
        let mut state = self.lock();
        // Idle threads and those that come will each take one off the queue: those jobs count as taken.
        let taken = state.idle.len() + state.coming;
        let room = state.started > 0 && state.waiting.len() < self.queue + taken;
        let enough = state.waiting.len() < taken;
        let started = !enough && state.started < self.threads && self.start(&mut state);
        if !(room || started) {
            drop(state);
            return Err(PoolError::Busy);
        }
        state.waiting.push_back(job);
        let sleeper = state.call();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        Ok(())
    }

    /// Under the lock: it happens once per thread, and the new one waits for its first job there.
    fn start(self: &Arc<Self>, state: &mut State) -> bool {
        let name = format!("{}-{}", self.name, state.started);
        let shared = Arc::clone(self);
        match thread::Builder::new().name(name).spawn(move || shared.work()) {
            Ok(_) => {
                state.started += 1;
                state.coming += 1;
                true
            }
            Err(error) => {
                tracing::warn!(%error, pool = self.name, "cannot start a thread");
                false
            }
        }
    }

    fn work(&self) {
        if let Err(error) = identity::settle_thread() {
            // This thread was started by one that acted as another identity, and cannot shed it.
            tracing::error!(%error, "a thread began as another identity");
            std::process::abort();
        }
        let me = Arc::new(Sleeper { thread: thread::current(), woken: AtomicBool::new(false) });
        let mut state = self.lock();
        state.coming -= 1;
        loop {
            if let Some(job) = state.waiting.pop_front() {
                let sleeper = state.call();
                drop(state);
                if let Some(sleeper) = sleeper {
                    sleeper.wake();
                }
                run_caught(job);
                state = self.lock();
            } else if state.closed {
                state.started -= 1;
                return;
            } else {
                state.idle.push(Arc::clone(&me));
                drop(state);
                me.sleep();
                state = self.lock();
                state.coming -= 1;
            }
        }
    }
}

/// A job that panics drops its half of the channel, which its caller sees.
fn run_caught(job: Job) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
        // The destructor of what was thrown may panic as well; then it is leaked.
        if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
            std::mem::forget(again);
        }
    }
}

impl Sleeper {
    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }

    fn sleep(&self) {
        while !self.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        state.coming += idle.len();
        drop(state);
        for sleeper in idle {
            sleeper.wake();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .field("threads", &self.threads)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
