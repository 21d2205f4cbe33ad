//! What the chart's hooks ask once: whether everything of the product runs, and whether anything is left that needs it.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};
use thiserror::Error;

use crate::cluster::{Key, Kind};

const DEPLOYMENTS: [&str; 2] = ["lustre-bridge-operator", "lustre-bridge-csi-controller"];
const DAEMON_SETS: [&str; 2] = ["lustre-bridge-csi-node", "lustre-bridge-csi-holder"];
/// No more names are told at once.
const MOST: usize = 20;

/// Why a check did not pass.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The API server did not answer.
    #[error("cannot ask the API server")]
    Api(#[from] kube::Error),
    /// Shares and bridges that would stay behind.
    #[error(
        "{} still there: {}; delete the bridges (kubectl delete swiftbridges -A --all), then the shares \
         (kubectl delete lustreshares --all), and uninstall again; files stay where they are",
        count(.0.len()), names(.0)
    )]
    Left(Vec<Key>),
    /// What does not run.
    #[error("{}", .0.join("; "))]
    Troubles(Vec<String>),
}

/// Passes when there are no shares and bridges: nobody would take away what was made of them, nor let them go.
pub async fn uninstall(client: &Client) -> Result<(), CheckError> {
    let mut left = all(client, Kind::SwiftBridge).await?;
    left.extend(all(client, Kind::LustreShare).await?);
    if left.is_empty() { Ok(()) } else { Err(CheckError::Left(left)) }
}

/// Passes when every part runs, is ready, and the definitions are served.
pub async fn install(client: &Client, namespace: &str) -> Result<(), CheckError> {
    for kind in [Kind::LustreShare, Kind::SwiftBridge] {
        api(client, kind).list_metadata(&ListParams::default().limit(1)).await?;
    }
    let mut troubles = Vec::new();
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
    for name in DEPLOYMENTS {
        troubles.extend(deployment(name, deployments.get_opt(name).await?));
    }
    let daemon_sets = Api::<DaemonSet>::namespaced(client.clone(), namespace);
    for name in DAEMON_SETS {
        troubles.extend(daemon_set(name, daemon_sets.get_opt(name).await?));
    }
    if troubles.is_empty() { Ok(()) } else { Err(CheckError::Troubles(troubles)) }
}

fn api(client: &Client, kind: Kind) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &kind.api())
}

async fn all(client: &Client, kind: Kind) -> Result<Vec<Key>, kube::Error> {
    match api(client, kind).list_metadata(&ListParams::default()).await {
        Ok(list) => Ok(list
            .items
            .into_iter()
            .map(|object| {
                let meta = object.metadata;
                Key::new(kind, meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default())
            })
            .collect()),
        // Without the definition there are none.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn deployment(name: &str, found: Option<Deployment>) -> Option<String> {
    let Some(found) = found else { return Some(format!("Deployment {name} is not there")) };
    let wanted = found.spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = found.status.and_then(|status| status.available_replicas).unwrap_or(0);
    (ready < wanted).then(|| format!("Deployment {name} has {ready} of {wanted} pods ready"))
}

fn daemon_set(name: &str, found: Option<DaemonSet>) -> Option<String> {
    let Some(found) = found else { return Some(format!("DaemonSet {name} is not there")) };
    let status = found.status.unwrap_or_default();
    let (ready, wanted) = (status.number_ready, status.desired_number_scheduled);
    (ready < wanted || wanted == 0).then(|| format!("DaemonSet {name} has {ready} of {wanted} pods ready"))
}

fn count(number: usize) -> String {
    if number == 1 { "1 object is".to_owned() } else { format!("{number} objects are") }
}

fn names(keys: &[Key]) -> String {
    let mut names: Vec<_> = keys.iter().take(MOST).map(ToString::to_string).collect();
    if keys.len() > MOST {
        names.push(format!("and {} more", keys.len() - MOST));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn what_is_left_is_named_up_to_a_number() {
        let keys: Vec<_> = (0..22).map(|n| Key::new(Kind::SwiftBridge, "team", format!("b{n}"))).collect();
        let one = CheckError::Left(vec![Key::new(Kind::LustreShare, "", "projects")]).to_string();
        assert!(one.starts_with("1 object is still there: LustreShare projects; delete"), "{one}");
        let many = CheckError::Left(keys).to_string();
        assert!(
            many.contains("22 objects are") && many.contains("SwiftBridge team/b19, and 2 more"),
            "{many}"
        );
    }

    #[test]
    fn a_part_that_does_not_run_is_named() {
        let deployment = |object: Value| super::deployment("x", from_value(object).unwrap());
        assert_eq!(deployment(json!(null)).unwrap(), "Deployment x is not there");
        assert_eq!(deployment(json!({})).unwrap(), "Deployment x has 0 of 1 pods ready");
        assert_eq!(deployment(json!({ "status": { "availableReplicas": 1 } })), None);
        let daemon_set = |object: Value| super::daemon_set("x", from_value(object).unwrap());
        let status = |ready: u32, wanted: u32| {
            json!({ "status": {
                "numberReady": ready, "desiredNumberScheduled": wanted, "currentNumberScheduled": wanted,
                "numberMisscheduled": 0,
            } })
        };
        assert_eq!(daemon_set(json!(null)).unwrap(), "DaemonSet x is not there");
        assert_eq!(daemon_set(status(1, 2)).unwrap(), "DaemonSet x has 1 of 2 pods ready");
        assert_eq!(daemon_set(status(0, 0)).unwrap(), "DaemonSet x has 0 of 0 pods ready");
        assert_eq!(daemon_set(status(2, 2)), None);
    }
}
