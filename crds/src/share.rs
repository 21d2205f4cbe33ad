//! LustreShare: a file system, or a part of one, and who may use which part of it.
#![allow(clippy::duplicated_attributes, reason = "columns of the same type are no duplicates")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{absolute, id_ranges, immutable, label_selector, relative, rule};

/// A file system, or a part of one, and who may use which part of it.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[kube(
    group = "lustre-bridge.io",
    version = "v1alpha1",
    kind = "LustreShare",
    plural = "lustreshares",
    shortname = "lshare",
    category = "lustre-bridge",
    status = "LustreShareStatus",
    derive = "PartialEq",
    doc = "A file system, or a part of one, and who may use which part of it.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Backend", type_ = "string", json_path = ".status.backend"),
    printcolumn(name = "Path", type_ = "string", json_path = ".spec.path"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct LustreShareSpec {
    /// What holds the files. It cannot be changed.
    #[schemars(extend("x-kubernetes-validations" = [
        immutable("backend"),
        rule("has(self.directory)", "backend needs exactly one of: directory"),
    ]))]
    pub backend: Backend,

    /// The directory beneath the backend's that is the share. It cannot be changed.
    #[serde(default = "root")]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = [immutable("path"), absolute("path")]))]
    pub path: String,

    /// Owner and mode of directories that the driver makes; those that exist stay as they are.
    #[serde(default)]
    pub ownership: Ownership,

    /// Who may use which part of the share. Nobody, if empty.
    #[serde(default)]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub access: Vec<Access>,

    /// A storage class whose volumes are directories of the share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning: Option<Provisioning>,

    /// While true, everything stays as it is.
    #[serde(default)]
    pub suspend: bool,
}

/// What holds the files: exactly one of its fields.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
pub struct Backend {
    /// A directory of the nodes: any file system that is mounted there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<Directory>,
}

/// A directory of the nodes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    /// Where it is on the nodes.
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = [absolute("hostPath")]))]
    pub host_path: String,

    /// The only node that has it. Without, every node sees the same files there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
}

/// Owner and mode of new directories.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", default)]
pub struct Ownership {
    /// The user.
    #[schemars(range(min = 0, max = 4_294_967_294_u32))]
    pub uid: u32,

    /// The group.
    #[schemars(range(min = 0, max = 4_294_967_294_u32))]
    pub gid: u32,

    /// The mode, in octal digits.
    #[schemars(length(max = 4), extend("x-kubernetes-validations" = [rule(
        "self.matches('^[0-7]{3,4}$')", "mode must be three or four octal digits, as '2770'",
    )]))]
    pub mode: String,
}

/// One entry of `access`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "has(self.__namespace__) != has(self.namespaceSelector)",
    "an entry of access needs exactly one of namespace and namespaceSelector",
)]))]
pub struct Access {
    /// The namespace that may.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,

    /// Or: the namespaces that may, by their labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "label_selector")]
    pub namespace_selector: Option<LabelSelector>,

    /// Whether it may write.
    pub mode: AccessMode,

    /// The directory beneath the share that it may use: the whole share, if empty.
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = relative("subPath")))]
    pub sub_path: String,

    /// The claim that is made in the namespace; the share's name, if absent. Its size (1Gi) means nothing: a directory
    /// has none of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [rule(
        "!format.dns1123Subdomain().validate(self).hasValue()",
        "claimName must be lower-case letters, digits, '-' and '.', as 'scratch'",
    )]))]
    pub claim_name: Option<String>,

    /// As whom a bridge there may act; the owner of the directory alone, if absent. Never as 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identities: Option<Identities>,

    /// Whether a bridge there may serve several identities. Its pod then runs as uid 0 with SETUID and SETGID.
    pub bridges: Bridges,
}

/// Users and groups.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
pub struct Identities {
    /// User ids, as "1000", and ranges of them, as "2000-2999".
    #[schemars(schema_with = "id_ranges")]
    pub uids: Vec<String>,

    /// Group ids and ranges of them.
    #[schemars(schema_with = "id_ranges")]
    pub gids: Vec<String>,
}

/// Whether a namespace may write.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum AccessMode {
    /// It may.
    #[default]
    ReadWriteMany,
    /// It may only read.
    ReadOnlyMany,
}

/// How many identities a bridge may serve.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Bridges {
    /// One.
    #[default]
    Single,
    /// Any number.
    Many,
}

/// A storage class.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", default)]
pub struct Provisioning {
    /// The storage class; the share's name, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [rule(
        "!format.dns1123Subdomain().validate(self).hasValue()",
        "storageClassName must be lower-case letters, digits, '-' and '.', as 'projects'",
    )]))]
    pub storage_class_name: Option<String>,

    /// The directory of a new volume, beneath the share. `${pvc.namespace}`, `${pvc.name}` and `${pv.name}` stand for
    /// what they say.
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = template()))]
    pub directory_template: String,

    /// What becomes of a volume's directory when its claim is deleted.
    pub reclaim_policy: ReclaimPolicy,

    /// What "Delete" does with it.
    pub on_delete: OnDelete,

    /// What holds the users of a directory to the size that its claim asks for. "Image" is a file system of its own, for
    /// one node at a time, and needs e2fsprogs on the hosts.
    pub quota: Quota,

    /// A storage class whose volumes are disks of virtual machines: a directory with a raw file, disk.img, or a block
    /// device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_machine_disks: Option<VirtualMachineDisks>,
}

/// A storage class of disks.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualMachineDisks {
    /// The storage class; the share's name with "-disks" behind it, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [rule(
        "!format.dns1123Subdomain().validate(self).hasValue()",
        "storageClassName must be lower-case letters, digits, '-' and '.', as 'projects-disks'",
    )]))]
    pub storage_class_name: Option<String>,

    /// Whether a disk takes its space at once.
    pub allocation: Allocation,
}

/// Whether a disk takes its space at once.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Allocation {
    /// As it is written to.
    #[default]
    Thin,
    /// At once; refused where the file system cannot.
    Thick,
}

/// What becomes of the directory of a volume that is deleted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum OnDelete {
    /// It is removed.
    #[default]
    Remove,
    /// It is renamed to archived-NAME, and stays.
    Archive,
}

/// What holds the users of a directory to its size.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Quota {
    /// The share's file system, which shows the size in the pod too. Claims are refused where it cannot.
    #[default]
    Enforced,
    /// An ext4 in a file of the share, which one node mounts at a time.
    Image,
    /// Nothing: the size is only written down.
    Advisory,
}

fn template() -> Vec<serde_json::Value> {
    let mut rules = vec![
        rule(
            "self.contains('${pv.name}')",
            "directoryTemplate must contain ${pv.name}, or volumes would share a directory",
        ),
        rule(
            "!self.replace('${pvc.namespace}', '').replace('${pvc.name}', '').replace('${pv.name}', '').contains('${')",
            "directoryTemplate knows ${pvc.namespace}, ${pvc.name} and ${pv.name} only",
        ),
    ];
    rules.extend(relative("directoryTemplate"));
    rules
}

/// What becomes of a volume's directory when its claim is deleted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ReclaimPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is removed.
    Delete,
}

/// What is observed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
pub struct LustreShareStatus {
    /// The generation of the specification that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// What is said of the share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The backend in a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub backend: Option<String>,

    /// The claims made by `access`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096), extend(
        "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["namespace", "claimName"]))]
    pub grants: Vec<GrantStatus>,

    /// The bridges that refer to the share, as "namespace/name".
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096), inner(length(max = 317)), extend("x-kubernetes-list-type" = "atomic"))]
    pub bridges: Vec<String>,
}

/// A claim made by `access`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct GrantStatus {
    /// Where the claim is.
    #[schemars(length(max = 63))]
    pub namespace: String,

    /// The claim.
    #[schemars(length(max = 253))]
    pub claim_name: String,

    /// The claim's own phase, or Missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub phase: Option<String>,

    /// The PersistentVolume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub volume: Option<String>,

    /// The owner of the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,

    /// The group of the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

fn root() -> String {
    "/".to_owned()
}

impl Default for Ownership {
    fn default() -> Self {
        Self { uid: 0, gid: 0, mode: "2770".to_owned() }
    }
}

impl Default for Provisioning {
    fn default() -> Self {
        Self {
            storage_class_name: None,
            directory_template: "${pvc.namespace}/${pvc.name}-${pv.name}".to_owned(),
            reclaim_policy: ReclaimPolicy::default(),
            on_delete: OnDelete::default(),
            quota: Quota::default(),
            virtual_machine_disks: None,
        }
    }
}

impl Ownership {
    /// The mode as a number; `None` if it is not three or four octal digits.
    pub fn mode_bits(&self) -> Option<u32> {
        let digits = matches!(self.mode.len(), 3 | 4) && self.mode.bytes().all(|b| matches!(b, b'0'..=b'7'));
        u32::from_str_radix(&self.mode, 8).ok().filter(|_| digits)
    }
}

impl LustreShare {
    /// The node that alone has the files.
    pub fn node(&self) -> Option<&str> {
        self.spec.backend.directory.as_ref()?.node.as_deref()
    }

    /// What the driver knows of a grant's directory.
    pub fn grant_status(&self, namespace: &str, claim: &str) -> Option<&GrantStatus> {
        let grants = &self.status.as_ref()?.grants;
        grants.iter().find(|grant| grant.namespace == namespace && grant.claim_name == claim)
    }
}
