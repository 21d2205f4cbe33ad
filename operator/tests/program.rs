//! The program itself: from start to stop, in turn with another, and what the chart's hooks ask it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::similar_names,
    clippy::semicolon_if_nothing_returned,
    missing_docs,
    dead_code,
    reason = "also the helpers of tests may fail them, and not every test uses every helper"
)]

mod fake;
mod harness;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fake::{Fault, Server, wire};
use harness::{bridge, share};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A cluster that programs can reach.
struct Cluster {
    server: Server,
    dir: TempDir,
}

impl Cluster {
    async fn new() -> Cluster {
        let server = Server::default();
        server.put("namespaces", &json!({ "metadata": { "name": "team-a" } }));
        let cluster = Cluster { dir: TempDir::new().unwrap(), server };
        fs::write(cluster.config(), wire::serve(cluster.server.clone()).await).unwrap();
        cluster
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_operator"));
        command
            .args(["--namespace", "system"])
            .args(arguments)
            .env("KUBECONFIG", self.config())
            .env("RUST_LOG", "info")
            .env_remove("KUBERNETES_SERVICE_HOST");
        command
    }

    /// What an operator says that ends with a failure.
    fn refused(&self, arguments: &[&str]) -> String {
        let done = self.command(arguments).output().unwrap();
        assert!(!done.status.success(), "{done:?}");
        String::from_utf8(done.stderr).unwrap()
    }

    fn passes(&self, arguments: &[&str]) {
        let done = self.command(arguments).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    fn operator(&self, host: &str) -> Operator {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = self.command(&["--json", "--admin-listen", &format!("127.0.0.1:{port}")]);
        let process = command.env("HOSTNAME", host).stderr(Stdio::piped()).spawn().unwrap();
        Operator { process, port }
    }

    fn leader(&self) -> String {
        let lease = self.server.get("leases", "system", "lustre-bridge-operator").unwrap_or_default();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }
}

struct Operator {
    process: Child,
    port: u16,
}

impl Operator {
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

    fn leads(&self) -> bool {
        self.get("/metrics").contains("lustre_bridge_operator_leading 1")
    }

    fn stop(&self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
    }

    /// Whether it ends well, and its log.
    fn end(&mut self) -> (bool, String) {
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.process.wait().unwrap().success(), log)
    }
}

impl Drop for Operator {
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
async fn one_works_the_other_waits_and_takes_over_what_is_given_back() {
    let cluster = Cluster::new().await;
    let access = json!({ "access": [{ "namespace": "team-a" }] });
    let claim = |name: &str| cluster.server.get("persistentvolumeclaims", "team-a", name).is_some();
    cluster.server.put("lustreshares", &share("first", &access));
    let mut one = cluster.operator("one");
    until("the claim", || claim("first")).await;
    assert!(one.is_ready() && one.leads() && cluster.leader().starts_with("one_"));

    let mut other = cluster.operator("other");
    until("the other is ready", || other.is_ready()).await;
    assert!(!other.leads() && cluster.leader().starts_with("one_"));

    one.stop();
    let (well, log) = one.end();
    assert!(well && log.contains("\"stopping\""), "{log}");
    until("the other leads", || cluster.leader().starts_with("other_")).await;
    cluster.server.put("lustreshares", &share("second", &access));
    until("the other's claim", || claim("second")).await;
    assert!(other.leads());
    other.stop();
    assert!(other.end().0);
    assert_eq!(cluster.leader(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_lease_was_taken_ends() {
    let cluster = Cluster::new().await;
    let mut operator = cluster.operator("one");
    until("it leads", || operator.is_ready() && operator.leads()).await;
    cluster.server.change("leases", "system", "lustre-bridge-operator", |lease| {
        lease["spec"]["holderIdentity"] = json!("another");
    });
    let (well, log) = operator.end();
    assert!(!well && log.contains("operator: this instance no longer leads"), "{log}");
    // It is not its own to give back.
    assert_eq!(cluster.leader(), "another");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_start_with_is_said() {
    let cluster = Cluster::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = cluster.refused(&["--admin-listen", &address]);
    assert!(said.contains(&format!("operator: cannot listen on {address}: ")), "{said}");
    let said = cluster.refused(&["--image-pull-policy", "Sometimes"]);
    assert!(said.contains("IfNotPresent"), "{said}");
    fs::remove_file(cluster.config()).unwrap();
    let said = cluster.refused(&["--admin-listen", "127.0.0.1:0"]);
    assert!(said.contains("operator: cannot find the API server: "), "{said}");
}

fn part(name: &str, status: &Value) -> Value {
    let labels = json!({ "app": name });
    let template = json!({ "metadata": { "labels": labels }, "spec": { "containers": [] } });
    let spec = json!({ "selector": { "matchLabels": labels }, "template": template });
    json!({ "metadata": { "namespace": "system", "name": name }, "spec": spec, "status": status })
}

fn on_nodes(ready: u32, wanted: u32) -> Value {
    json!({
        "numberReady": ready, "desiredNumberScheduled": wanted, "currentNumberScheduled": wanted,
        "numberMisscheduled": 0,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_is_checked_part_by_part() {
    let cluster = Cluster::new().await;
    let said = cluster.refused(&["check-install"]);
    for part in [
        "Deployment lustre-bridge-operator",
        "Deployment lustre-bridge-csi-controller",
        "DaemonSet lustre-bridge-csi-node",
        "DaemonSet lustre-bridge-csi-holder",
    ] {
        assert!(said.contains(&format!("{part} is not there")), "{said}");
    }
    for name in ["lustre-bridge-operator", "lustre-bridge-csi-controller"] {
        cluster.server.put("deployments", &part(name, &json!({ "availableReplicas": 1 })));
    }
    cluster.server.put("daemonsets", &part("lustre-bridge-csi-node", &on_nodes(2, 2)));
    cluster.server.put("daemonsets", &part("lustre-bridge-csi-holder", &on_nodes(1, 2)));
    let said = cluster.refused(&["check-install"]);
    assert!(said.contains("operator: DaemonSet lustre-bridge-csi-holder has 1 of 2 pods ready\n"), "{said}");
    cluster.server.put("daemonsets", &part("lustre-bridge-csi-holder", &on_nodes(2, 2)));
    cluster.passes(&["check-install"]);
    // All parts run, and nobody can make a bridge.
    cluster.server.withdraw("swiftbridges");
    let said = cluster.refused(&["check-install"]);
    assert!(said.contains("cannot ask the API server"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_uninstalled_that_somebody_uses() {
    let cluster = Cluster::new().await;
    cluster.passes(&["check-uninstall"]);
    cluster.server.put("lustreshares", &share("projects", &json!({})));
    cluster.server.put("swiftbridges", &bridge("team-a", "objects", &json!({})));
    let said = cluster.refused(&["check-uninstall"]);
    let left = "2 objects are still there: SwiftBridge team-a/objects, LustreShare projects; delete";
    assert!(said.contains(left), "{said}");
    cluster.server.delete("swiftbridges", "team-a", "objects");
    assert!(cluster.refused(&["check-uninstall"]).contains("1 object is still there: LustreShare projects;"));
    // Unknown is not nothing.
    cluster.server.fail(Fault { on: "/lustreshares", code: 403, times: 1 });
    assert!(cluster.refused(&["check-uninstall"]).contains("cannot ask the API server"));
    // Without the definitions there can be none.
    cluster.server.withdraw("lustreshares");
    cluster.server.withdraw("swiftbridges");
    cluster.passes(&["check-uninstall"]);
}
