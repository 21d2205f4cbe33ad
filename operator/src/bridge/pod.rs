//! The pod of a bridge: the object server, with no more rights than it needs.

use crds::SwiftBridge;
use crds::bridge::IdentityMode;
use crds::grants::{Accepted, Acts};
use serde_json::{Value, json};

use super::config::{self, ADMIN_PORT, AUTH, CONFIG, FILE, MAP, OBJECTS, TLS};
use crate::Settings;

/// The specification of the pod.
pub(super) fn spec(bridge: &SwiftBridge, accepted: &Accepted, settings: &Settings, name: &str) -> Value {
    let spec = &bridge.spec;
    let (mounts, volumes): (Vec<Value>, Vec<Value>) = mounts(bridge, accepted, name).into_iter().unzip();
    let mut pod = json!({
        "serviceAccountName": name,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 60,
        "securityContext": identity(&accepted.acts),
        "containers": [{
            "name": "object-server",
            "image": settings.object_server_image,
            "imagePullPolicy": settings.image_pull_policy,
            "args": ["serve", "--config", format!("{CONFIG}/{FILE}"), "--json"],
            "ports": [
                { "name": protocol(bridge), "containerPort": config::port(bridge) },
                { "name": "admin", "containerPort": ADMIN_PORT },
            ],
            "livenessProbe": probe("/healthz", 10, 6),
            "readinessProbe": probe("/readyz", 5, 2),
            "startupProbe": probe("/healthz", 1, 60),
            "securityContext": rights(&accepted.acts),
            "resources": spec.resources,
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    });
    if let Some(scheduling) = &spec.scheduling {
        pod["nodeSelector"] = json!(scheduling.node_selector);
        pod["tolerations"] = json!(scheduling.tolerations);
        pod["affinity"] = json!(scheduling.affinity);
        pod["priorityClassName"] = json!(scheduling.priority_class_name);
    }
    without_nulls(pod)
}

/// The name of the port that clients' requests come to.
pub(super) fn protocol(bridge: &SwiftBridge) -> &'static str {
    if bridge.spec.exposure.tls.is_some() { "https" } else { "http" }
}

fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": { "path": path, "port": "admin" },
        "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 5,
    })
}

/// As whom the pod runs: as the one that it serves, or as 0 if those are several, since only that may become them.
fn identity(acts: &Acts) -> Value {
    let seccomp = json!({ "type": "RuntimeDefault" });
    match acts {
        Acts::As((uid, gid)) => {
            json!({ "runAsNonRoot": true, "runAsUser": uid, "runAsGroup": gid, "seccompProfile": seccomp })
        }
        _ => json!({ "runAsUser": 0, "runAsGroup": 0, "seccompProfile": seccomp }),
    }
}

fn rights(acts: &Acts) -> Value {
    let mut capabilities = json!({ "drop": ["ALL"] });
    if matches!(acts, Acts::Within(_)) {
        capabilities["add"] = json!(["SETUID", "SETGID"]);
    }
    json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": capabilities })
}

/// What is mounted, and from where. Files are mounted as directories, because only those change in a running pod.
fn mounts(bridge: &SwiftBridge, accepted: &Accepted, name: &str) -> Vec<(Value, Value)> {
    // Readable by whomever the pod runs as; nobody else is in it.
    let files = |keys: &[&str]| keys.iter().map(|key| json!({ "key": key, "path": key })).collect::<Vec<_>>();
    let secret =
        |name: &str, keys: &[&str]| json!({ "secretName": name, "defaultMode": 0o444, "items": files(keys) });
    let map = |name: &str, key: &str| json!({ "name": name, "defaultMode": 0o444, "items": files(&[key]) });
    let mount = |name: &str, path: &str, kind: &str, source: Value| {
        let read_only = name != "objects";
        (
            json!({ "name": name, "mountPath": path, "readOnly": read_only }),
            json!({ "name": name, kind: source }),
        )
    };
    let spec = &bridge.spec;
    let users = &spec.auth.credentials.secret_ref.name;
    let claim = json!({ "claimName": accepted.grant.claim });
    let mut all = vec![
        mount("objects", OBJECTS, "persistentVolumeClaim", claim),
        mount("config", CONFIG, "configMap", map(name, FILE)),
        mount("auth", AUTH, "secret", secret(users, &["users.toml", "token.secret"])),
    ];
    if let Some(tls) = &spec.exposure.tls {
        all.push(mount("tls", TLS, "secret", secret(&tls.secret_ref.name, &["tls.crt", "tls.key"])));
    }
    if let (IdentityMode::Map, Some(reference)) = (spec.identity.mode, &spec.identity.map_ref) {
        all.push(mount("map", MAP, "configMap", map(&reference.name, "map")));
    }
    all
}

/// A null would be a field of ours that is not there.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
