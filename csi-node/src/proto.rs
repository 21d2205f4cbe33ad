//! The wire contracts, generated from `proto/`.
#![allow(missing_docs, unreachable_pub, clippy::pedantic)]

/// The Container Storage Interface.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// The kubelet's plugin registration.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// What the node plugin asks the holder of leases.
pub mod holder {
    tonic::include_proto!("lustrebridge.holder.v1");
}
