//! `cargo xtask bench objects`: our server beside others, one run, one file system, one load generator.
//! `cargo xtask bench csi`: volumes beside the bare system calls.
//! `cargo xtask bench index`: the index of objects beside a walk.
//! `cargo xtask bench operator`: the operator's memory and writes when there is nothing to do.

mod floor;
mod load;
mod memory;
mod procstat;
mod servers;
mod sigv4;
mod table;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::disk::Disk;
use crate::report::seconds;
use crate::{paths, tools};
use load::{Op, Wrk};
use servers::{Name, Running};
use table::Row;

/// What to measure.
#[derive(Subcommand, Clone)]
pub(crate) enum Bench {
    /// Object servers under load: requests/s, MB/s, latency, CPU per request, memory.
    Objects(Options),
    /// Volumes: calls/s beside the bare system calls, memory. Needs root.
    Csi(Csi),
    /// The index of objects: scan, listings, changes/s, what it adds to a PUT, memory.
    Index(IndexOptions),
    /// The operator with 500 shares and 500 bridges at rest: memory, writes.
    Operator,
}

/// Measures the CSI driver.
#[derive(Args, Clone)]
pub(crate) struct Csi {
    /// Where the volumes go. Default: XFS in a file of its own.
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Csi {
    fn run(&self) -> Result<()> {
        let disk = Disk::open("bench-csi", self.dir.as_deref())?;
        println!("volumes on {} ({})", disk.dir().display(), disk.kind());
        crate::proc::run(cargo_bench("csi-node", "csi").env("TMPDIR", disk.dir()))
    }
}

/// Measures the index.
#[derive(Args, Clone)]
pub(crate) struct IndexOptions {
    /// Objects in one container, and once more in a deep tree.
    #[arg(long, default_value_t = 1_000_000)]
    objects: u64,
    /// Where the files go. Default: XFS in a file of its own.
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl IndexOptions {
    fn run(&self) -> Result<()> {
        let disk = Disk::open("bench-index", self.dir.as_deref())?;
        println!("files on {} ({})", disk.dir().display(), disk.kind());
        let mut bench = cargo_bench("namespace", "index");
        bench.env("TMPDIR", disk.dir()).env("INDEX_BENCH_OBJECTS", self.objects.to_string());
        crate::proc::run(&mut bench)
    }
}

fn cargo_bench(package: &str, bench: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(["bench", "--locked", "--package", package, "--bench", bench]).current_dir(paths::repo());
    command
}

/// Measures object servers.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// 4 KiB and 1 MiB at 16 connections only, two seconds each.
    #[arg(long)]
    quick: bool,
    /// Where the objects go. Default: XFS in a file of its own.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The servers to run, in this order (comma-separated).
    #[arg(long, value_delimiter = ',')]
    only: Vec<Name>,
    /// Seconds of load for each figure.
    #[arg(long)]
    seconds: Option<u64>,
    /// Our server's binary. Default: built now.
    #[arg(long)]
    bin: Option<PathBuf>,
}

impl Bench {
    pub(crate) fn main(&self) -> Result<()> {
        match self {
            Self::Objects(options) => options.run(),
            Self::Csi(csi) => csi.run(),
            Self::Index(index) => index.run(),
            Self::Operator => crate::proc::run(&mut cargo_bench("operator", "operator")),
        }
    }
}

/// One size of object, and the loads that it is measured under.
struct Plan {
    size: usize,
    connections: Vec<u32>,
    ops: Vec<Op>,
}

impl Options {
    fn plans(&self) -> Vec<Plan> {
        let small = vec![Op::Put, Op::Get, Op::Delete];
        let large = vec![Op::Put, Op::Get];
        if self.quick {
            return vec![
                Plan { size: 4 << 10, connections: vec![16], ops: small },
                Plan { size: 1 << 20, connections: vec![16], ops: large },
            ];
        }
        let all = || vec![1, 16, 64];
        vec![
            Plan { size: 4 << 10, connections: all(), ops: small },
            Plan { size: 1 << 20, connections: all(), ops: large.clone() },
            Plan { size: 64 << 20, connections: all(), ops: large },
        ]
    }

    fn run(&self) -> Result<()> {
        let start = Instant::now();
        tools::debian(&["wrk", "nginx-light", "memcached"])?;
        let names = if self.only.is_empty() { Name::ALL.to_vec() } else { self.only.clone() };
        let bin = match (&self.bin, names.iter().any(|n| n.is_ours())) {
            (Some(bin), _) => Some(bin.clone()),
            (None, true) => Some(crate::build::release()?),
            (None, false) => None,
        };
        let disk = Disk::open("bench", self.dir.as_deref())?;
        println!("objects on {} ({})", disk.dir().display(), disk.kind());
        let time = Duration::from_secs(self.seconds.unwrap_or(if self.quick { 2 } else { 5 }));
        let floors = floor::measure(disk.dir(), time)?;
        for line in &floors {
            println!("{line}");
        }
        let mut rows: Vec<Row> = Vec::new();
        let mut memories = Vec::new();
        for name in names {
            let dir = paths::RunDir::under(disk.dir(), name.text())?;
            println!("\n== {} ({})", name.text(), name.durability());
            let server = Running::start(name, dir.path(), bin.as_deref())?;
            for plan in self.plans() {
                measure(&server, &plan, dir.path(), time, &mut rows)
                    .with_context(|| format!("{} with {} bytes", name.text(), plan.size))?;
            }
            let size = if self.quick { 8 << 20 } else { 64 << 20 };
            let memory = memory::measure(&server, size)?;
            println!("  {memory}");
            memories.push(memory);
        }
        finish(&rows, &floors, &memories, disk.kind())?;
        println!("measured in {}", seconds(start.elapsed()));
        Ok(())
    }
}

/// Prints the tables and leaves them in the target directory.
fn finish(rows: &[Row], floors: &[floor::Floor], memories: &[memory::Memory], disk: &str) -> Result<()> {
    let text = table::text(rows, floors, memories, disk);
    println!("\n{text}");
    std::fs::create_dir_all(paths::target())?;
    let file = paths::target().join("bench-objects.md");
    std::fs::write(&file, &text)?;
    println!("written to {}", file.display());
    Ok(())
}

fn measure(
    server: &Running,
    plan: &Plan,
    scratch: &std::path::Path,
    time: Duration,
    rows: &mut Vec<Row>,
) -> Result<()> {
    for &connections in &plan.connections {
        for &op in &plan.ops {
            let wrk = Wrk { server, op, size: plan.size, connections, time, scratch };
            let row = wrk.run()?;
            println!("  {}", row.line());
            rows.push(row);
        }
        server.clear()?;
    }
    Ok(())
}
