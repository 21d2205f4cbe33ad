//! One measurement: wrk with a list of paths against one server; large objects by a streaming client of our own.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::memory;
use super::procstat::{self, Watch};
use super::servers::Running;
use super::table::Row;
use crate::proc;

/// From this size on objects are streamed.
const LARGE: usize = 16 << 20;
const SCRIPT: &str = include_str!("../../data/load.lua");

/// What is asked of the server. (No HEAD: wrk waits for a body that never comes.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// Every object under a new name.
    Put,
    /// Objects at random out of some that are there.
    Get,
    /// What the PUTs before it left.
    Delete,
}

impl Op {
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Get => "GET",
            Self::Delete => "DELETE",
        }
    }
}

/// One measurement.
pub(crate) struct Wrk<'a> {
    pub(crate) server: &'a Running,
    pub(crate) op: Op,
    /// Bytes of an object.
    pub(crate) size: usize,
    pub(crate) connections: u32,
    pub(crate) time: Duration,
    pub(crate) scratch: &'a Path,
}

impl Wrk<'_> {
    pub(crate) fn run(&self) -> Result<Row> {
        if self.size >= LARGE { self.large() } else { self.wrk() }
    }

    fn wrk(&self) -> Result<Row> {
        let script = self.scratch.join("load.lua");
        fs::write(&script, SCRIPT)?;
        let list = self.scratch.join("paths.txt");
        let names = self.names()?;
        let text = names.iter().fold(String::new(), |mut text, name| {
            let _ = writeln!(text, "{}", self.server.target(self.op.method(), name));
            text
        });
        fs::write(&list, text)?;
        let mut cmd = Command::new("wrk");
        let threads = self.connections.min(2).to_string();
        cmd.args(["-t", &threads, "-c", &self.connections.to_string()]);
        cmd.args(["--timeout", "120s", "-d", &format!("{}s", self.time.as_secs()), "-s"]).arg(&script);
        cmd.arg(format!("http://127.0.0.1:{}", self.server.port())).arg("--").arg(&list).arg(&threads);
        let flag = |yes: bool| if yes { "1" } else { "0" };
        cmd.args([self.op.method(), &self.size.to_string(), flag(self.op == Op::Delete)]);
        cmd.arg(flag(self.op == Op::Get)).args(self.server.headers());
        let pids = self.server.pids();
        let watch = Watch::start(&pids);
        let before = procstat::cpu(&pids);
        let output = proc::output(&mut cmd)?;
        let cpu = procstat::cpu(&pids).saturating_sub(before);
        let row = self.row(&output, cpu, watch.peak())?;
        if self.op == Op::Put {
            self.server.set_stored(row.requests.min(names.len() as u64));
        }
        Ok(row)
    }

    fn names(&self) -> Result<Vec<String>> {
        let fresh = |n: u64| (0..n).map(|i| format!("p{}-{}-{i:07}", self.size, self.connections)).collect();
        match self.op {
            Op::Put => {
                let rate = match (self.size, self.server.signs()) {
                    (..=65_536, false) => 25_000,
                    (..=65_536, true) => 6_000,
                    _ => 2_500,
                };
                Ok(fresh(rate * self.time.as_secs()))
            }
            // The two threads do not go side by side, so that the last of the names may not be there: ask for few.
            Op::Delete => Ok(fresh((self.server.stored() / 2).max(1))),
            Op::Get => self.server.fill(self.size),
        }
    }

    /// Every connection moves some objects by streaming: wrk holds each body whole, once a connection.
    fn large(&self) -> Result<Row> {
        let rounds = match self.connections {
            1 => 8,
            ..=16 => 2,
            _ => 1,
        };
        let names = if self.op == Op::Get { self.server.fill(self.size)? } else { Vec::new() };
        let pids = self.server.pids();
        let watch = Watch::start(&pids);
        let (before, start) = (procstat::cpu(&pids), Instant::now());
        let one = |connection: u32, round: u32| -> Result<Duration> {
            let start = Instant::now();
            let n = (connection * rounds + round) as usize;
            match names.get(n % names.len().max(1)) {
                Some(name) => memory::get(self.server, name, self.size)?,
                None => memory::put(self.server, &format!("l{}-{n}", self.connections), self.size)?,
            }
            Ok(start.elapsed())
        };
        let times: Result<Vec<Vec<Duration>>> = thread::scope(|scope| {
            let one = &one;
            let all: Vec<_> = (0..self.connections)
                .map(|c| scope.spawn(move || (0..rounds).map(|round| one(c, round)).collect()))
                .collect();
            all.into_iter().map(|t| t.join().unwrap_or_else(|_| bail!("a thread was lost"))).collect()
        });
        let elapsed = start.elapsed();
        let cpu = procstat::cpu(&pids).saturating_sub(before);
        let mut times: Vec<Duration> = times?.into_iter().flatten().collect();
        times.sort();
        let at = |share: usize| times.get((times.len() * share / 100).min(times.len() - 1)).copied();
        let requests = times.len() as f64;
        Ok(Row {
            server: self.server.name(),
            op: self.op.method(),
            size: self.size,
            connections: self.connections,
            rate: requests / elapsed.as_secs_f64(),
            p50: at(50).unwrap_or_default(),
            p99: at(99).unwrap_or_default(),
            cpu: cpu.div_f64(requests),
            resident: watch.peak(),
            requests: times.len() as u64,
            failed: 0,
        })
    }

    fn row(&self, output: &str, cpu: Duration, resident: u64) -> Result<Row> {
        let line = output.lines().find_map(|l| l.strip_prefix("RESULT ")).context("wrk gave no result")?;
        let value: serde_json::Value = serde_json::from_str(line)?;
        let number = |name: &str| value.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let (requests, seconds) = (number("requests"), number("microseconds") as f64 / 1e6);
        let failed = number("errors") + number("status");
        if requests == 0 || failed * 10 > requests {
            bail!("{}: {requests} requests, {failed} failed\n{output}", self.op.method());
        }
        Ok(Row {
            server: self.server.name(),
            op: self.op.method(),
            size: self.size,
            connections: self.connections,
            requests,
            rate: requests as f64 / seconds,
            p50: Duration::from_micros(number("p50")),
            p99: Duration::from_micros(number("p99")),
            cpu: cpu.div_f64(requests as f64),
            resident,
            failed,
        })
    }
}
