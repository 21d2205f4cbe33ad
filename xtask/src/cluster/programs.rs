//! The programs of a node: from Debian, the Python package index, and built from Go modules.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{paths, tools};

const KUBERNETES: (&str, &str, &str) = ("v1.37.1", "1", "37");
const PARTS: [&str; 6] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"];
const PACKAGES: [&str; 6] =
    ["busybox-static", "containerd", "containernetworking-plugins", "iproute2", "nftables", "runc"];
const PROVISIONER: &str = "github.com/kubernetes-csi/external-provisioner/v6";

/// The Go module that pins them.
fn source() -> PathBuf {
    paths::repo().join("e2e/node")
}

/// Installs what is missing; the directory of the node's programs.
pub(crate) fn all() -> Result<PathBuf> {
    tools::debian(&PACKAGES)?;
    kubectl()?;
    let node = build("k8s-node", "Kubernetes, the first time about 17 minutes of CPU", ".")?;
    let dir = paths::cache().join("go/kubernetes");
    fs::create_dir_all(&dir)?;
    for part in PARTS {
        let link = dir.join(part);
        if fs::read_link(&link).ok().as_deref() != Some(node.as_path()) {
            let _ = fs::remove_file(&link);
            symlink(&node, &link)?;
        }
    }
    Ok(dir)
}

/// Installs what is missing, also of those that work on a node.
pub(crate) fn install_programs() -> Result<()> {
    for program in [all, helm, provisioner, resizer, sanity] {
        program()?;
    }
    Ok(())
}

/// kubectl, from the Python package index.
pub(crate) fn kubectl() -> Result<PathBuf> {
    Ok(tools::python()?.join("kubectl"))
}

/// helm.
pub(crate) fn helm() -> Result<PathBuf> {
    build("helm", "helm", "helm.sh/helm/v4/cmd/helm")
}

/// The CSI project's conformance tests.
pub(crate) fn sanity() -> Result<PathBuf> {
    build("csi-sanity", "csi-sanity", "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity")
}

/// The sidecar that makes volumes larger.
pub(crate) fn resizer() -> Result<PathBuf> {
    build("csi-resizer", "csi-resizer", "github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer")
}

/// The sidecar that turns claims into calls of the driver.
///
/// Release 6.3.0 does not compile with this Kubernetes for one statement, which serves an API that is no more; the
/// statement is left out of a copy.
pub(crate) fn provisioner() -> Result<PathBuf> {
    let pinned = pinned()? + PROVISIONER;
    let mut failed = None;
    let built = tools::go_program("csi-provisioner", "csi-provisioner", &pinned, |go, bin| {
        let copy = paths::cache().join("go/csi-provisioner.source");
        let modfile = without_dead_statement(go, &copy).unwrap_or_else(|error| {
            failed = Some(error);
            PathBuf::new()
        });
        let flag = format!("-modfile={}", modfile.display());
        go_build(go, bin, &flag, &format!("{PROVISIONER}/cmd/csi-provisioner"))
    });
    failed.map_or(built, Err)
}

/// Copies the provisioner's module to `copy` without the statement; a `go.mod` that takes it from there.
fn without_dead_statement(go: &Path, copy: &Path) -> Result<PathBuf> {
    use crate::proc::{output, run};
    let mut list = Command::new(go);
    list.args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", PROVISIONER]).current_dir(source());
    run(Command::new(go).args(["mod", "download", PROVISIONER]).current_dir(source()))?;
    let module = output(&mut list)?;
    let _ = fs::remove_dir_all(copy);
    run(Command::new("cp").args(["-r", "--no-preserve=mode", module.trim()]).arg(copy))?;
    let file = copy.join("cmd/csi-provisioner/csi-provisioner.go");
    let text = fs::read_to_string(&file)?;
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("NewV1beta1InformerBridge(")).collect();
    fs::write(&file, kept.join("\n"))?;
    let modfile = copy.with_extension("mod");
    let text = fs::read_to_string(source().join("go.mod"))?;
    fs::write(&modfile, format!("{text}\nreplace {PROVISIONER} => {}\n", copy.display()))?;
    fs::copy(source().join("go.sum"), copy.with_extension("sum"))?;
    Ok(modfile)
}

fn pinned() -> Result<String> {
    let read = |name| fs::read_to_string(source().join(name)).with_context(|| format!("e2e/node/{name}"));
    Ok(read("go.mod")? + &read("main.go")?)
}

fn build(name: &str, what: &str, package: &str) -> Result<PathBuf> {
    tools::go_program(name, what, &pinned()?, |go, bin| go_build(go, bin, "-mod=readonly", package))
}

fn go_build(go: &Path, bin: &Path, flag: &str, package: &str) -> Command {
    let (version, major, minor) = KUBERNETES;
    let mut link = "-s -w".to_owned();
    // Without them charts that ask for a version of Kubernetes see 0.0.0.
    for at in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor)] {
            let _ = write!(link, " -X {at}.{name}={value}");
        }
    }
    let mut cmd = Command::new(go);
    cmd.current_dir(source()).env("CGO_ENABLED", "0").env("GOFLAGS", "");
    cmd.args(["build", flag, "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace", "-ldflags", &link]);
    cmd.arg("-o").arg(bin).arg(package);
    cmd
}
