//! The judges: built from Go modules, and what they judge by.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, proc, tools};

const KUBE_SCORE: &str = "v1.20.0";
/// Whose definitions of monitors and rules there are; the sum is that of Go's checksum database.
const MONITORING: (&str, &str) = (
    "github.com/prometheus-operator/prometheus-operator@v0.92.0",
    "h1:tAbsod3+9sQsxDeAvLP27dAe9terToht5M+YdDwLGP0=",
);

/// The Go module that pins most of them.
fn source() -> PathBuf {
    paths::repo().join("e2e/chart")
}

/// Prometheus' tool for rules.
pub(super) fn promtool() -> Result<PathBuf> {
    build(
        "promtool",
        "promtool, the first time about a minute of CPU",
        "github.com/prometheus/prometheus/cmd/promtool",
    )
}

/// Manifests against schemas.
pub(super) fn kubeconform() -> Result<PathBuf> {
    build("kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform")
}

/// An API server's judgement without one: a program of ours around its code.
pub(super) fn crd_check() -> Result<PathBuf> {
    build("crd-check", "crd-check", ".")
}

/// What is good custom, and what is not. It needs an older Kubernetes than the others, so it has its own module.
pub(super) fn kube_score() -> Result<PathBuf> {
    tools::go_program(
        "kube-score",
        "kube-score, the first time about a minute of CPU",
        KUBE_SCORE,
        |go, bin| {
            let mut cmd = go_command(go);
            cmd.args([
                "install",
                "-trimpath",
                &format!("github.com/zegl/kube-score/cmd/kube-score@{KUBE_SCORE}"),
            ]);
            cmd.env("GOBIN", bin.parent().unwrap_or(bin));
            cmd
        },
    )
}

/// Installs what is missing.
pub(crate) fn install_programs() -> Result<()> {
    for program in [promtool, kubeconform, crd_check, kube_score] {
        program()?;
    }
    Ok(())
}

fn build(name: &str, what: &str, package: &str) -> Result<PathBuf> {
    let mut pinned = String::new();
    for file in ["go.mod", "files.go", "judge.go", "main.go", "schemas.go", "upgrade.go"] {
        pinned += &fs::read_to_string(source().join(file)).with_context(|| format!("e2e/chart/{file}"))?;
    }
    tools::go_program(name, what, &pinned, |go, bin| {
        let mut cmd = go_command(go);
        // The same flags as the node's, whose packages are then there. promtool asks nobody what to scrape.
        cmd.args([
            "build",
            "-mod=readonly",
            "-trimpath",
            "-buildvcs=false",
            "-tags",
            "grpcnotrace,remove_all_sd",
        ]);
        cmd.args(["-ldflags", "-s -w", "-o"]).arg(bin).arg(package).current_dir(source());
        cmd
    })
}

fn go_command(go: &Path) -> Command {
    let mut cmd = Command::new(go);
    cmd.env("CGO_ENABLED", "0").env("GOFLAGS", "");
    cmd
}

/// How the API of the Kubernetes that the tests run on is described.
pub(super) fn openapi() -> Result<PathBuf> {
    let go = tools::go()?;
    let node = paths::repo().join("e2e/node");
    let kubernetes = "k8s.io/kubernetes";
    proc::run(go_command(&go).args(["mod", "download", kubernetes]).current_dir(&node))?;
    let list = ["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", kubernetes];
    let dir = proc::output(go_command(&go).args(list).current_dir(&node))?;
    Ok(Path::new(dir.trim()).join("api/openapi-spec/v3"))
}

/// The definitions of `PodMonitor` and `PrometheusRule`.
pub(super) fn monitoring() -> Result<[PathBuf; 2]> {
    let (module, sum) = MONITORING;
    let go = tools::go()?;
    let text =
        proc::output(go_command(&go).args(["mod", "download", "-json", module]).current_dir(source()))?;
    let got: serde_json::Value = serde_json::from_str(&text)?;
    if got["Sum"] != sum {
        bail!("{module} has the sum {}, not {sum}", got["Sum"]);
    }
    let dir = Path::new(got["Dir"].as_str().context("no directory")?).join("example/prometheus-operator-crd");
    Ok(["podmonitors", "prometheusrules"].map(|kind| dir.join(format!("monitoring.coreos.com_{kind}.yaml"))))
}
