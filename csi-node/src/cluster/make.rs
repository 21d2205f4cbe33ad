//! Making what a plan says. Blocks.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};

use lustre::sys;

use crate::cluster::plan::{Bridge, Grant, Plan, Wants};
use crate::error::Error;
use crate::path::SubPath;
use crate::record::Kind;
use crate::share::Share;
use crate::tree::{Owner, Tree, enter, open_directory};
use crate::volumes;

/// What came of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The share is on another node only.
    OtherNode(String),
    /// The file system does not answer, or is not there.
    Unreachable(String),
    /// It is there.
    Reachable {
        /// Why the share's own directory is not there.
        share: Option<String>,
        /// The grants, in the order of the plan: the owner, or why there is no directory.
        grants: Vec<Result<(u32, u32), String>>,
        /// The bridges, in the order of the plan: why their directories are not there.
        bridges: Vec<Made>,
    },
}

/// What came of a bridge's directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// They are there.
    Ready,
    /// They are made when the owner of the directory granted is known.
    Later,
    /// The share does not let the bridge be.
    NotAccepted(String),
    /// They cannot be made.
    Failed(String),
}

/// Makes what is missing, and nothing else: what exists stays as it is.
pub fn make(share: &Share, plan: &Plan) -> Outcome {
    let backend = match share.open_backend() {
        Ok(backend) => backend,
        Err(error) => return Outcome::Unreachable(error.to_string()),
    };
    if let Err(error) = sys::statfs(backend.as_fd()) {
        return Outcome::Unreachable(format!("{} does not answer: {error}", plan.spec.host_path));
    }
    match make_share(backend, plan).and_then(|tree| Ok((drop_grants(&tree, plan)?, tree))) {
        Err(error) => Outcome::Reachable {
            grants: plan.grants.iter().map(|_| Err(error.to_string())).collect(),
            bridges: plan.bridges.iter().map(|_| Made::Failed(error.to_string())).collect(),
            share: Some(error.to_string()),
        },
        Ok(((), tree)) => Outcome::Reachable {
            share: None,
            grants: plan.grants.iter().map(|grant| text(make_grant(&tree, plan, grant))).collect(),
            bridges: plan.bridges.iter().map(|bridge| make_bridge(&tree, plan, bridge)).collect(),
        },
    }
}

fn text<T>(result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// The share's own directory beneath the backend's, which is the administrator's.
fn make_share(backend: OwnedFd, plan: &Plan) -> Result<Tree, Error> {
    let fs = lustre::fs::detect(backend.as_fd());
    let mut here = backend;
    let mut names = plan.spec.path.components().peekable();
    while let Some(name) = names.next() {
        let owner = if names.peek().is_some() { Owner::between() } else { plan.spec.owner };
        let staging =
            open_directory(here.as_fd(), "").map_err(Error::io("cannot open the backend's directory"))?;
        let tried = format!("cannot make {name:?} of the share's directory {}", plan.spec.path);
        (here, _) = enter(&*fs, staging.as_fd(), here.as_fd(), name, owner).map_err(Error::io(tried))?;
    }
    Ok(Tree::new(here))
}

/// Volumes whose grant is gone are published no more.
fn drop_grants(tree: &Tree, plan: &Plan) -> Result<(), Error> {
    let Some(store) = tree.store()? else { return Ok(()) };
    let kept: BTreeSet<_> = plan.grants.iter().map(|grant| &grant.uuid).collect();
    for uuid in store.list()?.iter().filter(|uuid| !kept.contains(uuid)) {
        // What cannot be read is not judged either.
        if store.read(uuid).is_ok_and(|record| record.is_some_and(|record| record.kind == Kind::Grant)) {
            store.remove(uuid)?;
        }
    }
    Ok(())
}

fn make_grant(tree: &Tree, plan: &Plan, grant: &Grant) -> Result<(u32, u32), Error> {
    tree.make(&grant.path, plan.spec.owner)?;
    let name = format!("{}/{}", grant.namespace, grant.claim);
    volumes::grant(tree, &grant.uuid, &name, &grant.path, grant.read_only)?;
    owner(tree, &grant.path)
}

fn owner(tree: &Tree, path: &SubPath) -> Result<(u32, u32), Error> {
    let is = tree.open(path).and_then(|directory| sys::stat(directory.as_fd()));
    let is = is.map_err(Error::io(format!("cannot look at the directory {path}")))?;
    Ok((is.uid, is.gid))
}

fn make_bridge(tree: &Tree, plan: &Plan, bridge: &Bridge) -> Made {
    match &bridge.wants {
        Wants::Later => Made::Later,
        Wants::Nothing(why) => Made::NotAccepted(why.clone()),
        Wants::Directories { granted, directories } => {
            match make_directories(tree, plan, granted, directories) {
                Ok(()) => Made::Ready,
                Err(error) => Made::Failed(error.to_string()),
            }
        }
    }
}

fn make_directories(
    tree: &Tree,
    plan: &Plan,
    granted: &SubPath,
    directories: &[(SubPath, Option<(u32, u32)>)],
) -> Result<(), Error> {
    let default = owner(tree, granted)?;
    for (path, own) in directories {
        let (uid, gid) = own.unwrap_or(default);
        tree.make(path, Owner { uid, gid, mode: plan.spec.owner.mode })?;
    }
    Ok(())
}
