//! What a share consists of: a storage class, and a volume and a claim for each grant.

use std::collections::BTreeMap;

use crds::LustreShare;
use crds::grants::Grant;
use crds::share::{Provisioning, ReclaimPolicy};
use serde_json::{Value, json};

use crate::child::{Child, Parent};
use crate::cluster::Kind;

/// What a claim asks for and its volume offers. Neither means anything, since a directory has no size of its own; it is
/// small because quotas of namespaces count it.
pub const NOMINAL_CAPACITY: &str = "1Gi";

/// Every object of a share as it should be.
pub fn children(share: &LustreShare, parent: &Parent, grants: &[Grant]) -> Vec<Child> {
    let class = share.spec.provisioning.iter().map(|provisioning| storage_class(share, parent, provisioning));
    let claims = grants.iter().flat_map(|grant| [volume(share, parent, grant), claim(parent, grant)]);
    class.chain(claims).collect()
}

fn storage_class(share: &LustreShare, parent: &Parent, provisioning: &Provisioning) -> Child {
    let name = provisioning.storage_class_name.as_ref().unwrap_or(&parent.key.name);
    let ownership = &share.spec.ownership;
    let parameters: BTreeMap<&str, String> = BTreeMap::from([
        ("share", parent.key.name.clone()),
        ("directoryTemplate", provisioning.directory_template.clone()),
        ("uid", ownership.uid.to_string()),
        ("gid", ownership.gid.to_string()),
        ("mode", ownership.mode.clone()),
    ]);
    let policy = match provisioning.reclaim_policy {
        ReclaimPolicy::Retain => "Retain",
        ReclaimPolicy::Delete => "Delete",
    };
    let class = json!({
        "provisioner": crds::DRIVER, "parameters": parameters, "reclaimPolicy": policy,
        "volumeBindingMode": "Immediate",
    });
    Child::new(parent, Kind::StorageClass, "", name, &class)
}

fn mode(grant: &Grant) -> &'static str {
    if grant.read_only { "ReadOnlyMany" } else { "ReadWriteMany" }
}

fn volume(share: &LustreShare, parent: &Parent, grant: &Grant) -> Child {
    let mut volume = json!({ "spec": {
        "capacity": { "storage": NOMINAL_CAPACITY },
        "accessModes": [mode(grant)], "volumeMode": "Filesystem",
        "storageClassName": "", "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": grant.namespace, "name": grant.claim,
        },
        "csi": { "driver": crds::DRIVER, "volumeHandle": grant.volume_handle(), "readOnly": grant.read_only },
    } });
    if let Some(node) = share.node() {
        volume["spec"]["nodeAffinity"] = on_node(node);
    }
    Child::new(parent, Kind::PersistentVolume, "", &grant.volume_name(), &volume)
}

fn on_node(node: &str) -> Value {
    let here = json!({ "key": crds::NODE_TOPOLOGY, "operator": "In", "values": [node] });
    json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [here] }] } })
}

fn claim(parent: &Parent, grant: &Grant) -> Child {
    let claim = json!({ "spec": {
        "accessModes": [mode(grant)], "volumeMode": "Filesystem", "storageClassName": "",
        "volumeName": grant.volume_name(), "resources": { "requests": { "storage": NOMINAL_CAPACITY } },
    } });
    Child::new(parent, Kind::PersistentVolumeClaim, &grant.namespace, &grant.claim, &claim)
}
