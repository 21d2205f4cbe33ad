//! KubeVirt on the cluster, built from Go modules; QEMU is emulation, so that it needs no KVM.

mod guest;
mod images;
mod programs;

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::cluster::Cluster;
use crate::kubernetes::apply;
use crate::report::seconds;
use crate::{paths, proc};

pub(crate) use guest::disk as guest_disk;

/// What is built; the last release that the Go proxy has with all it needs.
const VERSION: &str = "v1.7.0";
const NAMESPACE: &str = "kubevirt";

/// Brings it onto a cluster that runs: minutes, the first time about ten more.
pub(crate) fn install(cluster: &Cluster) -> Result<()> {
    let archives = images::all()?;
    let start = Instant::now();
    for archive in archives {
        cluster.import(&archive)?;
    }
    let printed = |kind: &str| {
        let mut cmd = Command::new(programs::build()?.join("resource-generator"));
        proc::output(cmd.args(["-type", kind, "-namespace", NAMESPACE]))
    };
    let ours = std::fs::read_to_string(paths::repo().join("e2e/kubevirt/kubevirt.yaml"))?;
    let (own, resource) = ours.split_once("---\n# KubeVirt itself").context("kubevirt.yaml has two parts")?;
    apply(cluster, own)?;
    for kind in ["priorityclass", "kv", "operator-rbac"] {
        apply(cluster, &printed(kind)?)?;
    }
    proc::output(cluster.kubectl()?.args([
        "wait",
        "--for=condition=Established",
        "crd/kubevirts.kubevirt.io",
    ]))?;
    apply(cluster, resource)?;
    println!("installing KubeVirt …");
    let wait =
        ["wait", "--namespace", NAMESPACE, "kubevirt/kubevirt", "--for=condition=Available", "--timeout=10m"];
    proc::output(cluster.kubectl()?.args(wait))?;
    println!("KubeVirt {VERSION} is available after {}", seconds(start.elapsed()));
    Ok(())
}
