//! `cargo xtask coverage`: line coverage of the workspace's tests and of the server under the real clients.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::report::Table;
use crate::{build, clients, paths, proc, tools};

/// Least percentage of lines, by crate: in whole percent, and no more than was measured last. A crate that is not here
/// has no threshold.
const LEAST: [(&str, f64); 6] = [
    ("crds", 100.0),
    ("csi-node", 96.0),
    ("lustre", 94.0),
    ("namespace", 95.0),
    ("object-server", 95.0),
    ("operator", 97.0),
];

/// Measures coverage.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// The workspace's tests only, not the real clients.
    #[arg(long)]
    unit: bool,
    /// Name the lines of each file that no test reaches.
    #[arg(long)]
    missing: bool,
}

impl Options {
    pub(crate) fn main(&self) -> Result<()> {
        tools::rust(&["llvm-tools"], &[])?;
        let tool = tools::cargo_tool("cargo-llvm-cov")?;
        let environment = environment(&tool)?;
        let profile = environment.get("LLVM_PROFILE_FILE").cloned().unwrap_or_default();
        let with = |cmd: &mut Command| {
            cmd.envs(&environment);
        };
        let mut clean = proc::cargo_tool(&tool);
        with(clean.args(["llvm-cov", "clean", "--workspace"]));
        proc::run(&mut clean)?;
        for arguments in [&["build", "--all-targets"][..], &["test"]] {
            let mut cmd = proc::cargo();
            with(cmd.args(arguments).args(["--workspace", "--exclude", "fuzz"]));
            proc::run(&mut cmd)?;
        }
        if !self.unit {
            let bin = build::existing(paths::target().join("coverage/debug/object-server"))?;
            let counts = clients::Options::default().run(&bin, &[("LLVM_PROFILE_FILE", profile)])?;
            println!("real clients: {counts}");
        }
        let file = paths::target().join("coverage.json");
        let mut report = proc::cargo_tool(&tool);
        with(report.args(["llvm-cov", "report", "--json", "--output-path"]).arg(&file));
        proc::run(&mut report)?;
        let value: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        let crates = by_crate(&value, &paths::repo().display().to_string())?;
        if self.missing {
            let mut text = proc::cargo_tool(&tool);
            with(text.args(["llvm-cov", "report", "--show-missing-lines"]));
            proc::run(&mut text)?;
        }
        judge(&crates)
    }
}

/// What the tool sets for a build of ours (`export NAME='value'` lines). The target directory is its own, so that
/// plain builds stay as they are.
fn environment(tool: &std::path::Path) -> Result<BTreeMap<String, String>> {
    let target = paths::target().join("coverage");
    let mut show = proc::cargo_tool(tool);
    show.args(["llvm-cov", "show-env", "--sh"]).env("CARGO_TARGET_DIR", &target);
    let mut all: BTreeMap<String, String> = proc::output(&mut show)?.lines().filter_map(assignment).collect();
    all.insert("CARGO_TARGET_DIR".to_owned(), target.display().to_string());
    Ok(all)
}

fn assignment(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim().strip_prefix("export ")?.split_once('=')?;
    Some((name.to_owned(), value.trim_matches('\'').trim_matches('"').to_owned()))
}

/// Lines (there, reached) of each crate.
fn by_crate(report: &Value, repo: &str) -> Result<BTreeMap<String, (u64, u64)>> {
    let files =
        report.pointer("/data/0/files").and_then(Value::as_array).context("no files in the report")?;
    let mut crates = BTreeMap::new();
    for file in files {
        let name = file.get("filename").and_then(Value::as_str).unwrap_or_default();
        let Some(name) = name.strip_prefix(repo).map(|n| n.trim_start_matches('/')) else { continue };
        let Some((name, _)) = name.split_once('/') else { continue };
        let number =
            |what: &str| file.pointer(&format!("/summary/lines/{what}")).and_then(Value::as_u64).unwrap_or(0);
        let entry = crates.entry(name.to_owned()).or_insert((0, 0));
        *entry = (entry.0 + number("count"), entry.1 + number("covered"));
    }
    Ok(crates)
}

fn judge(crates: &BTreeMap<String, (u64, u64)>) -> Result<()> {
    let mut table = Table::new(&["crate", "lines", "reached", "percent", "least"]);
    let mut low = Vec::new();
    for (name, (lines, reached)) in crates {
        let percent = *reached as f64 * 100.0 / (*lines).max(1) as f64;
        let least = LEAST.iter().find(|(n, _)| n == name).map(|(_, least)| *least);
        if least.is_some_and(|least| percent < least) {
            low.push(format!("{name} ({percent:.1} %)"));
        }
        table.row(vec![
            name.clone(),
            lines.to_string(),
            reached.to_string(),
            format!("{percent:.1}"),
            least.map_or_else(String::new, |l| format!("{l:.0}")),
        ]);
    }
    println!("\n{}", table.text());
    if !low.is_empty() {
        bail!("too few lines are reached in {}", low.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_assignments_of_a_shell() {
        assert_eq!(assignment("export A='b c'"), Some(("A".into(), "b c".into())));
        assert_eq!(assignment("# no"), None);
    }

    #[test]
    fn sums_files_by_crate_and_holds_the_threshold() {
        let report = serde_json::json!({"data": [{"files": [
            {"filename": "/r/namespace/src/a.rs", "summary": {"lines": {"count": 10, "covered": 9}}},
            {"filename": "/r/namespace/src/b.rs", "summary": {"lines": {"count": 10, "covered": 9}}},
            {"filename": "/elsewhere/x.rs", "summary": {"lines": {"count": 10, "covered": 0}}},
        ]}]});
        let crates = by_crate(&report, "/r").unwrap();
        assert_eq!(crates, BTreeMap::from([("namespace".to_owned(), (20, 18))]));
        assert!(judge(&crates).is_err());
        assert!(judge(&BTreeMap::from([("namespace".to_owned(), (20, 19))])).is_ok());
    }
}
