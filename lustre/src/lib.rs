//! lustre
