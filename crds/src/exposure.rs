//! Where clients reach a bridge.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bridge::LocalReference;
use crate::schema::{rule, text_map};

/// Where clients reach a bridge.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
pub struct Exposure {
    /// The service.
    pub service: Service,

    /// An Ingress, if wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,

    /// An HTTPRoute of the Gateway API, if wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_route: Option<HttpRoute>,

    /// HTTPS, with a certificate that is read again when it changes. Plain HTTP, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// What clients put before the path, where it is not the service's or the host's name: scheme, host and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), extend("x-kubernetes-validations" = [rule(
        r"self.matches(r'^https?://[^/?#@\s\x00-\x1f\x7f]+$')",
        "publicUrl must be scheme, host and port alone, as 'https://objects.example.org'",
    )]))]
    pub public_url: Option<String>,
}

/// The service of a bridge.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("!has(self.nodePort) || self.type != 'ClusterIP'", "nodePort needs type NodePort or LoadBalancer"),
]))]
pub struct Service {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ServiceType,

    /// Its port; 80, or 443 with TLS, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,

    /// The port of the nodes; chosen by the cluster, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub node_port: Option<u16>,

    /// Its annotations.
    #[schemars(schema_with = "text_map")]
    pub annotations: BTreeMap<String, String>,
}

/// The type of a service.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ServiceType {
    /// Reached from inside the cluster.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// Reached by a port of every node.
    NodePort,
    /// Reached by a load balancer.
    LoadBalancer,
}

/// An Ingress.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// The host name.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,

    /// The ingress class; the cluster's default, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,

    /// Its annotations.
    #[serde(default)]
    #[schemars(schema_with = "text_map")]
    pub annotations: BTreeMap<String, String>,
}

/// An HTTPRoute.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// The host name.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,

    /// The gateways.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub parent_refs: Vec<ParentReference>,
}

/// A Gateway.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Its namespace; the bridge's, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,

    /// The listener; all of them, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// HTTPS.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// A Secret of type kubernetes.io/tls.
    pub secret_ref: LocalReference,
}
