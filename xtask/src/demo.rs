//! `cargo xtask demo`: serves a directory until Ctrl-C.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::paths::{self, RunDir};
use crate::proc::{find, tail};
use crate::server::{Ours, Setup, random_hex};
use crate::users::User;
use crate::{build, http, signals};

/// Serves a directory through the OpenStack Swift API.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// The directory; its sub-directory `AUTH_demo` is the account. Default: one in the user's cache.
    dir: Option<PathBuf>,
    /// The port to listen on. Default: a free one.
    #[arg(long)]
    port: Option<u16>,
    /// No fsync before the answer: faster, and the last seconds may go in a power cut.
    #[arg(long)]
    relaxed: bool,
    /// On a real Kubernetes of one node: a share, a bridge, a claim and a pod, until `cargo xtask cluster down`.
    #[arg(long, conflicts_with_all = ["dir", "port", "relaxed", "bin"])]
    kubernetes: bool,
    /// The server's binary. Default: built now.
    #[arg(long)]
    bin: Option<PathBuf>,
}

impl Options {
    pub(crate) fn main(&self) -> Result<()> {
        if self.kubernetes {
            return crate::kubernetes::demo();
        }
        let bin = match &self.bin {
            Some(bin) => bin.clone(),
            None => build::release()?,
        };
        let state = RunDir::new("demo")?;
        let root = self.dir.clone().unwrap_or_else(|| paths::cache().join("demo"));
        let key = random_hex(12)?;
        let setup = Setup {
            users: vec![User::new("demo", "demo", &key, &[".admin"])],
            root: Some(root),
            port: self.port,
            relaxed: self.relaxed,
            index: true,
            ..Setup::default()
        };
        let stop = signals::stop_flag()?;
        let mut server = Ours::start(&bin, state.path(), &setup)?;
        introduce(&server, &key);
        let watched = watch(&mut server, &stop);
        print!("\nstopping … ");
        let clean = server.stop();
        println!("{}", if clean { "stopped" } else { "the server had to be stopped by force" });
        if watched.is_err() {
            println!("{}", tail(server.log(), 20));
        }
        watched
    }
}

fn introduce(server: &Ours, key: &str) {
    let (port, account) = (server.port(), server.root().join("AUTH_demo"));
    let swift = swift_command();
    let account = account.display();
    println!(
        "\nServing {} on http://127.0.0.1:{port} (metrics: http://127.0.0.1:{}/metrics)\n\n\
         export ST_AUTH=http://127.0.0.1:{port}/auth/v1.0\n\
         export ST_USER=demo:demo\n\
         export ST_KEY={key}\n\n\
         An upload is a plain file:\n\
         \x20 {swift} upload photos README.md && cat {account}/photos/README.md\n\
         A file is an object, listed within a second:\n\
         \x20 mkdir -p {account}/data && cp /etc/hosts {account}/data/ && {swift} list data\n\
         By curl:\n\
         \x20 TOKEN=$(curl -si $ST_AUTH -H \"X-Auth-User: $ST_USER\" -H \"X-Auth-Key: $ST_KEY\" | sed -n 's/\\r$//;s/^X-Auth-Token: //Ip')\n\
         \x20 curl -H \"X-Auth-Token: $TOKEN\" http://127.0.0.1:{port}/v1/AUTH_demo/data/hosts\n\n\
         Ctrl-C stops it.\n",
        server.root().display(),
        server.admin(),
    );
}

/// How to call python-swiftclient here.
fn swift_command() -> String {
    let ours = paths::cache().join("python/bin/swift");
    if find("swift").is_none() && ours.is_file() { ours.display().to_string() } else { "swift".to_owned() }
}

/// What the server has counted since it started.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
struct Counters {
    requests: f64,
    received: f64,
    sent: f64,
}

/// Adds up the samples of Prometheus' text format that we show.
fn counters(metrics: &str) -> Counters {
    let mut sum = Counters::default();
    for line in metrics.lines().filter(|l| !l.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        match series.split('{').next().unwrap_or_default() {
            "lustre_bridge_requests_total" => sum.requests += value,
            "lustre_bridge_received_bytes_total" => sum.received += value,
            "lustre_bridge_sent_bytes_total" => sum.sent += value,
            _ => {}
        }
    }
    sum
}

/// Shows a live line until we are asked to stop: in place on a terminal, else now and then when something happened.
fn watch(server: &mut Ours, stop: &AtomicBool) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let pause = Duration::from_secs(if terminal { 1 } else { 5 });
    let mut last = (Instant::now(), Counters::default());
    while !stop.load(Ordering::Relaxed) {
        let until = Instant::now() + pause;
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
        if !server.alive() {
            bail!("the server has ended by itself");
        }
        let Ok(answer) = http::request("GET", server.admin(), "/metrics", &[], &[]) else { continue };
        let now = (Instant::now(), counters(&answer.text()));
        let line = live(last.1, now.1, now.0 - last.0);
        if terminal {
            print!("\r{line}\x1b[K");
            std::io::stdout().flush()?;
        } else if now.1 != last.1 {
            println!("{line}");
        }
        last = now;
    }
    Ok(())
}

fn live(before: Counters, now: Counters, time: Duration) -> String {
    let rate = |a: f64, b: f64| (b - a) / time.as_secs_f64().max(1e-3);
    format!(
        "{:.0} requests/s, in {}/s, out {}/s; in all {:.0} requests, in {}, out {}",
        rate(before.requests, now.requests),
        bytes(rate(before.received, now.received)),
        bytes(rate(before.sent, now.sent)),
        now.requests,
        bytes(now.received),
        bytes(now.sent)
    )
}

fn bytes(n: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut n = n.max(0.0);
    let mut unit = 0;
    while n >= 1000.0 && unit + 1 < units.len() {
        n /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n:.0} B") } else { format!("{n:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_labels() {
        let text = "# TYPE lustre_bridge_requests counter\n\
            lustre_bridge_requests_total{method=\"GET\",status=\"2xx\"} 3\n\
            lustre_bridge_requests_total{method=\"PUT\",status=\"2xx\"} 2\n\
            lustre_bridge_received_bytes_total 100\nlustre_bridge_sent_bytes_total 70\nother 9\n";
        assert_eq!(counters(text), Counters { requests: 5.0, received: 100.0, sent: 70.0 });
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(999.0), "999 B");
        assert_eq!(bytes(1_500_000.0), "1.5 MB");
        let now = Counters { requests: 10.0, received: 2000.0, sent: 0.0 };
        let line = live(Counters::default(), now, Duration::from_secs(2));
        assert!(line.starts_with("5 requests/s, in 1.0 kB/s, out 0 B/s;"), "{line}");
    }
}
