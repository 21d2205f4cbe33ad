//! What only the service may know or set of an account or container: ACLs and keys.
//!
//! It lies in 0600 files in the account's `.lb~ds/`, a 0700 directory of the account's owner. Call these as that owner.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use lustre::sys::{self, Symlinks};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, Step, is, is_absent};
use crate::{Namespace, Scope, attribute, place};

/// Format version of the files.
const VERSION: u32 = 1;

const DIRECTORY: &[u8] = b".lb~ds";

/// Settings by key, for example `read` and `write` (a container's ACLs) or `temp-url-key`.
pub type System = BTreeMap<String, String>;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    settings: System,
}

fn file_name(container: Option<&str>) -> Vec<u8> {
    match container {
        None => b"account".to_vec(),
        Some(container) => {
            // One flat name for any container: a digest, so that the longest fits.
            use sha2::{Digest, Sha256};
            let digest = Sha256::digest(container.as_bytes());
            [b"container-".as_slice(), crate::hex(&digest).as_bytes()].concat()
        }
    }
}

impl Namespace {
    /// The settings of an account, or of a container in it; empty if there are none.
    pub fn system(&self, account: &str, container: Option<&str>) -> Result<System> {
        let scope = Scope::of_account(self, account)?;
        let Some(dir) = directory(&scope, false)? else { return Ok(System::new()) };
        let Some(bytes) = attribute::read_small(dir.as_fd(), &file_name(container))? else {
            return Ok(System::new());
        };
        let stored: Stored =
            serde_json::from_slice(&bytes).map_err(|e| Error::io("read the settings", e.into()))?;
        if stored.version > VERSION {
            return Err(Error::Newer {
                what: format!("the settings have format version {}", stored.version),
            });
        }
        Ok(stored.settings)
    }

    /// Changes settings: an empty or absent value removes its key.
    pub fn update_system(
        &self,
        account: &str,
        container: Option<&str>,
        changes: &[(String, Option<String>)],
    ) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let scope = Scope::of_account(self, account)?;
        let _held = self.locks.lock((account, container));
        let mut settings = self.system(account, container)?;
        let before = settings.clone();
        for (key, value) in changes {
            match value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => _ = settings.insert(key.clone(), value.to_owned()),
                None => _ = settings.remove(key),
            }
        }
        if settings == before {
            return Ok(());
        }
        let Some(dir) = directory(&scope, true)? else { return Ok(()) };
        let stored = Stored { version: VERSION, settings };
        let bytes = serde_json::to_vec(&stored).map_err(|e| Error::io("write the settings", e.into()))?;
        attribute::write_small(&scope, dir.as_fd(), &file_name(container), &bytes, Some(0o600))
    }

    /// Forgets a container's settings.
    pub fn forget_system(&self, account: &str, container: &str) -> Result<()> {
        let scope = Scope::of_account(self, account)?;
        let Some(dir) = directory(&scope, false)? else { return Ok(()) };
        match sys::unlink_at(dir.as_fd(), &file_name(Some(container))) {
            Err(e) if !is_absent(&e) => Err(Error::io("forget the settings", e)),
            _ => scope.persist(dir.as_fd(), None),
        }
    }
}

fn directory(scope: &Scope<'_>, make: bool) -> Result<Option<OwnedFd>> {
    match sys::open_beneath(scope.base(), DIRECTORY, place::DIRECTORY, Symlinks::Never) {
        Ok(fd) => return Ok(Some(fd)),
        Err(e) if is_absent(&e) => {}
        Err(e) => return Err(Error::io("open the settings", e)),
    }
    if !make {
        return Ok(None);
    }
    let around = scope.open_base()?;
    match sys::make_dir_at(around.as_fd(), DIRECTORY, 0o700) {
        Err(e) if !is(&e, Errno::EXIST) => return Err(Error::io("make the settings' directory", e)),
        _ => {}
    }
    scope.persist(around.as_fd(), None)?;
    let dir = sys::open_beneath(scope.base(), DIRECTORY, place::DIRECTORY, Symlinks::Never);
    dir.map(Some).step("open the settings")
}
