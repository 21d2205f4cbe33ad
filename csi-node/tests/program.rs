//! The program in a cluster: its shares are the LustreShares of an API server; and what it cannot start with.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::similar_names,
    dead_code,
    reason = "also the helpers of tests may fail them, and not every test uses every helper"
)]

#[path = "../../operator/tests/fake/mod.rs"]
mod fake;
mod harness;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use csi_node::proto::csi::controller_client::ControllerClient;
use csi_node::proto::registration::RegistrationStatus;
use csi_node::proto::registration::registration_client::RegistrationClient;
use fake::{Fault, Server, wire};
use harness::{connect, with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Status};

/// A cluster that programs can reach, and a host with a directory `srv`.
struct Cluster {
    server: Server,
    base: TempDir,
}

impl Cluster {
    async fn new() -> Cluster {
        let cluster = Cluster { server: Server::default(), base: TempDir::new().unwrap() };
        fs::create_dir(cluster.path("srv")).unwrap();
        cluster.server.put("namespaces", &json!({ "metadata": { "name": "team-a" } }));
        fs::write(cluster.path("kubeconfig"), wire::serve(cluster.server.clone()).await).unwrap();
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// A share whose directories belong to somebody that they can be given to.
    fn put_share(&self, name: &str, backend: &Value) {
        let is = fs::metadata(self.base.path()).unwrap();
        let (uid, gid) = if is.uid() == 0 { (2000, 2000) } else { (is.uid(), is.gid()) };
        let spec = json!({
            "backend": backend, "ownership": { "uid": uid, "gid": gid },
            "access": [{ "namespace": "team-a", "subPath": "a" }],
        });
        self.server.put("lustreshares", &json!({
            "apiVersion": "lustre-bridge.io/v1alpha1", "kind": "LustreShare", "metadata": { "name": name }, "spec": spec,
        }));
    }

    fn says(&self, share: &str, kind: &str, status: &str) -> bool {
        let share = self.server.get("lustreshares", "", share).unwrap();
        let conditions = share["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == status)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_csi-node"));
        command
            .args(["--host-root", self.base.path().to_str().unwrap()])
            .args(["--endpoint", &format!("unix://{}", self.path("csi.sock").display())])
            .args(arguments)
            .env("KUBECONFIG", self.path("kubeconfig"))
            .env("RUST_LOG", "info")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .stderr(Stdio::piped());
        command
    }

    fn start(&self, role: &str, arguments: &[&str]) -> Program {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = self.command(&["--kubernetes", "--json", "--node-id", "n1", "--role", role]);
        command.args(["--admin-listen", &format!("127.0.0.1:{port}")]).args(arguments);
        Program { process: command.spawn().unwrap(), port }
    }

    /// What a program says that does not start.
    fn refused(&self, arguments: &[&str]) -> String {
        let done = self.command(arguments).output().unwrap();
        assert!(!done.status.success(), "{done:?}");
        String::from_utf8(done.stderr).unwrap()
    }

    async fn create(&self, volume: &str, share: &str) -> Result<(), Status> {
        let mut controller = ControllerClient::new(connect(self.path("csi.sock")).await);
        controller.create_volume(with(volume, &[("share", share)])).await.map(|_| ())
    }
}

struct Program {
    process: Child,
    port: u16,
}

impl Program {
    /// What its admin address answers, or nothing yet.
    fn get(&self, path: &str) -> String {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
            stream.read_to_string(&mut answer).unwrap();
        }
        answer
    }

    fn is_ready(&self) -> bool {
        self.get("/readyz").starts_with("HTTP/1.1 200")
    }

    /// That it stops when it is asked to; its log.
    fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(self.process.wait().unwrap().success(), "{log}");
        log
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_follows_the_shares_of_its_cluster() {
    let cluster = Cluster::new().await;
    cluster.put_share("projects", &json!({ "directory": { "hostPath": "/srv" } }));
    // Of a release to come.
    cluster.put_share("other", &json!({ "tape": {} }));
    // The API server is away at first.
    cluster.server.fail(Fault { on: "GET", code: 500, times: 3 });
    cluster.server.fail(Fault { on: "PATCH", code: 500, times: 1 });
    let controller = cluster.start("controller", &[]);
    until("the directories are made", || cluster.says("projects", "DirectoryReady", "True")).await;
    assert!(cluster.says("projects", "FilesystemReachable", "True") && cluster.path("srv/a").is_dir());
    assert!(controller.is_ready());
    cluster.create("v1", "projects").await.unwrap();
    assert!(cluster.path("srv/v1").is_dir());
    let error = cluster.create("v2", "other").await.unwrap_err();
    assert!(
        error.code() == Code::InvalidArgument && error.message().contains("no share \"other\""),
        "{error}"
    );
    let metrics = controller.get("/metrics");
    assert!(metrics.contains("CreateVolume") && metrics.contains("INVALID_ARGUMENT"), "{metrics}");

    cluster.server.delete("lustreshares", "", "projects");
    for n in 0.. {
        assert!(n < 3000, "never: the share is forgotten");
        match cluster.create("v3", "projects").await {
            Err(error) if error.code() == Code::InvalidArgument => break,
            other => drop(other),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(cluster.path("srv/v1").is_dir() && cluster.path("srv/a").is_dir());
    let log = controller.stop();
    for line in [
        "cannot watch; trying again",
        "the share's status is not written; trying again",
        "a LustreShare cannot be used",
        "spec.backend.directory",
        "\"stopping\"",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_ready_when_the_kubelet_has_it() {
    let cluster = Cluster::new().await;
    let directory = cluster.path("registration");
    let node = cluster.start("node", &["--registration-dir", directory.to_str().unwrap()]);
    until("the shares are known", || node.get("/readyz").contains("the kubelet has not registered")).await;
    let socket = directory.join("registration@csi.lustre-bridge.io.sock");
    let mut kubelet = RegistrationClient::new(connect(socket.clone()).await);
    let failed = RegistrationStatus { plugin_registered: false, error: "as the test wants it".into() };
    kubelet.notify_registration_status(failed).await.unwrap();
    assert!(!node.is_ready());
    let registered = RegistrationStatus { plugin_registered: true, error: String::new() };
    kubelet.notify_registration_status(registered).await.unwrap();
    assert!(node.is_ready());
    // Volumes are the controller's to make.
    assert_eq!(cluster.create("v1", "projects").await.unwrap_err().code(), Code::Unimplemented);
    drop(kubelet);
    let log = node.stop();
    assert!(log.contains("as the test wants it") && log.contains("has registered the driver"), "{log}");
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_is_ready_before_it_knows_the_shares() {
    for role in ["controller", "node", "holder", "all"] {
        let cluster = Cluster::new().await;
        cluster.server.fail(Fault { on: "GET", code: 500, times: usize::MAX });
        let program = cluster.start(role, &[]);
        until("it answers", || program.get("/healthz").starts_with("HTTP/1.1 200")).await;
        assert!(program.get("/readyz").contains("the shares are not known yet"), "{role}");
        cluster.server.mend();
        until("the shares are known", || program.is_ready()).await;
        program.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_start_with_is_said() {
    let cluster = Cluster::new().await;
    let share = "s=directory:/srv";
    let said = cluster.refused(&["--node-id", "", "--share", share]);
    assert!(said.contains("--node-id is empty"), "{said}");
    let said = cluster.refused(&["--node-id", "n1", "--role", "controller", "--holder", "unix:///h.sock"]);
    assert!(said.contains("--holder is for the driver of a node"), "{said}");
    let said = cluster.refused(&["--node-id", "n1", "--share", share, "--kubernetes"]);
    assert!(said.contains("cannot be used with"), "{said}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = cluster.refused(&["--node-id", "n1", "--share", share, "--admin-listen", &address]);
    assert!(said.contains(&format!("the driver ended: cannot listen at {address}: ")), "{said}");
    fs::write(cluster.path("file"), "kept").unwrap();
    let file = cluster.path("file");
    let registration = file.to_str().unwrap();
    let said = cluster.refused(&["--node-id", "n1", "--share", share, "--registration-dir", registration]);
    assert!(said.contains("cannot listen at") && said.contains("/file/registration@"), "{said}");
    fs::remove_file(cluster.path("csi.sock")).unwrap();
    fs::write(cluster.path("csi.sock"), "kept").unwrap();
    let said = cluster.refused(&["--node-id", "n1", "--share", share]);
    assert!(said.contains("csi.sock: there is a file that is no socket"), "{said}");
    assert_eq!(fs::read_to_string(cluster.path("csi.sock")).unwrap(), "kept");
    fs::remove_file(cluster.path("kubeconfig")).unwrap();
    let said = cluster.refused(&["--node-id", "n1", "--kubernetes"]);
    assert!(said.contains("csi-node: cannot reach the API server: "), "{said}");
}
