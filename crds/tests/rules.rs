//! The CEL rules, each with what it refuses, and the examples, which they let through.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "a test may fail, and reads better without borrows"
)]

use std::path::Path;

use crds::{LustreShare, SwiftBridge};
use kube::core::cel::Validator;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn share() -> Value {
    json!({
        "apiVersion": "lustre-bridge.io/v1alpha1", "kind": "LustreShare", "metadata": { "name": "projects" },
        "spec": {
            "backend": { "directory": { "hostPath": "/srv/projects" } },
            "access": [{ "namespace": "team-a", "subPath": "a", "identities": { "uids": ["1000", "2000-2999"] } }],
            "provisioning": {},
        },
    })
}

fn bridge() -> Value {
    json!({
        "apiVersion": "lustre-bridge.io/v1alpha1", "kind": "SwiftBridge",
        "metadata": { "name": "objects", "namespace": "team-a" },
        "spec": {
            "shareRef": { "name": "projects" },
            "accounts": [{ "name": "AUTH_a", "uid": 1000, "gid": 1000 }],
            "auth": { "credentials": { "secretRef": { "name": "users" } } },
            "exposure": { "service": {} },
        },
    })
}

/// The object with its defaults, as the API server would fill them in.
fn complete<K: DeserializeOwned + serde::Serialize>(object: &Value) -> Value {
    json!(serde_json::from_value::<K>(object.clone()).unwrap())
}

/// What the rules say of an object.
fn judge(object: &Value, old: Option<&Value>) -> String {
    let [(_, shares), (_, bridges)] = crds::yaml::definitions();
    let share = object["kind"] == "LustreShare";
    let complete = if share { complete::<LustreShare> } else { complete::<SwiftBridge> };
    let schema = crds::yaml::schema(if share { &shares } else { &bridges }).clone();
    let verdict = Validator::new().validate(&schema, &complete(object), old.map(complete).as_ref());
    verdict.err().map(|errors| errors.to_string()).unwrap_or_default()
}

fn refused(base: &Value, changes: &[(&str, Value, &str)]) {
    assert_eq!(judge(base, None), "");
    for (at, value, said) in changes {
        let mut object = base.clone();
        *object.pointer_mut(at).unwrap_or_else(|| panic!("{at}")) = value.clone();
        let verdict = judge(&object, None);
        assert!(verdict.contains(said), "{at} = {value}: {verdict}");
    }
}

#[test]
fn wrong_shares_are_refused_with_what_would_be_right() {
    let access = "/spec/access/0";
    refused(
        &share(),
        &[
            ("/metadata/name", json!("a.b"), "at most 63 lower-case letters"),
            ("/metadata/name", json!("a".repeat(64)), "at most 63 lower-case letters"),
            ("/spec/backend", json!({}), "needs exactly one of: directory"),
            ("/spec/backend/directory/hostPath", json!("srv"), "must be an absolute path"),
            ("/spec/backend/directory/hostPath", json!("/srv/.."), "must be an absolute path"),
            ("/spec/backend/directory/hostPath", json!("/srv//a"), "must be an absolute path"),
            ("/spec/backend/directory/hostPath", json!("/srv/a\n"), "must be an absolute path"),
            (access, json!({}), "exactly one of namespace and namespaceSelector"),
            (access, json!({ "namespace": "a", "namespaceSelector": {} }), "exactly one of namespace"),
            (access, json!({ "namespace": "a", "subPath": "/a" }), "must be a relative path"),
            (access, json!({ "namespace": "a", "subPath": "a/../b" }), "must be a relative path"),
            (access, json!({ "namespace": "a", "subPath": "a/" }), "must be a relative path"),
            (access, json!({ "namespace": "a", "subPath": "a/.lb~dcsi" }), "begins with '.lb~'"),
            (access, json!({ "namespace": "a", "claimName": "A" }), "claimName must be lower-case"),
            ("/spec/access/0/identities", json!({ "uids": ["0"] }), "must be ids as '1000'"),
            ("/spec/access/0/identities", json!({ "uids": ["5-4"] }), "must be ids as '1000'"),
            ("/spec/access/0/identities", json!({ "gids": ["1-4294967295"] }), "must be ids as '1000'"),
            ("/spec/provisioning", json!({ "directoryTemplate": "a" }), "must contain ${pv.name}"),
            (
                "/spec/provisioning",
                json!({ "directoryTemplate": "../${pv.name}" }),
                "must be a relative path",
            ),
            ("/spec/provisioning", json!({ "directoryTemplate": ".lb~x/${pv.name}" }), "begins with '.lb~'"),
            (
                "/spec/provisioning",
                json!({ "directoryTemplate": "${pod}/${pv.name}" }),
                "knows ${pvc.namespace}",
            ),
            ("/spec/provisioning", json!({ "storageClassName": "_" }), "storageClassName must be lower-case"),
        ],
    );
    let mut object = share();
    object["spec"]["path"] = json!("a");
    assert!(judge(&object, None).contains("path must be an absolute path"));
    object = share();
    object["spec"]["ownership"] = json!({ "mode": "0888" });
    assert!(judge(&object, None).contains("three or four octal digits"));
}

#[test]
fn wrong_bridges_are_refused_with_what_would_be_right() {
    let account = "/spec/accounts/0";
    refused(
        &bridge(),
        &[
            ("/metadata/name", json!("1a"), "begin with a letter"),
            ("/metadata/name", json!("a".repeat(53)), "at most 52"),
            (account, json!({ "name": "a/b" }), "must not contain '/'"),
            (account, json!({ "name": ".lb~x" }), "nor begin with '.lb~'"),
            (account, json!({ "name": ".." }), "needs a directory of another name"),
            (account, json!({ "name": "ä".repeat(129) }), "more than 256 bytes"),
            (account, json!({ "name": "a", "directory": "../b" }), "must be a relative path"),
            (account, json!({ "name": "a", "uid": 5 }), "both uid and gid, or neither"),
            (
                "/spec/auth/credentials/secretRef",
                json!({ "name": "other/users" }),
                "of this namespace must be",
            ),
            ("/spec/exposure", json!({ "publicUrl": "ftp://a" }), "scheme, host and port alone"),
            ("/spec/exposure", json!({ "publicUrl": "https://a/b" }), "scheme, host and port alone"),
            ("/spec/exposure/service", json!({ "nodePort": 30000 }), "nodePort needs type NodePort"),
        ],
    );
    for (field, value, said) in [
        ("replicas", json!(2), "one replica serves a bridge"),
        ("subPath", json!("/a"), "must be a relative path"),
        ("identity", json!({ "mode": "Fixed", "uid": 5 }), "Fixed needs uid and gid"),
        ("identity", json!({ "uid": 5, "gid": 5 }), "only identity.mode Fixed takes"),
        ("identity", json!({ "mode": "Map" }), "Map needs mapRef"),
        ("identity", json!({ "mapRef": { "name": "m" } }), "Map needs mapRef"),
    ] {
        let mut object = bridge();
        object["spec"][field] = value;
        assert!(judge(&object, None).contains(said), "{field}: {}", judge(&object, None));
    }
}

#[test]
fn what_is_immutable_cannot_change_and_the_rest_can() {
    for (base, field, value, frozen) in [
        (share(), "backend", json!({ "directory": { "hostPath": "/srv/other" } }), true),
        (share(), "path", json!("/other"), true),
        (share(), "access", json!([]), false),
        (share(), "ownership", json!({ "uid": 5 }), false),
        (bridge(), "shareRef", json!({ "name": "other" }), true),
        (bridge(), "subPath", json!("other"), true),
        (bridge(), "replicas", json!(0), false),
    ] {
        let mut object = base.clone();
        object["spec"][field] = value;
        let verdict = judge(&object, Some(&base));
        assert_eq!(verdict.contains("cannot be changed"), frozen, "{field}: {verdict}");
        assert_eq!(verdict.is_empty(), !frozen, "{field}: {verdict}");
    }
}

#[test]
fn examples_work_as_they_stand() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let object: Value = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            assert_eq!(judge(&object, None), "", "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 3);
}
