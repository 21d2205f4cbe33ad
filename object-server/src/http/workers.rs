//! The threads that connections live on.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// One reactor a core, each with its own thread; a connection stays on one for life.
///
/// A runtime that shares its tasks among its threads wakes one of them for almost every answer of the file system,
/// which costs more than the answer. A new connection goes to the reactor that has the fewest; whatever may block or
/// takes long runs on a pool.
#[derive(Clone, Debug)]
pub struct Workers {
    reactors: Arc<[Handle]>,
    /// Dropped with the last clone, which ends the threads.
    _running: Option<Arc<watch::Sender<()>>>,
}

impl Workers {
    /// The runtime that this is called within, alone.
    pub fn here() -> Self {
        Self { reactors: [Handle::current()].into(), _running: None }
    }

    /// A thread for every core that this process may use.
    pub fn start() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let (running, over) = watch::channel(());
        let mut reactors = Vec::with_capacity(count);
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            reactors.push(runtime.handle().clone());
            let mut over = over.clone();
            thread::Builder::new().name(format!("http-{number}")).spawn(move || {
                runtime.block_on(async {
                    // Nothing is ever sent: an error is the end.
                    while over.changed().await.is_ok() {}
                });
            })?;
        }
        Ok(Self { reactors: reactors.into(), _running: Some(Arc::new(running)) })
    }

    /// The one with the fewest connections.
    pub(super) fn freest(&self) -> &Handle {
        let tasks = |reactor: &&Handle| reactor.metrics().num_alive_tasks();
        // There is always one: `start` makes one a core, of which there is at least one.
        self.reactors.iter().min_by_key(tasks).unwrap_or(&self.reactors[0])
    }
}
