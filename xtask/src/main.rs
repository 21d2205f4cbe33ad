//! The project's own commands: `cargo xtask demo | test | cluster | e2e | sanity | images | crds | chart | functional | fuzz | bench | coverage | tools`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool talks on its standard output"
)]

mod bench;
mod build;
mod chart;
mod checks;
mod clients;
mod cluster;
mod coverage;
mod crds;
mod demo;
mod disk;
#[cfg(test)]
mod docs;
mod e2e;
mod expected;
mod functional;
mod fuzz;
mod http;
mod images;
mod kubernetes;
mod kubevirt;
mod paths;
mod proc;
mod pytest;
mod report;
mod sanity;
mod server;
mod signals;
mod swift_peer;
mod tools;
mod users;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a directory until Ctrl-C.
    Demo(demo::Options),
    /// Run every check and test.
    Test(checks::Options),
    /// Measure how many lines the tests reach.
    Coverage(coverage::Options),
    /// Fuzz the decoders.
    Fuzz(fuzz::Options),
    /// Install everything that the other commands use.
    Tools,
    /// Run OpenStack Swift's functional tests.
    Functional(functional::Options),
    /// Run the tests with real clients.
    Clients(clients::Options),
    /// Write what is generated from the custom resources and the chart's values.
    Crds,
    /// Have the chart, the custom resources and the examples judged by the programs that others use.
    Chart,
    /// Run the tests on a real Kubernetes.
    E2e(e2e::Options),
    /// Run the conformance tests of the Container Storage Interface.
    Sanity(sanity::Options),
    /// A real Kubernetes of one node on this machine.
    Cluster(cluster::Options),
    /// The first process of that node.
    #[command(hide = true)]
    Init(cluster::Init),
    /// Make the product's container images.
    Images(images::Options),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Start OpenStack Swift itself, to compare with.
    Reference,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(options) => options.main(),
        Command::Test(options) => return options.main(),
        Command::Coverage(options) => options.main(),
        Command::Fuzz(options) => options.main(),
        Command::Tools => tools::all(),
        Command::Functional(options) => options.main(),
        Command::Clients(options) => options.main(),
        Command::Crds => crds::write(),
        Command::Chart => chart::main(),
        Command::E2e(options) => options.main(),
        Command::Sanity(options) => options.main(),
        Command::Cluster(options) => options.main(),
        Command::Init(init) => init.main(),
        Command::Images(options) => options.main(),
        Command::Bench(bench) => bench.main(),
        Command::Reference => reference(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// OpenStack Swift until Ctrl-C.
fn reference() -> Result<()> {
    let stop = signals::stop_flag()?;
    let users = [users::User::new("test", "tester", "testing", &[".admin"])];
    let peer = swift_peer::SwiftPeer::on_own_disk("reference", swift_peer::Kind::Full, &users)?;
    println!("OpenStack Swift {}; Ctrl-C stops it", tools::SWIFT);
    println!("export ST_AUTH=http://127.0.0.1:{}/auth/v1.0", peer.port());
    println!("export ST_USER=test:tester\nexport ST_KEY=testing");
    signals::wait(&stop);
    Ok(())
}
