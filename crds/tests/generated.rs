//! What is generated is what is committed, and what the API server needs to judge it at a bounded cost.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "a test may fail, and reads better without borrows"
)]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

fn committed(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap_or_default()
}

#[test]
fn what_is_committed_is_what_is_generated() {
    for (name, definition) in crds::yaml::definitions() {
        let text = crds::yaml::text(&definition).unwrap();
        assert!(text == committed(&format!("crds/yaml/{name}")), "{name}: run `cargo xtask crds`");
    }
    assert!(crds::docs::page() == committed("docs/custom-resources.md"), "run `cargo xtask crds`");
}

/// Every object of a schema with its path.
fn walk(path: &str, schema: &Value, see: &mut dyn FnMut(&str, &Value)) {
    see(path, schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), inner, see);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&format!("{path}{mark}"), &schema[key], see);
        }
    }
}

#[test]
fn every_list_map_and_string_is_bounded_and_every_field_is_explained() {
    for (_, definition) in crds::yaml::definitions() {
        walk("", crds::yaml::schema(&definition), &mut |path, schema| {
            let bounded = match schema["type"].as_str() {
                Some("string") => {
                    schema["maxLength"].is_u64()
                        || schema["enum"].is_array()
                        || schema["format"] == "date-time"
                }
                Some("array") => schema["maxItems"].is_u64(),
                Some("object") if schema["additionalProperties"].is_object() => {
                    schema["maxProperties"].is_u64()
                }
                _ => true,
            };
            assert!(bounded, "{path} has no bound");
            let explained = schema["description"].is_string() || path.ends_with(']') || path.ends_with('}');
            assert!(explained, "{path} is not explained");
            assert!(schema["nullable"].is_null(), "{path}: has() is true of null");
            let format = schema["format"].as_str().unwrap_or("int32");
            assert!(matches!(format, "int32" | "int64" | "date-time"), "{path}: {format}");
        });
    }
}

#[test]
fn exactly_what_has_no_default_is_required() {
    let mut required = BTreeMap::new();
    for (_, definition) in crds::yaml::definitions() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        walk(&kind, crds::yaml::schema(&definition), &mut |path, schema| {
            let fields: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if !fields.is_empty() && !path.contains("scheduling") {
                required.insert(path.to_owned(), fields.join(" "));
            }
        });
    }
    let condition = "lastTransitionTime message reason status type";
    let expected = [
        ("LustreShare", "spec"),
        ("LustreShare.spec", "backend"),
        ("LustreShare.spec.access[].namespaceSelector.matchExpressions[]", "key operator"),
        ("LustreShare.spec.backend.directory", "hostPath"),
        ("LustreShare.status.conditions[]", condition),
        ("LustreShare.status.grants[]", "claimName namespace"),
        ("SwiftBridge", "spec"),
        ("SwiftBridge.spec", "auth shareRef"),
        ("SwiftBridge.spec.accounts[]", "name"),
        ("SwiftBridge.spec.auth", "credentials"),
        ("SwiftBridge.spec.auth.credentials", "secretRef"),
        ("SwiftBridge.spec.auth.credentials.secretRef", "name"),
        ("SwiftBridge.spec.exposure.httpRoute", "host parentRefs"),
        ("SwiftBridge.spec.exposure.httpRoute.parentRefs[]", "name"),
        ("SwiftBridge.spec.exposure.ingress", "host"),
        ("SwiftBridge.spec.exposure.tls", "secretRef"),
        ("SwiftBridge.spec.exposure.tls.secretRef", "name"),
        ("SwiftBridge.spec.identity.mapRef", "name"),
        ("SwiftBridge.spec.resources.claims[]", "name"),
        ("SwiftBridge.spec.shareRef", "name"),
        ("SwiftBridge.status.conditions[]", condition),
        ("SwiftBridge.status.endpoints[]", "protocol url"),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(path, fields)| (path.to_owned(), fields.to_owned())).into();
    assert_eq!(required, expected);
}
