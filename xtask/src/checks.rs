//! `cargo xtask test`: every check that a change must pass, with the time of each.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cluster::Cluster;
use crate::report::{Counts, Steps};
use crate::{build, chart, clients, e2e, functional, fuzz, paths, proc, sanity, tools};

/// Runs all tests.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// With what takes long: tools that are built first (cargo-deny, cargo-machete), virtual machines by KubeVirt.
    #[arg(long)]
    all: bool,
    /// Leave out the tests that bring a server up.
    #[arg(long)]
    quick: bool,
}

impl Options {
    pub(crate) fn main(&self) -> ExitCode {
        let mut steps = Steps::default();
        steps.step("rustfmt", || {
            tools::rust(&["clippy", "rustfmt"], &[])?;
            check(proc::cargo().args(["fmt", "--all", "--check"]))
        });
        steps.step("clippy", || {
            // It builds what the fuzz targets link.
            tools::debian(&["g++"])?;
            let lint = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
            check(proc::cargo().args(lint))
        });
        let mut server: Result<PathBuf> = Err(anyhow::anyhow!("not built"));
        steps.step("build", || {
            server = build::debug();
            server.as_ref().map(|_| Counts::default()).map_err(|e| anyhow::anyhow!("{e:#}"))
        });
        steps.step("cargo test", cargo_test);
        steps.step("fuzz", || fuzz::Options::for_test().run());
        steps.step("typos", typos);
        self.cargo_tool(&mut steps, "cargo-machete", &["--skip-target-dir"]);
        self.cargo_tool(
            &mut steps,
            "cargo-deny",
            &["check", "--hide-inclusion-graph", "bans", "licenses", "sources"],
        );
        match (self.quick, &server) {
            (false, Ok(bin)) => {
                steps.step("chart", chart::run);
                servers(&mut steps, bin, self.all);
            }
            (true, _) => {
                steps.skip("chart", "--quick");
                steps.skip("real clients", "--quick");
                steps.skip("OpenStack Swift's functional tests", "--quick");
                steps.skip("csi-sanity", "--quick");
                steps.skip("Kubernetes", "--quick");
            }
            (false, Err(_)) => {
                steps.step("chart", chart::run);
                steps.step("real clients", || bail!("there is no server"));
                steps.step("OpenStack Swift's functional tests", || bail!("there is no server"));
            }
        }
        // Nothing may follow the closing line that it prints, also not an error.
        if steps.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn cargo_tool(&self, steps: &mut Steps, name: &str, args: &[&str]) {
        let there =
            if self.all { Some(tools::cargo_tool(name)) } else { tools::cargo_tool_if_built(name).map(Ok) };
        match there {
            Some(program) => {
                let run = || check(proc::cargo_tool(program?).args(args));
                steps.step(name, run);
            }
            None => steps.skip(name, "not built yet: --all builds it"),
        }
    }
}

fn servers(steps: &mut Steps, bin: &Path, all: bool) {
    steps.step("real clients", || clients::Options::default().run(bin, &[]));
    steps.step("OpenStack Swift's functional tests", || functional::Options::for_test().run(Some(bin)));
    if let Some(why) = Cluster::impossible() {
        steps.skip("csi-sanity", &why);
        steps.skip("Kubernetes", &why);
        return;
    }
    steps.step("csi-sanity", || sanity::run(&build::existing(paths::target().join("debug/csi-node"))?));
    steps.step("Kubernetes", || e2e::Options::for_test(all).run());
}

/// A command that passes or fails as a whole.
fn check(cmd: &mut Command) -> Result<Counts> {
    proc::run(cmd)?;
    Ok(Counts::PASS)
}

fn typos() -> Result<Counts> {
    let program = tools::python()?.join("typos");
    check(Command::new(program).current_dir(paths::repo()))
}

/// Runs the workspace's tests and adds up what each binary counted.
fn cargo_test() -> Result<Counts> {
    // The file systems that the durability tests make, and the clients and attributes that others use.
    tools::debian(&["attr", "btrfs-progs", "curl", "e2fsprogs", "xfsprogs"])?;
    let mut cmd = proc::cargo();
    // Without `fuzz`, as `build::debug`: what it asks of dependencies would have them all built a second time.
    cmd.args(["test", "--workspace", "--exclude", "fuzz", "--no-fail-fast"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = cmd.spawn().context("cannot start cargo")?;
    let out = child.stdout.take().context("no pipe")?;
    let mut counts = Counts::default();
    for line in std::io::BufRead::lines(std::io::BufReader::new(out)) {
        let line = line?;
        if let Some(c) = result_line(&line) {
            counts.add(c);
        }
        // Thousands of lines that say `ok` hide the one that does not.
        let noise = line.is_empty() || (line.starts_with("test ") && line.ends_with(" ... ok"));
        if !noise {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    if !status.success() && counts.failed == 0 {
        bail!("cargo test: {status}");
    }
    Ok(counts)
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn result_line(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |what: &str| -> Option<u64> {
        let part = rest.split([';', '.']).find(|p| p.trim_end().ends_with(what))?;
        part.trim().split(' ').next()?.parse().ok()
    };
    Some(Counts { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_test_binary_counted() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(result_line(line), Some(Counts { passed: 3, failed: 2, skipped: 1 }));
        assert_eq!(result_line("test a::b ... ok"), None);
    }
}
