//! `cargo xtask sanity`: the CSI project's own conformance tests (csi-test) against the driver without Kubernetes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::paths::RunDir;
use crate::proc::{Server, dies_with_us, tail};
use crate::report::Counts;
use crate::{build, cluster, paths, proc};

/// Runs the conformance tests of the Container Storage Interface.
#[derive(Args, Clone, Default)]
pub(crate) struct Options {
    /// The driver's binary. Default: built now.
    #[arg(long)]
    bin: Option<PathBuf>,
}

impl Options {
    pub(crate) fn main(&self) -> Result<()> {
        let bin = if let Some(bin) = &self.bin {
            bin.clone()
        } else {
            build::debug()?;
            build::existing(paths::target().join("debug/csi-node"))?
        };
        let counts = run(&bin)?;
        println!("{counts}");
        if counts.failed > 0 {
            bail!("{} tests failed", counts.failed);
        }
        Ok(())
    }
}

/// Runs them with the driver `bin`. Needs root: the driver mounts.
pub(crate) fn run(bin: &Path) -> Result<Counts> {
    let program = cluster::sanity()?;
    let dir = RunDir::new("sanity")?;
    let (share, socket, log) =
        (dir.path().join("share"), dir.path().join("csi.sock"), dir.path().join("driver.log"));
    fs::create_dir(&share)?;
    let parameters = dir.path().join("parameters.yaml");
    fs::write(&parameters, "share: sanity\nquota: advisory\n")?;
    let mut driver = dies_with_us(bin);
    driver.args(["--role", "all", "--node-id", "node1", "--admin-listen", "127.0.0.1:0"]);
    driver.arg("--endpoint").arg(format!("unix://{}", socket.display()));
    driver.arg("--share").arg(format!("sanity=directory:{}", share.display()));
    let mut driver = Server::start("csi-node", &mut driver, &log)?;
    driver.wait_ready(Duration::from_secs(10), || socket.exists())?;
    let mut cmd = Command::new(program);
    cmd.arg(format!("-csi.endpoint={}", socket.display()));
    cmd.arg(format!("-csi.mountdir={}", dir.path().join("mount").display()));
    cmd.arg(format!("-csi.stagingdir={}", dir.path().join("staging").display()));
    cmd.arg(format!("-csi.testvolumeparameters={}", parameters.display())).arg("-ginkgo.no-color");
    let out = cmd.current_dir(dir.path()).output().with_context(|| proc::shown(&cmd))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut counts = summary(&text).with_context(|| format!("csi-sanity said nothing of use: {text}"))?;
    if counts.failed > 0 || !out.status.success() {
        counts.failed = counts.failed.max(1);
        println!("{text}\n{}", tail(&log, 20));
    }
    if !driver.stop(Duration::from_secs(10)) {
        println!("FAILED the driver did not stop cleanly\n{}", tail(&log, 20));
        counts.failed += 1;
    }
    Ok(counts)
}

/// `FAIL! -- 55 Passed | 1 Failed | 1 Pending | 35 Skipped`
fn summary(text: &str) -> Option<Counts> {
    let line = text.lines().rev().find(|l| l.contains(" Passed | "))?;
    let number = |what: &str| -> Option<u64> {
        let part = line.split(['|', '-']).find(|p| p.trim_end().ends_with(what))?;
        part.split_whitespace().next()?.parse().ok()
    };
    let skipped = number("Pending")? + number("Skipped")?;
    Some(Counts { passed: number("Passed")?, failed: number("Failed")?, skipped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_last_line() {
        let text =
            "Ran 5 of 9 Specs in 0.5 seconds\nFAIL! -- 55 Passed | 1 Failed | 1 Pending | 35 Skipped\n";
        assert_eq!(summary(text), Some(Counts { passed: 55, failed: 1, skipped: 36 }));
        assert_eq!(summary("nothing"), None);
    }
}
