//! Other programs: run to the end, or kept as servers that stop with us.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A command as one would type it.
pub(crate) fn shown(cmd: &Command) -> String {
    let mut line = cmd.get_program().to_string_lossy().into_owned();
    for arg in cmd.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// Runs a command whose output goes to the terminal.
pub(crate) fn run(cmd: &mut Command) -> Result<()> {
    let status = cmd.stdin(Stdio::null()).status().with_context(|| format!("cannot start {}", shown(cmd)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(cmd));
    }
    Ok(())
}

/// Runs a command whose output goes to `log`; the end of it is part of the error.
pub(crate) fn logged(cmd: &mut Command, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = cmd
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("cannot start {}", shown(cmd)))?;
    if !status.success() {
        bail!("{} failed: {status}\n{}", shown(cmd), tail(log, 30));
    }
    Ok(())
}

/// Runs a command and returns what it printed.
pub(crate) fn output(cmd: &mut Command) -> Result<String> {
    let out = cmd.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", shown(cmd)))?;
    if !out.status.success() {
        bail!("{} failed: {}\n{}", shown(cmd), out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The last lines of a file.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read(file).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// `cargo` without the variables that the outer `cargo run` set: build scripts watch some of them and would
/// run again in every call.
pub(crate) fn cargo() -> Command {
    cargo_tool("cargo")
}

/// The same for another program of the Rust toolchain.
pub(crate) fn cargo_tool(program: impl AsRef<OsStr>) -> Command {
    let mut cmd = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let set_by_run = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if set_by_run.iter().any(|p| text.starts_with(p)) || text == "CARGO_PRIMARY_PACKAGE" {
            cmd.env_remove(&name);
        }
    }
    cmd.current_dir(crate::paths::repo());
    cmd
}

/// Finds a program in PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|p| p.is_file())
}

/// A command that the kernel stops when we die, however we die.
pub(crate) fn dies_with_us(program: impl AsRef<OsStr>) -> Command {
    let mut cmd = Command::new("setpriv");
    cmd.args(["--pdeathsig", "TERM", "--"]).arg(program);
    cmd
}

/// A server in the background, in its own process group; stopped when dropped.
pub(crate) struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `cmd`, made by [`dies_with_us`], with its output in `log`. Call it from a thread that outlives the
    /// server: the kernel's death signal goes by thread.
    pub(crate) fn start(name: &str, cmd: &mut Command, log: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = cmd
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", shown(cmd)))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_path_buf() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until `ready` says so; fails when the server ends or `limit` passes first.
    pub(crate) fn wait_ready(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at its start: {status}\n{}", self.name, tail(&self.log, 30));
            }
            if start.elapsed() > limit {
                bail!("{} is not ready after {limit:?}\n{}", self.name, tail(&self.log, 30));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Whether it still runs.
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGTERM, then SIGKILL to its group after `limit`. True if it ended by itself with success.
    pub(crate) fn stop(&mut self, limit: Duration) -> bool {
        let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) else { return false };
        if self.alive() {
            let _ = kill_process(pid, Signal::TERM);
        }
        let start = Instant::now();
        while self.alive() {
            if start.elapsed() > limit {
                let _ = kill_process_group(pid, Signal::KILL);
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.child.wait().is_ok_and(|s| s.success())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(10));
    }
}

/// A TCP port of the loopback interface that nobody listens on.
pub(crate) fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
