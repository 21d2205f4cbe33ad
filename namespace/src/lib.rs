//! Object names as paths, objects' metadata, and the operations on both.
//!
//! Accounts and containers are directories, objects are files; everything here is derived from them at each call. All calls
//! block: run them on a pool of threads, under the identity of whoever asks. Nothing here knows HTTP.
//!
//! [`Namespace`] is the way in. What an object's name becomes on disk is in [`name`], its metadata in [`metadata`].

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lustre::fs::FileSystem;
use lustre::sys;

mod assembly;
mod attribute;
mod counters;
mod digest;
mod directory;
mod error;
pub mod index;
mod listing;
mod locks;
mod mark;
pub mod metadata;
pub mod migration;
pub mod name;
mod object;
mod orphans;
mod place;
mod scope;
mod sweep;
mod system;
pub mod timestamp;
mod tombstones;
mod upload;
mod walk;

pub use assembly::Assembly;
pub use counters::Count;
pub use directory::{AccountInfo, ContainerInfo, ContainerRow, HeaderUpdate};
pub use error::{Error, Result};
pub use listing::{ListQuery, ObjectRow, Row};
pub use mark::{Mark, Spot};
pub use metadata::ATTRIBUTE;
pub use object::{EMPTY_MD5, Object, ObjectInfo, ObjectName, ObjectPost};
pub use orphans::Orphans;
pub use sweep::{Seen, Sweep};
pub use system::System;
pub use timestamp::Timestamp;
pub use upload::{ObjectMeta, Published, Upload};

pub(crate) use scope::Scope;

use counters::Counters;
use digest::Together;
use error::Step;
use index::Index;
use locks::Locks;
use tombstones::Tombstones;

/// Where metadata lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetadataMode {
    /// In extended attributes where the file system has them, else in side files.
    #[default]
    Auto,
    /// In extended attributes.
    Xattr,
    /// In side files, keyed by FID.
    Sidecar,
}

/// How a namespace behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where metadata lies.
    pub metadata: MetadataMode,
    /// Whether what was acknowledged survives a power cut.
    pub durable: bool,
    /// How long deletions are remembered: the longest that an upload may take.
    pub tombstone_life: Duration,
    /// Whether `a` may be an object beside `a/b`; else the second of the two is refused.
    pub prefixes_may_be_objects: bool,
    /// Directories of accounts that do not lie under their own name, relative to the root.
    pub accounts: BTreeMap<String, String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            metadata: MetadataMode::Auto,
            durable: true,
            tombstone_life: Duration::from_hours(24),
            prefixes_may_be_objects: true,
            accounts: BTreeMap::new(),
        }
    }
}

/// Called at each step of a protocol, by tests that stop there.
pub type StepHook = Box<dyn Fn(&'static str) + Send + Sync>;

/// A directory of accounts, served as objects.
pub struct Namespace {
    pub(crate) root: OwnedFd,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) options: Options,
    mode: MetadataMode,
    pub(crate) locks: Locks,
    pub(crate) moves: Locks,
    pub(crate) tombstones: Tombstones,
    pub(crate) counters: Counters,
    pub(crate) together: Arc<Together>,
    corrupt: AtomicU64,
    pub(crate) index: Option<Index>,
    hook: Option<StepHook>,
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace")
            .field("root", &self.root)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Namespace {
    /// Opens the directory `root`, whose sub-directories are accounts.
    pub fn open(root: &Path, options: Options) -> Result<Self> {
        let dir = std::fs::File::open(root).map_err(|e| Error::io(format!("open {}", root.display()), e))?;
        let fs = lustre::fs::detect(dir.as_fd());
        Self::with_file_system(dir.into(), fs, options)
    }

    /// As `open`, over a given file system.
    pub fn with_file_system(root: OwnedFd, fs: Arc<dyn FileSystem>, options: Options) -> Result<Self> {
        let stat = sys::stat(root.as_fd()).step("stat the root")?;
        if stat.kind != sys::Kind::Directory {
            return Err(Error::Blocked { path: "the root".to_owned(), reason: "not a directory" });
        }
        let mode = match options.metadata {
            MetadataMode::Auto => detect_mode(&root)?,
            given => given,
        };
        let life = options.tombstone_life.as_nanos() / 10_000;
        let tombstones = Tombstones::new(u64::try_from(life).unwrap_or(u64::MAX), Timestamp::now());
        Ok(Self {
            root,
            fs,
            options,
            mode,
            locks: Locks::new(),
            moves: Locks::new(),
            tombstones,
            counters: Counters::default(),
            together: Arc::new(Together::new()),
            corrupt: AtomicU64::new(0),
            index: None,
            hook: None,
        })
    }

    /// Keeps an index, and lists from it what it has proven.
    #[must_use]
    pub fn with_index(mut self, index: Index) -> Self {
        self.index = Some(index);
        self
    }

    /// The index, if there is one.
    pub fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// The identity of the root directory.
    pub fn root_fid(&self) -> Result<lustre::fs::Fid> {
        self.fs.fid(self.root.as_fd()).step("read the root's identity")
    }

    /// Calls `hook` at each step of the protocols; for tests that stop or interleave there.
    #[must_use]
    pub fn with_hook(mut self, hook: StepHook) -> Self {
        self.hook = Some(hook);
        self
    }

    #[inline]
    pub(crate) fn step(&self, what: &'static str) {
        if let Some(hook) = &self.hook {
            hook(what);
        }
    }

    /// Where metadata lies here.
    pub fn metadata_mode(&self) -> MetadataMode {
        self.mode
    }

    /// Corrupt attributes seen so far.
    pub fn corrupt_attributes(&self) -> u64 {
        self.corrupt.load(Ordering::Relaxed)
    }

    pub(crate) fn report_corrupt(&self, error: &dyn std::fmt::Display) {
        self.corrupt.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%error, "metadata of a file is corrupt; its data is served without it");
    }

    /// Path of an account's directory beneath the root.
    pub(crate) fn account_path(&self, account: &str) -> Vec<u8> {
        match self.options.accounts.get(account) {
            Some(path) => path.trim_matches('/').as_bytes().to_vec(),
            None => name::account_path(account).map(|p| p.as_bytes().to_vec()).unwrap_or_default(),
        }
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// Path of an object beneath its container.
pub(crate) fn object_path(object: &str) -> Result<Vec<u8>> {
    name::path_of(object).map(|p| p.as_bytes().to_vec()).map_err(|e| Error::Name(e.to_string()))
}

/// Path of a container beneath its account.
pub(crate) fn container_path(container: &str) -> Result<Vec<u8>> {
    name::container_path(container).map(|p| p.as_bytes().to_vec()).map_err(|e| Error::Name(e.to_string()))
}

/// Whether the file system keeps user attributes.
fn detect_mode(root: &OwnedFd) -> Result<MetadataMode> {
    match sys::get_xattr(root.as_fd(), ATTRIBUTE, &mut Vec::new()) {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
            tracing::info!("no extended attributes here: metadata goes to side files");
            Ok(MetadataMode::Sidecar)
        }
        Err(e) => Err(Error::io("read an attribute of the root", e)),
        Ok(_) => Ok(MetadataMode::Xattr),
    }
}
