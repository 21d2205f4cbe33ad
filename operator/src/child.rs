//! What is made for a share or a bridge.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::same::holds;
use crate::cluster::{Key, Kind};

/// What the object was made from. Changes with whatever is wanted, also when something is no longer wanted.
const WANTED: &str = "lustre-bridge.io/wanted";

/// For whom objects are made.
#[derive(Clone, Debug)]
pub struct Parent {
    /// The share or bridge.
    pub key: Key,
    /// Its uid.
    pub uid: String,
    /// The labels of what is made for it.
    pub labels: BTreeMap<String, String>,
}

/// An object as it should be.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its kind and name.
    pub key: Key,
    /// The uid of its owner.
    pub owner: String,
    /// All that is wanted of it.
    pub body: Value,
}

impl Child {
    /// An object of a parent, with owner, labels and the mark of what is wanted.
    pub fn new(parent: &Parent, kind: Kind, namespace: &str, name: &str, object: &impl Serialize) -> Self {
        let mut body = json!(object);
        let api = parent.key.kind.api();
        body["apiVersion"] = kind.api().api_version.into();
        body["kind"] = kind.name().into();
        let metadata = &mut body["metadata"];
        metadata["name"] = name.into();
        if !namespace.is_empty() {
            metadata["namespace"] = namespace.into();
        }
        metadata["labels"] = json!(parent.labels);
        metadata["ownerReferences"] = json!([{
            "apiVersion": api.api_version, "kind": api.kind, "name": parent.key.name, "uid": parent.uid,
            "controller": true, "blockOwnerDeletion": true,
        }]);
        let wanted = hash(&body.to_string());
        body["metadata"]["annotations"][WANTED] = wanted.into();
        Self { key: Key::new(kind, namespace, name), owner: parent.uid.clone(), body }
    }
}

/// The first 128 bits of a SHA-256, as hexadecimal digits.
pub fn hash(text: &str) -> String {
    let mut digits = String::with_capacity(32);
    for byte in Sha256::digest(text.as_bytes()).iter().take(16) {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// Whether an object cannot become what is wanted, and has to be made anew. None of these hold anything that would be
/// lost: volumes are made with Retain.
pub fn is_in_the_way(kind: Kind, actual: &Value, wanted: &Value) -> bool {
    let phase = actual["status"]["phase"].as_str().unwrap_or_default();
    let differs = |fields: &[&str]| {
        fields.iter().any(|at| {
            wanted
                .pointer(at)
                .is_some_and(|wanted| !actual.pointer(at).is_some_and(|actual| holds(actual, wanted)))
        })
    };
    match kind {
        // A claim that was made anew has another uid than the one that the volume remembers.
        Kind::PersistentVolume => {
            matches!(phase, "Released" | "Failed")
                || differs(&["/spec/csi", "/spec/nodeAffinity", "/spec/accessModes"])
        }
        Kind::PersistentVolumeClaim => {
            phase == "Lost" || differs(&["/spec/volumeName", "/spec/accessModes", "/spec/resources/requests"])
        }
        Kind::StorageClass => {
            let fields =
                ["/provisioner", "/parameters", "/reclaimPolicy", "/volumeBindingMode", "/allowedTopologies"];
            // Parameters that are no longer wanted count too.
            differs(&fields)
                || actual["parameters"].as_object().map(serde_json::Map::len)
                    != wanted["parameters"].as_object().map(serde_json::Map::len)
        }
        Kind::Deployment => differs(&["/spec/selector"]),
        _ => false,
    }
}
