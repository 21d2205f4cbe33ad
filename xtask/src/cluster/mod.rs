//! `cargo xtask cluster`: a real Kubernetes of one node, built from package registries, in namespaces of its own.
//!
//! The node is one process tree: its first process has its own mounts, processes, network and host name, and when
//! that one dies the kernel takes everything else. Only cgroups outlive it; `down` removes them.

mod files;
mod init;
mod pki;
mod programs;
mod restart;

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use rustix::process::{Pid, Signal, kill_process};

use crate::report::seconds;
use crate::{build, images, kubernetes, kubevirt, paths, proc};

pub(crate) use init::Init;
pub(crate) use programs::{helm, install_programs, kubectl, provisioner, resizer, sanity};

/// The node's name.
pub(crate) const NODE: &str = "node1";
/// The node's address, and that of this machine on the link between them.
pub(crate) const ADDRESS: &str = "10.77.0.1";
const OUTSIDE: &str = "10.77.0.254";
const SERVICES: &str = "10.96.0.0/16";
const LINK: &str = "lustre-bridge";

/// What to do with the cluster.
#[derive(Subcommand, Clone)]
pub(crate) enum Action {
    /// Start it, or leave it running.
    Up {
        /// With KubeVirt, for virtual machines: minutes more, and about ten the first time.
        #[arg(long)]
        kubevirt: bool,
    },
    /// Put the product on it, built as for tests, and install or upgrade the chart.
    Install,
    /// Stop it and remove what it left.
    Down,
    /// Say whether it runs.
    Status,
    /// Kill a part of the node, such as kubelet or kube-apiserver, and wait until it was started again.
    Restart {
        /// The program's name.
        part: String,
    },
}

/// A Kubernetes of one node on this machine.
#[derive(Args, Clone)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

impl Options {
    pub(crate) fn main(&self) -> Result<()> {
        let cluster = Cluster::here();
        match &self.action {
            Action::Up { kubevirt } => {
                if cluster.alive() {
                    println!("the cluster runs already");
                } else {
                    cluster.up(Life::Own)?;
                }
                if *kubevirt {
                    kubevirt::install(&cluster)?;
                }
                println!("export KUBECONFIG={}", cluster.kubeconfig().display());
                println!("kubectl is {}", programs::kubectl()?.display());
            }
            Action::Install => {
                build::debug()?;
                kubernetes::install_on(&cluster, &images::write_debug(&paths::target().join("images"))?)?;
            }
            Action::Down => cluster.down()?,
            Action::Status => cluster.status()?,
            Action::Restart { part } => restart::restart(&cluster, part)?,
        }
        Ok(())
    }
}

/// How long the node lives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Until `down`.
    Own,
    /// Not longer than this process.
    WithUs,
}

/// The cluster in its directory.
pub(crate) struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    /// The one cluster that this user has on this machine.
    pub(crate) fn here() -> Self {
        Self { dir: paths::cache().join("cluster") }
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// A copy of this program: that may be built anew while the node runs, or while we do.
    pub(crate) fn program(&self) -> PathBuf {
        self.dir.join("xtask")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("node.pid")
    }

    /// kubectl with the administrator's rights.
    pub(crate) fn kubectl(&self) -> Result<Command> {
        let mut cmd = Command::new(programs::kubectl()?);
        cmd.arg("--kubeconfig").arg(self.kubeconfig());
        Ok(cmd)
    }

    /// The process that holds the node's namespaces from the outside, if it runs.
    fn holder(&self) -> Option<Pid> {
        let pid: i32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        // The number may be another's by now.
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        (line.contains("unshare") && line.contains(self.dir.to_str()?)).then(|| Pid::from_raw(pid)).flatten()
    }

    pub(crate) fn alive(&self) -> bool {
        self.holder().is_some()
    }

    /// Why this machine cannot have one, if it cannot.
    pub(crate) fn impossible() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("a Kubernetes node needs root".to_owned());
        }
        let spaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "true"];
        if let Err(error) = proc::output(Command::new("unshare").args(spaces)) {
            return Some(format!("no namespaces here: {error:#}"));
        }
        let writable =
            |group: &PathBuf| fs::create_dir_all(group).and_then(|()| fs::remove_dir(group)).is_ok();
        let groups = cgroups();
        let running = Self::here().alive();
        (groups.is_empty() || !(running || groups.iter().all(writable)))
            .then(|| "no cgroups can be made in /sys/fs/cgroup".to_owned())
    }

    /// Brings the node up: seconds, once the programs are there.
    pub(crate) fn up(&self, life: Life) -> Result<()> {
        if let Some(why) = Self::impossible() {
            bail!("{why}");
        }
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            println!("this machine has cgroups of the second version only, where the cluster is untested");
        }
        let programs = programs::all()?;
        self.down()?;
        let start = Instant::now();
        self.prepare()?;
        let started = self.start(&programs, life).and_then(|()| self.wait(start));
        if started.is_err() {
            self.keep_logs();
            self.down()?;
        }
        started
    }

    /// Saves the logs of the node's parts and pods from `down`.
    pub(crate) fn keep_logs(&self) {
        let kept = paths::cache().join("log/cluster");
        let _ = fs::remove_dir_all(&kept);
        let _ = fs::create_dir_all(&kept);
        for namespace in ["kube-system", kubernetes::NAMESPACE] {
            let dump = ["cluster-info", "dump", "--namespaces", namespace, "--output-directory"];
            let _ = self.kubectl().and_then(|mut cmd| proc::output(cmd.args(dump).arg(&kept)));
        }
        if proc::run(Command::new("cp").arg("-r").arg(self.dir.join("log")).arg(&kept)).is_ok() {
            println!("the cluster's logs: {}", kept.display());
        }
    }

    /// What the node finds when it starts.
    fn prepare(&self) -> Result<()> {
        for sub in ["", "log", "kubelet", "etcd", "containerd", "cni"] {
            fs::create_dir_all(self.dir.join(sub))?;
        }
        pki::make(&self.dir)?;
        files::write(&self.dir)?;
        for group in cgroups() {
            fs::create_dir_all(&group).with_context(|| format!("cannot create {}", group.display()))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                // A cpuset of the first version starts empty and takes no process.
                let parent = group.parent().unwrap_or(&group).join(file);
                if let Ok(value) = fs::read(&parent) {
                    fs::write(group.join(file), value)?;
                }
            }
        }
        Ok(())
    }

    fn start(&self, programs: &Path, life: Life) -> Result<()> {
        let mut cmd = match life {
            Life::Own => Command::new("unshare"),
            Life::WithUs => {
                let mut cmd = Command::new("setpriv");
                cmd.args(["--pdeathsig", "KILL", "--", "unshare"]);
                cmd
            }
        };
        cmd.args(["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL"]);
        let init = self.program();
        fs::copy("/proc/self/exe", &init)?;
        cmd.arg("--mount-proc").arg(init).args(["init", "--dir"]).arg(&self.dir);
        cmd.arg("--programs").arg(programs);
        let log = File::create(self.dir.join("log/init.log"))?;
        let mut child = cmd
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", proc::shown(&cmd)))?;
        fs::write(self.pid_file(), child.id().to_string())?;
        let init = first_child(&mut child)?;
        link(init)?;
        // The first process leaves with the node; reap it if that is while we live.
        thread::spawn(move || child.wait());
        Ok(())
    }

    fn wait(&self, start: Instant) -> Result<()> {
        let limit = Duration::from_mins(3);
        let step = |what: &str, args: &[&str]| -> Result<()> {
            let mut last = String::new();
            while start.elapsed() < limit {
                if !self.alive() {
                    bail!("the node ended\n{}", proc::tail(&self.dir.join("log/init.log"), 30));
                }
                match proc::output(self.kubectl()?.args(args)) {
                    Ok(_) => {
                        println!("{what} after {}", seconds(start.elapsed()));
                        return Ok(());
                    }
                    Err(error) => last = format!("{error:#}"),
                }
                thread::sleep(Duration::from_millis(200));
            }
            bail!("no {what} after {limit:?}: {last}")
        };
        step("API server", &["get", "--raw=/readyz"])?;
        self.import_base()?;
        step("node", &["wait", "--for=condition=Ready", "node", NODE, "--timeout=1s"])?;
        step("service account", &["get", "serviceaccount", "default"])?;
        proc::output(self.kubectl()?.args([
            "label",
            "node",
            NODE,
            "--overwrite",
            "node-role.kubernetes.io/control-plane=",
        ]))?;
        Ok(())
    }

    /// The images that every node needs, and those of others that our charts name.
    fn import_base(&self) -> Result<()> {
        let dir = self.dir.join("images");
        for image in images::of_others()? {
            let file = image.write(&dir)?;
            self.import(&file)?;
        }
        Ok(())
    }

    /// Gives the node an image.
    pub(crate) fn import(&self, archive: &Path) -> Result<()> {
        let socket = self.dir.join("containerd.sock");
        let start = Instant::now();
        while !socket.exists() && start.elapsed() < Duration::from_secs(30) {
            thread::sleep(Duration::from_millis(50));
        }
        let mut cmd = Command::new("ctr");
        cmd.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "import"]);
        proc::output(cmd.arg("--digests=false").arg(archive)).map(|_| ())
    }

    /// Stops the node and removes everything of it, also what an interrupted run left.
    pub(crate) fn down(&self) -> Result<()> {
        if let Some(pid) = self.holder() {
            let _ = ip(&format!("link delete {LINK}"));
            // With it goes the first process, and with that all others. It heeds no other signal.
            kill_process(pid, Signal::KILL)?;
            within(Duration::from_secs(10), || !self.alive());
        }
        for group in cgroups() {
            if !within(Duration::from_secs(20), || remove_cgroup(&group).is_ok()) {
                bail!("{} still holds processes", group.display());
            }
        }
        let removed = || match fs::remove_dir_all(&self.dir) {
            Ok(()) => true,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if !within(Duration::from_secs(10), removed) {
            bail!("{} cannot be removed", self.dir.display());
        }
        Ok(())
    }

    fn status(&self) -> Result<()> {
        if !self.alive() {
            println!("no cluster runs; start it: cargo xtask cluster up");
            return Ok(());
        }
        println!("export KUBECONFIG={}", self.kubeconfig().display());
        print!("{}", proc::output(self.kubectl()?.args(["get", "nodes,pods", "-A", "-o", "wide"]))?);
        Ok(())
    }
}

/// A cluster that lives as long as this value.
pub(crate) struct Borrowed(pub(crate) Cluster);

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            println!("the cluster left something behind: {error:#}");
        }
    }
}

/// The first process of the namespaces, as this machine numbers it.
fn first_child(holder: &mut Child) -> Result<u32> {
    let file = format!("/proc/{0}/task/{0}/children", holder.id());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        if let Some(status) = holder.try_wait()? {
            bail!("cannot make namespaces: unshare ended with {status}");
        }
        let children = fs::read_to_string(&file).context("the kernel does not list a process's children")?;
        if let Some(pid) = children.split(' ').next().and_then(|pid| pid.parse().ok()) {
            return Ok(pid);
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("unshare started nothing")
}

/// Joins the node's network with this machine's, so that clients outside reach node ports and cluster addresses.
fn link(init: u32) -> Result<()> {
    let _ = ip(&format!("link delete {LINK}"));
    ip(&format!("link add {LINK} type veth peer name eth0 netns {init}"))?;
    ip(&format!("address add {OUTSIDE}/24 dev {LINK}"))?;
    ip(&format!("link set {LINK} up"))?;
    ip(&format!("route add {SERVICES} via {ADDRESS}"))
}

fn ip(line: &str) -> Result<()> {
    proc::output(Command::new("ip").args(line.split(' '))).map(|_| ())
}

/// The node's cgroups: one per hierarchy of the first version, or one in the only hierarchy of the second.
fn cgroups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.join(files::CGROUP)];
    }
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    hierarchies
        .filter(|h| h.file_type().is_ok_and(|t| t.is_dir()))
        .map(|h| h.path().join(files::CGROUP))
        .collect()
}

/// Removes a cgroup and those below it, if no process is in them.
fn remove_cgroup(group: &Path) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(group) else { return Ok(()) };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_cgroup(&entry.path())?;
    }
    fs::remove_dir(group)
}

/// Tries until it is true or the time is over.
fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(100));
    }
}
