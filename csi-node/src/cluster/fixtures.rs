//! The examples of the custom resources, for tests.

use crds::share::{GrantStatus, LustreShareStatus};
use crds::{LustreShare, SwiftBridge};
use serde_json::json;

pub(crate) fn share(host_path: &str) -> LustreShare {
    serde_json::from_value(json!({
        "apiVersion": "lustre-bridge.io/v1alpha1", "kind": "LustreShare",
        "metadata": { "name": "projects", "generation": 3, "uid": "u1", "resourceVersion": "1" },
        "spec": {
            "backend": { "directory": { "hostPath": host_path } },
            "ownership": { "uid": 2000, "gid": 2000 },
            "access": [
                { "namespace": "team-a", "subPath": "team-a" },
                { "namespaceSelector": { "matchLabels": { "reader": "yes" } }, "mode": "ReadOnlyMany" },
            ],
        },
    }))
    .unwrap()
}

pub(crate) fn bridge(namespace: &str) -> SwiftBridge {
    serde_json::from_value(json!({
        "apiVersion": "lustre-bridge.io/v1alpha1", "kind": "SwiftBridge",
        "metadata": { "name": "objects", "namespace": namespace, "generation": 1, "uid": "u2", "resourceVersion": "1" },
        "spec": {
            "shareRef": { "name": "projects" },
            "accounts": [{ "name": "AUTH_physics", "directory": "physics" }],
            "auth": { "credentials": { "secretRef": { "name": "users" } } },
        },
    }))
    .unwrap()
}

pub(crate) fn set_owner(share: &mut LustreShare, namespace: &str, uid: u32, gid: u32) {
    let status = share.status.get_or_insert_with(LustreShareStatus::default);
    status.grants.push(GrantStatus {
        namespace: namespace.into(),
        claim_name: "projects".into(),
        uid: Some(uid),
        gid: Some(gid),
        ..GrantStatus::default()
    });
}
