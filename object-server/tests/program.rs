//! The program itself: its commands, and a server from its start to its stop.
#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of tests may fail them")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_object-server"))
}

/// What a command prints, given this input.
fn printed(command: &str, input: &str) -> String {
    let mut child = program().arg(command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A folder with all that a server needs.
struct Folder {
    dir: TempDir,
    /// Plain, TLS, admin.
    ports: [u16; 3],
}

impl Folder {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let hash = printed("hash-key", "key\n");
        private(
            &path("users.toml"),
            &format!(
                "[[user]]\naccount = 'test'\nname = 'owner'\nkey_hash = '{}'\ngroups = ['.admin']\n",
                hash.trim_end()
            ),
        );
        private(&path("token.secret"), &printed("generate-secret", ""));
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(path("tls.crt"), pair.cert.pem()).unwrap();
        private(&path("tls.key"), &pair.signing_key.serialize_pem());
        fs::create_dir(path("root")).unwrap();
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.map(|listener| listener.local_addr().unwrap().port());
        Self { dir, ports }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a server whose configuration has these lines more.
    fn command(&self, more: &str) -> Command {
        let [plain, tls, admin] = self.ports;
        let text = format!(
            "listen = ['127.0.0.1:{plain}']\nadmin_listen = '127.0.0.1:{admin}'\ndurability = 'relaxed'\n{more}\n\
             [tls]\nlisten = ['127.0.0.1:{tls}']\ncertificate = 'tls.crt'\nkey = 'tls.key'\n\
             [auth]\nusers = 'users.toml'\ntoken_secret = 'token.secret'\n\
             [access_log]\npath = 'access.log'\n"
        );
        fs::write(self.path("server.toml"), text).unwrap();
        let mut command = program();
        command.args(["serve", "--json", "--config"]).arg(self.path("server.toml"));
        command.stderr(Stdio::piped());
        command
    }

    /// What curl says of a URL on a port; the status comes first.
    fn curl(&self, port: u16, path: &str, arguments: &[&str]) -> String {
        let scheme = if port == self.ports[1] { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{port}{path}");
        let Output { stdout, .. } =
            Command::new("curl").args(["-sik", "-m", "30", &url]).args(arguments).output().unwrap();
        let text = String::from_utf8(stdout).unwrap();
        text.split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_serves_counts_logs_and_stops() {
    let folder = Folder::new();
    let [plain, tls, admin] = folder.ports;
    let mut running = Running(folder.command("root = 'root'\nmetadata = 'sidecar'").spawn().unwrap());
    while !folder.curl(admin, "/readyz", &[]).starts_with("200") {
        assert!(running.0.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let login = folder.curl(plain, "/auth/v1.0", &["-H", "X-Auth-User: test:owner", "-H", "X-Auth-Key: key"]);
    let header = |name: &str| login.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let token = format!("X-Auth-Token: {}", header("X-Auth-Token: "));
    assert_eq!(header("X-Storage-Url: "), format!("http://127.0.0.1:{plain}/v1/AUTH_test"));
    let wrong = folder.curl(plain, "/auth/v1.0", &["-H", "X-Auth-User: test:owner", "-H", "X-Auth-Key: no"]);
    assert!(wrong.starts_with("401"), "{wrong}");
    let put = |port, path, body| folder.curl(port, path, &["-X", "PUT", "-H", &token, "-d", body]);
    assert!(put(tls, "/v1/AUTH_test/c", "").starts_with("201"));
    assert!(put(tls, "/v1/AUTH_test/c/o", "hello").starts_with("201"));
    assert_eq!(fs::read(folder.path("root/AUTH_test/c/o")).unwrap(), b"hello");
    let get = folder.curl(plain, "/v1/AUTH_test/c/o", &["-0", "-H", &token, "-A", "tester"]);
    assert!(get.starts_with("200") && get.ends_with("\r\n\r\nhello"), "{get}");
    let mut nonsense = TcpStream::connect(("127.0.0.1", plain)).unwrap();
    nonsense.write_all(b"?\r\n\r\n").unwrap();
    let mut answer = String::new();
    nonsense.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let metrics = folder.curl(admin, "/metrics", &[]);
    for line in ["method=\"PUT\"", "method=\"GET\"", "method=\"other\""] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(folder.curl(admin, "/metrics", &["-X", "POST"]).starts_with("405"));

    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(running.0.wait().unwrap().success());
    let mut log = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    for message in ["durability is relaxed", "\"ready\"", "\"stopping\"", "\"stopped\""] {
        assert!(log.contains(message), "{message}: {log}");
    }
    let access = fs::read_to_string(folder.path("access.log")).unwrap();
    for words in ["PUT /v1/AUTH_test/c/o HTTP/1.1 201", "GET /v1/AUTH_test/c/o HTTP/1.0 200", " tester "] {
        assert!(access.contains(words), "{words}: {access}");
    }
    assert!(!access.contains(header("X-Auth-Token: ").trim()), "a token is a secret");
}

#[test]
fn an_account_that_does_not_exist_stays_so_where_it_shall_not_appear_by_itself() {
    let folder = Folder::new();
    let [plain, _, admin] = folder.ports;
    let mut running = Running(folder.command("root = 'root'\naccount_autocreate = false").spawn().unwrap());
    while !folder.curl(admin, "/readyz", &[]).starts_with("200") {
        assert!(running.0.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let login = folder.curl(plain, "/auth/v1.0", &["-H", "X-Auth-User: test:owner", "-H", "X-Auth-Key: key"]);
    let token = login.lines().find(|line| line.starts_with("X-Auth-Token: ")).unwrap();
    let put = || folder.curl(plain, "/v1/AUTH_test/c", &["-X", "PUT", "-H", token]);
    assert!(put().starts_with("404"));
    assert!(fs::read_dir(folder.path("root")).unwrap().next().is_none());
    fs::create_dir(folder.path("root/AUTH_test")).unwrap();
    assert!(put().starts_with("201"));
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let folder = Folder::new();
    let why = |more: &str| {
        let output = folder.command(more).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    for (more, words) in [
        ("root = 'none'\nmetadata = 'xattr'", "root: "),
        ("root = 'root'\nlisten_on = 1", "listen_on"),
        ("root = 'root'\ndurable = true", "durable"),
    ] {
        let text = why(more);
        assert!(text.contains("object-server: ") && text.contains(words), "{more}: {text}");
    }
    let taken = [0, 1, 2].map(|at| TcpListener::bind(("127.0.0.1", folder.ports[at])).unwrap());
    let [plain, tls, admin] = taken;
    assert!(why("root = 'root'").contains("admin_listen: cannot listen on"));
    drop(admin);
    assert!(why("root = 'root'").contains(" listen: cannot listen on"));
    drop(plain);
    assert!(why("root = 'root'").contains("tls.listen: cannot listen on"));
    drop(tls);
    fs::write(folder.path("tls.crt"), "no certificate").unwrap();
    assert!(why("root = 'root'").contains("object-server: tls: "));
    fs::write(folder.path("token.secret"), "short").unwrap();
    assert!(why("root = 'root'").contains("object-server: auth: "));
    let output = program().args(["serve", "--config", "/nowhere/server.toml"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/server.toml"));
}

#[test]
fn a_request_that_is_over_holds_no_place_of_its_account() {
    let folder = Folder::new();
    let [plain, _, admin] = folder.ports;
    let limits = "root = 'root'\n[limits.account]\nbytes_per_second = 1000000\nin_flight = 1";
    let mut running = Running(folder.command(limits).spawn().unwrap());
    while !folder.curl(admin, "/readyz", &[]).starts_with("200") {
        assert!(running.0.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let login = folder.curl(plain, "/auth/v1.0", &["-H", "X-Auth-User: test:owner", "-H", "X-Auth-Key: key"]);
    let token = login.lines().find(|line| line.starts_with("X-Auth-Token: ")).unwrap();
    // One connection: curl uses it again.
    let url = format!("http://127.0.0.1:{plain}/v1/AUTH_test");
    let answers = folder.curl(plain, "/v1/AUTH_test", &["-H", token, &url, &url, &url]);
    assert_eq!(answers.matches("HTTP/1.1 2").count() + 1, 4, "{answers}");
}
