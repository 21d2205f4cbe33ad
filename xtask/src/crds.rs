//! `cargo xtask crds`: writes what is generated from the custom resources' types.

use anyhow::Result;

use crate::proc;

/// Writes crds/yaml and docs/custom-resources.md.
pub(crate) fn write() -> Result<()> {
    proc::run(proc::cargo().args(["run", "--quiet", "--package", "crds", "--example", "generate"]))
}
