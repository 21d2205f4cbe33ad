//! Which node writes to a volume that one node may write to: a file on the share, locked by that node's driver, or
//! by its [holder](crate::holder).
//!
//! Who dies loses its locks at once, but what is mounted stays. So another node takes over only when the lock is free
//! *and* the node's sign of life has stood still for a while, in which one that merely restarted takes its locks
//! again. Who takes over counts the epoch up; a node whose epoch is past publishes no more.
//! Everything here blocks.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lustre::sys::{self, Lock, OFlags, Symlinks};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::id::{Uuid, VolumeId};
use crate::store::{LEASES, NODES, Store, for_each_name};
use crate::turns::Turns;

/// How long a node's sign of life has to stand still before another takes over what it wrote to.
pub const GRACE: Duration = Duration::from_secs(10);
/// How often a node gives a sign of life.
pub const BEAT: Duration = Duration::from_secs(1);
/// How often one who waits looks.
const LOOK: Duration = Duration::from_millis(200);
/// No file here is longer by far.
const LONGEST: usize = 4096;
/// A lease is written with spaces up to this length; node names are shorter.
const LINE: usize = 512;

const VERSION: u32 = 1;

/// What a lease says.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lease {
    version: u32,
    /// Counts the nodes that had it.
    epoch: u64,
    /// The node that writes; empty when none does.
    node: String,
    /// The boot of that node: no mount outlives it.
    boot: String,
}

/// The leases of this node. Clones are the same.
#[derive(Clone, Debug)]
pub struct Leases {
    node: Arc<str>,
    boot: Arc<str>,
    grace: Duration,
    held: Arc<Mutex<HashMap<VolumeId, Held>>>,
    /// The shares where what was held before a restart is held again.
    recovered: Arc<Mutex<HashSet<String>>>,
    /// Who asks twice at once waits, and is not told that its own node has the lock.
    turns: Arc<Turns<VolumeId>>,
}

/// A lock, which is there as long as its file is open.
#[derive(Clone, Debug)]
struct Held {
    file: Arc<File>,
    epoch: u64,
}

impl Leases {
    /// Of the driver on `node`.
    pub fn new(node: &str, grace: Duration) -> Leases {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Leases {
            node: node.into(),
            boot: boot.trim().into(),
            grace,
            held: Arc::default(),
            recovered: Arc::default(),
            turns: Arc::default(),
        }
    }

    /// Whose they are.
    pub fn node(&self) -> &str {
        &self.node
    }

    fn held(&self) -> MutexGuard<'_, HashMap<VolumeId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any volume of the share is leased, so that others wait for a sign of life.
    pub fn any_of(&self, share: &str) -> bool {
        self.held().keys().any(|id| id.share == share)
    }

    /// Takes the lease of a volume, or finds that this node has it. May wait for the grace of a node that is gone.
    pub fn take(&self, store: &Store, id: &VolumeId) -> Result<(), Error> {
        let _turn = self.turns.take(id.clone());
        if self.has(id)? {
            return Ok(());
        }
        let directory = store.make_part(LEASES)?;
        let (file, lease) = Self::lock(store, directory.as_fd(), id)?;
        let foreign = !lease.node.is_empty() && *lease.node != *self.node;
        let (file, lease) = if foreign {
            // Held, the lock would keep out the node's own driver when it comes back.
            drop(file);
            self.outwait(store, directory.as_fd(), id, &lease)?
        } else {
            (file, lease)
        };
        let mine = Lease {
            version: VERSION,
            epoch: lease.epoch + 1,
            node: (*self.node).into(),
            boot: (*self.boot).into(),
        };
        self.beat(store)?;
        write(&file, &mine).map_err(Error::io(format!("cannot write the lease of volume {id}")))?;
        self.held().insert(id.clone(), Held { file: file.into(), epoch: mine.epoch });
        Ok(())
    }

    /// Whether this node has it; an error if another took it since.
    fn has(&self, id: &VolumeId) -> Result<bool, Error> {
        // Not kept while the share is asked: it may not answer.
        let mine = self.held().get(id).cloned();
        let Some(mine) = mine else { return Ok(false) };
        let now = read(&mine.file).map_err(Error::io(format!("cannot read the lease of volume {id}")))?;
        if now.epoch == mine.epoch && *now.node == *self.node {
            return Ok(true);
        }
        self.held().remove(id);
        Err(taken(id, &now))
    }

    /// Locks the lease, made when it is missing; an error if another node has the lock.
    fn lock(store: &Store, directory: BorrowedFd<'_>, id: &VolumeId) -> Result<(File, Lease), Error> {
        let tried = || format!("cannot open the lease of volume {id}");
        loop {
            let file = open_or_make(store, directory, &id.uuid).map_err(Error::io(tried()))?;
            let locked = sys::lock(file.as_fd(), Lock::Exclusive).map_err(no_locks)?;
            let lease = read(&file).map_err(Error::io(tried()))?;
            if !locked {
                return Err(taken(id, &lease));
            }
            // Its volume may have gone, and have been made again, meanwhile.
            if rustix::fs::fstat(&file).is_ok_and(|is| is.st_nlink > 0) {
                return Ok((file, lease));
            }
        }
    }

    /// Waits until the node that has the lease is known to be gone.
    fn outwait(
        &self,
        store: &Store,
        directory: BorrowedFd<'_>,
        id: &VolumeId,
        lease: &Lease,
    ) -> Result<(File, Lease), Error> {
        let sign = sign_of(store, &lease.node)?;
        let start = Instant::now();
        loop {
            std::thread::sleep(LOOK.min(self.grace));
            let (file, now) = Self::lock(store, directory, id)?;
            if now != *lease || sign_of(store, &lease.node)? != sign {
                return Err(taken(id, &now));
            }
            if start.elapsed() >= self.grace {
                tracing::warn!(volume = %id, node = lease.node, epoch = lease.epoch + 1, "taking over a volume");
                return Ok((file, now));
            }
        }
    }

    /// Gives a lease back, if this node has it.
    pub fn release(&self, store: &Store, id: &VolumeId) -> Result<(), Error> {
        let _turn = self.turns.take(id.clone());
        let written = |error| Error::Io(format!("cannot give the lease of volume {id} back"), error);
        let held = self.held().get(id).map(|held| Arc::clone(&held.file));
        let file = match held {
            Some(file) => file,
            // The driver was restarted, and has not taken it again.
            None => match existing(store, &id.uuid).map_err(written)? {
                Some(file) if sys::lock(file.as_fd(), Lock::Exclusive).map_err(no_locks)? => file.into(),
                _ => return Ok(()),
            },
        };
        let lease = read(&file).map_err(written)?;
        if *lease.node == *self.node {
            let free = Lease { node: String::new(), boot: String::new(), ..lease };
            write(&file, &free).map_err(written)?;
        }
        // The lock goes last, and only once the lease says so.
        self.held().remove(id);
        Ok(())
    }

    /// Whether this node may have the lease of a volume, or is about to, as far as it is known yet.
    pub fn concerns(&self, id: &VolumeId) -> bool {
        // Who asked for it may have gone since, and another gives it back.
        self.turns.is_taken(id) || self.held().contains_key(id) || !self.recovered(&id.share)
    }

    fn recovered(&self, share: &str) -> bool {
        self.recovered.lock().unwrap_or_else(PoisonError::into_inner).contains(share)
    }

    /// After a restart, once: takes again what this node had, unless it was booted since, when nothing is mounted any
    /// more.
    pub fn recover(&self, store: Option<&Store>, share: &str) -> Result<(), Error> {
        if self.recovered(share) {
            return Ok(());
        }
        let mut all = true;
        // A share that was never written to has none.
        if let Some(store) = store {
            for uuid in leases(store)? {
                let id = VolumeId { share: share.into(), uuid };
                all &= self.recover_one(store, &id).unwrap_or_else(|error| {
                    tracing::warn!(volume = %id, %error, "a lease of this node is not taken again");
                    true
                });
            }
        }
        if all {
            self.recovered.lock().unwrap_or_else(PoisonError::into_inner).insert(share.into());
        }
        Ok(())
    }

    /// Has [`recover`](Leases::recover) look again, at every share.
    pub fn look_again(&self) {
        self.recovered.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// False while another holds the lock, maybe only to look.
    fn recover_one(&self, store: &Store, id: &VolumeId) -> Result<bool, Error> {
        let Some(file) = existing(store, &id.uuid).map_err(Error::io("cannot open it"))? else {
            return Ok(true);
        };
        let lease = read(&file).map_err(Error::io("cannot read it"))?;
        if *lease.node != *self.node || self.held().contains_key(id) {
            return Ok(true);
        }
        if *lease.boot != *self.boot {
            return self.release(store, id).map(|()| true);
        }
        let locked = sys::lock(file.as_fd(), Lock::Exclusive).map_err(no_locks)?;
        if locked {
            self.held().insert(id.clone(), Held { file: file.into(), epoch: lease.epoch });
        }
        Ok(locked)
    }

    /// Gives a sign of life.
    pub fn beat(&self, store: &Store) -> Result<(), Error> {
        let sign = format!("{}\n{}\n", self.node, sys::now_ns());
        let beaten = store.make_part(NODES).map(|nodes| {
            let file = open_or_make(store, nodes.as_fd(), &Uuid::of_name(&self.node))?;
            file.write_all_at(sign.as_bytes(), 0)
        })?;
        beaten.map_err(Error::io("cannot give a sign of life"))
    }
}

/// That nobody uses a volume, as long as what is returned is kept.
pub fn check_unused(store: &Store, uuid: &Uuid) -> Result<Option<File>, Error> {
    let looked = || Error::io("cannot open the volume's lease");
    let Some(file) = existing(store, uuid).map_err(looked())? else {
        return Ok(None);
    };
    if sys::lock(file.as_fd(), Lock::Exclusive).map_err(no_locks)? {
        return Ok(Some(file));
    }
    let lease = read(&file).map_err(looked())?;
    Err(Error::Precondition(format!("the volume is in use on node {}", lease.node)))
}

/// Whether the lease of a volume names `node`.
pub fn is_of(store: &Store, uuid: &Uuid, node: &str) -> Result<bool, Error> {
    let named =
        existing(store, uuid).and_then(|file| file.map_or(Ok(false), |file| Ok(read(&file)?.node == node)));
    named.map_err(Error::io("cannot read the volume's lease"))
}

/// Removes the lease of a volume that is gone.
pub fn forget(store: &Store, uuid: &Uuid) -> Result<(), Error> {
    let Some(leases) = store.part(LEASES)? else { return Ok(()) };
    match sys::unlink_at(leases.as_fd(), uuid.as_str().as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io("cannot remove the volume's lease".into(), error))
        }
        _ => Ok(()),
    }
}

/// The lease of a volume; `None` if nobody ever had one.
fn existing(store: &Store, uuid: &Uuid) -> io::Result<Option<File>> {
    let leases = store.part(LEASES).map_err(io::Error::other)?;
    leases.map_or(Ok(None), |leases| open(leases.as_fd(), uuid))
}

fn open(directory: BorrowedFd<'_>, uuid: &Uuid) -> io::Result<Option<File>> {
    match sys::open_beneath(directory, uuid.as_str().as_bytes(), OFlags::RDWR, Symlinks::Never) {
        Ok(file) => Ok(Some(file.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_or_make(store: &Store, directory: BorrowedFd<'_>, uuid: &Uuid) -> io::Result<File> {
    loop {
        if let Some(file) = open(directory, uuid)? {
            return Ok(file);
        }
        match store.fs().create(directory, uuid.as_str().as_bytes(), 0o600, None) {
            // Another was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made,
        }
    }
}

/// An empty file is a lease that nobody has: it was made, and then its maker died.
fn read(file: &File) -> io::Result<Lease> {
    let mut bytes = vec![0; LONGEST];
    let len = file.read_at(&mut bytes, 0)?;
    if len == 0 {
        return Ok(Lease::default());
    }
    let lease: Lease = serde_json::from_slice(bytes[..len].trim_ascii_end())?;
    if lease.version > VERSION {
        return Err(io::Error::other("it was written by a newer driver"));
    }
    Ok(lease)
}

/// In one piece of always the same length: there is no half of it.
fn write(file: &File, lease: &Lease) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(lease)?;
    bytes.resize(bytes.len().max(LINE), b' ');
    bytes.push(b'\n');
    file.write_all_at(&bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    sys::fsync(file.as_fd())
}

/// A node's sign of life, which changes as long as it lives.
fn sign_of(store: &Store, node: &str) -> Result<Vec<u8>, Error> {
    let looked = || Error::io(format!("cannot look for a sign of life of node {node}"));
    let Some(nodes) = store.part(NODES)? else { return Ok(Vec::new()) };
    let Some(file) = open(nodes.as_fd(), &Uuid::of_name(node)).map_err(looked())? else {
        return Ok(Vec::new());
    };
    let mut bytes = vec![0; LONGEST];
    let len = file.read_at(&mut bytes, 0).map_err(looked())?;
    bytes.truncate(len);
    Ok(bytes)
}

/// The volumes of a share that ever had a lease.
fn leases(store: &Store) -> Result<Vec<Uuid>, Error> {
    let mut found = Vec::new();
    if let Some(directory) = store.part(LEASES)? {
        for_each_name(directory.as_fd(), |name| found.extend(Uuid::parse(name)))
            .map_err(Error::io("cannot list the leases"))?;
    }
    Ok(found)
}

fn taken(id: &VolumeId, lease: &Lease) -> Error {
    Error::Precondition(format!(
        "volume {id} is in use on node {} (epoch {}), and only one node may write to it: stop its pod there first",
        lease.node, lease.epoch
    ))
}

fn no_locks(error: io::Error) -> Error {
    if matches!(Errno::from_io_error(&error), Some(Errno::NOSYS | Errno::OPNOTSUPP)) {
        return Error::Precondition(
            "the share's file system has no file locks, which a volume for one node needs: mount it with flock".into(),
        );
    }
    Error::Io("cannot lock a volume's lease".into(), error)
}

#[cfg(test)]
#[path = "tests/lease.rs"]
mod tests;
