//! Steps with their times, tables, and the closing line.

use std::time::{Duration, Instant};

use anyhow::Result;

/// What a step counted.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    pub(crate) const PASS: Self = Self { passed: 1, failed: 0, skipped: 0 };
    pub(crate) const SKIP: Self = Self { passed: 0, failed: 0, skipped: 1 };

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// The closing line of a test run; others read this exact form.
impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The steps of a run.
#[derive(Default)]
pub(crate) struct Steps(Vec<(String, Counts, Duration, String)>);

impl Steps {
    /// Runs a step. An error counts as one failure and does not stop the steps after it.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Counts>) -> bool {
        println!("\n== {name}");
        let start = Instant::now();
        let (counts, note) = match work() {
            Ok(counts) => (counts, String::new()),
            Err(error) => {
                println!("{error:#}");
                let first =
                    format!("{error:#}").lines().next().unwrap_or_default().chars().take(70).collect();
                (Counts { failed: 1, ..Counts::default() }, first)
            }
        };
        println!("-- {name}: {counts} in {}", seconds(start.elapsed()));
        self.0.push((name.to_owned(), counts, start.elapsed(), note));
        counts.failed == 0
    }

    /// A step that is not run, and why.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("\n== {name}: skipped, {why}");
        self.0.push((name.to_owned(), Counts::SKIP, Duration::ZERO, why.to_owned()));
    }

    /// Prints the table and the closing line; true if nothing failed.
    pub(crate) fn finish(&self) -> bool {
        let mut table = Table::new(&["step", "passed", "failed", "skipped", "time", ""]);
        let mut sum = Counts::default();
        let mut time = Duration::ZERO;
        for (name, counts, took, note) in &self.0 {
            sum.add(*counts);
            time += *took;
            table.row(row(name, *counts, *took, note));
        }
        table.row(row("all", sum, time, ""));
        println!("\n{}", table.text());
        println!("{sum}");
        sum.failed == 0
    }
}

fn row(name: &str, counts: Counts, took: Duration, note: &str) -> Vec<String> {
    vec![
        name.to_owned(),
        counts.passed.to_string(),
        counts.failed.to_string(),
        counts.skipped.to_string(),
        seconds(took),
        note.to_owned(),
    ]
}

/// `12.3 s` or `4:05 min`.
pub(crate) fn seconds(time: Duration) -> String {
    let s = time.as_secs();
    if s < 120 { format!("{:.1} s", time.as_secs_f64()) } else { format!("{}:{:02} min", s / 60, s % 60) }
}

/// Text in columns, in Markdown's form; columns of numbers stand to the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(ToString::to_string).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, i: usize| row.get(i).cloned().unwrap_or_default();
        let width = |i: usize| self.rows.iter().map(|r| cell(r, i).chars().count()).max().unwrap_or(0).max(3);
        let numeric = |i: usize| {
            self.rows.iter().skip(1).any(|r| cell(r, i).starts_with(|c: char| c.is_ascii_digit()))
                && self.rows.iter().skip(1).all(|r| {
                    cell(r, i).starts_with(|c: char| c.is_ascii_digit() || c == '-') || cell(r, i).is_empty()
                })
        };
        let mut out = String::new();
        for (n, row) in self.rows.iter().enumerate() {
            out.push('|');
            for i in 0..columns {
                let (text, width) = (cell(row, i), width(i));
                let padded =
                    if numeric(i) { format!(" {text:>width$} |") } else { format!(" {text:<width$} |") };
                out.push_str(&padded);
            }
            out.push('\n');
            if n == 0 {
                out.push('|');
                for i in 0..columns {
                    let dashes = "-".repeat(width(i) + 1);
                    out.push_str(&dashes);
                    out.push_str(if numeric(i) { ":|" } else { "-|" });
                }
                out.push('\n');
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_line_has_the_form_that_ci_reads() {
        assert_eq!(
            Counts { passed: 12, failed: 0, skipped: 3 }.to_string(),
            "12 passed, 0 failed, 3 skipped"
        );
    }

    #[test]
    fn a_failing_step_does_not_stop_the_next() {
        let mut steps = Steps::default();
        assert!(!steps.step("bad", || anyhow::bail!("no")));
        assert!(steps.step("good", || Ok(Counts::PASS)));
        assert!(!steps.finish());
    }

    #[test]
    fn columns_of_numbers_stand_to_the_right() {
        let mut table = Table::new(&["name", "n"]);
        table.row(vec!["a".into(), "1".into()]);
        table.row(vec!["long one".into(), "100".into()]);
        assert_eq!(
            table.text(),
            "| name     |   n |\n|----------|----:|\n| a        |   1 |\n| long one | 100 |\n"
        );
    }
}
