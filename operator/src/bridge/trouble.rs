//! Why a bridge does not answer: what its pods and their events say. Read only while it does not.

use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject, ListParams};
use serde_json::Value;

use super::Seen;
use crate::World;
use crate::cluster::WriteError;
use crate::labels;
use crate::share::pods;

/// Why a bridge does not answer, as far as the cluster says.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Trouble {
    /// Volumes that cannot be mounted, as the kubelet says it.
    pub(super) mounts: Vec<String>,
    /// What containers wait for, or why a pod cannot be scheduled: a reason and a message.
    pub(super) pods: Vec<(String, String)>,
}

impl Trouble {
    /// What is said of the volume that comes from a Secret or ConfigMap of this name.
    pub(super) fn of_mount(&self, source: &str) -> Option<&str> {
        // The kubelet quotes it: secret "name" not found.
        let quoted = format!("\"{source}\"");
        let key =
            |message: &&String| message.contains(&quoted) || message.contains("references non-existent");
        self.mounts.iter().find(key).map(String::as_str)
    }
}

/// What the pods of a bridge and their events say.
pub(super) async fn of(world: &World, seen: &Seen) -> Result<Trouble, WriteError> {
    let selector: Vec<String> =
        labels::selector(&seen.key.name).iter().map(|(key, value)| format!("{key}={value}")).collect();
    let of = ListParams::default().labels(&selector.join(","));
    let mut trouble = Trouble::default();
    for pod in world.writer.list(&pods(), &seen.key.namespace, &of).await? {
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        trouble.pods.extend(waiting(&pod));
        let of = format!("involvedObject.kind=Pod,involvedObject.name={},reason=FailedMount", pod.name_any());
        let events =
            world.writer.list(&events(), &seen.key.namespace, &ListParams::default().fields(&of)).await?;
        let mut said: Vec<(String, String)> = events.iter().map(message).collect();
        said.sort();
        trouble.mounts.extend(said.into_iter().rev().map(|(_, message)| message));
    }
    Ok(trouble)
}

fn events() -> ApiResource {
    ApiResource { kind: "Event".into(), plural: "events".into(), ..pods() }
}

/// When something was said, and what.
fn message(event: &DynamicObject) -> (String, String) {
    let text = |key: &str| event.data[key].as_str().unwrap_or_default().to_owned();
    (text("lastTimestamp"), text("message"))
}

/// What a pod waits for.
fn waiting(pod: &DynamicObject) -> Vec<(String, String)> {
    let said = |of: &Value| {
        let text = |key: &str| of[key].as_str().unwrap_or_default().to_owned();
        (text("reason"), text("message"))
    };
    let status = &pod.data["status"];
    let containers = status["containerStatuses"].as_array().into_iter().flatten();
    let waits = containers.map(|container| &container["state"]["waiting"]).filter(|waits| waits.is_object());
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let unscheduled = conditions.filter(|one| one["type"] == "PodScheduled" && one["status"] == "False");
    waits.chain(unscheduled).map(said).collect()
}
