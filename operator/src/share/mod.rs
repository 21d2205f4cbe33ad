//! LustreShare: dereference, validate, build, apply, status.

pub mod build;
mod removal;
pub mod status;

use std::collections::BTreeMap;
use std::time::Duration;

use crds::LustreShare;
use crds::grants::{self, Grant, WrongAccess};
use kube::ResourceExt;
use serde_json::Value;

use crate::World;
use crate::apply::apply;
use crate::child::Parent;
use crate::cluster::cache::Namespace;
use crate::cluster::{Cache, Key, Kind, WriteError};
use crate::labels;
use crate::queue::Next;

pub(crate) use removal::pods;

/// A share and what the cluster has for it.
#[derive(Debug)]
pub struct Seen {
    /// Its key.
    pub key: Key,
    /// As it is written.
    pub value: Value,
    /// As it is understood.
    pub share: LustreShare,
    /// All namespaces.
    pub namespaces: BTreeMap<String, Namespace>,
    /// The bridges that refer to it, as `namespace/name`, from namespaces to which it grants something: others could
    /// hold it back for ever.
    pub bridges: Vec<String>,
}

/// A share that is understood.
#[derive(Debug)]
pub struct Valid {
    /// What it gives to whom.
    pub grants: Vec<Grant>,
    /// Entries of `access` that cannot be used.
    pub mistakes: Vec<WrongAccess>,
}

/// Makes what a share asks for.
pub async fn reconcile(world: &World, key: &Key) -> Result<Next, WriteError> {
    let Some(kept) = world.cache.get(key) else { return Ok(Next::Rest) };
    let seen = match kept.parse() {
        Ok(share) => dereference(&world.cache, key, kept.value(), share),
        Err(error) => {
            let why = error.to_string();
            return crate::status::invalid(world, key, &kept.value(), &status::OWN, &why).await;
        }
    };
    if seen.share.metadata.deletion_timestamp.is_some() {
        return removal::reconcile(world, &seen).await;
    }
    if seen.share.spec.suspend {
        return Ok(Next::Rest);
    }
    if hold_back(world, &seen).await? {
        // What is kept of it is as it is now, so that no watch will wake anybody.
        return Ok(Next::Look(Duration::ZERO));
    }
    let valid = validate(&seen);
    let parent = parent(&seen);
    let children = build::children(&seen.share, &parent, &valid.grants, &|kind| world.cache.is_ready(kind));
    let applied = apply(world, &parent, &children).await?;
    status::write(world, &seen, &valid, &applied).await?;
    Ok(applied.next())
}

fn dereference(cache: &Cache, key: &Key, value: Value, share: LustreShare) -> Seen {
    let namespaces = cache.namespaces();
    let granted = |bridge: &Key| {
        let namespace = namespaces.get(&bridge.namespace);
        namespace.is_some_and(|its| !grants::of_namespace(&share, &bridge.namespace, &its.labels).is_empty())
    };
    let bridges = cache.bridges_of(&key.name).into_iter().filter(granted);
    let bridges = bridges.map(|bridge| format!("{}/{}", bridge.namespace, bridge.name)).collect();
    Seen { key: key.clone(), value, share, namespaces, bridges }
}

/// What a share gives to whom. Namespaces that are being deleted get nothing new, and keep nothing.
pub fn validate(seen: &Seen) -> Valid {
    let living = seen.namespaces.iter().filter(|(_, namespace)| !namespace.ends);
    let grants =
        living.flat_map(|(name, namespace)| grants::of_namespace(&seen.share, name, &namespace.labels));
    Valid { grants: grants.collect(), mistakes: grants::mistakes(&seen.share) }
}

fn parent(seen: &Seen) -> Parent {
    let uid = seen.share.metadata.uid.clone().unwrap_or_default();
    Parent { key: seen.key.clone(), uid, labels: labels::of_share(&seen.key.name) }
}

/// Puts the finalizer on a share that has none. Whether that was necessary.
async fn hold_back(world: &World, seen: &Seen) -> Result<bool, WriteError> {
    let metadata = &seen.share.metadata;
    let mut finalizers = seen.share.finalizers().to_vec();
    if finalizers.iter().any(|finalizer| finalizer == crds::FINALIZER) {
        return Ok(false);
    }
    finalizers.push(crds::FINALIZER.to_owned());
    world.writer.finalizers(&seen.key, metadata.resource_version.as_deref(), &finalizers).await?;
    Ok(true)
}

/// The claim of a grant.
pub(crate) fn claim_key(grant: &Grant) -> Key {
    Key::new(Kind::PersistentVolumeClaim, &grant.namespace, &grant.claim)
}
