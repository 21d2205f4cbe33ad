//! Acting as a POSIX identity on one thread.
//!
//! Linux keeps credentials per thread. [`Identity::assume`] changes the supplementary groups and the
//! file-system ids of the calling thread only, by raw system calls (the C library's `setgroups` would change
//! every thread), reads them back, and its [`Guard`] restores them; if that fails the process aborts, since
//! it would go on as somebody else.
//!
//! When the file-system uid changes from 0 the kernel takes `CAP_DAC_OVERRIDE` and the other capabilities
//! over files out of force until it is 0 again. Where that would not happen (an own uid other than 0 with
//! such capabilities, or `SECBIT_NO_SETUID_FIXUP`) no other identity is assumed. Capabilities that are not
//! over files stay in force: hold none, least of all `CAP_SYS_RESOURCE` (see [`drop_sys_resource`]).

use std::borrow::Cow;
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::OnceLock;

use rustix::thread::{CapabilitiesSecureBits, CapabilitySet};

use crate::sys::raw;

/// The user and groups that file-system calls are made as.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// Owner of what is created.
    pub uid: u32,
    /// Group of what is created, unless the directory decides.
    pub gid: u32,
    /// Supplementary groups, in any order; `gid` counts without being among them.
    pub groups: Vec<u32>,
}

/// Why an identity was not assumed; found inside the [`io::Error`].
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The kernel gave this thread no such uid: without `CAP_SETUID`, or not mapped in this user namespace.
    #[error("the kernel did not apply uid {0}")]
    Uid(u32),
    /// The kernel gave this thread no such gid: without `CAP_SETGID`, or not mapped in this user namespace.
    #[error("the kernel did not apply gid {0}")]
    Gid(u32),
    /// The kernel did not give this thread exactly these groups.
    #[error("the kernel did not apply the supplementary groups {0:?}")]
    Groups(Vec<u32>),
    /// The thread already has a guard that changed its identity.
    #[error("this thread already acts as another identity")]
    Nested,
    /// Capabilities over files would stay in force.
    #[error("this process would keep its capabilities over files as another identity")]
    KeepsCapabilities,
    /// The uid, the gid or a group is 4294967295, which names nobody.
    #[error("4294967295 is no user and no group")]
    NoId,
}

impl From<IdentityError> for io::Error {
    fn from(error: IdentityError) -> io::Error {
        let kind = match error {
            IdentityError::Uid(_)
            | IdentityError::Gid(_)
            | IdentityError::Groups(_)
            | IdentityError::KeepsCapabilities => io::ErrorKind::PermissionDenied,
            IdentityError::Nested => io::ErrorKind::ResourceBusy,
            IdentityError::NoId => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

/// What the process is, found once before any thread acts as another.
#[derive(Debug)]
struct Own {
    /// With its groups in canonical form.
    identity: Identity,
    /// The groups as the kernel has them, sorted: with `gid`, where the container runtime repeats it. Under
    /// another gid that one counts.
    groups: Vec<u32>,
    /// Changing the file-system uid would leave capabilities over files in force.
    keeps_capabilities: bool,
}

static OWN: OnceLock<Own> = OnceLock::new();

thread_local! {
    /// A guard of this thread has changed its identity.
    static CHANGED: Cell<bool> = const { Cell::new(false) };
    /// This thread is known to have begun as the process.
    static SETTLED: Cell<bool> = const { Cell::new(false) };
}

impl Identity {
    /// The process's own, with its groups sorted and without `gid`. Found at the first call and kept.
    pub fn of_process() -> io::Result<Identity> {
        Ok(own()?.identity.clone())
    }

    /// Makes the calling thread act as this identity until the guard is dropped.
    ///
    /// The process's own identity needs no privilege and no system call. Any other needs `CAP_SETUID` and
    /// `CAP_SETGID`; the error then holds an [`IdentityError`] or is the kernel's. Guards do not nest.
    pub fn assume(&self) -> io::Result<Guard> {
        if CHANGED.get() {
            return Err(IdentityError::Nested.into());
        }
        let own = own()?;
        settle(own)?;
        let mut guard = Guard::unchanged(own);
        let groups = canonical(&self.groups, self.gid);
        let same_groups = if self.gid == own.identity.gid {
            same(&groups, &own.identity.groups)
        } else {
            same(&groups, &canonical(&own.groups, self.gid))
        };
        if same_groups && self.gid == own.identity.gid && self.uid == own.identity.uid {
            return Ok(guard);
        }
        if self.uid == u32::MAX || self.gid == u32::MAX || groups.last() == Some(&u32::MAX) {
            return Err(IdentityError::NoId.into());
        }
        if own.keeps_capabilities {
            return Err(IdentityError::KeepsCapabilities.into());
        }
        // Groups first: a uid without privileges could not set them. On an early return the guard undoes
        // what was done.
        if !same_groups {
            guard.set_groups(&groups)?;
        }
        if self.gid != own.identity.gid {
            guard.set_gid(self.gid)?;
        }
        if self.uid != own.identity.uid {
            guard.set_uid(self.uid)?;
        }
        Ok(guard)
    }
}

/// While it lives its thread acts as an [`Identity`]; dropping it makes the thread the process's own again.
///
/// It belongs to its thread:
///
/// ```compile_fail
/// fn cross<T: Send>() {}
/// cross::<lustre::identity::Guard>();
/// ```
#[must_use = "the identity is given back when the guard is dropped"]
#[derive(Debug)]
pub struct Guard {
    own: &'static Own,
    groups: bool,
    gid: bool,
    uid: bool,
    thread_bound: PhantomData<*const ()>,
}

impl Guard {
    fn unchanged(own: &'static Own) -> Guard {
        Guard { own, groups: false, gid: false, uid: false, thread_bound: PhantomData }
    }

    fn set_groups(&mut self, groups: &[u32]) -> io::Result<()> {
        // A refused call changes nothing; a process that may not set groups could not set them back either.
        raw::set_thread_groups(groups)?;
        CHANGED.set(true);
        self.groups = true;
        if has_groups(groups)? { Ok(()) } else { Err(IdentityError::Groups(groups.to_vec()).into()) }
    }

    fn set_gid(&mut self, gid: u32) -> io::Result<()> {
        CHANGED.set(true);
        self.gid = true;
        raw::set_fsgid(gid);
        if raw::fsgid() == gid { Ok(()) } else { Err(IdentityError::Gid(gid).into()) }
    }

    fn set_uid(&mut self, uid: u32) -> io::Result<()> {
        CHANGED.set(true);
        self.uid = true;
        raw::set_fsuid(uid);
        if raw::fsuid() == uid { Ok(()) } else { Err(IdentityError::Uid(uid).into()) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !(self.groups || self.gid || self.uid) {
            return;
        }
        if restore(self.own, self.groups, self.gid, self.uid).is_err() {
            // Whatever runs next on this thread would act as somebody else.
            std::process::abort();
        }
        CHANGED.set(false);
    }
}

/// In the reverse order of assuming.
fn restore(own: &Own, groups: bool, gid: bool, uid: bool) -> io::Result<()> {
    let identity = &own.identity;
    if uid {
        raw::set_fsuid(identity.uid);
        if raw::fsuid() != identity.uid {
            return Err(IdentityError::Uid(identity.uid).into());
        }
    }
    if gid {
        raw::set_fsgid(identity.gid);
        if raw::fsgid() != identity.gid {
            return Err(IdentityError::Gid(identity.gid).into());
        }
    }
    if groups {
        raw::set_thread_groups(&own.groups)?;
        if !has_groups(&own.groups)? {
            return Err(IdentityError::Groups(own.groups.clone()).into());
        }
    }
    Ok(())
}

/// Makes the calling thread the process's own, in case it was started by a thread that acted as another:
/// a new thread inherits the credentials of the one that starts it.
pub(crate) fn settle_thread() -> io::Result<()> {
    settle(own()?)
}

fn settle(own: &Own) -> io::Result<()> {
    if SETTLED.get() {
        return Ok(());
    }
    let groups = !has_groups(&own.groups)?;
    restore(own, groups, raw::fsgid() != own.identity.gid, raw::fsuid() != own.identity.uid)?;
    SETTLED.set(true);
    Ok(())
}

fn own() -> io::Result<&'static Own> {
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let groups = raw::with_thread_groups(|groups| {
        groups.sort_unstable();
        groups.to_vec()
    })?;
    let identity = Identity { uid, gid, groups: canonical(&groups, gid).into_owned() };
    let found = Own { identity, groups, keeps_capabilities: keeps_capabilities(uid)? };
    Ok(OWN.get_or_init(|| found))
}

fn keeps_capabilities(uid: u32) -> io::Result<bool> {
    // The kernel's CAP_FS_SET.
    let over_files = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::LINUX_IMMUTABLE
        | CapabilitySet::MKNOD
        | CapabilitySet::MAC_OVERRIDE;
    if !rustix::thread::capabilities(None)?.effective.intersects(over_files) {
        return Ok(false);
    }
    let bits = rustix::thread::capabilities_secure_bits()?;
    Ok(uid != 0 || bits.contains(CapabilitiesSecureBits::NO_SETUID_FIXUP))
}

/// Sorted, each once, and without `gid`, which counts anyway: container runtimes differ in whether they
/// repeat it.
fn canonical(groups: &[u32], gid: u32) -> Cow<'_, [u32]> {
    if groups.is_sorted_by(|a, b| a < b) && !groups.contains(&gid) {
        return Cow::Borrowed(groups);
    }
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    groups.retain(|&group| group != gid);
    Cow::Owned(groups)
}

/// One by one: `memcmp` of nothing at the address of an empty slice is a hundred times slower on some CPUs
/// (a masked load from an unmapped page).
fn same(groups: &[u32], others: &[u32]) -> bool {
    groups.iter().eq(others)
}

fn has_groups(wanted: &[u32]) -> io::Result<bool> {
    raw::with_thread_groups(|groups| {
        groups.sort_unstable();
        same(groups, wanted)
    })
}

/// Gives up `CAP_SYS_RESOURCE` for good: with it Lustre ignores quotas, whoever the identity.
///
/// Only the calling thread gives it up, and the threads it starts later: call this in `main`, before any
/// other. The bounding set keeps it where `CAP_SETPCAP` is missing; then only a program executed later could
/// have it again.
pub fn drop_sys_resource() -> io::Result<()> {
    let it = CapabilitySet::SYS_RESOURCE;
    if let Err(error) = rustix::thread::remove_capability_from_bounding_set(it) {
        tracing::debug!(%error, "CAP_SYS_RESOURCE stays in the bounding set");
    }
    let mut sets = rustix::thread::capabilities(None)?;
    if !(sets.effective | sets.permitted | sets.inheritable).contains(it) {
        return Ok(());
    }
    sets.effective.remove(it);
    sets.permitted.remove(it);
    sets.inheritable.remove(it);
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests;
