//! `cargo xtask chart`: the chart, the definitions and the examples, judged by the programs that others use.

mod examples;
mod programs;
mod readme;
mod score;
#[cfg(test)]
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub(crate) use programs::install_programs;
pub(crate) use readme::write;

use crate::cluster::helm;
use crate::paths::{self, RunDir};
use crate::proc::{output, shown};
use crate::report::Counts;

const CHART: &str = "charts/lustre-bridge";
/// What the chart installs only where it is asked to.
const EVERYTHING: [&str; 6] = [
    "--set=metrics.podMonitor.enabled=true",
    "--set=metrics.rules.enabled=true",
    "--set=metrics.dashboard.enabled=true",
    "--set=metrics.podMonitor.labels.release=prometheus",
    "--api-versions=monitoring.coreos.com/v1/PodMonitor",
    "--api-versions=monitoring.coreos.com/v1/PrometheusRule",
];
/// Values that are refused, and what the message names.
const REFUSED: [(&str, &str); 5] = [
    ("metrics.rules.enabled=true", "metrics.rules.enabled is true, and this cluster knows no PrometheusRule"),
    ("metrics.podMonitor.enabled=true", "this cluster knows no PodMonitor"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
    ("csi.kubeletRoot=var/lib/kubelet", "kubeletRoot"),
    ("operator.replica=2", "replica"),
];

/// Judges them.
pub(crate) fn main() -> Result<()> {
    let counts = run()?;
    println!("{counts}");
    if counts.failed > 0 {
        bail!("{} checks failed", counts.failed);
    }
    Ok(())
}

/// A check by its name.
type Check = (&'static str, fn(&Rendered) -> Result<()>);

const CHECKS: [Check; 10] = [
    ("helm lint", lint),
    ("values that are refused", refused),
    ("promtool check rules", check_rules),
    ("promtool test rules", test_rules),
    ("an API server's judgement of definitions and examples", judge),
    ("an API server's judgement of monitors and rules", judge_monitoring),
    ("what the documentation shows", examples::judge),
    ("what older releases left", judge_older),
    ("kubeconform", conform),
    ("kube-score", score::judge),
];

/// Runs every check; one that fails stops none.
pub(crate) fn run() -> Result<Counts> {
    let rendered = Rendered::new()?;
    let mut counts = Counts::default();
    for (name, check) in CHECKS {
        match check(&rendered) {
            Ok(()) => counts.add(Counts::PASS),
            Err(error) => {
                println!("FAILED {name}\n{error:#}");
                counts.add(Counts { failed: 1, ..Counts::default() });
            }
        }
    }
    Ok(counts)
}

/// The chart's manifests, as files.
struct Rendered {
    dir: RunDir,
    /// As it comes.
    plain: PathBuf,
    /// With everything that it can install.
    everything: PathBuf,
}

impl Rendered {
    fn new() -> Result<Self> {
        let dir = RunDir::new("chart")?;
        let (plain, everything) = (dir.path().join("plain.yaml"), dir.path().join("everything.yaml"));
        fs::write(&plain, template(&[])?)?;
        fs::write(&everything, template(&EVERYTHING)?)?;
        Ok(Self { dir, plain, everything })
    }

    /// The rules alone, as Prometheus reads them.
    fn rules(&self) -> Result<PathBuf> {
        let one = "--show-only=templates/prometheus-rule.yaml";
        let object = template(&[&EVERYTHING[..], &[one]].concat())?;
        let file = self.dir.path().join("rules.yaml");
        fs::write(&file, specification(&object).context("the rules have no spec")?)?;
        Ok(file)
    }
}

/// What stands in an object's `spec`.
fn specification(object: &str) -> Option<String> {
    let (_, spec) = object.split_once("\nspec:\n")?;
    Some(spec.lines().flat_map(|line| [line.strip_prefix("  ").unwrap_or(line), "\n"]).collect())
}

fn template(args: &[&str]) -> Result<String> {
    template_of(CHART, args)
}

fn template_of(chart: &str, args: &[&str]) -> Result<String> {
    let mut cmd = Command::new(helm()?);
    cmd.args(["template", "lustre-bridge", chart, "--namespace", "lustre-bridge-system"]).args(args);
    output(cmd.current_dir(paths::repo()))
}

/// Runs a judge, whose words are shown if it says no.
fn ask(cmd: &mut Command) -> Result<()> {
    let out = cmd.current_dir(paths::repo()).output().with_context(|| shown(cmd))?;
    if out.status.success() {
        return Ok(());
    }
    bail!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn lint(_: &Rendered) -> Result<()> {
    let lint = || -> Result<Command> {
        let mut cmd = Command::new(helm()?);
        cmd.args(["lint", "--strict", "--quiet", CHART]);
        Ok(cmd)
    };
    ask(&mut lint()?)?;
    // The linter is told of no API: what needs one is judged as it is templated.
    ask(lint()?.arg("--set=metrics.dashboard.enabled=true,networkPolicy.enabled=false,crds.install=false"))
}

fn refused(_: &Rendered) -> Result<()> {
    for (value, said) in REFUSED {
        match template(&["--set", value]) {
            Err(error) if format!("{error:#}").contains(said) => {}
            Err(error) => bail!("{value} is refused without `{said}`: {error:#}"),
            Ok(_) => bail!("{value} is not refused"),
        }
    }
    Ok(())
}

fn check_rules(rendered: &Rendered) -> Result<()> {
    let lint = ["check", "rules", "--lint=all", "--lint-fatal"];
    ask(Command::new(programs::promtool()?).args(lint).arg(rendered.rules()?))
}

/// The tests name the rules as a file beside them.
fn test_rules(rendered: &Rendered) -> Result<()> {
    let rules = rendered.rules()?;
    let tests = rules.with_file_name("rules-test.yaml");
    fs::copy(paths::repo().join("e2e/chart/rules-test.yaml"), &tests)?;
    ask(Command::new(programs::promtool()?).args(["test", "rules"]).arg(tests))
}

fn judge(_: &Rendered) -> Result<()> {
    let what = ["crds/yaml", "crds/examples", "e2e/chart/refused.yaml"];
    ask(Command::new(programs::crd_check()?).arg("judge").args(what))
}

fn judge_monitoring(rendered: &Rendered) -> Result<()> {
    let definitions = programs::monitoring()?;
    ask(Command::new(programs::crd_check()?).arg("judge").args(definitions).arg(&rendered.everything))
}

/// The manifests of now take the place of the older, and the definitions of now take the older objects.
fn judge_older(rendered: &Rendered) -> Result<()> {
    for entry in fs::read_dir(paths::repo().join("e2e/fixtures"))? {
        let older = entry?.path();
        if !older.is_dir() {
            continue;
        }
        let chart = older.join("chart.tgz");
        let manifests = rendered.dir.path().join("older.yaml");
        fs::write(&manifests, template_of(path(&chart)?, &[])?)?;
        let upgrade = ["upgrade".as_ref(), manifests.as_os_str(), rendered.plain.as_os_str()];
        ask(Command::new(programs::crd_check()?).args(upgrade))?;
        ask(Command::new(programs::crd_check()?).args(["judge", "crds/yaml"]).arg(older))?;
    }
    Ok(())
}

fn conform(rendered: &Rendered) -> Result<()> {
    let schemas = rendered.dir.path().join("schemas");
    let mut make = Command::new(programs::crd_check()?);
    make.arg("schemas").arg(&schemas).arg(programs::openapi()?).arg("crds/yaml");
    ask(make.args(programs::monitoring()?))?;
    let location =
        format!("{}/{{{{.Group}}}}_{{{{.ResourceKind}}}}_{{{{.ResourceAPIVersion}}}}.json", path(&schemas)?);
    let mut cmd = Command::new(programs::kubeconform()?);
    cmd.args(["-strict", "-schema-location", &location]).args([&rendered.plain, &rendered.everything]);
    ask(cmd.arg("crds/examples"))
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_what_stands_in_spec() {
        let object = "kind: PrometheusRule\nspec:\n  groups:\n  - name: a\n\n    rules: []\n";
        assert_eq!(specification(object).unwrap(), "groups:\n- name: a\n\n  rules: []\n");
        assert_eq!(specification("kind: Pod\n"), None);
    }
}
