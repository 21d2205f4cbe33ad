//! `changelog-syncer follow` tells bridges what changes beneath a directory.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use changelog_syncer::daemon::{self, Config};
use changelog_syncer::hub::Bounds;
use changelog_syncer::listen::Address;
use changelog_syncer::source::Choice;
use changelog_syncer::source::replay::Disorder;
use changelog_syncer::tls::Files;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Follows what changes beneath a directory and tells the object servers where to look.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Follow until SIGTERM or SIGINT.
    Follow(Box<Follow>),
}

#[derive(Args)]
struct Follow {
    /// The directory that is followed.
    #[arg(long)]
    root: PathBuf,
    /// What changes are seen by: auto, fanotify, inotify, scan, or replay:FILE.
    #[arg(long, default_value = "auto", value_parser = parse_source)]
    source: Choice,
    /// Seconds between scans, where there are scans.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
    /// Where bridges come in: unix:PATH or tcp:ADDRESS:PORT.
    #[arg(long, value_parser = parse_listen)]
    listen: Address,
    /// The mode of the Unix socket, octal. Whoever may open it may follow everything.
    #[arg(long, default_value = "600", value_parser = parse_mode)]
    socket_mode: u32,
    /// PEM: the authority that signs bridges' certificates.
    #[arg(long, requires_all = ["tls_certificate", "tls_key", "tls_grants"])]
    tls_ca: Option<PathBuf>,
    /// PEM: the relay's certificate and what leads from there to its authority.
    #[arg(long, requires = "tls_ca")]
    tls_certificate: Option<PathBuf>,
    /// PEM: its key.
    #[arg(long, requires = "tls_ca")]
    tls_key: Option<PathBuf>,
    /// TOML: which name of a certificate may follow which sub-path.
    #[arg(long, requires = "tls_ca")]
    tls_grants: Option<PathBuf>,
    /// Marks kept for a bridge until they are durable there.
    #[arg(long, default_value_t = Bounds::default().records)]
    tail_records: usize,
    /// How old they may become, in seconds.
    #[arg(long, default_value_t = Bounds::default().age.as_secs())]
    tail_seconds: u64,
    /// Where to serve /metrics, /healthz and /readyz.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// Of a replay: how many marks of a hundred come twice.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=100))]
    replay_duplicated: u8,
    /// Of a replay: by how many marks one may come too late.
    #[arg(long, default_value_t = 0)]
    replay_window: usize,
    /// Of a replay: what its disorder is drawn from.
    #[arg(long, default_value_t = 0)]
    replay_seed: u64,
    /// Write log lines as JSON.
    #[arg(long)]
    json: bool,
}

fn parse_source(text: &str) -> Result<Choice, String> {
    match text {
        "auto" => Ok(Choice::Auto),
        "fanotify" => Ok(Choice::Fanotify),
        "inotify" => Ok(Choice::Inotify),
        "scan" => Ok(Choice::Scan),
        _ => match text.strip_prefix("replay:").filter(|path| !path.is_empty()) {
            Some(path) => Ok(Choice::Replay(path.into(), Disorder::default())),
            None => Err("there are auto, fanotify, inotify, scan and replay:FILE".into()),
        },
    }
}

fn parse_listen(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(Address::Unix(path.into(), 0o600));
    }
    let address = text.strip_prefix("tcp:").and_then(|address| address.parse().ok());
    address.map(Address::Tcp).ok_or_else(|| "give unix:PATH or tcp:ADDRESS:PORT".into())
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "a mode has three octal digits".into())
}

fn main() -> ExitCode {
    let Command::Follow(follow) = Arguments::parse().command;
    match run(*follow) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "changelog-syncer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(follow: Follow) -> Result<()> {
    log(follow.json);
    // The socket gets its mode after it is made; until then it is ours alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(async {
        let stop = stop_on_signal()?;
        daemon::run(config(follow), stop, |_| {}).await.context("the relay ended")
    });
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

fn config(follow: Follow) -> Config {
    let disorder = Disorder {
        duplicated: follow.replay_duplicated,
        window: follow.replay_window,
        seed: follow.replay_seed,
    };
    let source = match follow.source {
        Choice::Replay(path, _) => Choice::Replay(path, disorder),
        other => other,
    };
    let listen = match follow.listen {
        Address::Unix(path, _) => Address::Unix(path, follow.socket_mode),
        Address::Tcp(address) => Address::Tcp(address),
    };
    let files = follow.tls_ca.zip(follow.tls_certificate).zip(follow.tls_key);
    let files = files.map(|((authority, certificate), key)| Files { authority, certificate, key });
    let bounds = Bounds {
        records: follow.tail_records,
        age: Duration::from_secs(follow.tail_seconds),
        ..Bounds::default()
    };
    Config {
        root: follow.root,
        source,
        interval: Duration::from_secs(follow.interval),
        listen,
        tls: files.zip(follow.tls_grants),
        bounds,
        admin: follow.admin,
    }
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
