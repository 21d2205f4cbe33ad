//! SwiftBridge: dereference, validate, build, apply, status.

pub mod build;
pub mod config;
mod pod;
pub mod status;
mod trouble;

use std::time::Duration;

use crds::conditions;
use crds::grants::{Accepted, Acts, Refusal, accept};
use crds::{LustreShare, SwiftBridge};
use serde_json::Value;

use crate::World;
use crate::apply::apply;
use crate::child::Parent;
use crate::cluster::cache::Namespace;
use crate::cluster::{Cache, Key, Kind, WriteError};
use crate::labels;
use crate::queue::Next;

/// How often it is looked why a bridge does not answer; its pods and their events are not watched.
const PAUSE: Duration = Duration::from_secs(10);

/// A bridge and what the cluster has for it.
#[derive(Debug)]
pub struct Seen {
    /// Its key.
    pub key: Key,
    /// As it is written.
    pub value: Value,
    /// As it is understood.
    pub bridge: SwiftBridge,
    /// Its share: `None` if there is none, or none that can be understood.
    pub share: Option<LustreShare>,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its Deployment.
    pub deployment: Option<Value>,
    /// Its Service.
    pub service: Option<Value>,
}

/// What a bridge is to be.
#[derive(Debug)]
pub enum Valid {
    /// It serves.
    Serves(Box<Accepted>),
    /// It is to serve, once its directories are there.
    Waits(Box<Accepted>),
    /// It may not be.
    Refused(Refusal),
}

/// Makes what a bridge asks for.
pub async fn reconcile(world: &World, key: &Key) -> Result<Next, WriteError> {
    let Some(kept) = world.cache.get(key) else { return Ok(Next::Rest) };
    let seen = match kept.parse() {
        Ok(bridge) => dereference(&world.cache, key, kept.value(), bridge),
        Err(error) => {
            let why = error.to_string();
            return crate::status::invalid(world, key, &kept.value(), &status::OWN, &why).await;
        }
    };
    // What was made for it goes with it: it is the owner.
    if seen.bridge.metadata.deletion_timestamp.is_some() || seen.bridge.spec.suspend || seen.namespace.ends {
        return Ok(Next::Rest);
    }
    let valid = validate(&seen);
    let parent = parent(&seen);
    let applied = match &valid {
        Valid::Serves(accepted) => {
            let optional = |kind| world.cache.is_ready(kind);
            let children = build::children(&seen.bridge, &parent, accepted, &world.settings, &optional);
            Some(apply(world, &parent, &children).await?)
        }
        Valid::Waits(_) => None,
        // What it had is taken from it.
        Valid::Refused(_) => Some(apply(world, &parent, &[]).await?),
    };
    // What was just made is looked at again, when it changes.
    let seen =
        Seen { deployment: deployment(&world.cache, key), service: service(&world.cache, key), ..seen };
    let trouble = match &valid {
        Valid::Serves(_) if !status::is_available(&seen) => trouble::of(world, &seen).await?,
        _ => trouble::Trouble::default(),
    };
    status::write(world, &seen, &valid, applied.as_ref(), &trouble).await?;
    let look =
        matches!(valid, Valid::Serves(_)) && !status::is_available(&seen) && seen.bridge.spec.replicas > 0;
    Ok(match applied.map_or(Next::Rest, |applied| applied.next()) {
        Next::Rest if look => Next::Look(PAUSE),
        next => next,
    })
}

fn dereference(cache: &Cache, key: &Key, value: Value, bridge: SwiftBridge) -> Seen {
    let share = cache.get(&Key::new(Kind::LustreShare, "", &bridge.spec.share_ref.name));
    Seen {
        key: key.clone(),
        value,
        share: share.and_then(|share| share.parse().ok()),
        namespace: cache.namespace(&key.namespace).unwrap_or_default(),
        deployment: deployment(cache, key),
        service: service(cache, key),
        bridge,
    }
}

fn deployment(cache: &Cache, key: &Key) -> Option<Value> {
    owned(cache, key, Kind::Deployment)
}

fn service(cache: &Cache, key: &Key) -> Option<Value> {
    owned(cache, key, Kind::Service)
}

fn owned(cache: &Cache, key: &Key, kind: Kind) -> Option<Value> {
    let name = crds::names::bridge_object_name(&key.name);
    let kept = cache.get(&Key::new(kind, &key.namespace, name))?;
    (kept.owner.as_ref()?.key == *key).then(|| kept.value())
}

/// What a bridge is to be. One that serves already goes on while its directories are looked at again.
pub fn validate(seen: &Seen) -> Valid {
    let name = &seen.bridge.spec.share_ref.name;
    let Some(share) = &seen.share else { return Valid::Refused(Refusal::ShareNotFound(name.clone())) };
    match accept(share, &seen.key.namespace, &seen.namespace.labels, &seen.bridge) {
        Err(refusal) => Valid::Refused(refusal),
        Ok(accepted) if accepted.acts == Acts::Unknown => Valid::Waits(Box::new(accepted)),
        Ok(accepted) if seen.deployment.is_some() || has_directories(&seen.bridge) => {
            Valid::Serves(Box::new(accepted))
        }
        Ok(accepted) => Valid::Waits(Box::new(accepted)),
    }
}

fn has_directories(bridge: &SwiftBridge) -> bool {
    let status = bridge.status.as_ref();
    status.is_some_and(|status| conditions::is_true(&status.conditions, conditions::DIRECTORY_READY))
}

fn parent(seen: &Seen) -> Parent {
    let uid = seen.bridge.metadata.uid.clone().unwrap_or_default();
    Parent { key: seen.key.clone(), uid, labels: labels::of_bridge(&seen.key.name) }
}
