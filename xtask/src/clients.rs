//! The tests with real clients (tests/clients) against a server of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::paths::RunDir;
use crate::pytest::{Run, report};
use crate::report::Counts;
use crate::server::{Ours, Setup};
use crate::swift_peer::{Kind, SwiftPeer};
use crate::users::User;
use crate::{build, paths, proc, tools};

/// Runs the tests with real clients.
#[derive(Args, Clone, Default)]
pub(crate) struct Options {
    /// Only tests whose name matches (pytest's -k).
    #[arg(long)]
    filter: Option<String>,
    /// Our server's binary. Default: built now.
    #[arg(long, conflicts_with = "peer")]
    bin: Option<PathBuf>,
    /// Test OpenStack Swift itself: shows that the tests are right. What looks at files is skipped.
    #[arg(long)]
    peer: bool,
    /// The directory to serve, on the file system of your choice.
    #[arg(long, conflicts_with = "peer")]
    root: Option<PathBuf>,
}

/// A server for the tests, stopped when dropped.
pub(crate) enum Target {
    Ours(Ours),
    Peer(SwiftPeer),
}

impl Options {
    pub(crate) fn main(&self) -> Result<()> {
        let bin = match (self.peer, &self.bin) {
            (true, _) => PathBuf::new(),
            (false, Some(bin)) => bin.clone(),
            (false, None) => build::debug()?,
        };
        let counts = self.run(&bin, &[])?;
        println!("{counts}");
        if counts.failed > 0 {
            bail!("{} tests failed", counts.failed);
        }
        Ok(())
    }

    /// Runs with the server `bin`, started with `env`.
    pub(crate) fn run(&self, bin: &Path, env: &[(&'static str, String)]) -> Result<Counts> {
        tools::debian(&["curl"])?;
        let (python, rclone) = (tools::python()?, tools::rclone()?);
        let dir = RunDir::new("clients")?;
        let mut target = self.start(bin, dir.path(), env)?;
        let (port, root) = match &target {
            Target::Ours(ours) => (ours.port(), Some(ours.root().display().to_string())),
            Target::Peer(peer) => (peer.port(), None),
        };
        let mut env = vec![
            ("LB_AUTH", format!("http://127.0.0.1:{port}/auth/v1.0")),
            ("LB_USER", "test:tester".to_owned()),
            ("LB_KEY", "testing".to_owned()),
            ("LB_RCLONE", rclone.display().to_string()),
        ];
        env.extend(root.map(|root| ("LB_ROOT", root)));
        let mut args = vec!["tests/clients".to_owned(), "--tb=short".to_owned()];
        if let Some(filter) = &self.filter {
            args.extend(["-k".to_owned(), filter.clone()]);
        }
        let tests = Run {
            python: &python,
            dir: &paths::repo(),
            args: &args,
            env: &env,
            out: dir.path(),
            name: "clients",
            limit: Duration::from_mins(15),
        }
        .tests()?;
        let mut counts = report(&tests);
        if let Target::Ours(ours) = &mut target
            && !ours.stop()
        {
            println!("FAILED the server did not stop cleanly\n{}", proc::tail(ours.log(), 20));
            counts.failed += 1;
        }
        if counts.failed > 0 {
            println!("logs: {}", dir.keep().display());
        }
        Ok(counts)
    }

    fn start(&self, bin: &Path, dir: &Path, env: &[(&'static str, String)]) -> Result<Target> {
        let users = vec![User::new("test", "tester", "testing", &[".admin"])];
        let dir = dir.join("server");
        std::fs::create_dir_all(&dir)?;
        if self.peer {
            return Ok(Target::Peer(SwiftPeer::on_own_disk("clients", Kind::Full, &users)?));
        }
        let (root, env) = (self.root.clone(), env.to_vec());
        let setup = Setup { users, root, env, assemble: true, ..Setup::default() };
        Ok(Target::Ours(Ours::start(bin, &dir, &setup)?))
    }
}
