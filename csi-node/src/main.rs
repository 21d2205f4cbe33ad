//! `csi-node` is the CSI driver of a node, of the controller, or both; or what holds the leases of a node's driver.

mod commands;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, ValueEnum};
use commands::Command;
use csi_node::cluster;
use csi_node::daemon::{self, Config, Parts};
use csi_node::share::{Named, Shares};
use csi_node::socket;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Makes and deletes volumes.
    Controller,
    /// Shows them to the pods of a node.
    Node,
    /// Both.
    All,
    /// Holds the leases of a node's driver, and stays while that is replaced.
    Holder,
}

impl Role {
    fn controller(self) -> bool {
        matches!(self, Role::Controller | Role::All)
    }

    fn node(self) -> bool {
        matches!(self, Role::Node | Role::All)
    }
}

/// The CSI driver of lustre-bridge.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    driver: Option<Arguments>,
}

#[derive(Args)]
struct Arguments {
    /// What to be.
    #[arg(long, default_value = "all")]
    role: Role,
    /// The driver's socket, as `unix:///path`.
    #[arg(long, value_parser = socket::parse_endpoint)]
    endpoint: PathBuf,
    /// The name of this node.
    #[arg(long)]
    node_id: String,
    /// The socket of the node's holder of leases (--role holder), as `unix:///path`. Without it the driver holds them
    /// itself, and is taken for dead when it is away for longer than 10 seconds.
    #[arg(long, value_parser = socket::parse_endpoint)]
    holder: Option<PathBuf>,
    /// A share, NAME=directory:/path; may be given several times. Not with --kubernetes.
    #[arg(long, conflicts_with = "kubernetes")]
    share: Vec<Named>,
    /// Take the shares from the cluster's LustreShares.
    #[arg(long)]
    kubernetes: bool,
    /// Where the host's root is.
    #[arg(long, default_value = "/")]
    host_root: PathBuf,
    /// Publish nothing outside of this directory, the kubelet's.
    #[arg(long)]
    kubelet_root: Option<PathBuf>,
    /// Where the host's device nodes are.
    #[arg(long, default_value = "/dev")]
    dev: PathBuf,
    /// Where the kubelet looks for plugins; without it the driver does not register itself.
    #[arg(long)]
    registration_dir: Option<PathBuf>,
    /// Where to serve /metrics, /healthz and /readyz [default in a cluster: [::]:9466 of the controller,
    /// [::]:9467 of a node, [::]:9468 of a holder].
    #[arg(long)]
    admin_listen: Option<SocketAddr>,
    /// Write log lines as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let done = match CommandLine::parse() {
        CommandLine { command: Some(command), .. } => command.run(),
        CommandLine { driver: Some(arguments), .. } => run(arguments),
        CommandLine { .. } => Err(anyhow::anyhow!("nothing was asked for: see --help")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "csi-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    ensure!(!arguments.node_id.is_empty(), "--node-id is empty: give the node's name");
    ensure!(
        arguments.holder.is_none() || arguments.role.node(),
        "--holder is for the driver of a node: --role node or all"
    );
    log(arguments.json);
    // Modes are set as they are meant; until then a file is the driver's alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(serve(arguments));
    // A call that hangs in a dead file system is not waited for.
    runtime.shutdown_background();
    served
}

fn log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        log.json().init();
    } else {
        log.init();
    }
}

async fn serve(arguments: Arguments) -> Result<()> {
    let shares = Shares::unknown(&arguments.host_root);
    let parts = Parts::new(shares.clone());
    let stop = stop_on_signal()?;
    if !arguments.kubernetes {
        shares.replace(arguments.share.iter().map(|share| (share.name.clone(), share.spec.clone())));
        if arguments.role.controller() {
            arguments.share.iter().map(|share| &share.name).for_each(|name| parts.janitor.call(name));
        }
    }
    // Its watches and workers end with the runtime.
    if arguments.kubernetes {
        let client = kube::Client::try_default().await.context("cannot reach the API server")?;
        let controller = arguments.role.controller();
        tokio::spawn(cluster::run(client, parts.clone(), arguments.node_id.clone(), controller));
    }
    daemon::run(config(&arguments)?, parts, stop).await.context("the driver ended")
}

fn config(arguments: &Arguments) -> Result<Config> {
    let default_admin = match arguments.role {
        _ if !arguments.kubernetes => None,
        Role::Node => Some("[::]:9467".parse()?),
        Role::Holder => Some("[::]:9468".parse()?),
        Role::Controller | Role::All => Some("[::]:9466".parse()?),
    };
    Ok(Config {
        endpoint: arguments.endpoint.clone(),
        node: arguments.node_id.clone(),
        controller: arguments.role.controller(),
        node_service: arguments.role.node(),
        holds_leases: arguments.role == Role::Holder,
        holder: arguments.holder.clone(),
        targets: arguments.kubelet_root.clone(),
        devices: arguments.dev.clone(),
        registration: arguments.registration_dir.clone(),
        admin: arguments.admin_listen.or(default_admin),
    })
}

fn stop_on_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        cancel.cancel();
    });
    Ok(stop)
}
