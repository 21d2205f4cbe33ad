//! `cargo xtask fuzz`: the decoders under libFuzzer, on the pinned toolchain.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::report::Counts;
use crate::{build, paths, proc, tools};

/// What cargo-fuzz asks of a nightly compiler, in words that a stable one takes.
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Named, so that build scripts and macros do not get the flags.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Fuzzes the decoders.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// One of `fuzz/fuzz_targets`. Default: each in turn.
    target: Option<String>,
    /// Run the target on this file alone.
    input: Option<PathBuf>,
    /// How long to run a target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How often to run a target, at most.
    #[arg(long)]
    runs: Option<u64>,
}

impl Options {
    /// Briefly, for `cargo xtask test`.
    pub(crate) fn for_test() -> Self {
        Self { target: None, input: None, seconds: 5, runs: Some(20_000) }
    }

    pub(crate) fn main(&self) -> Result<()> {
        let counts = self.run()?;
        println!("{counts}");
        if counts.failed > 0 {
            bail!("{} targets failed", counts.failed);
        }
        Ok(())
    }

    /// Builds all targets and runs those that are asked for.
    pub(crate) fn run(&self) -> Result<Counts> {
        let mut names = targets()?;
        if let Some(target) = &self.target {
            names.retain(|name| name == target);
        }
        if names.is_empty() {
            bail!("there is no such target; there are {}", targets()?.join(", "));
        }
        build_all()?;
        let mut counts = Counts::default();
        for name in names {
            match self.run_one(&name) {
                Ok(()) => counts.passed += 1,
                Err(error) => {
                    println!("FAILED {error:#}");
                    counts.failed += 1;
                }
            }
        }
        Ok(counts)
    }

    fn run_one(&self, name: &str) -> Result<()> {
        let binary = build::existing(work().join(TRIPLE).join("debug").join(name))?;
        if let Some(input) = &self.input {
            return proc::run(Command::new(binary).arg(input));
        }
        let [corpus, found] = ["corpus", "found"].map(|dir| work().join(dir).join(name));
        for dir in [&corpus, &found] {
            fs::create_dir_all(dir)?;
        }
        let mut cmd = Command::new(binary);
        // What the panic says stands in the last lines of the log then.
        cmd.env("RUST_BACKTRACE", "0");
        cmd.args(["-timeout=10", "-rss_limit_mb=1024", &format!("-max_total_time={}", self.seconds)]);
        cmd.args(self.runs.map(|runs| format!("-runs={runs}")));
        cmd.arg(format!("-artifact_prefix={}/", found.display()));
        // What is new goes to the first.
        cmd.args([&corpus, &seeds(name)]);
        let log = work().join(format!("{name}.log"));
        let outcome = proc::logged(&mut cmd, &log);
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if outcome.is_ok() {
            let last = text.lines().rfind(|line| line.contains("\tDONE ")).unwrap_or_default();
            println!("{name}: {}", last.split_whitespace().collect::<Vec<_>>().join(" "));
            return Ok(());
        }
        outcome.with_context(|| match text.rsplit_once("Test unit written to ") {
            Some((_, rest)) => format!(
                "{name}. To see it again: cargo xtask fuzz {name} {}\nWhen it is mended, keep that file in {}",
                rest.lines().next().unwrap_or_default(),
                seeds(name).display()
            ),
            None => name.to_owned(),
        })
    }
}

/// The target directory of instrumented builds, and what the fuzzers leave.
fn work() -> PathBuf {
    paths::target().join("fuzz")
}

/// Inputs that each run begins with.
fn seeds(name: &str) -> PathBuf {
    paths::repo().join("fuzz/seeds").join(name)
}

fn build_all() -> Result<()> {
    tools::debian(&["g++"])?;
    let mut cmd = proc::cargo();
    cmd.args(["build", "--package", "fuzz", "--bins", "--target", TRIPLE, "--target-dir"]).arg(work());
    proc::run(cmd.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f")))
}

/// The names of all targets, in order.
fn targets() -> Result<Vec<String>> {
    let sources = files(&paths::repo().join("fuzz/fuzz_targets"))?;
    Ok(sources
        .iter()
        .filter_map(|file| file.file_stem().and_then(OsStr::to_str))
        .map(str::to_owned)
        .collect())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_built_and_has_seeds() {
        let manifest = fs::read_to_string(paths::repo().join("fuzz/Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(!targets.is_empty());
        for name in targets {
            assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
            assert!(!files(&seeds(&name)).unwrap().is_empty(), "{name}");
        }
    }
}
