//! The object server: OpenStack Swift over a namespace of plain files.

pub mod http;
pub mod tls;
