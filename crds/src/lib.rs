//! The custom resources LustreShare and SwiftBridge, and what may be judged of them without IO.
//!
//! What the API server can judge stands in the schema (bounds, patterns, CEL rules); what needs two objects stands in
//! [`grants`]. The operator and the CSI controller both decide by these functions, so that they never disagree on
//! whether a bridge is accepted or where an account lies. Whoever touches a file system judges a path again by
//! [`paths`]: an object may be older than the rules.

pub mod bridge;
pub mod conditions;
pub mod docs;
pub mod exposure;
pub mod grants;
pub mod ids;
pub mod names;
pub mod paths;
mod schema;
pub mod share;
pub mod yaml;

pub use bridge::SwiftBridge;
pub use share::LustreShare;

/// The group of both resources.
pub const GROUP: &str = "lustre-bridge.io";
/// Their version.
pub const VERSION: &str = "v1alpha1";
/// The CSI driver's name.
pub const DRIVER: &str = "csi.lustre-bridge.io";
/// The field manager of the operator.
pub const OPERATOR: &str = "lustre-bridge-operator";
/// The field manager of the CSI controller.
pub const CSI: &str = "lustre-bridge-csi";
/// On everything that the operator makes for a share: the share's name.
pub const SHARE_LABEL: &str = "lustre-bridge.io/share";
/// On everything that the operator makes for a bridge: the bridge's name.
pub const BRIDGE_LABEL: &str = "lustre-bridge.io/bridge";
/// Holds a share back while it is in use.
pub const FINALIZER: &str = "lustre-bridge.io/in-use";
/// The topology key of volumes that exist on one node only.
pub const NODE_TOPOLOGY: &str = "topology.csi.lustre-bridge.io/node";
