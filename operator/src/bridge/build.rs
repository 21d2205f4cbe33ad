//! What a bridge consists of.

use crds::SwiftBridge;
use crds::bridge::{HttpRoute, Ingress, ServiceType};
use crds::grants::Accepted;
use serde_json::{Value, json};

use super::config::{self, ADMIN_PORT, FILE};
use super::pod;
use crate::Settings;
use crate::child::{Child, Parent, hash};
use crate::cluster::Kind;
use crate::labels;

/// On the pod: what its configuration was made of, so that another one makes another pod. Secrets and certificates do
/// not: the server reads them again.
const CONFIG_HASH: &str = "lustre-bridge.io/config";

/// Every object of a bridge as it should be; those of optional kinds only where `exists`.
pub fn children(
    bridge: &SwiftBridge,
    parent: &Parent,
    accepted: &Accepted,
    settings: &Settings,
    exists: &dyn Fn(Kind) -> bool,
) -> Vec<Child> {
    let name = crds::names::bridge_object_name(&parent.key.name);
    let config = config::text(bridge, accepted);
    let exposure = &bridge.spec.exposure;
    let mut objects = vec![
        (Kind::ServiceAccount, json!({ "automountServiceAccountToken": false })),
        (Kind::ConfigMap, json!({ "data": { FILE: config } })),
        (Kind::NetworkPolicy, network_policy(bridge, &parent.key.name)),
        (Kind::Service, service(bridge, &parent.key.name)),
        (Kind::Deployment, deployment(bridge, parent, accepted, settings, &name, &hash(&config))),
    ];
    objects.extend(exposure.ingress.as_ref().map(|wanted| (Kind::Ingress, ingress(bridge, wanted, &name))));
    let route = exposure.http_route.as_ref().filter(|_| exists(Kind::HttpRoute));
    objects.extend(route.map(|wanted| (Kind::HttpRoute, http_route(bridge, wanted, &name))));
    if exists(Kind::ServiceMonitor) {
        objects.push((Kind::ServiceMonitor, service_monitor(&parent.key.name)));
    }
    let namespace = &parent.key.namespace;
    let child = |(kind, object): (Kind, Value)| Child::new(parent, kind, namespace, &name, &object);
    objects.into_iter().map(child).collect()
}

fn deployment(
    bridge: &SwiftBridge,
    parent: &Parent,
    accepted: &Accepted,
    settings: &Settings,
    name: &str,
    config: &str,
) -> Value {
    json!({ "spec": {
        "replicas": bridge.spec.replicas.clamp(0, 1),
        "revisionHistoryLimit": 2,
        // Two servers of one bridge would not know of each other's deletions.
        "strategy": { "type": "Recreate" },
        "selector": { "matchLabels": labels::selector(&parent.key.name) },
        "template": {
            "metadata": { "labels": parent.labels, "annotations": { CONFIG_HASH: config } },
            "spec": pod::spec(bridge, accepted, settings, name),
        },
    } })
}

/// The port of a bridge's service.
pub fn service_port(bridge: &SwiftBridge) -> u16 {
    let exposure = &bridge.spec.exposure;
    exposure.service.port.unwrap_or(if exposure.tls.is_some() { 443 } else { 80 })
}

/// What clients reach; metrics are for those who reach the pod.
fn service(bridge: &SwiftBridge, name: &str) -> Value {
    let wanted = &bridge.spec.exposure.service;
    let kind = match wanted.kind {
        ServiceType::ClusterIp => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let protocol = pod::protocol(bridge);
    let mut port = json!({
        "name": protocol, "port": service_port(bridge), "targetPort": protocol, "protocol": "TCP",
    });
    if let Some(node_port) = wanted.node_port.filter(|_| kind != "ClusterIP") {
        port["nodePort"] = node_port.into();
    }
    json!({
        "metadata": { "annotations": wanted.annotations },
        "spec": { "type": kind, "selector": labels::selector(name), "ports": [port] },
    })
}

/// Clients and probes get in; nothing gets out, since the server asks nobody.
fn network_policy(bridge: &SwiftBridge, name: &str) -> Value {
    let port = |port: u16| json!({ "port": port, "protocol": "TCP" });
    json!({ "spec": {
        "podSelector": { "matchLabels": labels::selector(name) },
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "ports": [port(config::port(bridge)), port(ADMIN_PORT)] }],
    } })
}

fn ingress(bridge: &SwiftBridge, wanted: &Ingress, name: &str) -> Value {
    let backend = json!({ "service": { "name": name, "port": { "number": service_port(bridge) } } });
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
    let mut spec = json!({ "rules": [{ "host": wanted.host, "http": { "paths": [path] } }] });
    if let Some(class) = &wanted.class_name {
        spec["ingressClassName"] = class.as_str().into();
    }
    if let Some(tls) = &bridge.spec.exposure.tls {
        spec["tls"] = json!([{ "hosts": [wanted.host], "secretName": tls.secret_ref.name }]);
    }
    json!({ "metadata": { "annotations": wanted.annotations }, "spec": spec })
}

fn http_route(bridge: &SwiftBridge, wanted: &HttpRoute, name: &str) -> Value {
    let backend = json!({ "name": name, "port": service_port(bridge) });
    json!({ "spec": {
        "parentRefs": wanted.parent_refs, "hostnames": [wanted.host], "rules": [{ "backendRefs": [backend] }],
    } })
}

fn service_monitor(name: &str) -> Value {
    json!({ "spec": {
        "selector": { "matchLabels": labels::selector(name) },
        "endpoints": [{ "targetPort": ADMIN_PORT, "path": "/metrics" }],
    } })
}
