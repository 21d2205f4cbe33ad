//! The servers that are measured, behind one face.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::sigv4::Signer;
use crate::proc::{self, Server, dies_with_us, find, free_port};
use crate::server::{Ours, Setup};
use crate::swift_peer::{Kind, SwiftPeer};
use crate::users::User;
use crate::{http, tools};

/// A server in a way of running it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Name {
    /// OpenStack Swift.
    Swift,
    Versitygw,
    Nginx,
    /// Ours with fsync before the answer.
    OursDurable,
    /// Ours with `durability = "relaxed"`.
    Ours,
}

impl Name {
    pub(crate) const ALL: [Self; 5] =
        [Self::Swift, Self::Versitygw, Self::Nginx, Self::OursDurable, Self::Ours];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Swift => "swift",
            Self::Versitygw => "versitygw",
            Self::Nginx => "nginx",
            Self::OursDurable => "ours-durable",
            Self::Ours => "ours",
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursDurable)
    }

    /// Whether an acknowledged write survives a power cut.
    pub(crate) fn durability(self) -> &'static str {
        match self {
            Self::Swift | Self::OursDurable => "durable",
            Self::Versitygw | Self::Nginx | Self::Ours => "not durable",
        }
    }
}

/// Stops with its value; nobody looks inside.
#[expect(dead_code, reason = "held for their Drop")]
enum Held {
    Swift(SwiftPeer),
    Ours(Ours),
    Other(Server),
}

/// A running server with a container `bench`.
pub(crate) struct Running {
    name: Name,
    port: u16,
    pids: Vec<u32>,
    /// What every request carries, `Name: value`.
    headers: Vec<String>,
    /// The path of the container.
    base: String,
    signer: Option<Signer>,
    /// The container as a directory, where objects are plain files.
    files: Option<PathBuf>,
    /// Objects that the last run of PUTs left.
    stored: AtomicU64,
    _held: Held,
}

impl Running {
    /// Starts it with everything that it writes in `dir`.
    pub(crate) fn start(name: Name, dir: &Path, bin: Option<&Path>) -> Result<Self> {
        match name {
            Name::Swift => {
                let peer = SwiftPeer::start(dir, Kind::Bench, &users())?;
                let (port, pids) = (peer.port(), peer.pids());
                Self::swift_api(name, port, pids, Held::Swift(peer), |_| None)
            }
            Name::Ours | Name::OursDurable => {
                let setup =
                    Setup { users: users(), relaxed: name == Name::Ours, quiet: true, ..Setup::default() };
                let ours = Ours::start(bin.context("no binary of ours")?, dir, &setup)?;
                let (port, pids, root) = (ours.port(), vec![ours.pid()], ours.root().to_path_buf());
                Self::swift_api(name, port, pids, Held::Ours(ours), |account| {
                    Some(root.join(account).join("bench"))
                })
            }
            Name::Nginx => nginx(dir),
            Name::Versitygw => versitygw(dir),
        }
    }

    fn swift_api(
        name: Name,
        port: u16,
        pids: Vec<u32>,
        held: Held,
        files: impl FnOnce(&str) -> Option<PathBuf>,
    ) -> Result<Self> {
        let (token, account) = http::log_in(port, "bench:bench", "bench")?;
        let base = format!("{account}/bench");
        http::ok("PUT", port, &base, &[("X-Auth-Token", &token)], &[])?;
        let headers = vec![format!("X-Auth-Token: {token}")];
        let files = files(account.rsplit('/').next().unwrap_or_default());
        Ok(Self {
            name,
            port,
            pids,
            headers,
            base,
            signer: None,
            files,
            stored: AtomicU64::new(0),
            _held: held,
        })
    }

    pub(crate) fn name(&self) -> Name {
        self.name
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.pids.clone()
    }

    pub(crate) fn headers(&self) -> Vec<String> {
        self.headers.clone()
    }

    pub(crate) fn files(&self) -> Option<&Path> {
        self.files.as_deref()
    }

    /// Whether every request is signed, which makes lists of paths costly.
    pub(crate) fn signs(&self) -> bool {
        self.signer.is_some()
    }

    pub(crate) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    pub(crate) fn set_stored(&self, objects: u64) {
        self.stored.store(objects, Ordering::Relaxed);
    }

    /// What stands in the request line for an object.
    pub(crate) fn target(&self, method: &str, object: &str) -> String {
        let path = format!("{}/{object}", self.base);
        match &self.signer {
            Some(signer) => signer.presign(method, &path),
            None => path,
        }
    }

    /// Stores objects of this size to be read; returns their names.
    pub(crate) fn fill(&self, size: usize) -> Result<Vec<String>> {
        let count = if size <= 65_536 { 200 } else { ((256 << 20) / size).clamp(4, 64) };
        let names: Vec<String> = (0..count).map(|n| format!("g{size}-{n:04}")).collect();
        let pairs: Vec<(&str, &str)> = self.headers.iter().filter_map(|h| h.split_once(": ")).collect();
        let there = |name: &String| {
            http::request("HEAD", self.port, &self.target("HEAD", name), &pairs, &[])
                .is_ok_and(|a| a.status == 200)
        };
        if names.last().is_some_and(there) {
            return Ok(names);
        }
        let body = vec![b'x'; size];
        for name in &names {
            http::ok("PUT", self.port, &self.target("PUT", name), &pairs, &body)?;
        }
        Ok(names)
    }

    /// Makes room, where the objects are plain files.
    pub(crate) fn clear(&self) -> Result<()> {
        if let Some(files) = &self.files {
            for entry in fs::read_dir(files)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }
}

fn users() -> Vec<User> {
    vec![User::new("bench", "bench", "bench", &[".admin"])]
}

/// Static GET, and PUT and DELETE by its DAV module; no authentication, no checksum.
fn nginx(dir: &Path) -> Result<Running> {
    let port = free_port()?;
    let files = dir.join("root/bench");
    fs::create_dir_all(&files)?;
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", dir.display()))
        .concat();
    let conf = dir.join("nginx.conf");
    fs::write(
        &conf,
        format!(
            "daemon off;\nworker_processes 2;\nuser root;\npid {0}/nginx.pid;\nerror_log stderr error;\n\
             events {{ worker_connections 1024; }}\nhttp {{\n{temporary}access_log off;\nsendfile on;\n\
             tcp_nopush on;\nkeepalive_requests 1000000000;\nclient_max_body_size 0;\n\
             server {{\nlisten 127.0.0.1:{port};\nroot {0}/root;\n\
             location / {{ dav_methods PUT DELETE; create_full_put_path on; }}\n}}\n}}\n",
            dir.display()
        ),
    )?;
    let mut cmd = dies_with_us(find("nginx").context("nginx is not installed")?);
    cmd.arg("-c").arg(&conf).arg("-p").arg(dir).args(["-e", "stderr"]);
    let mut server = Server::start("nginx", &mut cmd, &dir.join("nginx.log"))?;
    server.wait_ready(Duration::from_secs(20), || http::request("GET", port, "/", &[], &[]).is_ok())?;
    Ok(Running {
        name: Name::Nginx,
        port,
        pids: vec![server.pid()],
        headers: Vec::new(),
        base: "/bench".to_owned(),
        signer: None,
        files: Some(files),
        stored: AtomicU64::new(0),
        _held: Held::Other(server),
    })
}

/// Requests carry presigned URLs: it checks a signature each, as Swift checks a token.
fn versitygw(dir: &Path) -> Result<Running> {
    let program = tools::versitygw()?;
    let port = free_port()?;
    let root = dir.join("root");
    fs::create_dir_all(&root)?;
    let mut cmd = dies_with_us(program);
    cmd.args(["--access", "bench", "--secret", "benchbench", "--port", &format!("127.0.0.1:{port}")]);
    cmd.args(["--quiet", "--keep-alive", "--health", "/health", "posix"]).arg(&root);
    let mut server = Server::start("versitygw", &mut cmd, &dir.join("versitygw.log"))?;
    server.wait_ready(Duration::from_secs(20), || http::is_ok(port, "/health"))?;
    let time = proc::output(Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]))?.trim().to_owned();
    let signer = Signer {
        access: "bench".to_owned(),
        secret: "benchbench".to_owned(),
        host: format!("127.0.0.1:{port}"),
        time,
    };
    http::ok("PUT", port, &signer.presign("PUT", "/bench"), &[], &[])?;
    Ok(Running {
        name: Name::Versitygw,
        port,
        pids: vec![server.pid()],
        headers: Vec::new(),
        base: "/bench".to_owned(),
        signer: Some(signer),
        files: Some(root.join("bench")),
        stored: AtomicU64::new(0),
        _held: Held::Other(server),
    })
}
