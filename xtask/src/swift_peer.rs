//! OpenStack Swift on this machine: proxy, account, container and object server, one replica, memcached.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::disk::Disk;
use crate::proc::{Server, dies_with_us, free_port, logged};
use crate::users::{User, groups_of};
use crate::{http, tools};

/// How the proxy is set up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Everything that the functional tests look for.
    Full,
    /// The fewest filters that serve an object with authentication; two workers of each server.
    Bench,
}

/// A running OpenStack Swift.
pub(crate) struct SwiftPeer {
    // The proxy stops first: fields drop in order, and the file system after those that use it.
    servers: Vec<Server>,
    port: u16,
    disk: Option<Disk>,
}

const LAUNCHER: &str = include_str!("../data/swift_server.py");
const FULL: &str = "catch_errors gatekeeper healthcheck cache etag-quoter domain_remap listing_formats \
    bulk tempurl ratelimit crossdomain container_sync s3api tempauth staticweb copy container-quotas \
    account-quotas slo dlo versioned_writes symlink proxy-server";
const BENCH: &str =
    "catch_errors gatekeeper healthcheck cache listing_formats tempauth copy slo dlo proxy-server";

/// The domain that the functional tests remap.
pub(crate) const STORAGE_DOMAIN: &str = "example.net";

impl SwiftPeer {
    /// Starts it on a file system of its own.
    pub(crate) fn on_own_disk(name: &str, kind: Kind, users: &[User]) -> Result<Self> {
        let disk = Disk::open(name, None)?;
        let mut peer = Self::start(disk.dir(), kind, users)?;
        peer.disk = Some(disk);
        Ok(peer)
    }

    /// Starts it with its data and configuration in `dir`, an empty directory.
    pub(crate) fn start(dir: &Path, kind: Kind, users: &[User]) -> Result<Self> {
        tools::debian(&["memcached"])?;
        let bin = tools::python()?;
        let [memcached, proxy, account, container, object] =
            [free_port()?, free_port()?, free_port()?, free_port()?, free_port()?];
        fs::create_dir_all(dir.join("devices/d1"))?;
        let rings: &[(&str, u16)] = match kind {
            Kind::Full => {
                &[("account", account), ("container", container), ("object", object), ("object-1", object)]
            }
            Kind::Bench => &[("account", account), ("container", container), ("object", object)],
        };
        for (ring, port) in rings {
            make_ring(&bin, dir, ring, *port)?;
        }
        write_swift_conf(dir, kind)?;
        fs::write(dir.join("proxy-server.conf"), proxy_conf(dir, kind, proxy, memcached, users)?)?;
        for (name, port) in [("account", account), ("container", container), ("object", object)] {
            fs::write(dir.join(format!("{name}-server.conf")), storage_conf(dir, kind, name, port))?;
        }
        let mut cache = dies_with_us("memcached");
        cache.args(["-l", "127.0.0.1", "-U", "0", "-u", "root", "-p", &memcached.to_string()]);
        let mut servers = vec![Server::start("memcached", &mut cache, &dir.join("memcached.log"))?];
        let launcher = dir.join("swift_server.py");
        fs::write(&launcher, LAUNCHER)?;
        for name in ["account", "container", "object", "proxy"] {
            let module = if name == "object" { "obj" } else { name };
            let mut cmd = dies_with_us(bin.join("python"));
            cmd.arg(&launcher).arg(dir).arg(format!("swift.{module}.server"));
            cmd.arg(dir.join(format!("{name}-server.conf"))).arg("--verbose");
            servers.push(Server::start(name, &mut cmd, &dir.join(format!("{name}.log")))?);
        }
        for (n, port) in [account, container, object, proxy].into_iter().enumerate() {
            if let Some(server) = servers.get_mut(n + 1) {
                server.wait_ready(Duration::from_mins(1), || http::is_ok(port, "/healthcheck"))?;
            }
        }
        servers.reverse();
        Ok(Self { servers, port: proxy, disk: None })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The processes to ask for their cost; their children count too.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(Server::pid).collect()
    }
}

fn make_ring(bin: &Path, dir: &Path, ring: &str, port: u16) -> Result<()> {
    let builder = dir.join(format!("{ring}.builder"));
    let device = format!("r1z1-127.0.0.1:{port}/d1");
    let steps: [&[&str]; 3] = [&["create", "8", "1", "0"], &["add", &device, "1"], &["rebalance"]];
    for step in steps {
        let mut cmd = Command::new(bin.join("swift-ring-builder"));
        logged(cmd.arg(&builder).args(step), &dir.join("ring.log"))?;
    }
    Ok(())
}

fn write_swift_conf(dir: &Path, kind: Kind) -> Result<()> {
    let mut text = String::from(
        "[swift-hash]\nswift_hash_path_prefix = demo\nswift_hash_path_suffix = demo\n\
         [storage-policy:0]\nname = gold\ndefault = yes\n",
    );
    if kind == Kind::Full {
        text.push_str("[storage-policy:1]\nname = silver\n");
    }
    Ok(fs::write(dir.join("swift.conf"), text)?)
}

fn common(dir: &Path, kind: Kind, port: u16) -> String {
    let workers = if kind == Kind::Bench { 2 } else { 1 };
    format!(
        "[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nworkers = {workers}\nuser = root\n\
         swift_dir = {0}\ndevices = {0}/devices\nmount_check = false\nlog_level = ERROR\n\
         log_address = {0}/no-such-socket\n",
        dir.display()
    )
}

fn storage_conf(dir: &Path, kind: Kind, name: &str, port: u16) -> String {
    format!(
        "{}[pipeline:main]\npipeline = healthcheck {name}-server\n\
         [app:{name}-server]\nuse = egg:swift#{name}\nallow_versions = true\n\
         [filter:healthcheck]\nuse = egg:swift#healthcheck\n",
        common(dir, kind, port)
    )
}

fn proxy_conf(dir: &Path, kind: Kind, port: u16, memcached: u16, users: &[User]) -> Result<String> {
    let pipeline = if kind == Kind::Full { FULL } else { BENCH };
    let mut text = common(dir, kind, port);
    writeln!(text, "[pipeline:main]\npipeline = {pipeline}")?;
    write!(
        text,
        "[app:proxy-server]\nuse = egg:swift#proxy\nallow_account_management = true\n\
         account_autocreate = true\nallow_open_expired = true\n\
         error_suppression_limit = 1000000\nconn_timeout = 10\nnode_timeout = 60\nrecoverable_node_timeout = 60\n"
    )?;
    for name in pipeline.split_whitespace().filter(|n| *n != "proxy-server") {
        let egg = match name {
            "cache" => "memcache".to_owned(),
            other => other.replace('-', "_"),
        };
        writeln!(text, "[filter:{name}]\nuse = egg:swift#{egg}")?;
        match name {
            "cache" => writeln!(text, "memcache_servers = 127.0.0.1:{memcached}")?,
            "domain_remap" => writeln!(text, "storage_domain = {STORAGE_DOMAIN}")?,
            "s3api" => text.push_str("s3_acl = true\ncheck_bucket_owner = true\n"),
            "versioned_writes" => {
                text.push_str("allow_versioned_writes = true\nallow_object_versioning = true\n");
            }
            "tempauth" => {
                text.push_str("reseller_prefix = AUTH, SERVICE\nSERVICE_require_group = service\n");
                for user in users {
                    writeln!(text, "user_{}_{} = {} {}", user.account, user.name, user.key, groups_of(user))?;
                }
            }
            _ => {}
        }
    }
    Ok(text)
}
