//! SwiftBridge: accounts of a share, served as objects.
#![allow(clippy::duplicated_attributes, reason = "columns of the same type are no duplicates")]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::exposure::{Exposure, HttpRoute, Ingress, ParentReference, Service, ServiceType, Tls};
use crate::schema::{core, core_list, immutable, relative, rule, text_map};

/// Accounts of a share, served as objects by the Swift API.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[kube(
    group = "lustre-bridge.io",
    version = "v1alpha1",
    kind = "SwiftBridge",
    plural = "swiftbridges",
    shortname = "sbridge",
    category = "lustre-bridge",
    namespaced,
    status = "SwiftBridgeStatus",
    derive = "PartialEq",
    doc = "Accounts of a share, served as objects by the Swift API.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Share", type_ = "string", json_path = ".spec.shareRef.name"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoints[0].url"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct SwiftBridgeSpec {
    /// The share. It cannot be changed.
    #[schemars(extend("x-kubernetes-validations" = [immutable("shareRef")]))]
    pub share_ref: ShareReference,

    /// The directory beneath the one granted to this namespace that holds the accounts. It cannot be changed.
    #[serde(default)]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = sub_path()))]
    pub sub_path: String,

    /// The accounts. If there are none here, each directory is an account, and missing ones are made when first used.
    #[serde(default)]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub accounts: Vec<Account>,

    /// How many pods serve: one, or none.
    #[serde(default = "one")]
    #[schemars(range(min = 0), extend("x-kubernetes-validations" = [
        rule("self <= 1", "replicas must be 0 or 1: one replica serves a bridge"),
    ]))]
    pub replicas: i32,

    /// Who may sign in.
    pub auth: Auth,

    /// As whom files are touched.
    #[serde(default)]
    pub identity: Identity,

    /// Where clients reach it.
    #[serde(default)]
    pub exposure: Exposure,

    /// CPU and memory of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "core::<ResourceRequirements>")]
    pub resources: Option<ResourceRequirements>,

    /// Where the pod may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,

    /// While true, everything stays as it is.
    #[serde(default)]
    pub suspend: bool,
}

/// A LustreShare.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ShareReference {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// An account.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.uid) == has(self.gid)", "an account needs both uid and gid, or neither"),
    rule(
        "has(self.directory) || !(self.name in ['.', '..'])",
        "an account with this name needs a directory of another name",
    ),
]))]
pub struct Account {
    /// The account as it stands in URLs, as `AUTH_physics`.
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-validations" = [
        rule("bytes(self).size() <= 256", "an account's name must not have more than 256 bytes"),
        rule(
            "!self.startsWith('.lb~') && self.matches(r'^[^/\\x00-\\x1f\\x7f]+$')",
            "an account's name must not contain '/' or control characters, nor begin with '.lb~'",
        ),
    ]))]
    pub name: String,

    /// Its directory beneath the bridge's; the account's name, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = relative("directory")))]
    pub directory: Option<String>,

    /// The owner of the directory, if it is made, and as whom the account's files are touched; that of the directory
    /// granted, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub uid: Option<u32>,

    /// The group likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub gid: Option<u32>,
}

/// Who may sign in.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// Users in a Secret.
    pub credentials: Credentials,
}

/// Users in a Secret.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret with the keys `users.toml` and `token.secret`.
    pub secret_ref: LocalReference,
}

/// An object of the same namespace.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct LocalReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [rule(
        "!format.dns1123Subdomain().validate(self).hasValue()",
        "the name of an object of this namespace must be lower-case letters, digits, '-' and '.', as 'users'",
    )]))]
    pub name: String,
}

/// As whom files are touched.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("self.mode != 'Fixed' || (has(self.uid) && has(self.gid))", "identity.mode Fixed needs uid and gid"),
    rule("self.mode == 'Fixed' || (!has(self.uid) && !has(self.gid))", "only identity.mode Fixed takes uid and gid"),
    rule("(self.mode == 'Map') == has(self.mapRef)", "identity.mode Map needs mapRef, and no other mode takes it"),
]))]
pub struct Identity {
    /// Owner: the owner of the account's directory. Fixed: `uid` and `gid`. Map: what `mapRef` says of the user.
    pub mode: IdentityMode,

    /// The user of mode Fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub uid: Option<u32>,

    /// The group of mode Fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub gid: Option<u32>,

    /// A ConfigMap whose key `map` has lines `account:user uid:gid[,gid...]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map_ref: Option<LocalReference>,
}

/// As whom files are touched.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum IdentityMode {
    /// The owner of the account's directory.
    #[default]
    Owner,
    /// One user and group.
    Fixed,
    /// What a map says of the user.
    Map,
}

/// Where the pod may run.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
pub struct Scheduling {
    /// Labels that the node must have.
    #[schemars(schema_with = "text_map")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that it tolerates.
    #[schemars(schema_with = "core_list::<Toleration>")]
    pub tolerations: Vec<Toleration>,

    /// Its affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "core::<Affinity>")]
    pub affinity: Option<Affinity>,

    /// Its priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// What is observed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
pub struct SwiftBridgeStatus {
    /// The generation of the specification that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// What is said of the bridge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// Pods that there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Pods that answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,

    /// The labels of the pods, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub selector: Option<String>,

    /// Where clients reach it, the best known first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub endpoints: Vec<Endpoint>,
}

/// Where clients reach a bridge.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// What is spoken there.
    #[schemars(length(max = 16))]
    pub protocol: String,

    /// Scheme, host and port; sign in at `/auth/v1.0` beneath it.
    #[schemars(length(max = 1024))]
    pub url: String,
}

impl Account {
    /// Its directory beneath the bridge's.
    pub fn directory(&self) -> &str {
        self.directory.as_deref().unwrap_or(&self.name)
    }

    /// Its owner, where the specification says it.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.uid.zip(self.gid)
    }
}

fn one() -> i32 {
    1
}

fn sub_path() -> Vec<serde_json::Value> {
    let mut rules = vec![immutable("subPath")];
    rules.extend(relative("subPath"));
    rules
}
