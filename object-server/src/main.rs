//! `object-server serve --config FILE` serves a directory through the Swift API.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use object_server::config::Config;
use object_server::{auth, daemon};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves plain files as objects through the OpenStack Swift API.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT.
    Serve {
        /// The configuration, a TOML file.
        #[arg(long)]
        config: PathBuf,
        /// Write log lines as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read a key from standard input and print its hash for the users file.
    HashKey,
    /// Print a new secret for the file that signs tokens.
    GenerateSecret,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "object-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Serve { config, json } => serve(&config, json),
        Command::HashKey => {
            let mut key = String::new();
            std::io::stdin().lock().read_line(&mut key).context("cannot read the key")?;
            let hash = auth::users::hash_key(key.trim_end_matches(['\r', '\n']).as_bytes())?;
            Ok(writeln!(std::io::stdout(), "{hash}")?)
        }
        Command::GenerateSecret => Ok(writeln!(std::io::stdout(), "{}", auth::token::generate_secret()?)?),
    }
}

/// Each connection and each open file takes a descriptor; the soft limit of most systems is for interactive programs.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn serve(path: &std::path::Path, json: bool) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        log.json().init();
    } else {
        log.init();
    }
    let config = Config::load(path)?;
    // Modes come from the directory around a file; and no thread may exist when capabilities go.
    rustix::process::umask(rustix::fs::Mode::empty());
    lustre::identity::drop_sys_resource().context("cannot give up CAP_SYS_RESOURCE")?;
    raise_file_limit();
    // Accepts, and does what is done in the background; connections have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            let _ = stop.send(true);
        });
        daemon::run(config, stopped, |_| {}).await
    })
}
