//! `operator` makes of LustreShares and SwiftBridges what they ask for.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use operator::Settings;
use operator::admin::Admin;
use operator::check;
use operator::lease::Election;
use operator::metrics::Metrics;
use operator::run::Operator;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Makes storage classes, volumes, claims, pods and services of LustreShares and SwiftBridges.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The namespace that the operator runs in; its Lease is there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "lustre-bridge-system")]
    namespace: String,
    /// The image of the object server.
    #[arg(long, default_value = concat!("ghcr.io/lustre-bridge/object-server:", env!("CARGO_PKG_VERSION")))]
    object_server_image: String,
    /// When that image is pulled.
    #[arg(long, default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// Address of the metrics and health endpoints.
    #[arg(long, default_value = "[::]:9465")]
    admin_listen: SocketAddr,
    /// Write log lines as JSON.
    #[arg(long)]
    json: bool,
    /// To ask something once, instead.
    #[command(subcommand)]
    check: Option<Check>,
}

/// What is asked once.
#[derive(Subcommand)]
enum Check {
    /// Whether every part in the namespace runs.
    CheckInstall,
    /// Whether no LustreShare and no SwiftBridge would be left behind.
    CheckUninstall,
}

impl Check {
    async fn ask(&self, namespace: &str) -> Result<()> {
        let client = client().await?;
        match self {
            Self::CheckInstall => check::install(&client, namespace).await?,
            Self::CheckUninstall => check::uninstall(&client).await?,
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(arguments: Arguments) -> Result<()> {
    log(arguments.json);
    if let Some(check) = arguments.check {
        return check.ask(&arguments.namespace).await;
    }
    let metrics = Metrics::new();
    let admin = Admin { metrics: Arc::clone(&metrics), ready: Arc::default() };
    let ready = Arc::clone(&admin.ready);
    let listener = listen(arguments.admin_listen).await?;
    let client = client().await?;
    let mut election = Election::new(client.clone(), &arguments.namespace, &identity());
    let claim = election.claim();
    let settings = Settings {
        object_server_image: arguments.object_server_image,
        image_pull_policy: arguments.image_pull_policy,
    };
    let operator = Operator::new(client, claim, settings, Arc::clone(&metrics));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(admin.serve(listener));
    let lead = async {
        election.win(&ready).await;
        metrics.leading.set(1);
        tokio::select! {
            () = election.keep() => {}
            () = operator.run(ready) => {}
        }
    };
    let stopped = tokio::select! {
        () = lead => false,
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
    };
    if !stopped {
        bail!("this instance no longer leads; the next start waits for its turn");
    }
    tracing::info!("stopping");
    election.release().await;
    Ok(())
}

async fn client() -> Result<kube::Client> {
    kube::Client::try_default().await.context("cannot find the API server")
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

/// A node without IPv6 has no `[::]`.
async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let fallback = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    let bound = match TcpListener::bind(address).await {
        Err(_) if address.ip().is_unspecified() => TcpListener::bind(fallback).await,
        other => other,
    };
    bound.with_context(|| format!("cannot listen on {address}"))
}

/// A pod's host name is its own; the time makes a restarted container another one.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_owned());
    format!("{host}_{}", jiff::Timestamp::now().as_millisecond())
}
