//! Where marks come from.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::root::{Root, RootError};

mod batch;
pub mod fanotify;
pub mod inotify;
mod pacer;
pub mod replay;
pub mod scan;
mod tree;

pub use batch::Batch;

/// Why a source yields nothing, or nothing any more.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Of the root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// It cannot be used here.
    #[error("{kind} cannot be used on {path}: {hint}")]
    Unusable {
        /// Which.
        kind: Kind,
        /// The root.
        path: PathBuf,
        /// What is needed.
        hint: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It stopped working.
    #[error("{0} cannot be read")]
    Read(Kind, #[source] io::Error),
    /// A recorded stream is none.
    #[error("{path}, line {line}: {what}")]
    Recording {
        /// The file.
        path: PathBuf,
        /// Where, from 1; 0 for the whole file.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

/// The kinds of sources.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// See [`fanotify`].
    Fanotify,
    /// See [`inotify`].
    Inotify,
    /// See [`scan`].
    Scan,
    /// See [`replay`].
    Replay,
}

impl Kind {
    /// As the command line, the metrics and the wire have it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Fanotify => "fanotify",
            Kind::Inotify => "inotify",
            Kind::Scan => "scan",
            Kind::Replay => "replay",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How a source is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// For people.
    pub text: String,
    /// Whether changes are seen as they happen; else only a scan finds them.
    pub immediate: bool,
    /// How often changes were lost.
    pub overflows: u64,
    /// Directories that it has in memory.
    pub directories: u64,
}

/// What yields marks. Dropping it ends it.
pub trait Source: Send {
    /// Which kind it is.
    fn kind(&self) -> Kind;

    /// The next marks. Blocks until there are some, at most for about `timeout`.
    fn next(&mut self, timeout: Duration) -> Result<Batch, SourceError>;

    /// How it is doing.
    fn state(&self) -> State;

    /// Whether it is to be read only once somebody follows.
    fn waits(&self) -> bool {
        false
    }
}

/// Which source is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The best that can be used.
    Auto,
    /// See [`fanotify`].
    Fanotify,
    /// See [`inotify`].
    Inotify,
    /// See [`scan`].
    Scan,
    /// See [`replay`].
    Replay(PathBuf, replay::Disorder),
}

/// Opens a source. From then on no change goes unmarked. `interval` is of the scan, also where it stands in for others.
pub fn open(choice: &Choice, root: &Arc<Root>, interval: Duration) -> Result<Box<dyn Source>, SourceError> {
    Ok(match choice {
        Choice::Auto => auto(root, interval),
        Choice::Fanotify => Box::new(fanotify::Fanotify::open(root)?),
        Choice::Inotify => Box::new(inotify::Inotify::open(root, interval)?),
        Choice::Scan => Box::new(scan::Scan::new(root, interval, "as was asked for")),
        Choice::Replay(path, disorder) => Box::new(replay::Replay::open(path, *disorder)?),
    })
}

fn auto(root: &Arc<Root>, interval: Duration) -> Box<dyn Source> {
    if let Some(name) = shared_file_system(root) {
        tracing::warn!(file_system = name, "other nodes' changes give no events here: scanning instead");
        return Box::new(scan::Scan::new(root, interval, "the file system is shared with other nodes"));
    }
    match fanotify::Fanotify::open(root) {
        Ok(source) => {
            tracing::info!("fanotify can be used: the whole file system is followed");
            return Box::new(source);
        }
        Err(error) => tracing::info!(reason = chain(&error), "fanotify cannot be used: trying inotify"),
    }
    match inotify::Inotify::open(root, interval) {
        Ok(source) => {
            tracing::info!(state = source.state().text, "inotify can be used");
            Box::new(source)
        }
        Err(error) => {
            tracing::warn!(reason = chain(&error), "inotify cannot be used either: scanning");
            Box::new(scan::Scan::new(root, interval, "neither fanotify nor inotify can be used"))
        }
    }
}

/// The file systems on which others change files without this kernel's knowledge.
fn shared_file_system(root: &Root) -> Option<&'static str> {
    match lustre::sys::statfs(root.dir()).ok()?.magic {
        0x0bd0_0bd0 => Some("lustre"),
        0x6969 => Some("nfs"),
        0xff53_4d42 | 0xfe53_4d42 => Some("cifs"),
        0x00c3_6400 => Some("ceph"),
        0x4750_4653 => Some("gpfs"),
        0x0102_1997 => Some("9p"),
        _ => None,
    }
}

/// An error with what caused it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Until when, and whether that is past.
#[derive(Clone, Copy)]
struct Deadline(std::time::Instant);

impl Deadline {
    fn after(timeout: Duration) -> Deadline {
        Deadline(std::time::Instant::now() + timeout)
    }

    fn left(self) -> Duration {
        self.0.saturating_duration_since(std::time::Instant::now())
    }
}

/// Waits until `fd` can be read, or for `timeout`.
fn wait_for(fd: std::os::fd::BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A batch of nothing, now.
fn nothing(drained: bool) -> Batch {
    Batch { marks: Vec::new(), newest: SystemTime::now(), drained }
}

/// Looks now and then whether the root is still there.
struct Watchman {
    root: Arc<Root>,
    next: std::time::Instant,
}

impl Watchman {
    const EVERY: Duration = Duration::from_secs(1);

    fn new(root: &Arc<Root>) -> Watchman {
        Watchman { root: Arc::clone(root), next: std::time::Instant::now() + Self::EVERY }
    }

    fn look(&mut self) -> Result<(), SourceError> {
        let now = std::time::Instant::now();
        if now >= self.next {
            self.root.check()?;
            self.next = now + Self::EVERY;
        }
        Ok(())
    }
}
