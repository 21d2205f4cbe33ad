//! Kinds of objects, and names of objects.

use std::fmt;

use kube::api::ApiResource;

/// A kind that the operator watches or makes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Of ours, cluster-scoped.
    LustreShare,
    /// Of ours, namespaced.
    SwiftBridge,
    /// Kubernetes' own.
    Namespace,
    /// Of a share.
    StorageClass,
    /// Of a share.
    PersistentVolume,
    /// Of a share.
    PersistentVolumeClaim,
    /// Of a bridge.
    ServiceAccount,
    /// Of a bridge.
    ConfigMap,
    /// Of a bridge.
    Deployment,
    /// Of a bridge.
    Service,
    /// Of a bridge.
    NetworkPolicy,
    /// Of a bridge that asks for it.
    Ingress,
    /// Of a bridge that asks for it, where the Gateway API is.
    HttpRoute,
    /// Of a bridge, where the Prometheus operator is.
    ServiceMonitor,
    /// Of a share's classes, where KubeVirt's importer (CDI) is, which makes one for each class itself.
    StorageProfile,
    /// The operator's own claim to lead.
    Lease,
    /// What is told of an object.
    Event,
}

impl Kind {
    /// What is watched from the start. The others may not exist in a cluster, or are not watched.
    pub const WATCHED: [Self; 12] = [
        Self::LustreShare,
        Self::SwiftBridge,
        Self::Namespace,
        Self::StorageClass,
        Self::PersistentVolume,
        Self::PersistentVolumeClaim,
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Deployment,
        Self::Service,
        Self::NetworkPolicy,
        Self::Ingress,
    ];

    /// What is watched where its API exists.
    pub const OPTIONAL: [Self; 3] = [Self::HttpRoute, Self::ServiceMonitor, Self::StorageProfile];

    /// Whether only objects with the operator's label are watched.
    pub fn is_made_here(self) -> bool {
        !matches!(self, Self::LustreShare | Self::SwiftBridge | Self::Namespace)
    }

    /// Whether somebody else makes such objects too, and we only say our part of them.
    pub fn is_shared(self) -> bool {
        self == Self::StorageProfile
    }

    /// Group, version, plural.
    fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::LustreShare => (crds::GROUP, crds::VERSION, "lustreshares"),
            Self::SwiftBridge => (crds::GROUP, crds::VERSION, "swiftbridges"),
            Self::Namespace => ("", "v1", "namespaces"),
            Self::StorageClass => ("storage.k8s.io", "v1", "storageclasses"),
            Self::PersistentVolume => ("", "v1", "persistentvolumes"),
            Self::PersistentVolumeClaim => ("", "v1", "persistentvolumeclaims"),
            Self::ServiceAccount => ("", "v1", "serviceaccounts"),
            Self::ConfigMap => ("", "v1", "configmaps"),
            Self::Deployment => ("apps", "v1", "deployments"),
            Self::Service => ("", "v1", "services"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "networkpolicies"),
            Self::Ingress => ("networking.k8s.io", "v1", "ingresses"),
            Self::HttpRoute => ("gateway.networking.k8s.io", "v1", "httproutes"),
            Self::ServiceMonitor => ("monitoring.coreos.com", "v1", "servicemonitors"),
            Self::StorageProfile => ("cdi.kubevirt.io", "v1beta1", "storageprofiles"),
            Self::Lease => ("coordination.k8s.io", "v1", "leases"),
            Self::Event => ("events.k8s.io", "v1", "events"),
        }
    }

    /// As it stands in `kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LustreShare => "LustreShare",
            Self::SwiftBridge => "SwiftBridge",
            Self::Namespace => "Namespace",
            Self::StorageClass => "StorageClass",
            Self::PersistentVolume => "PersistentVolume",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::ServiceAccount => "ServiceAccount",
            Self::ConfigMap => "ConfigMap",
            Self::Deployment => "Deployment",
            Self::Service => "Service",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Ingress => "Ingress",
            Self::HttpRoute => "HTTPRoute",
            Self::ServiceMonitor => "ServiceMonitor",
            Self::StorageProfile => "StorageProfile",
            Self::Lease => "Lease",
            Self::Event => "Event",
        }
    }

    /// What the client needs to know of it.
    pub fn api(self) -> ApiResource {
        let (group, version, plural) = self.parts();
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: self.name().to_owned(),
            plural: plural.to_owned(),
        }
    }
}

/// An object's kind and name. The namespace is empty for cluster-scoped ones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind.name(), self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind.name(), self.name),
        }
    }
}
