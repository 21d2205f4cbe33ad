//! The object server: OpenStack Swift over a namespace of plain files.

pub mod access_log;
pub mod acl;
pub mod admin;
pub mod auth;
pub mod config;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod python;
pub mod tls;
pub mod trans_id;
