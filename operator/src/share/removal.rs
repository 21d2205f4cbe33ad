//! A share that is being deleted stays while somebody uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject, ListParams};
use serde_json::Value;

use super::{Seen, status};
use crate::World;
use crate::cluster::{Kind, WriteError};
use crate::queue::Next;

/// How often it is looked whether it is still used; pods are not watched.
const PAUSE: Duration = Duration::from_secs(10);

/// Lets a share go that nobody uses, and names the users of one that somebody does.
pub(super) async fn reconcile(world: &World, seen: &Seen) -> Result<Next, WriteError> {
    let finalizers = seen.share.finalizers();
    if !finalizers.iter().any(|finalizer| finalizer == crds::FINALIZER) {
        return Ok(Next::Rest);
    }
    let users = users(world, seen).await?;
    if !users.is_empty() {
        status::held(world, seen, &users).await?;
        return Ok(Next::Look(PAUSE));
    }
    let rest: Vec<String> =
        finalizers.iter().filter(|finalizer| *finalizer != crds::FINALIZER).cloned().collect();
    let version = seen.share.metadata.resource_version.as_deref();
    world.writer.finalizers(&seen.key, version, &rest).await?;
    // What was made for it goes with it: it is the owner.
    Ok(Next::Rest)
}

/// Bridges, volumes of its storage class that somebody still claims, and pods with its claims.
async fn users(world: &World, seen: &Seen) -> Result<Vec<String>, WriteError> {
    let mut users: Vec<String> = seen.bridges.iter().map(|bridge| format!("SwiftBridge {bridge}")).collect();
    let uid = seen.share.metadata.uid.as_deref().unwrap_or_default();
    let volumes = world.writer.list(&Kind::PersistentVolume.api(), "", &ListParams::default()).await?;
    let mut claims: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for volume in volumes.iter().filter(|volume| is_of_share(volume, &seen.key.name)) {
        let claim = &volume.data["spec"]["claimRef"];
        let (namespace, name) = (text(&claim["namespace"]), text(&claim["name"]));
        if volume.owner_references().iter().any(|owner| owner.uid == uid) {
            claims.entry(namespace.to_owned()).or_default().insert(name.to_owned());
        } else if is_claimed(volume) {
            users.push(format!("PersistentVolumeClaim {namespace}/{name}"));
        }
    }
    for (namespace, names) in claims {
        let pods = world.writer.list(&pods(), &namespace, &ListParams::default()).await?;
        let using = pods.iter().filter(|pod| uses(pod, &names));
        users.extend(using.map(|pod| format!("Pod {namespace}/{}", pod.name_any())));
    }
    Ok(users)
}

pub(crate) fn pods() -> ApiResource {
    ApiResource {
        group: String::new(),
        version: "v1".into(),
        api_version: "v1".into(),
        kind: "Pod".into(),
        plural: "pods".into(),
    }
}

fn is_of_share(volume: &DynamicObject, share: &str) -> bool {
    let csi = &volume.data["spec"]["csi"];
    let handle = crds::names::split_handle(text(&csi["volumeHandle"]));
    text(&csi["driver"]) == crds::DRIVER && handle.is_some_and(|(its, _)| its == share)
}

/// Whether somebody claims a volume, or its directory is yet to be removed.
fn is_claimed(volume: &DynamicObject) -> bool {
    let phase = text(&volume.data["status"]["phase"]);
    let delete = text(&volume.data["spec"]["persistentVolumeReclaimPolicy"]) == "Delete";
    delete || matches!(phase, "Bound" | "Pending" | "")
}

/// Whether a pod that still runs, or may, mounts one of the claims.
fn uses(pod: &DynamicObject, claims: &BTreeSet<String>) -> bool {
    let volumes = pod.data["spec"]["volumes"].as_array().into_iter().flatten();
    let mut named = volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    !matches!(text(&pod.data["status"]["phase"]), "Succeeded" | "Failed")
        && named.any(|name| claims.contains(name))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
