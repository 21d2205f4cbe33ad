//! The `PersistentVolume` that makes a volume known to a cluster.

use serde_json::{Value, json};

use crate::id::VolumeId;
use crate::record::{Record, Type};

/// What a directory's size is where none was asked for: nothing holds to it, but a claim has to name one.
const NOMINAL: &str = "1Gi";

/// What the cluster is told of a volume beside its record.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The namespace and name of the claim that is to have it.
    pub claim: Option<(String, String)>,
    /// The storage class, whose claims may grow.
    pub storage_class: String,
    /// The only node that has the share.
    pub node: Option<String>,
}

/// The object, for `kubectl apply`. Nothing is deleted with it.
pub fn persistent_volume(id: &VolumeId, record: &Record, known: &Known) -> Value {
    let disk = record.type_ == Type::Disk;
    let size = if record.capacity > 0 { record.capacity.to_string() } else { NOMINAL.to_owned() };
    let mut spec = json!({
        "capacity": { "storage": size },
        "accessModes": [if disk { "ReadWriteOnce" } else { "ReadWriteMany" }],
        "volumeMode": "Filesystem",
        "storageClassName": known.storage_class,
        "persistentVolumeReclaimPolicy": "Retain",
        "csi": { "driver": crate::DRIVER, "volumeHandle": id.to_string() },
    });
    if let Some((namespace, name)) = &known.claim {
        spec["claimRef"] = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name });
    }
    if let Some(node) = &known.node {
        let here = json!({ "key": crate::TOPOLOGY, "operator": "In", "values": [node] });
        spec["nodeAffinity"] =
            json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [here] }] } });
    }
    json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": record.name }, "spec": spec })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Uuid;
    use crate::path::SubPath;
    use crate::record::Kind;

    #[test]
    fn a_cluster_is_told_what_it_needs() {
        let id = VolumeId { share: "s".into(), uuid: Uuid::of_name("old") };
        let path = SubPath::parse("a/old").unwrap();
        let record = Record { capacity: 4096, type_: Type::Disk, ..Record::new(Kind::Volume, "old", path) };
        let plain = persistent_volume(&id, &record, &Known::default());
        assert_eq!(plain["spec"]["capacity"]["storage"], "4096");
        assert_eq!(plain["spec"]["csi"]["volumeHandle"], id.to_string());
        assert_eq!(plain["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert!(plain["spec"].get("claimRef").is_none() && plain["spec"].get("nodeAffinity").is_none());
        let claim = Some(("ns".to_owned(), "root".to_owned()));
        let known = Known { claim, storage_class: "projects-disks".into(), node: Some("n1".into()) };
        let bound = persistent_volume(&id, &record, &known);
        assert_eq!(bound["spec"]["claimRef"]["namespace"], "ns");
        let terms = &bound["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchExpressions"][0]["values"][0], "n1");
        let directory = Record { capacity: 0, type_: Type::Directory, ..record };
        let shared = persistent_volume(&id, &directory, &Known::default());
        assert_eq!(shared["spec"]["accessModes"][0], "ReadWriteMany");
        assert_eq!(shared["spec"]["capacity"]["storage"], "1Gi");
    }
}
