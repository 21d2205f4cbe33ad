//! Follows what changes beneath a directory, and tells the object servers where to look.
//!
//! A [`source`] yields dirty marks: a name in a directory that may be another than it was. It says when it lost some, and
//! never what changed: whoever gets a mark looks at the present.

pub mod root;
pub mod source;
