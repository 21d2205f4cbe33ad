//! Builds of the product.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{paths, proc, tools};

/// The target of release binaries: static, so that they run on any Linux.
pub(crate) const MUSL: &str = "x86_64-unknown-linux-musl";

/// Builds the release server and returns its path.
pub(crate) fn release() -> Result<PathBuf> {
    tools::rust(&[], &[MUSL])?;
    // Some dependencies hold C code.
    tools::debian(&["gcc", "musl-tools"])?;
    println!("building object-server (release, {MUSL}) …");
    proc::run(proc::cargo().args(["build", "--release", "--target", MUSL, "--package", "object-server"]))?;
    existing(paths::target().join(MUSL).join("release/object-server"))
}

/// Builds everything that the tests need, in the one profile that they share, and returns the server's path.
pub(crate) fn debug() -> Result<PathBuf> {
    proc::run(proc::cargo().args(["build", "--workspace", "--exclude", "fuzz", "--all-targets"]))?;
    existing(paths::target().join("debug/object-server"))
}

/// The path, if it was built.
pub(crate) fn existing(path: PathBuf) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("{} was not built", path.display());
    }
    Ok(path)
}
