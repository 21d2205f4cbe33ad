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

/// Every object of a share as it should be. `exists` tells which kinds the cluster has.
pub fn children(
    share: &LustreShare,
    parent: &Parent,
    grants: &[Grant],
    exists: &dyn Fn(Kind) -> bool,
) -> Vec<Child> {
    let class =
        share.spec.provisioning.iter().flat_map(|provisioning| classes(share, parent, provisioning, exists));
    let claims = grants.iter().flat_map(|grant| [volume(share, parent, grant), claim(parent, grant)]);
    class.chain(claims).collect()
}

/// The classes, and what they are good for to those who make disks.
fn classes(
    share: &LustreShare,
    parent: &Parent,
    provisioning: &Provisioning,
    exists: &dyn Fn(Kind) -> bool,
) -> Vec<Child> {
    let mut objects = storage_classes(share, parent, provisioning);
    if exists(Kind::StorageProfile) {
        let profile = |class: &Child| storage_profile(parent, class);
        objects.extend(objects.iter().map(profile).collect::<Vec<_>>());
    }
    objects
}

/// What KubeVirt's importer should ask of claims of a class, best first: machines move between nodes only on disks that
/// both nodes have.
fn storage_profile(parent: &Parent, class: &Child) -> Child {
    let set = |mode: &str, volume: &str| json!({ "accessModes": [mode], "volumeMode": volume });
    let mut sets = vec![set("ReadWriteMany", "Filesystem"), set("ReadWriteOnce", "Filesystem")];
    if class.body["parameters"]["type"] == "disk" {
        sets.push(set("ReadWriteOnce", "Block"));
    }
    let profile = json!({ "spec": { "claimPropertySets": sets, "cloneStrategy": "copy" } });
    Child::new(parent, Kind::StorageProfile, "", &class.key.name, &profile)
}

fn storage_classes(share: &LustreShare, parent: &Parent, provisioning: &Provisioning) -> Vec<Child> {
    let ownership = &share.spec.ownership;
    let common = [
        ("share", parent.key.name.clone()),
        ("directoryTemplate", provisioning.directory_template.clone()),
        ("onDelete", lower(&format!("{:?}", provisioning.on_delete))),
    ];
    let directories = [
        ("quota", lower(&format!("{:?}", provisioning.quota))),
        ("uid", ownership.uid.to_string()),
        ("gid", ownership.gid.to_string()),
        ("mode", ownership.mode.clone()),
    ];
    let name = provisioning.storage_class_name.clone().unwrap_or_else(|| parent.key.name.clone());
    let mut classes = vec![storage_class(parent, provisioning, &name, common.iter().chain(&directories))];
    if let Some(of_disks) = &provisioning.virtual_machine_disks {
        let name =
            of_disks.storage_class_name.clone().unwrap_or_else(|| format!("{}-disks", parent.key.name));
        let disks =
            [("type", "disk".to_owned()), ("allocation", lower(&format!("{:?}", of_disks.allocation)))];
        classes.push(storage_class(parent, provisioning, &name, common.iter().chain(&disks)));
    }
    classes
}

fn lower(text: &str) -> String {
    text.to_ascii_lowercase()
}

fn storage_class<'p>(
    parent: &Parent,
    provisioning: &Provisioning,
    name: &str,
    parameters: impl Iterator<Item = &'p (&'static str, String)>,
) -> Child {
    let parameters: BTreeMap<&str, &String> = parameters.map(|(key, value)| (*key, value)).collect();
    let policy = match provisioning.reclaim_policy {
        ReclaimPolicy::Retain => "Retain",
        ReclaimPolicy::Delete => "Delete",
    };
    let class = json!({
        "provisioner": crds::DRIVER, "parameters": parameters, "reclaimPolicy": policy,
        "volumeBindingMode": "Immediate", "allowVolumeExpansion": true,
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
