//! What is said of a share.

use crds::conditions::{
    ACCESS_GRANTED, DIRECTORY_READY, FILESYSTEM_REACHABLE, IN_USE, READY, RECONCILING, STALLED, Statement,
    merge,
};
use crds::grants::Grant;
use crds::share::{GrantStatus, LustreShareStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;

use super::{Seen, Valid, claim_key};
use crate::World;
use crate::apply::Applied;
use crate::cluster::{Cache, WriteError};
use crate::status::{few, news, now, ours, said_by_driver, summary};

/// What the CSI controller writes.
const DRIVERS: [&str; 2] = [FILESYSTEM_REACHABLE, DIRECTORY_READY];

/// What the operator writes.
pub(super) const OWN: [&str; 5] = [READY, RECONCILING, STALLED, ACCESS_GRANTED, IN_USE];

/// As many as the schema takes.
const MOST: usize = 4096;

/// Says what is observed, if it is not said already.
pub async fn write(world: &World, seen: &Seen, valid: &Valid, applied: &Applied) -> Result<(), WriteError> {
    let grants: Vec<GrantStatus> =
        valid.grants.iter().take(MOST).map(|grant| observed(&world.cache, grant)).collect();
    let access = access(valid, applied, &grants);
    let old = conditions(seen);
    let generation = seen.share.metadata.generation;
    let drivers = DRIVERS.map(|kind| said_by_driver(old, kind, generation));
    let parts = [drivers.as_slice(), std::slice::from_ref(&access)].concat();
    let mut say = summary(&parts, stalled(valid, applied));
    say.extend([access, in_use(&seen.bridges)]);
    say_all(world, seen, &say, grants).await
}

/// Says that a share is being deleted and who keeps it.
pub(super) async fn held(world: &World, seen: &Seen, users: &[String]) -> Result<(), WriteError> {
    let message = format!("it is deleted as soon as it is no longer used by {}", few(users));
    let used = Statement::yes(IN_USE, "Deleting", message.clone());
    let mut say = summary(&[Statement::no(IN_USE, "InUse", message)], None);
    say.push(used);
    let grants = seen.share.status.iter().flat_map(|status| &status.grants);
    say_all(world, seen, &say, grants.filter_map(operators).collect()).await
}

async fn say_all(
    world: &World,
    seen: &Seen,
    say: &[Statement],
    grants: Vec<GrantStatus>,
) -> Result<(), WriteError> {
    let old = conditions(seen);
    let generation = seen.share.metadata.generation;
    let new = LustreShareStatus {
        observed_generation: generation,
        conditions: merge(old, &now(), generation, say),
        backend: seen
            .share
            .spec
            .backend
            .directory
            .as_ref()
            .map(|directory| format!("directory:{}", directory.host_path)),
        grants,
        bridges: seen.bridges.iter().take(MOST).cloned().collect(),
    };
    if said(seen) == sorted(new.clone()) {
        return Ok(());
    }
    world.writer.status(&seen.key, &json!(new)).await?;
    if let Some(condition) = news(old, &new.conditions) {
        let warning = condition.status != "True";
        world.writer.tell(&seen.value, warning, &condition.reason, &condition.message).await;
    }
    Ok(())
}

fn conditions(seen: &Seen) -> &[Condition] {
    seen.share.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
}

/// What the operator has said before.
fn said(seen: &Seen) -> LustreShareStatus {
    let status = seen.share.status.clone().unwrap_or_default();
    let grants = status.grants.iter().filter_map(operators).collect();
    sorted(LustreShareStatus { conditions: ours(&status.conditions, &OWN), grants, ..status })
}

/// The order of lists that are maps is the API server's.
fn sorted(mut status: LustreShareStatus) -> LustreShareStatus {
    status.conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
    let by = |grant: &GrantStatus| (grant.namespace.clone(), grant.claim_name.clone());
    status.grants.sort_by_key(by);
    status
}

/// The operator's part of a grant's status.
fn operators(grant: &GrantStatus) -> Option<GrantStatus> {
    grant.phase.as_ref()?;
    Some(GrantStatus { uid: None, gid: None, ..grant.clone() })
}

fn observed(cache: &Cache, grant: &Grant) -> GrantStatus {
    let phase = cache.get(&claim_key(grant)).map(|claim| {
        let claim = claim.value();
        let phase = claim["status"]["phase"].as_str().unwrap_or("Pending");
        if claim["metadata"]["deletionTimestamp"].is_string() { "Terminating" } else { phase }.to_owned()
    });
    GrantStatus {
        namespace: grant.namespace.clone(),
        claim_name: grant.claim.clone(),
        phase: Some(phase.unwrap_or_else(|| "Missing".to_owned())),
        volume: Some(grant.volume_name()),
        uid: None,
        gid: None,
    }
}

fn access(valid: &Valid, applied: &Applied, grants: &[GrantStatus]) -> Statement {
    let obstacles = applied.obstacles();
    if let Some(wrong) = valid.mistakes.first() {
        return Statement::no(ACCESS_GRANTED, "InvalidAccess", wrong.to_string());
    }
    if !obstacles.is_empty() {
        let reason = if applied.taken().next().is_some() { "NameTaken" } else { "NotApplied" };
        return Statement::no(ACCESS_GRANTED, reason, few(&obstacles));
    }
    let unbound: Vec<String> = grants
        .iter()
        .filter(|grant| grant.phase.as_deref() != Some("Bound"))
        .map(|grant| {
            format!(
                "{}/{} ({})",
                grant.namespace,
                grant.claim_name,
                grant.phase.as_deref().unwrap_or_default()
            )
        })
        .collect();
    match (grants.len(), unbound.len()) {
        (0, _) => {
            Statement::yes(ACCESS_GRANTED, "NobodyGranted", "spec.access names no namespace that exists")
        }
        (all, 0) => Statement::yes(ACCESS_GRANTED, "ClaimsBound", format!("{all} of {all} claims are bound")),
        _ => Statement::unknown(ACCESS_GRANTED, "ClaimsPending", format!("not bound yet: {}", few(&unbound))),
    }
}

/// What nobody but a person can change.
fn stalled(valid: &Valid, applied: &Applied) -> Option<(&'static str, String)> {
    let wrong = valid.mistakes.first().map(|wrong| ("InvalidAccess", wrong.to_string()));
    wrong.or_else(|| applied.taken().next().map(|_| ("NameTaken", few(&applied.obstacles()))))
}

fn in_use(bridges: &[String]) -> Statement {
    if bridges.is_empty() {
        return Statement::no(
            IN_USE,
            "NoBridges",
            "no bridge refers to it; pods are counted when it is deleted",
        );
    }
    Statement::yes(IN_USE, "Bridges", format!("bridges: {}", few(bridges)))
}
