//! KubeVirt's programs, from the Go module that pins them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{paths, proc, tools};

const MODULE: &str = "kubevirt.io/kubevirt";
const COMMANDS: [&str; 11] = [
    "cmd/virt-api",
    "cmd/virt-chroot",
    "cmd/virt-controller",
    "cmd/virt-freezer",
    "cmd/virt-handler",
    "cmd/virt-launcher",
    "cmd/virt-launcher-monitor",
    "cmd/virt-operator",
    "cmd/virt-probe",
    "cmd/virt-tail",
    "tools/resource-generator",
];
/// The launcher links libvirt.
const PACKAGES: [&str; 4] = ["gcc", "libc6-dev", "libvirt-dev", "pkg-config"];

fn module() -> PathBuf {
    paths::repo().join("e2e/kubevirt")
}

/// What says which programs these are.
pub(super) fn pinned() -> Result<String> {
    fs::read_to_string(module().join("go.mod")).context("e2e/kubevirt/go.mod")
}

/// Builds what is missing; the directory of the programs, all but the launcher static.
pub(super) fn build() -> Result<PathBuf> {
    tools::debian(&PACKAGES)?;
    let what = "KubeVirt, the first time about seven minutes of CPU";
    tools::go_program("kubevirt", what, &pinned()?, go_build)
}

fn go_build(go: &Path, dir: &Path) -> Command {
    let mut cmd = Command::new(go);
    cmd.current_dir(module()).env("CGO_ENABLED", "1").env("GOFLAGS", "");
    cmd.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-tags", "netgo,osusergo"]);
    cmd.args(["-ldflags", "-s -w", "-o"]).arg(dir.join(""));
    cmd.args(COMMANDS.iter().map(|command| format!("{MODULE}/{command}")));
    cmd
}

/// The module's files; to be asked after [`build`], which downloaded them.
pub(super) fn source() -> Result<PathBuf> {
    let mut cmd = Command::new(tools::go()?);
    cmd.args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", MODULE]).current_dir(module());
    Ok(PathBuf::from(proc::output(&mut cmd)?.trim()))
}
