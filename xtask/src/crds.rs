//! `cargo xtask crds`: writes what is generated from the custom resources' types and the chart's values.

use anyhow::Result;

use crate::{chart, proc};

/// Writes crds/yaml, docs/custom-resources.md and the chart's README.
pub(crate) fn write() -> Result<()> {
    proc::run(proc::cargo().args(["run", "--quiet", "--package", "crds", "--example", "generate"]))?;
    chart::write()
}
