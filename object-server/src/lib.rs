//! The object server: OpenStack Swift's API over a namespace of plain files.
//!
//! [`daemon`] puts it together: [`http`] moves bytes, [`swift`] knows the protocol, [`auth`] knows who asks, [`identities`] as which POSIX user a request acts, [`background`]
//! what happens without one. The files themselves are `namespace`'s.

pub mod access_log;
pub mod acl;
pub mod admin;
pub mod assembler;
pub mod auth;
pub mod background;
pub mod config;
pub mod daemon;
pub mod follower;
pub mod http;
pub mod identities;
pub mod indexing;
pub mod limits;
pub mod metrics;
pub mod python;
pub mod swift;
pub mod tls;
pub mod trans_id;
