//! Runs pytest and reads what became of every test.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::proc::{dies_with_us, shown, tail};
use crate::report::Counts;

const PLUGIN: &str = include_str!("../data/lb_report.py");

/// What became of a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// A finished test.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) id: String,
    pub(crate) outcome: Outcome,
    pub(crate) reason: String,
    pub(crate) seconds: f64,
}

/// One run of pytest.
pub(crate) struct Run<'a> {
    /// The environment's directory of programs.
    pub(crate) python: &'a Path,
    /// Where to run, and what to give to pytest.
    pub(crate) dir: &'a Path,
    pub(crate) args: &'a [String],
    pub(crate) env: &'a [(&'a str, String)],
    /// Its log, the plugin and the results are written here under this name.
    pub(crate) out: &'a Path,
    pub(crate) name: &'a str,
    pub(crate) limit: Duration,
}

impl Run<'_> {
    /// Runs it; a failing test is no error, a pytest that cannot run is.
    pub(crate) fn tests(&self) -> Result<Vec<Test>> {
        fs::write(self.out.join("lb_report.py"), PLUGIN)?;
        let results = self.out.join(format!("{}.jsonl", self.name));
        let log = self.out.join(format!("{}.log", self.name));
        let _ = fs::remove_file(&results);
        let mut cmd = dies_with_us(self.python.join("python"));
        cmd.args(["-m", "pytest", "-q", "-p", "lb_report", "-p", "no:cacheprovider"]).args(self.args);
        cmd.current_dir(self.dir).env("PYTHONPATH", self.out).env("PYTHONDONTWRITEBYTECODE", "1");
        cmd.env("LB_REPORT", &results).envs(self.env.iter().map(|(k, v)| (k, v)));
        let code = self.wait(&mut cmd, &log)?;
        let tests = if results.exists() { read(&results)? } else { Vec::new() };
        // 0 all passed, 1 some failed, 5 nothing to run.
        if !matches!(code, Some(0 | 1 | 5)) && !tests.iter().any(|t| t.outcome == Outcome::Failed) {
            bail!("{}: pytest did not run to its end\n{}", self.name, tail(&log, 40));
        }
        Ok(tests)
    }

    fn wait(&self, cmd: &mut Command, log: &Path) -> Result<Option<i32>> {
        let file = File::create(log)?;
        let mut child = cmd
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", shown(cmd)))?;
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code());
            }
            if start.elapsed() > self.limit {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{}: not done after {:?}\n{}", self.name, self.limit, tail(log, 40));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn read(results: &Path) -> Result<Vec<Test>> {
    let text = fs::read_to_string(results)?;
    text.lines().map(|line| parse(line).with_context(|| format!("not a result: {line}"))).collect()
}

fn parse(line: &str) -> Option<Test> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| value.get(name)?.as_str().map(str::to_owned);
    let outcome = match text("outcome")?.as_str() {
        "passed" => Outcome::Passed,
        "skipped" => Outcome::Skipped,
        _ => Outcome::Failed,
    };
    Some(Test { id: text("id")?, outcome, reason: text("reason")?, seconds: value.get("seconds")?.as_f64()? })
}

/// Says which test failed, and how it began to say why.
pub(crate) fn print_failed(test: &Test) {
    println!("FAILED {}\n    {}", test.id, test.reason.lines().next().unwrap_or_default());
}

/// Prints those that failed and counts all.
pub(crate) fn report<'a>(tests: impl IntoIterator<Item = &'a Test> + Clone) -> Counts {
    tests.clone().into_iter().filter(|t| t.outcome == Outcome::Failed).for_each(print_failed);
    counts(tests)
}

/// Counts outcomes.
pub(crate) fn counts<'a>(tests: impl IntoIterator<Item = &'a Test>) -> Counts {
    let mut counts = Counts::default();
    for test in tests {
        match test.outcome {
            Outcome::Passed => counts.passed += 1,
            Outcome::Failed => counts.failed += 1,
            Outcome::Skipped => counts.skipped += 1,
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_of_the_plugin() {
        let test = parse(r#"{"outcome": "skipped", "reason": "no", "seconds": 0.5, "id": "a::b"}"#).unwrap();
        assert_eq!((test.id.as_str(), test.outcome), ("a::b", Outcome::Skipped));
        assert_eq!(counts([&test]), Counts::SKIP);
        assert!(parse("{}").is_none());
    }
}
