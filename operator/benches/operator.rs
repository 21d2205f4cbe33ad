//! What the operator takes when everything is as it should be: memory, and writes to the API server.
//! `cargo xtask bench operator`.
//!
//! The API server of the tests is in this process and speaks HTTP; the operator's own program is another process, so
//! that its memory is its own.
#![allow(
    clippy::unwrap_used,
    clippy::similar_names,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    dead_code
)]

#[path = "../tests/fake/mod.rs"]
mod fake;
#[path = "../tests/harness/mod.rs"]
mod harness;

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use fake::{Server, wire};
use harness::{Cluster, conditions, crowd};

/// Shares, and as many bridges.
const COUNT: usize = 500;
/// How long nothing happens.
const REST: Duration = Duration::from_mins(2);
/// No step takes longer.
const PATIENCE: Duration = Duration::from_mins(10);

fn main() {
    // `cargo test --all-targets` starts it too.
    if std::env::args().any(|argument| argument == "--bench") {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run());
    }
}

async fn run() {
    let server = Server::default();
    crowd(&server, COUNT);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("kubeconfig");
    fs::write(&config, wire::serve(server.clone()).await).unwrap();
    println!("{COUNT} shares of three grants and a storage class, {COUNT} bridges");

    let operator = Operator::start(&config);
    let began = Instant::now();
    settle(&server).await;
    println!("everything made and ready after {:.1} s", began.elapsed().as_secs_f64());
    println!("{} objects in the API server", server.count());
    operator.rest(&server, "at rest").await;
    drop(operator);

    server.delete("leases", "lustre-bridge-system", "lustre-bridge-operator");
    let operator = Operator::start(&config);
    until("the next instance leads", || !server.all("leases").is_empty()).await;
    operator.rest(&server, "at rest, after a restart").await;
}

/// Has the operator make everything, and does what the rest of a cluster does about it.
async fn settle(server: &Server) {
    let said = |plural, kind| conditions(server, plural, kind);
    until("every share and bridge is judged", || {
        said("lustreshares", "Ready").0 == COUNT && said("swiftbridges", "Ready").0 == COUNT
    })
    .await;
    let cluster = Cluster::of(server);
    cluster.driver();
    cluster.bind();
    until("every bridge has a pod", || server.all("deployments").len() == COUNT).await;
    cluster.start_pods();
    until("everything is ready", || {
        said("lustreshares", "Ready").1 == COUNT && said("swiftbridges", "Ready").1 == COUNT
    })
    .await;
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The program.
struct Operator(Child);

impl Operator {
    fn start(config: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_operator"));
        command.args(["--admin-listen", "127.0.0.1:0"]).env("KUBECONFIG", config).env("RUST_LOG", "error");
        Self(command.spawn().unwrap())
    }

    /// Says what it takes while nothing happens.
    async fn rest(&self, server: &Server, when: &str) {
        tokio::time::sleep(Duration::from_secs(10)).await;
        server.take_writes();
        tokio::time::sleep(REST).await;
        let (leases, others): (Vec<_>, Vec<_>) =
            server.take_writes().into_iter().partition(|write| write.contains("/leases/"));
        println!(
            "{when}: {:.1} MiB resident (wanted: under 64), {:.1} MiB at most; in {} s {} writes (wanted: 0) \
             beside {} renewals of its Lease",
            self.memory("VmRSS:"),
            self.memory("VmHWM:"),
            REST.as_secs(),
            others.len(),
            leases.len()
        );
        assert!(others.is_empty(), "{others:?}");
    }

    /// In MiB.
    fn memory(&self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
