//! LustreShare and SwiftBridge become storage classes, volumes, claims, pods, services.
//!
//! A reconciliation is one straight line: dereference (read what is kept of the cluster), validate (what a share grants,
//! pure), build (every object as it should be, pure), apply (what differs), status (from what is observed). It reads from
//! what is watched, writes only what differs, and touches no file system and no Secret.

pub mod admin;
pub mod apply;
pub mod bridge;
pub mod check;
pub mod child;
pub mod cluster;
pub mod labels;
pub mod lease;
pub mod metrics;
pub mod queue;
pub mod run;
pub mod share;
pub mod status;

use std::sync::Arc;

use cluster::{Cache, Writer};

/// What is made of pods.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image of the object server.
    pub object_server_image: String,
    /// When it is pulled.
    pub image_pull_policy: String,
}

/// All that a reconciliation works with.
#[derive(Clone)]
pub struct World {
    /// What is kept of the cluster.
    pub cache: Arc<Cache>,
    /// How it is written.
    pub writer: Writer,
    /// What is made of pods.
    pub settings: Settings,
}
