//! Our own server, started for a demo, a test or a benchmark.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::http;
use crate::proc::{Server, dies_with_us, free_port};
use crate::users::User;

/// How to start it.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the server's own")]
pub(crate) struct Setup {
    pub(crate) users: Vec<User>,
    /// The directory to serve; one beside the configuration if not given.
    pub(crate) root: Option<PathBuf>,
    /// A free one if not given.
    pub(crate) port: Option<u16>,
    /// Acknowledged writes survive a crash of the server but no power cut.
    pub(crate) relaxed: bool,
    /// No access log, as the peers of a benchmark have none.
    pub(crate) quiet: bool,
    /// Large objects are assembled, at once.
    pub(crate) assemble: bool,
    /// With an index, and beside it the `changelog-syncer` that lies beside the server's binary.
    pub(crate) index: bool,
    pub(crate) env: Vec<(&'static str, String)>,
}

/// A running server.
pub(crate) struct Ours {
    server: Server,
    port: u16,
    admin: u16,
    root: PathBuf,
    // After the server, so that it stops later.
    _syncer: Option<Server>,
}

impl Ours {
    /// Writes users, secret and configuration into `dir` and starts `bin` with them.
    pub(crate) fn start(bin: &Path, dir: &Path, setup: &Setup) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let root = setup.root.clone().unwrap_or_else(|| dir.join("root"));
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        let root = root.canonicalize()?;
        let port = setup.port.map_or_else(free_port, Ok)?;
        let admin = free_port()?;
        private(&dir.join("users.toml"), &users_toml(bin, &setup.users)?)?;
        let secret = dir.join("token-secret");
        if !secret.exists() {
            private(&secret, &format!("{}\n", random_hex(32)?))?;
        }
        let syncer = if setup.index { Some(start_syncer(bin, dir, &root)?) } else { None };
        let config = dir.join("server.toml");
        private(&config, &config_toml(&root, dir, port, admin, setup))?;
        let mut cmd = dies_with_us(bin);
        cmd.arg("serve").arg("--config").arg(&config).envs(setup.env.iter().map(|(k, v)| (k, v)));
        let mut server = Server::start("object-server", &mut cmd, &dir.join("server.log"))?;
        server.wait_ready(Duration::from_secs(30), || http::is_ok(admin, "/readyz"))?;
        Ok(Self { server, port, admin, root, _syncer: syncer })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn admin(&self) -> u16 {
        self.admin
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn log(&self) -> &Path {
        self.server.log()
    }

    pub(crate) fn alive(&mut self) -> bool {
        self.server.alive()
    }

    /// Stops it as a service manager would; true if it left with success.
    pub(crate) fn stop(&mut self) -> bool {
        self.server.stop(Duration::from_secs(20))
    }
}

/// Follows changes of the directory, for the server's index.
fn start_syncer(bin: &Path, dir: &Path, root: &Path) -> Result<Server> {
    let mut cmd = dies_with_us(bin.with_file_name("changelog-syncer"));
    let socket = dir.join("relay.sock");
    cmd.arg("follow").arg("--root").arg(root).arg("--listen").arg(format!("unix:{}", socket.display()));
    let mut syncer = Server::start("changelog-syncer", &mut cmd, &dir.join("syncer.log"))?;
    syncer.wait_ready(Duration::from_secs(30), || socket.exists())?;
    Ok(syncer)
}

/// A file that only we can read.
fn private(path: &Path, text: &str) -> Result<()> {
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Bytes from the kernel's generator, in hexadecimal.
pub(crate) fn random_hex(bytes: usize) -> Result<String> {
    let mut raw = vec![0; bytes];
    fs::File::open("/dev/urandom")?.read_exact(&mut raw)?;
    Ok(raw.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    }))
}

/// A string of TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The file of users, their keys hashed by the server `bin`.
pub(crate) fn users_toml(bin: &Path, users: &[User]) -> Result<String> {
    let mut hashes = HashMap::new();
    let mut text = String::new();
    for user in users {
        let hash = match hashes.get(&user.key) {
            Some(hash) => hash,
            None => hashes.entry(&user.key).or_insert(hash_key(bin, &user.key)?),
        };
        let groups: Vec<String> = user.groups.iter().map(|g| quoted(g)).collect();
        write!(
            text,
            "[[user]]\naccount = {}\nname = {}\nkey_hash = {}\ngroups = [{}]\n\n",
            quoted(&user.account),
            quoted(&user.name),
            quoted(hash),
            groups.join(", ")
        )?;
    }
    Ok(text)
}

/// Asks the server's own command for the hash of a key.
fn hash_key(bin: &Path, key: &str) -> Result<String> {
    let mut child = Command::new(bin).arg("hash-key").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("no pipe")?.write_all(key.as_bytes())?;
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!("object-server hash-key failed: {}", out.status);
    }
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

fn config_toml(root: &Path, dir: &Path, port: u16, admin: u16, setup: &Setup) -> String {
    let durability = if setup.relaxed { "relaxed" } else { "full" };
    let log = quoted(&dir.join("access.log").display().to_string());
    let relay = quoted(&format!("unix:{}", dir.join("relay.sock").display()));
    let index = if setup.index {
        format!("\n[index]\npath = \"index.redb\"\nrelay = {relay}\n")
    } else {
        String::new()
    };
    format!(
        "root = {}\n\
         listen = [\"127.0.0.1:{port}\"]\n\
         admin_listen = \"127.0.0.1:{admin}\"\n\
         durability = \"{durability}\"\n\n\
         [auth]\n\
         users = \"users.toml\"\n\
         token_secret = \"token-secret\"\n\
         reseller_prefixes = [\"AUTH\", {{ prefix = \"SERVICE\", require_group = \"service\" }}]\n\n\
         [access_log]\nenabled = {}\npath = {log}\n\n\
         [assembler]\nenabled = {}\ninterval_seconds = 1\nbytes_per_second = 0\n{index}",
        quoted(&root.display().to_string()),
        !setup.quiet,
        setup.assemble,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_toml_are_escaped() {
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
    }

    #[test]
    fn random_keys_differ() {
        let (a, b) = (random_hex(16).unwrap(), random_hex(16).unwrap());
        assert_eq!(a.len(), 32);
        assert_ne!(a, b);
    }
}
