//! OpenStack Swift's own functional tests, against our server or against OpenStack Swift itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::expected::Expected;
use crate::paths::RunDir;
use crate::pytest::{self, Outcome, Run, Test, counts, print_failed, report};
use crate::report::{Counts, Table, seconds};
use crate::server::{self, Ours};
use crate::swift_peer::{Kind, STORAGE_DOMAIN, SwiftPeer};
use crate::{http, tools, users};

/// Where listings come from.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Lists {
    /// An index, with the syncer beside it.
    #[default]
    Index,
    /// The tree alone.
    Tree,
}

/// Runs OpenStack Swift's functional tests.
#[derive(Args, Clone, Default)]
pub(crate) struct Options {
    /// Only tests whose name matches (pytest's -k).
    #[arg(long)]
    filter: Option<String>,
    /// Serve this directory instead of a temporary one.
    #[arg(long)]
    root: Option<PathBuf>,
    /// Our server's binary. Default: built now.
    #[arg(long, conflicts_with = "peer")]
    bin: Option<PathBuf>,
    /// Test OpenStack Swift itself: shows that the harness is right.
    #[arg(long, conflicts_with = "root")]
    peer: bool,
    /// The S3 tests too.
    #[arg(long)]
    s3: bool,
    /// Where listings and counters come from.
    #[arg(long, value_enum, default_value_t, conflicts_with = "peer")]
    lists: Lists,
    /// Files of tests that run at once; most of the time they sleep.
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// Write the failures of this run to the list of what does not apply yet, keeping the reasons that it has.
    #[arg(long, conflicts_with_all = ["peer", "filter"])]
    write_expected: bool,
}

/// The longest first, so that the end of the run is short.
const LONGEST: [&str; 6] = [
    "tests.py",
    "test_object.py",
    "test_symlink.py",
    "test_slo.py",
    "test_container.py",
    "test_access_control.py",
];

impl Options {
    /// What `cargo xtask test` runs.
    pub(crate) fn for_test() -> Self {
        Self { jobs: 4, ..Self::default() }
    }

    /// Builds the server, runs, and fails when a test behaves otherwise than the list says.
    pub(crate) fn main(&self) -> Result<()> {
        let counts = self.run(self.bin.as_deref())?;
        println!("{counts}");
        if counts.failed > 0 {
            bail!("{} tests need a look", counts.failed);
        }
        Ok(())
    }

    /// Runs with the server given, or builds it. Failures are those that the list does not expect.
    pub(crate) fn run(&self, server: Option<&Path>) -> Result<Counts> {
        let start = Instant::now();
        let source = tools::swift_source()?;
        let shards = self.shards(&source)?;
        let mut everyone: Vec<users::User> =
            shards.iter().enumerate().flat_map(|(n, file)| users::shard(&tag(n, file))).collect();
        everyone.push(users::admin());
        let dir = RunDir::new("functional")?;
        let (target, port, _guard): (_, _, Box<dyn std::any::Any>) = if self.peer {
            let peer = SwiftPeer::on_own_disk("functional", Kind::Full, &everyone)?;
            (format!("OpenStack Swift {}", tools::SWIFT), peer.port(), Box::new(peer))
        } else {
            let bin = server.map_or_else(crate::build::release, |bin| Ok(bin.to_path_buf()))?;
            let (root, index) = (self.root.clone(), self.lists == Lists::Index);
            let setup = server::Setup { users: everyone.clone(), root, index, ..Default::default() };
            let ours = Ours::start(&bin, dir.path(), &setup)?;
            ("ours".to_owned(), ours.port(), Box::new(ours))
        };
        println!(
            "functional tests of OpenStack Swift {} against {target}, {} files",
            tools::SWIFT,
            shards.len()
        );
        create_accounts(port, &everyone)?;
        let results = self.all(&shards, &source, dir.path(), port)?;
        print_files(&results);
        let tests: Vec<Test> = results.into_values().flat_map(|(tests, _)| tests).collect();
        let counts = self.judge(&tests)?;
        println!("{} tests in {}", tests.len(), seconds(start.elapsed()));
        if counts.failed > 0 {
            println!("logs: {}", dir.keep().display());
        }
        Ok(counts)
    }

    /// The files of tests. Swift's `tests.py` is outside pytest's pattern and is named for that.
    fn shards(&self, source: &Path) -> Result<Vec<String>> {
        let mut files = vec!["test/functional/tests.py".to_owned()];
        let dirs: &[&str] =
            if self.s3 { &["test/functional", "test/functional/s3api"] } else { &["test/functional"] };
        for dir in dirs {
            for entry in fs::read_dir(source.join(dir))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("test_") && entry.path().extension().is_some_and(|e| e == "py") {
                    files.push(format!("{dir}/{name}"));
                }
            }
        }
        if !self.s3 {
            println!("not run: the tests of the S3 API (test/functional/s3api; --s3 runs them)");
        }
        let rank =
            |f: &str| LONGEST.iter().position(|l| f.ends_with(&format!("/{l}"))).unwrap_or(LONGEST.len());
        files.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
        Ok(files)
    }

    fn all(
        &self,
        files: &[String],
        source: &Path,
        dir: &Path,
        port: u16,
    ) -> Result<BTreeMap<String, (Vec<Test>, Duration)>> {
        let python = tools::python()?;
        let out = dir.join("results");
        fs::create_dir_all(&out)?;
        let queue = Mutex::new(files.iter().enumerate());
        let results = Mutex::new(BTreeMap::new());
        let errors = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some((n, file)) = next else { break };
                        let start = Instant::now();
                        match self.file(n, file, source, &out, &python, port) {
                            Ok(tests) => {
                                println!("  {file}: {} in {}", counts(&tests), seconds(start.elapsed()));
                                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                                results.insert(file.clone(), (tests, start.elapsed()));
                            }
                            Err(e) => errors.lock().unwrap_or_else(PoisonError::into_inner).push(e),
                        }
                    }
                });
            }
        });
        match errors.into_inner().unwrap_or_else(PoisonError::into_inner).pop() {
            Some(error) => Err(error),
            None => Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn file(
        &self,
        n: usize,
        file: &str,
        source: &Path,
        out: &Path,
        python: &Path,
        port: u16,
    ) -> Result<Vec<Test>> {
        let name = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".py").to_owned();
        let name = if file.contains("/s3api/") { format!("s3_{name}") } else { name };
        let conf = out.join(format!("{name}.conf"));
        fs::write(&conf, test_conf(&tag(n, file), port))?;
        let mut args = vec![file.to_owned()];
        if let Some(filter) = &self.filter {
            args.extend(["-k".to_owned(), filter.clone()]);
        }
        Run {
            python,
            dir: source,
            args: &args,
            env: &[("SWIFT_TEST_CONFIG_FILE", conf.display().to_string())],
            out,
            name: &name,
            limit: Duration::from_mins(25),
        }
        .tests()
        .with_context(|| file.to_owned())
    }

    /// Prints what failed and compares with the list.
    fn judge(&self, tests: &[Test]) -> Result<Counts> {
        let mut skips: BTreeMap<&str, u64> = BTreeMap::new();
        for test in tests.iter().filter(|t| t.outcome == Outcome::Skipped) {
            *skips.entry(&test.reason).or_default() += 1;
        }
        for (reason, n) in skips {
            println!("skipped {n}: {reason}");
        }
        if self.peer {
            return Ok(report(tests));
        }
        let mut expected = Expected::read()?;
        if self.write_expected {
            expected.update(tests);
            expected.write()?;
        }
        let verdict = expected.judge(tests);
        verdict.unexpected.iter().for_each(|test| print_failed(test));
        for test in &verdict.passing {
            println!("PASSES, so take it off {}: {}", Expected::FILE, test.id);
        }
        if self.filter.is_none() {
            for name in &verdict.gone {
                println!("DOES NOT EXIST, so take it off {}: {name}", Expected::FILE);
            }
        }
        println!(
            "as listed in {}: {} tests fail that do not apply yet (counted as skipped)",
            Expected::FILE,
            verdict.known
        );
        let gone = if self.filter.is_none() { verdict.gone.len() } else { 0 };
        let plain = counts(tests);
        Ok(Counts {
            passed: plain.passed - verdict.passing.len() as u64,
            failed: (verdict.unexpected.len() + verdict.passing.len() + gone) as u64,
            skipped: plain.skipped + verdict.known,
        })
    }
}

fn print_files(results: &BTreeMap<String, (Vec<Test>, Duration)>) {
    let mut table = Table::new(&["file", "passed", "failed", "skipped", "time"]);
    let mut sum = Counts::default();
    let mut time = Duration::ZERO;
    let mut row = |name: &str, c: Counts, t: Duration| {
        let cells = [name.to_owned(), c.passed.to_string(), c.failed.to_string(), c.skipped.to_string()];
        table.row(cells.into_iter().chain([seconds(t)]).collect());
    };
    for (file, (tests, took)) in results {
        let c = pytest::counts(tests);
        sum.add(c);
        time += *took;
        row(file, c, *took);
    }
    row("all", sum, time);
    println!("{}", table.text());
    let mut slow: Vec<&Test> = results.values().flat_map(|(t, _)| t).collect();
    slow.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    for test in slow.iter().take(3) {
        println!("slowest: {:.1} s {}", test.seconds, test.id);
    }
}

/// The tests take for granted that the accounts exist.
fn create_accounts(port: u16, everyone: &[users::User]) -> Result<()> {
    for user in everyone.iter().filter(|u| u.groups.iter().any(|g| g == ".admin")) {
        let (token, path) = http::log_in(port, &format!("{}:{}", user.account, user.name), &user.key)?;
        http::ok("POST", port, &path, &[("X-Auth-Token", &token)], &[])?;
    }
    Ok(())
}

/// A name for a shard that is safe in an account's name.
fn tag(n: usize, file: &str) -> String {
    if file.ends_with("/test_xxe_injection.py") {
        return String::new(); // this one knows its account by name
    }
    char::from(b'a' + u8::try_from(n % 26).unwrap_or(0)).to_string().repeat(n / 26 + 1)
}

fn test_conf(tag: &str, port: u16) -> String {
    format!(
        "[func_test]\n\
         auth_uri = http://127.0.0.1:{port}/auth/v1.0\n\
         s3_storage_url = http://127.0.0.1:{port}/\n\
         account = test{tag}\nusername = tester\npassword = testing\n\
         s3_access_key = test{tag}:tester\ns3_secret_key = testing\n\
         s3_access_key2 = test{tag}:tester2\ns3_secret_key2 = testing2\n\
         s3_access_key3 = test{tag}:tester3\ns3_secret_key3 = testing3\n\
         account2 = test{tag}2\nusername2 = tester2\npassword2 = testing2\n\
         username3 = tester3\npassword3 = testing3\n\
         account5 = test{tag}5\nusername5 = tester5\npassword5 = testing5\n\
         service_prefix = SERVICE\n\
         account6 = test{tag}\nusername6 = tester6\npassword6 = testing6\n\
         storage_domain = {STORAGE_DOMAIN}\ncollate = C\n\
         [s3api_test]\nendpoint = http://127.0.0.1:{port}\nregion = us-east-1\n\
         access_key1 = test{tag}:tester\nsecret_key1 = testing\n\
         access_key2 = test{tag}:tester2\nsecret_key2 = testing2\n\
         access_key3 = test{tag}:tester3\nsecret_key3 = testing3\n\
         s3_acl_tests_enabled = true\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_users_of_its_own() {
        let names: std::collections::HashSet<String> = (0..60)
            .flat_map(|n| users::shard(&tag(n, "f.py")))
            .map(|u| format!("{}:{}", u.account, u.name))
            .collect();
        assert_eq!(names.len(), 60 * 6);
    }
}
