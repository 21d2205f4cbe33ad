//! The shares that there are, by name.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use lustre::pool::Pool;
use lustre::sys::{self, Mode, OFlags};
use rustix::fs::CWD;

use crate::error::Error;
use crate::id::{VolumeId, is_share_name};
use crate::path::SubPath;
use crate::tree::{Owner, Tree, open_directory};

/// Threads of one share, and calls that may wait for them.
const THREADS: usize = 16;
const QUEUE: usize = 1024;

/// Where a share is, and what holds for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// The directory that the backend names, seen from the host.
    pub host_path: String,
    /// The share's directory beneath it.
    pub path: SubPath,
    /// The only node that has it; `None`: every node has the same.
    pub node: Option<String>,
    /// Whose directories become that the driver makes.
    pub owner: Owner,
}

/// Why `--share` is not one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Not of the form.
    #[error("{0:?} is no share; one is NAME=directory:/absolute/path")]
    Form(String),
    /// Not a name.
    #[error("{0:?} is no name of a share: lower-case letters, digits, `-` and `.`, at most 253 bytes")]
    Name(String),
}

/// A share on the command line: `NAME=directory:/path`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub spec: Spec,
}

impl FromStr for Named {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Named, ShareError> {
        let form = || ShareError::Form(text.into());
        let (name, backend) = text.split_once('=').ok_or_else(form)?;
        let path =
            backend.strip_prefix("directory:").filter(|path| path.starts_with('/')).ok_or_else(form)?;
        if !is_share_name(name) {
            return Err(ShareError::Name(name.into()));
        }
        let spec = Spec { host_path: path.into(), path: SubPath::share(), node: None, owner: Owner::DEFAULT };
        Ok(Named { name: name.into(), spec })
    }
}

/// A share, with threads of its own: one that hangs stops no other.
#[derive(Debug)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub spec: Spec,
    host_root: Arc<Path>,
    pool: Pool,
}

impl Share {
    /// Runs `job` on the opened share, on one of its threads.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Share>,
        job: impl FnOnce(&Tree) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let share = Arc::clone(self);
        self.pool.run(None, move || job(&share.open()?)).await?
    }

    /// Runs `job` on one of the share's threads, with the share as it is: its directory may be missing.
    pub async fn run_unopened<T: Send + 'static>(
        self: &Arc<Share>,
        job: impl FnOnce(&Share) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let share = Arc::clone(self);
        Ok(self.pool.run(None, move || job(&share)).await?)
    }

    /// Opens the share's directory. Blocks.
    pub fn open(&self) -> Result<Tree, Error> {
        let backend = self.open_backend()?;
        match open_directory(backend.as_fd(), self.spec.path.as_str()) {
            Ok(root) => Ok(Tree::new(root).on(&self.host_root)),
            Err(error) => Err(Error::Unavailable(format!(
                "share {}: cannot open its directory {} beneath {}: {error}",
                self.name, self.spec.path, self.spec.host_path
            ))),
        }
    }

    /// Opens the directory that the backend names. Blocks.
    pub fn open_backend(&self) -> Result<OwnedFd, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let host = rustix::fs::openat(CWD, &*self.host_root, flags, Mode::empty());
        let opened = host.map_err(std::io::Error::from).and_then(|host| {
            // The links of the host lead through the host's root, not through the container's.
            sys::open_in_root(host.as_fd(), self.spec.host_path.as_bytes(), flags)
        });
        opened.map_err(|error| {
            Error::Unavailable(format!(
                "share {}: cannot open {}: {error}; it has to be a mounted directory of the host",
                self.name, self.spec.host_path
            ))
        })
    }

    /// That this node has the share.
    pub fn check_node(&self, here: &str) -> Result<(), Error> {
        match &self.spec.node {
            Some(node) if node != here => Err(Error::Unavailable(format!(
                "share {} is on node {node} only, and this is the driver of node {here}",
                self.name
            ))),
            _ => Ok(()),
        }
    }
}

/// `None` while they are not known.
type Table = Option<BTreeMap<String, Arc<Share>>>;

/// All shares. Cheap to clone; clones see the same.
#[derive(Clone, Debug)]
pub struct Shares {
    host_root: Arc<Path>,
    table: Arc<RwLock<Table>>,
}

impl Shares {
    /// Not known yet. Paths of shares begin at `host_root`.
    pub fn unknown(host_root: impl Into<PathBuf>) -> Shares {
        Shares { host_root: host_root.into().into(), table: Arc::default() }
    }

    /// Replaces all. A share that stays keeps its threads.
    pub fn replace(&self, specs: impl IntoIterator<Item = (String, Spec)>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut old = table.take().unwrap_or_default();
        let kept = specs.into_iter().map(|(name, spec)| {
            let share = match old.remove(&name) {
                Some(share) if share.spec == spec => share,
                other => {
                    let pool = other.filter(|share| share.spec.host_path == spec.host_path);
                    let pool =
                        pool.map_or_else(|| Pool::new(&name, THREADS, QUEUE), |share| share.pool.clone());
                    Arc::new(Share { name: name.clone(), spec, host_root: Arc::clone(&self.host_root), pool })
                }
            };
            (name, share)
        });
        *table = Some(kept.collect());
    }

    /// Whether they are known.
    pub fn ready(&self) -> bool {
        self.table.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// All of them, by name.
    pub fn all(&self) -> Result<Vec<Arc<Share>>, Error> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        match &*table {
            Some(shares) => Ok(shares.values().cloned().collect()),
            None => Err(Error::Unavailable("the shares are not known yet: ask again".into())),
        }
    }

    /// The one of this name.
    pub fn get(&self, name: &str) -> Result<Option<Arc<Share>>, Error> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        match &*table {
            Some(shares) => Ok(shares.get(name).cloned()),
            None => Err(Error::Unavailable("the shares are not known yet: ask again".into())),
        }
    }

    /// The share of a volume.
    pub fn of_volume(&self, id: &VolumeId) -> Result<Arc<Share>, Error> {
        let found = self.get(&id.share)?;
        found.ok_or_else(|| Error::NotFound(format!("there is no share {:?}", id.share)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_name_and_a_directory() {
        let share: Named = "scratch=directory:/srv/x".parse().unwrap();
        assert_eq!((share.name.as_str(), share.spec.host_path.as_str()), ("scratch", "/srv/x"));
        for bad in ["scratch", "scratch=/srv", "scratch=directory:srv", "=directory:/x", "A=directory:/x"] {
            assert!(bad.parse::<Named>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn links_of_the_host_stay_in_the_host() {
        let host = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(host.path().join("data/files")).unwrap();
        std::fs::write(host.path().join("data/files/here"), "").unwrap();
        std::os::unix::fs::symlink("/data", host.path().join("srv")).unwrap();
        let shares = Shares::unknown(host.path());
        assert!(!shares.ready() && shares.get("s").is_err());
        let named: Named = "s=directory:/srv/files".parse().unwrap();
        shares.replace([(named.name, named.spec)]);
        let share = shares.get("s").unwrap().unwrap();
        let seen = share.run(|tree| Ok(sys::stat_at(tree.root(), b"here", false).is_ok())).await;
        assert!(seen.unwrap());
    }

    #[tokio::test]
    async fn a_missing_directory_is_unavailable() {
        let shares = Shares::unknown("/");
        let named: Named = "s=directory:/no/such/place".parse().unwrap();
        shares.replace([(named.name, named.spec)]);
        let share = shares.get("s").unwrap().unwrap();
        let error = share.run(|_| Ok(())).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unavailable);
    }

    #[tokio::test]
    async fn a_share_that_has_no_directory_in_its_file_system_is_unavailable() {
        let host = tempfile::tempdir().unwrap();
        std::fs::create_dir(host.path().join("srv")).unwrap();
        let shares = Shares::unknown(host.path());
        let named: Named = "s=directory:/srv".parse().unwrap();
        let spec = Spec { path: SubPath::parse("a/b").unwrap(), ..named.spec };
        shares.replace([(named.name, spec.clone())]);
        let share = shares.get("s").unwrap().unwrap();
        let error = share.run(|_| Ok(())).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unavailable);
        assert!(error.to_string().contains("its directory a/b beneath /srv"), "{error}");
        // Once it is made, the same share has it.
        std::fs::create_dir_all(host.path().join("srv/a/b")).unwrap();
        shares.replace([("s".to_owned(), spec)]);
        share.run(|_| Ok(())).await.unwrap();
        assert!(Arc::ptr_eq(&share, &shares.get("s").unwrap().unwrap()));
    }
}
