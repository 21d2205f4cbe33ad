//! The driver's binary on a share of its own, and what it is asked. Each test file uses a part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, LazyLock};

use csi_node::proto::csi::controller_client::ControllerClient;
use csi_node::proto::csi::node_client::NodeClient;
use csi_node::proto::csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
use csi_node::proto::csi::{
    CreateVolumeRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
};
use hyper_util::rt::TokioIo;
use rustix::mount::{MountPropagationFlags, mount_change};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// The binary on a share of its own.
pub(crate) struct Driver {
    pub(crate) base: Arc<TempDir>,
    pub(crate) process: Child,
    socket: &'static str,
    /// Its host is this one, with its programs, and not the directory of the test.
    on_host: bool,
    /// Who holds its leases, if it does not itself.
    pub(crate) holder: Option<Holder>,
}

/// The binary as the holder of a node's leases.
pub(crate) struct Holder {
    process: Child,
    base: Arc<TempDir>,
    node: String,
}

impl Holder {
    pub(crate) async fn start(base: &Arc<TempDir>, node: &str) -> Holder {
        let holder =
            Holder { process: spawn_holder(base.path(), node), base: Arc::clone(base), node: node.into() };
        holder.wait().await;
        holder
    }

    async fn wait(&self) {
        answers(&self.base.path().join(socket_of_holder(&self.node))).await;
    }

    /// As if the power of its process had been cut.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Killed before, or not.
    pub(crate) async fn restart(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.process = spawn_holder(self.base.path(), &self.node);
        self.wait().await;
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

impl Driver {
    pub(crate) async fn start() -> Driver {
        Driver::start_on(false).await
    }

    /// As `start`, with the programs of this host.
    pub(crate) async fn start_on_host() -> Driver {
        Driver::start_on(true).await
    }

    async fn start_on(on_host: bool) -> Driver {
        let base = TempDir::new().unwrap();
        for name in ["share", "outside", "kubelet"] {
            fs::create_dir(base.path().join(name)).unwrap();
        }
        fs::write(base.path().join("outside/secret"), "kept").unwrap();
        let process = spawn_on(base.path(), "n1", "csi.sock", on_host);
        let driver = Driver { base: base.into(), process, socket: "csi.sock", on_host, holder: None };
        driver.wait().await;
        driver
    }

    /// Another node of the same share.
    pub(crate) async fn beside(other: &Driver, node: &str) -> Driver {
        let base = Arc::clone(&other.base);
        fs::create_dir(base.path().join(kubelet("other.sock"))).unwrap();
        let process = spawn_on(base.path(), node, "other.sock", other.on_host);
        let driver = Driver { base, process, socket: "other.sock", on_host: other.on_host, holder: None };
        driver.wait().await;
        driver
    }

    /// With its leases in a process of their own.
    pub(crate) async fn held(mut self, node: &str) -> Driver {
        self.kill();
        self.holder = Some(Holder::start(&self.base, node).await);
        self.back(node).await;
        self
    }

    /// Started again after it was killed, beside its holder.
    pub(crate) async fn back(&mut self, node: &str) {
        let mut command = command(self.base.path(), node, self.socket, self.on_host);
        let holder = self.path(&socket_of_holder(node));
        self.process = command.arg(format!("--holder=unix://{}", holder.display())).spawn().unwrap();
        self.wait().await;
    }

    /// As if the power of its process had been cut.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Killed, and started again as `node`.
    pub(crate) async fn restart(&mut self, node: &str) {
        self.kill();
        self.process = spawn_on(self.base.path(), node, self.socket, self.on_host);
        self.wait().await;
    }

    /// Until the socket answers.
    pub(crate) async fn wait(&self) {
        answers(&self.path(self.socket)).await;
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    pub(crate) fn share(&self, name: &str) -> PathBuf {
        self.path("share").join(name)
    }

    pub(crate) fn target(&self, name: &str) -> String {
        self.path(kubelet(self.socket)).join(name).to_str().unwrap().to_owned()
    }

    pub(crate) async fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(connect(self.path(self.socket)).await)
    }

    pub(crate) async fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(connect(self.path(self.socket)).await)
    }

    pub(crate) async fn create(&self, request: CreateVolumeRequest) -> Result<String, Status> {
        let made = self.controller().await.create_volume(request).await?.into_inner();
        Ok(made.volume.unwrap().volume_id)
    }

    pub(crate) async fn publish(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.node().await.node_publish_volume(request).await.map(|_| ())
    }

    pub(crate) async fn unpublish(&self, id: &str, target: &str) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest { volume_id: id.into(), target_path: target.into() };
        self.node().await.node_unpublish_volume(request).await.map(|_| ())
    }

    /// That nothing outside the share was touched.
    pub(crate) fn outside_is_untouched(&self) -> bool {
        let names = |path: PathBuf| {
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        let mut top = names(self.path(""));
        top.sort();
        names(self.path("outside")) == ["secret"]
            && fs::read_to_string(self.path("outside/secret")).unwrap() == "kept"
            && top == ["csi.sock", "kubelet", "outside", "registration", "share"]
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Asks first: what is killed leaves no account of the lines that it ran.
fn end(process: &mut Child) {
    let ended = |process: &mut Child| process.try_wait().is_ok_and(|status| status.is_some());
    if ended(process) {
        return;
    }
    let _ = rustix::process::kill_process(
        rustix::process::Pid::from_child(process),
        rustix::process::Signal::TERM,
    );
    for _ in 0..100 {
        if ended(process) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let _ = process.kill();
    let _ = process.wait();
}

async fn answers(socket: &Path) {
    for _ in 0..600 {
        if UnixStream::connect(socket).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("nothing answers at {}", socket.display());
}

pub(crate) fn socket_of_holder(node: &str) -> String {
    format!("holder-{node}.sock")
}

fn spawn_holder(base: &Path, node: &str) -> Child {
    let path = |name: &str| base.join(name).to_str().unwrap().to_owned();
    Command::new(env!("CARGO_BIN_EXE_csi-node"))
        .args(["--role", "holder", "--node-id", node])
        .args(["--endpoint", &format!("unix://{}", path(&socket_of_holder(node)))])
        .args(["--host-root", &path(""), "--share", "s=directory:/share"])
        .env("RUST_LOG", "error")
        .spawn()
        .unwrap()
}

pub(crate) fn spawn(base: &Path) -> Child {
    spawn_as(base, "n1", "csi.sock")
}

fn kubelet(socket: &str) -> &'static str {
    if socket == "csi.sock" { "kubelet" } else { "kubelet-other" }
}

pub(crate) fn spawn_as(base: &Path, node: &str, socket: &str) -> Child {
    spawn_on(base, node, socket, false)
}

fn spawn_on(base: &Path, node: &str, socket: &str, on_host: bool) -> Child {
    command(base, node, socket, on_host).spawn().unwrap()
}

fn command(base: &Path, node: &str, socket: &str, on_host: bool) -> Command {
    let path = |name: &str| base.join(name).to_str().unwrap().to_owned();
    let registration =
        if node == "n1" { path("registration") } else { path(&format!("registration-{node}")) };
    let (host, share) = if on_host { ("/".into(), path("share")) } else { (path(""), "/share".into()) };
    let share = format!("s=directory:{share}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_csi-node"));
    command
        .args(["--role", "all", "--node-id", node])
        .args(["--endpoint", &format!("unix://{}", path(socket))])
        .args(["--host-root", &host, "--share", &share])
        .args(["--kubelet-root", &path(kubelet(socket)), "--registration-dir", &registration])
        .env("RUST_LOG", "error");
    command
}

/// Where connections are, so that they end also while a test waits for the end of a driver, which waits for theirs.
static CONNECTIONS: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

pub(crate) async fn connect(path: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let connected = async { Endpoint::from_static("http://driver").connect_with_connector(connector).await };
    CONNECTIONS.spawn(connected).await.unwrap().unwrap()
}

pub(crate) fn capability(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

pub(crate) fn wanted(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        volume_capabilities: vec![capability(Mode::MultiNodeMultiWriter)],
        parameters: HashMap::from([("share".to_owned(), "s".to_owned())]),
        ..CreateVolumeRequest::default()
    }
}

pub(crate) fn with(name: &str, parameters: &[(&str, &str)]) -> CreateVolumeRequest {
    let mut request = wanted(name);
    request.parameters.extend(parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    request
}

pub(crate) fn publish(id: &str, target: &str) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: id.into(),
        target_path: target.into(),
        volume_capability: Some(capability(Mode::MultiNodeMultiWriter)),
        ..NodePublishVolumeRequest::default()
    }
}

pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: not root, so NOTHING was made or mounted");
    }
    root
}

/// This thread, and the driver that it starts, in a mount namespace that nobody else sees.
pub(crate) fn alone() {
    // Deprecated for what other flags do; a mount namespace alone is no matter of memory.
    #[allow(deprecated)]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    // As /var/lib/kubelet is: what is mounted below is seen by the host.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
}

/// The mounts of this thread's namespace at or below `path`: where, options, and of what.
pub(crate) fn mounts(path: &str) -> Vec<(String, String, String)> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields[4].starts_with(path))
        .map(|fields| (fields[4].into(), fields[5].into(), fields[3].into()))
        .collect()
}
