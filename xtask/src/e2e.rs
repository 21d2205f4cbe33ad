//! `cargo xtask e2e`: the tests on a real Kubernetes (e2e/tests).

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::build::Contents;
use crate::cluster::{helm, kubectl};
use crate::paths::{self, RunDir};
use crate::pytest::{Run, report};
use crate::report::Counts;
use crate::{build, images, kubernetes, kubevirt, tools};

/// Runs the tests on a Kubernetes: that of `KUBECONFIG`, with the chart installed, or one of its own.
#[derive(Args, Clone, Default)]
pub(crate) struct Options {
    /// Only tests whose name matches (pytest's -k).
    filter: Option<String>,
    /// With KubeVirt, and the tests that need it.
    #[arg(long)]
    kubevirt: bool,
    /// With the images as they are published, instead of what the other tests are built with.
    #[arg(long)]
    release: bool,
}

impl Options {
    /// Everything, with what needs KubeVirt if so asked.
    pub(crate) fn for_test(kubevirt: bool) -> Self {
        Self { kubevirt, ..Self::default() }
    }

    pub(crate) fn main(&self) -> Result<()> {
        build::debug()?;
        let counts = self.run()?;
        println!("{counts}");
        if counts.failed > 0 {
            bail!("{} tests failed", counts.failed);
        }
        Ok(())
    }

    fn images(&self, out: &Path) -> Result<Vec<PathBuf>> {
        if self.release {
            images::write_ours(out, build::MUSL, Contents::Unnamed)
        } else {
            images::write_debug(out)
        }
    }

    /// The programs must have been built: [`build::debug`].
    pub(crate) fn run(&self) -> Result<Counts> {
        let python = tools::python()?;
        let dir = RunDir::new("e2e")?;
        let given = env::var_os("KUBECONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
        let (own, kubeconfig) = if let Some(kubeconfig) = given {
            (None, kubeconfig)
        } else {
            let cluster = kubernetes::with_product(|out| self.images(out))?;
            if self.kubevirt {
                kubevirt::install(&cluster.0)?;
            }
            let kubeconfig = cluster.0.kubeconfig();
            (Some(cluster), kubeconfig)
        };
        let server = build::existing(paths::target().join("debug/object-server"))?;
        // A cluster of somebody else's is not disturbed.
        let restart = own.as_ref().map(|cluster| cluster.0.program()).unwrap_or_default();
        let guest = if self.kubevirt { kubevirt::guest_disk()?.display().to_string() } else { String::new() };
        let env = [
            ("LB_GUEST", guest),
            ("LB_XTASK", restart.display().to_string()),
            ("KUBECONFIG", kubeconfig.display().to_string()),
            ("LB_KUBECTL", kubectl()?.display().to_string()),
            ("LB_HELM", helm()?.display().to_string()),
            ("LB_SWIFT", python.join("swift").display().to_string()),
            ("LB_OBJECT_SERVER", server.display().to_string()),
            ("LB_SHARES", dir.path().join("shares").display().to_string()),
        ];
        let mut args = vec!["e2e/tests".to_owned(), "--tb=short".to_owned()];
        if let Some(filter) = &self.filter {
            args.extend(["-k".to_owned(), filter.clone()]);
        }
        let tests = Run {
            python: &python,
            dir: &paths::repo(),
            args: &args,
            env: &env,
            out: dir.path(),
            name: "e2e",
            limit: Duration::from_mins(20),
        }
        .tests()?;
        for test in &tests {
            println!("{:?} {:6.1} s {}", test.outcome, test.seconds, test.id);
        }
        let counts = report(&tests);
        if let (Some(cluster), true) = (&own, counts.failed > 0) {
            cluster.0.keep_logs();
        }
        drop(own);
        if counts.failed > 0 {
            println!("logs: {}", dir.keep().display());
        }
        Ok(counts)
    }
}
