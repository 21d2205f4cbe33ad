//! One request's view: an account's directory, or a container in it.

use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::MutexGuard;

use lustre::sys::{self, OFlags, Symlinks};
use rustix::io::Errno;

use crate::Namespace;
use crate::error::{Error, Result, Step, is, is_absent};
use crate::{container_path, place};

/// File that movers lock; see `place`.
const LOCK: &[u8] = b".lb~dlock";

/// How long after a move readers look more often.
const LATELY_NS: i64 = 10_000_000_000;

/// How long a move waits for another server's.
const MOVING: std::time::Duration = std::time::Duration::from_secs(20);

/// A directory of the namespace, opened for one operation.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    namespace: &'a Namespace,
    name: &'a str,
    base: OwnedFd,
    account: OnceCell<OwnedFd>,
}

/// Held while an object moves between its two places.
#[derive(Debug)]
pub(crate) struct Moving<'a> {
    file: Option<OwnedFd>,
    _local: MutexGuard<'a, ()>,
}

impl<'a> Scope<'a> {
    /// The account's own directory.
    pub(crate) fn of_account(namespace: &'a Namespace, account: &'a str) -> Result<Self> {
        let base = open_directory(namespace, &namespace.account_path(account))?.ok_or(Error::NoAccount)?;
        Ok(Self { namespace, name: account, base, account: OnceCell::new() })
    }

    /// The directory of all accounts.
    pub(crate) fn of_root(namespace: &'a Namespace) -> Result<Self> {
        let base = open_directory(namespace, b".")?.ok_or(Error::NoAccount)?;
        Ok(Self { namespace, name: "", base, account: OnceCell::new() })
    }

    /// A container's directory.
    pub(crate) fn of_container(namespace: &'a Namespace, account: &'a str, container: &str) -> Result<Self> {
        let path = place::join(&namespace.account_path(account), &container_path(container)?);
        match open_directory(namespace, &path)? {
            Some(base) => Ok(Self { namespace, name: account, base, account: OnceCell::new() }),
            None => Err(Error::NoContainer),
        }
    }

    pub(crate) fn namespace(&self) -> &'a Namespace {
        self.namespace
    }

    /// The directory that paths are relative to; opened with `O_PATH`.
    pub(crate) fn base(&self) -> BorrowedFd<'_> {
        self.base.as_fd()
    }

    /// The same directory, opened so that it can be read, changed and synced.
    pub(crate) fn open_base(&self) -> Result<OwnedFd> {
        sys::open_beneath(self.base(), b".", place::DIRECTORY, Symlinks::Never).step("open the directory")
    }

    /// The account's directory; opened with `O_PATH`.
    pub(crate) fn account(&self) -> Result<BorrowedFd<'_>> {
        if self.account.get().is_none() {
            let path = self.namespace.account_path(self.name);
            let fd = open_directory(self.namespace, &path)?.ok_or(Error::NoAccount)?;
            let _ = self.account.set(fd);
        }
        self.account.get().map(AsFd::as_fd).ok_or(Error::NoAccount)
    }

    /// Makes a change of names in `dir` durable, if this namespace promises that.
    pub(crate) fn persist(&self, dir: BorrowedFd<'_>, published: Option<BorrowedFd<'_>>) -> Result<()> {
        if !self.namespace.options.durable {
            return Ok(());
        }
        self.namespace.fs.persist(dir, published).step("make a name durable")
    }

    /// Waits until no other server or thread moves objects of this account between their places.
    pub(crate) fn moving(&self) -> Result<Moving<'a>> {
        let moving = self.unmoved()?;
        if let Some(file) = &moving.file {
            // Readers see by its time that objects are on the move; another user's file stays as it is.
            let _ = sys::set_mtime(file.as_fd(), sys::now_ns());
        }
        Ok(moving)
    }

    /// As `moving`, for what no reader can miss an object by.
    pub(crate) fn unmoved(&self) -> Result<Moving<'a>> {
        let local = self.namespace.moves.lock(self.name);
        let account = self.account()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        let mut lock = sys::open_beneath(account, LOCK, flags, Symlinks::Never);
        if lock.as_ref().is_err_and(|e| is(e, Errno::NOENT)) {
            let mode = place::file_mode(&sys::stat(account).step("stat the account")?);
            match self.namespace.fs.create(account, LOCK, mode, None) {
                Ok(file) => lock = Ok(file.into()),
                Err(_) => lock = sys::open_beneath(account, LOCK, flags, Symlinks::Never),
            }
        }
        let file = match lock {
            Ok(fd) => match wait_for(fd.as_fd()) {
                Ok(()) => Some(fd),
                // A mount without flock: this process's own lock is all there is.
                Err(e) if is(&e, Errno::NOSYS) || is(&e, Errno::OPNOTSUPP) => None,
                Err(e) => return Err(Error::io("lock the account's moves", e)),
            },
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied || is_absent(&e) => None,
            Err(e) => return Err(Error::io("open the account's lock", e)),
        };
        Ok(Moving { file, _local: local })
    }

    /// Whether anybody moved objects of this account within the last seconds.
    pub(crate) fn moved_lately(&self) -> Result<bool> {
        // Only a time is read, so one look-up from the root will do.
        let lock = place::join(&self.namespace.account_path(self.name), LOCK);
        match sys::stat_at(self.namespace.root.as_fd(), &lock, false) {
            Ok(stat) => Ok(sys::now_ns().saturating_sub(stat.mtime_ns) < LATELY_NS),
            Err(e) if is_absent(&e) => Ok(false),
            Err(e) => Err(Error::io("stat the account's lock", e)),
        }
    }

    /// A point between two steps at which tests kill or interleave.
    #[inline]
    pub(crate) fn step(&self, what: &'static str) {
        self.namespace.step(what);
    }
}

/// Waits for the lock, which is held for the few steps of a move; not for ever, as its holder may hang on a dead server.
fn wait_for(file: BorrowedFd<'_>) -> std::io::Result<()> {
    let start = std::time::Instant::now();
    while !sys::lock(file, sys::Lock::Exclusive)? {
        if start.elapsed() > MOVING {
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "another server holds it"));
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}

fn open_directory(namespace: &Namespace, path: &[u8]) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match sys::open_beneath(namespace.root.as_fd(), path, flags, Symlinks::Never) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(Error::io("open a directory", e)),
    }
}
