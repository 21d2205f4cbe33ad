//! `cargo xtask cluster restart`: kills one part of the node, which its first process then starts again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Cluster, within};

/// Kills the part and waits until another process of that name runs.
pub(super) fn restart(cluster: &Cluster, part: &str) -> Result<()> {
    let Some(holder) = cluster.holder() else { bail!("no cluster runs; start it: cargo xtask cluster up") };
    let [init] = children(holder)?[..] else { bail!("the node has no first process") };
    let (old, _) = find(init, part)?.with_context(|| {
        let parts: Vec<_> = names(init).unwrap_or_default().into_iter().map(|(_, name)| name).collect();
        format!("{part:?} is no part that runs; there are {}", parts.join(", "))
    })?;
    kill_process(old, Signal::KILL)?;
    let anew = || find(init, part).is_ok_and(|found| found.is_some_and(|(new, _)| new != old));
    if !within(Duration::from_secs(30), anew) {
        bail!("{part} was not started again");
    }
    println!("{part} was killed and started again");
    Ok(())
}

fn find(init: Pid, part: &str) -> Result<Option<(Pid, String)>> {
    Ok(names(init)?.into_iter().find(|(_, name)| name == part))
}

/// The parts that run, by the names they were started as: some are one program.
fn names(init: Pid) -> Result<Vec<(Pid, String)>> {
    let name = |pid: Pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let program = String::from_utf8_lossy(line.split(|byte| *byte == 0).next()?).into_owned();
        Some((pid, Path::new(&program).file_name()?.to_string_lossy().into_owned()))
    };
    Ok(children(init)?.into_iter().filter_map(name).collect())
}

fn children(of: Pid) -> Result<Vec<Pid>> {
    let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children"))?;
    Ok(list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
}
