//! What is said of a share and its bridges, as far as it is the driver's to say. Pure.

use crds::conditions::{self, DIRECTORY_READY, FILESYSTEM_REACHABLE, Statement};
use crds::{LustreShare, SwiftBridge};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use crate::cluster::make::{Made, Outcome};
use crate::cluster::plan::Plan;

const API_VERSION: &str = "lustre-bridge.io/v1alpha1";

/// Grants that the schema lets a status have.
const MOST: usize = 4096;

/// What to apply to the share's status, or nothing, if it says so already.
pub fn of_share(share: &LustreShare, plan: &Plan, outcome: &Outcome, now: &Time) -> Option<Value> {
    let status = share.status.clone().unwrap_or_default();
    let say = share_statements(plan, outcome);
    let wanted = conditions::merge(&status.conditions, now, share.metadata.generation, &say);
    let seen = status.grants.iter().filter_map(|grant| {
        Some(((grant.namespace.clone(), grant.claim_name.clone()), grant.uid.zip(grant.gid)?))
    });
    let mut seen: Vec<Owned> = seen.collect();
    // What cannot be looked at now is not forgotten: bridges are served by it.
    let mut grants = owners(plan, outcome).unwrap_or_else(|| seen.clone());
    grants.sort_unstable();
    grants.truncate(MOST);
    seen.sort_unstable();
    if grants == seen && stand(&status.conditions, &wanted) {
        return None;
    }
    let item = |((namespace, claim), (uid, gid)): &Owned| json!({ "namespace": namespace, "claimName": claim, "uid": uid, "gid": gid });
    Some(json!({
        "apiVersion": API_VERSION, "kind": "LustreShare",
        "metadata": { "name": share.metadata.name },
        "status": { "conditions": wanted, "grants": grants.iter().map(item).collect::<Vec<_>>() },
    }))
}

/// What to apply to a bridge's status, or nothing.
pub fn of_bridge(bridge: &SwiftBridge, made: &Made, now: &Time) -> Option<Value> {
    let old = bridge.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let wanted = conditions::merge(old, now, bridge.metadata.generation, &[bridge_statement(made)]);
    if stand(old, &wanted) {
        return None;
    }
    Some(json!({
        "apiVersion": API_VERSION, "kind": "SwiftBridge",
        "metadata": { "name": bridge.metadata.name, "namespace": bridge.metadata.namespace },
        "status": { "conditions": wanted },
    }))
}

/// A grant's namespace and claim, and the owner of its directory.
type Owned = ((String, String), (u32, u32));

/// Whether all of them are there as they are wanted.
fn stand(old: &[Condition], wanted: &[Condition]) -> bool {
    wanted.iter().all(|wanted| conditions::find(old, &wanted.type_) == Some(wanted))
}

fn owners(plan: &Plan, outcome: &Outcome) -> Option<Vec<Owned>> {
    let Outcome::Reachable { grants, .. } = outcome else { return None };
    let owned = plan.grants.iter().zip(grants).filter_map(|(grant, made)| {
        Some(((grant.namespace.clone(), grant.claim.clone()), *made.as_ref().ok()?))
    });
    Some(owned.collect())
}

fn share_statements(plan: &Plan, outcome: &Outcome) -> [Statement; 2] {
    match outcome {
        Outcome::OtherNode(node) => {
            let message = format!("the share is on node {node} only, where the controller does not run");
            [
                Statement::unknown(FILESYSTEM_REACHABLE, "OtherNode", message.clone()),
                Statement::no(DIRECTORY_READY, "OtherNode", message),
            ]
        }
        Outcome::Unreachable(why) => [
            Statement::no(FILESYSTEM_REACHABLE, "NotReachable", why.clone()),
            Statement::unknown(DIRECTORY_READY, "NotReachable", "the file system does not answer"),
        ],
        Outcome::Reachable { share, grants, .. } => {
            let message = format!("{} answers", plan.spec.host_path);
            [
                Statement::yes(FILESYSTEM_REACHABLE, "Answers", message),
                directories(plan, share.as_deref(), grants),
            ]
        }
    }
}

fn directories(plan: &Plan, share: Option<&str>, grants: &[Result<(u32, u32), String>]) -> Statement {
    if let Some(why) = share {
        return Statement::no(DIRECTORY_READY, "NotMade", why);
    }
    let failed = plan.grants.iter().zip(grants).filter_map(|(grant, made)| {
        let why = made.as_ref().err()?;
        Some(format!("grant of namespace {}: {why}", grant.namespace))
    });
    let failed: Vec<_> = failed.collect();
    match failed.as_slice() {
        [] => {
            Statement::yes(DIRECTORY_READY, "Exists", "the share's directory and those of its grants exist")
        }
        _ => Statement::no(DIRECTORY_READY, "NotMade", failed.join("; ")),
    }
}

fn bridge_statement(made: &Made) -> Statement {
    match made {
        Made::Ready => Statement::yes(DIRECTORY_READY, "Exists", "the directories of the accounts exist"),
        Made::Later => {
            Statement::unknown(DIRECTORY_READY, "OwnerUnknown", "the share's directory is looked at first")
        }
        Made::NotAccepted(why) => Statement::no(DIRECTORY_READY, "NotAccepted", why.clone()),
        Made::Failed(why) => Statement::no(DIRECTORY_READY, "NotMade", why.clone()),
    }
}

/// What holds for the bridges of a share that cannot be worked on.
pub fn bridges(plan: &Plan, outcome: &Outcome) -> Vec<Made> {
    match outcome {
        Outcome::Reachable { bridges, .. } => bridges.clone(),
        Outcome::Unreachable(why) => plan.bridges.iter().map(|_| Made::Failed(why.clone())).collect(),
        Outcome::OtherNode(node) => {
            let why = format!("the share is on node {node} only, where the controller does not run");
            plan.bridges.iter().map(|_| Made::Failed(why.clone())).collect()
        }
    }
}

#[cfg(test)]
#[path = "../tests/status.rs"]
mod tests;
