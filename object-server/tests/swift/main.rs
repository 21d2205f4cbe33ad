//! The Swift API from request to answer: the handler over a namespace in a temporary directory, without sockets.
#![allow(clippy::unwrap_used, reason = "also the helpers of tests may fail them")]

mod access;
mod accounts;
mod assembled;
mod bulk;
mod containers;
mod copies;
mod failures;
mod large;
mod objects;
mod site;
