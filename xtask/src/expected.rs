//! The list of functional tests that do not apply yet, with the reason of each.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;

use anyhow::{Result, bail};

use crate::paths;
use crate::pytest::{Outcome, Test};

/// Names by reason. In the file a line `# reason` stands above the names that it holds for.
#[derive(Default)]
pub(crate) struct Expected {
    reasons: BTreeMap<String, String>,
}

/// What a run says about the list.
#[derive(Default)]
pub(crate) struct Verdict<'a> {
    /// Failed without being listed.
    pub(crate) unexpected: Vec<&'a Test>,
    /// Listed, and passes.
    pub(crate) passing: Vec<&'a Test>,
    /// Listed, and there is no such test.
    pub(crate) gone: Vec<String>,
    /// Listed, and fails.
    pub(crate) known: u64,
}

impl Expected {
    pub(crate) const FILE: &'static str = "xtask/functional-expected.txt";
    const NEW: &'static str = "not looked at yet";

    pub(crate) fn read() -> Result<Self> {
        let path = paths::repo().join(Self::FILE);
        Self::parse(&if path.exists() { fs::read_to_string(path)? } else { String::new() })
    }

    fn parse(text: &str) -> Result<Self> {
        let mut reason = String::new();
        let mut reasons = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
            if let Some(words) = line.strip_prefix('#') {
                words.trim().clone_into(&mut reason);
            } else if reason.is_empty() {
                bail!("{}: {line} has no reason above it", Self::FILE);
            } else {
                reasons.insert(line.to_owned(), reason.clone());
            }
        }
        Ok(Self { reasons })
    }

    /// The file's text, ordered by reason and name.
    fn text(&self) -> String {
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, reason) in &self.reasons {
            by_reason.entry(reason).or_default().push(name);
        }
        let mut out = String::new();
        for (reason, names) in by_reason {
            let _ =
                write!(out, "{}# {reason}\n{}\n", if out.is_empty() { "" } else { "\n" }, names.join("\n"));
        }
        out
    }

    pub(crate) fn write(&self) -> Result<()> {
        Ok(fs::write(paths::repo().join(Self::FILE), self.text())?)
    }

    /// Makes the list what this run failed, keeping known reasons.
    pub(crate) fn update(&mut self, tests: &[Test]) {
        let old = std::mem::take(&mut self.reasons);
        for test in tests {
            let was = old.get(&test.id);
            if test.outcome == Outcome::Failed || (test.outcome == Outcome::Skipped && was.is_some()) {
                let reason = was.cloned().unwrap_or_else(|| Self::NEW.to_owned());
                self.reasons.insert(test.id.clone(), reason);
            }
        }
    }

    pub(crate) fn judge<'a>(&self, tests: &'a [Test]) -> Verdict<'a> {
        let mut verdict = Verdict::default();
        let by_name: HashMap<&str, &Test> = tests.iter().map(|t| (t.id.as_str(), t)).collect();
        for test in tests {
            match (test.outcome, self.reasons.contains_key(&test.id)) {
                (Outcome::Failed, false) => verdict.unexpected.push(test),
                (Outcome::Failed, true) => verdict.known += 1,
                (Outcome::Passed, true) => verdict.passing.push(test),
                _ => {}
            }
        }
        verdict.gone = self.reasons.keys().filter(|n| !by_name.contains_key(n.as_str())).cloned().collect();
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(id: &str, outcome: Outcome) -> Test {
        Test { id: id.to_owned(), outcome, reason: String::new(), seconds: 0.0 }
    }

    const LIST: &str = "# no symlinks yet\nf.py::a\nf.py::b\n\n# no versions yet\nf.py::c\n";

    #[test]
    fn a_test_off_the_list_that_fails_and_one_on_it_that_passes_are_both_told() {
        let tests = [
            test("f.py::a", Outcome::Failed),
            test("f.py::b", Outcome::Passed),
            test("f.py::d", Outcome::Failed),
        ];
        let verdict = Expected::parse(LIST).unwrap().judge(&tests);
        assert_eq!(verdict.known, 1);
        assert_eq!(verdict.passing[0].id, "f.py::b");
        assert_eq!(verdict.unexpected[0].id, "f.py::d");
        assert_eq!(verdict.gone, ["f.py::c"]);
    }

    #[test]
    fn update_keeps_reasons() {
        let mut list = Expected::parse(LIST).unwrap();
        assert_eq!(list.text(), LIST);
        list.update(&[test("f.py::c", Outcome::Failed), test("f.py::n", Outcome::Failed)]);
        assert_eq!(list.text(), "# no versions yet\nf.py::c\n\n# not looked at yet\nf.py::n\n");
    }

    #[test]
    fn a_name_without_a_reason_is_refused() {
        assert!(Expected::parse("f.py::a\n").is_err());
    }
}
