//! The CSI driver `csi.lustre-bridge.io`: identity, controller and node in one binary.
//!
//! A volume is a directory beneath its share and a record in the driver's own directory on the share
//! ([`store`]): the driver holds no state, and what it is told (ids, contexts, paths) never becomes a path
//! outside the share. [`volumes`] makes and deletes them, [`mounts`] shows them to pods; [`controller`],
//! [`node`] and [`identity`] speak the Container Storage Interface. In Kubernetes the shares come from the
//! `LustreShare`s, else from the command line.

pub mod admin;
pub mod adopt;
pub mod block;
pub mod capability;
pub mod cluster;
pub mod controller;
pub mod convert;
pub mod daemon;
pub mod disk;
pub mod error;
pub mod holder;
pub mod id;
pub mod identity;
pub mod image;
pub mod image_mounts;
pub mod janitor;
pub mod keeper;
pub mod lease;
pub mod listing;
pub mod locks;
pub mod metrics;
pub mod mountinfo;
pub mod mounts;
pub mod node;
mod opened;
pub mod parameters;
pub mod path;
pub mod persistent_volume;
pub mod proto;
mod qcow2;
pub mod record;
pub mod registration;
pub mod request;
pub mod share;
pub mod socket;
pub mod store;
pub mod template;
mod tools;
pub mod trash;
pub mod tree;
pub mod turns;
pub mod volumes;

/// The driver's name, which is in every volume and every node object.
pub const DRIVER: &str = crds::DRIVER;
/// The `DaemonSet` whose pods hold the nodes' leases.
pub const HOLDER: &str = "lustre-bridge-csi-holder";
/// The topology key whose value is the node's id.
pub const TOPOLOGY: &str = crds::NODE_TOPOLOGY;
