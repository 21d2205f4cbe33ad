//! The node's first process: makes the place, starts the parts in order, starts again what ends, reaps the rest.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{WaitOptions, wait};

use super::{ADDRESS, Cluster, NODE, OUTSIDE, SERVICES, files};
use crate::proc;

/// Tests stop parts on purpose; one that ends again and again is broken.
const MOST_RESTARTS: u32 = 50;

/// Runs as process 1 of the namespaces that `cluster up` makes.
#[derive(Args, Clone)]
pub(crate) struct Init {
    /// The cluster's directory.
    #[arg(long)]
    dir: PathBuf,
    /// The directory of its programs.
    #[arg(long)]
    programs: PathBuf,
}

impl Init {
    pub(crate) fn main(&self) -> Result<()> {
        if std::process::id() != 1 {
            bail!("init is the first process of a node; start one by: cargo xtask cluster up");
        }
        self.place()?;
        let mut running = HashMap::new();
        for part in ["etcd", "containerd", "kube-apiserver"] {
            running.insert(self.start(part)?, part);
        }
        self.api_server_ready()?;
        for part in ["kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"] {
            running.insert(self.start(part)?, part);
        }
        let mut restarts = 0;
        loop {
            let Some((pid, status)) = wait(WaitOptions::empty())? else { continue };
            if let Some(part) = running.remove(&pid.as_raw_nonzero().get().cast_unsigned()) {
                println!("{part} ended with {:?}, starting it again", status.exit_status());
                restarts += 1;
                if restarts > MOST_RESTARTS {
                    bail!("too many parts ended");
                }
                thread::sleep(Duration::from_millis(500));
                running.insert(self.start(part)?, part);
            }
        }
    }

    /// Mounts, addresses and routes. All of it goes with the namespaces.
    fn place(&self) -> Result<()> {
        let dir = self.dir.display();
        run(&format!("hostname {NODE}"))?;
        // Mounts of the driver's pods must reach the kubelet; nothing leaves these namespaces.
        run("mount --make-rshared /")?;
        run("mount -t tmpfs tmpfs /run")?;
        // What containerd and the kubelet write in fixed places is kept off the machine's own.
        let scratch = format!("{dir}/scratch");
        fs::create_dir_all(&scratch)?;
        run(&format!("mount -t tmpfs tmpfs {scratch}"))?;
        for (name, path) in [("lib", "/var/lib"), ("log", "/var/log")] {
            let (upper, work) = (format!("{scratch}/{name}"), format!("{scratch}/{name}.work"));
            fs::create_dir_all(&upper)?;
            fs::create_dir_all(&work)?;
            let layers = format!("lowerdir={path},upperdir={upper},workdir={work}");
            run(&format!("mount -t overlay overlay -o {layers} {path}"))?;
        }
        fs::create_dir_all("/var/lib/kubelet")?;
        run(&format!("mount --bind {dir}/kubelet /var/lib/kubelet"))?;
        // The driver's mounts must be seen there by other pods; a bind mount is its own peer group.
        run("mount --make-shared /var/lib/kubelet")?;
        run("ip link set lo up")?;
        let start = Instant::now();
        // /sys still shows the machine's own network.
        while !has_link() {
            if start.elapsed() > Duration::from_secs(20) {
                bail!("nobody gave this node a network");
            }
            thread::sleep(Duration::from_millis(20));
        }
        run(&format!("ip address add {ADDRESS}/24 dev eth0"))?;
        run("ip link set eth0 up")?;
        // The node itself reaches services too: their addresses must be routable before they are translated.
        run(&format!("ip route add {SERVICES} dev lo src {ADDRESS}"))?;
        run(&format!("ip route add default via {OUTSIDE}"))?;
        for (file, value) in [("ip_forward", "1"), ("conf/all/route_localnet", "1")] {
            fs::write(format!("/proc/sys/net/ipv4/{file}"), value).with_context(|| file.to_owned())?;
        }
        Ok(())
    }

    fn start(&self, part: &str) -> Result<u32> {
        let program = match part {
            "containerd" => proc::find(part).context("containerd is not installed")?,
            _ => self.programs.join(part),
        };
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("log").join(format!("{part}.log")))?;
        let child = Command::new(&program)
            .args(files::arguments(part, &self.dir))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(child.id())
    }

    /// The other parts give up when they come before the API server has its first roles.
    fn api_server_ready(&self) -> Result<()> {
        let cluster = Cluster { dir: self.dir.clone() };
        let start = Instant::now();
        loop {
            match proc::output(cluster.kubectl()?.args(["get", "--raw=/readyz"])) {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > Duration::from_mins(2) => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}

fn has_link() -> bool {
    proc::output(Command::new("ip").args(["link", "show", "eth0"])).is_ok()
}

fn run(line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    proc::output(Command::new(program).args(words)).map(|_| ())
}
