//! The server's configuration: one TOML file.
//!
//! Every field has its unit in its name or is a plain count, unknown fields are errors, and a wrong value is refused
//! with the file, the field and what would be right. No secret stands in it, only paths to files. Relative paths count
//! from the folder of the file.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer};
use thiserror::Error;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or a field is unknown or of the wrong type. The text shows the line.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The configuration file.
        path: PathBuf,
        /// Line, column and what was expected.
        message: String,
    },
    /// A value that parses but cannot be right.
    #[error("{}: {field}: {message}", path.display())]
    Value {
        /// The configuration file.
        path: PathBuf,
        /// The field, with its table: `identity.uid`.
        field: &'static str,
        /// What would be right.
        message: String,
    },
}

/// The whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The directory whose sub-directories are the accounts.
    pub root: PathBuf,
    /// Addresses that speak plain HTTP.
    #[serde(default)]
    pub listen: Vec<SocketAddr>,
    /// Address of the metrics and health endpoints, plain HTTP.
    #[serde(default = "admin_listen")]
    pub admin_listen: SocketAddr,
    /// HTTPS, if wanted.
    pub tls: Option<Tls>,
    /// Proxies whose `X-Forwarded-For` is believed, as `address/bits`; else the peer is the client.
    #[serde(default)]
    pub trusted_proxies: Vec<Network>,
    /// What an acknowledged write survives.
    #[serde(default)]
    pub durability: Durability,
    /// Where an object's metadata is kept.
    #[serde(default)]
    pub metadata: Metadata,
    /// Accounts whose directory is not the one of their name: account to path beneath `root`.
    #[serde(default)]
    pub accounts: BTreeMap<String, String>,
    /// Whether an account that does not exist is made by the first write to it. If not, every request for it is
    /// answered 404.
    #[serde(default = "yes")]
    pub account_autocreate: bool,
    /// Whether `a` may be an object while there are objects below `a/`. If not, the second of the two is refused (409).
    #[serde(default = "yes")]
    pub prefixes_may_be_objects: bool,
    /// How far ahead of this server's clock an `X-Timestamp` may be, in seconds.
    #[serde(default = "clock_skew")]
    pub clock_skew_seconds: u64,
    /// How long a deletion is remembered, in seconds: as long as the slowest upload may last.
    #[serde(default = "tombstones")]
    pub tombstone_seconds: u64,
    /// Follows every transaction id, as a mark of this cluster.
    #[serde(default)]
    pub trans_id_suffix: String,
    /// As whom the server touches files.
    #[serde(default)]
    pub identity: Identity,
    /// Users and tokens.
    pub auth: Auth,
    /// Swift's constraints, and what one account or one address may take.
    #[serde(default)]
    pub limits: Limits,
    /// Connections and their timeouts.
    #[serde(default)]
    pub http: Http,
    /// The threads that make file-system calls.
    #[serde(default)]
    pub pool: Pool,
    /// The access log.
    #[serde(default)]
    pub access_log: AccessLog,
    /// The index of objects, if there is one; else listings and counters walk the tree.
    pub index: Option<Index>,
    /// The remover of expired objects.
    #[serde(default)]
    pub expirer: Expirer,
    /// The background reader that learns missing hashes.
    #[serde(default)]
    pub hasher: Hasher,
    /// The copier that makes one file of a static large object's segments.
    #[serde(default)]
    pub assembler: Assembler,
}

/// `[tls]`: HTTPS. The files are read again when they change.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Addresses that speak HTTPS.
    pub listen: Vec<SocketAddr>,
    /// PEM file of the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file of the private key.
    pub key: PathBuf,
}

/// What an acknowledged write survives.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A power cut.
    #[default]
    Full,
    /// A crash of the server; a power cut may take the last seconds.
    Relaxed,
}

/// Where an object's metadata is kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metadata {
    /// In an extended attribute where the file system has them, else beside the file.
    #[default]
    Auto,
    /// In an extended attribute; a file system without them is refused.
    Xattr,
    /// In a file beside the object's.
    Sidecar,
}

/// `[identity]`: as whom the server touches files.
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Whose identity a request takes.
    #[serde(default)]
    pub mode: IdentityMode,
    /// The user id of mode `fixed`; never 0.
    pub uid: Option<u32>,
    /// The group id of mode `fixed`; never 0.
    pub gid: Option<u32>,
    /// Further group ids of mode `fixed`.
    #[serde(default)]
    pub groups: Vec<u32>,
    /// The file of mode `map`: lines `user uid:gid[,gid...]`.
    pub map: Option<PathBuf>,
    /// User ids that a request may take, as `"1000"` or `"1000-1999"`. Empty: every one but 0.
    #[serde(default)]
    pub allowed_uids: Vec<IdRange>,
    /// Group ids that a request may take. Empty: every one but 0.
    #[serde(default)]
    pub allowed_gids: Vec<IdRange>,
}

/// Whose identity a request takes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityMode {
    /// The server's own.
    #[default]
    Process,
    /// The owner and group of the account's directory.
    Owner,
    /// `uid`, `gid` and `groups` of the configuration.
    Fixed,
    /// What the map file says of the user.
    Map,
}

/// `[auth]`: users and tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// The file of users; read again when it changes.
    pub users: PathBuf,
    /// The file of secrets that sign tokens, one a line, newest first; read again when it changes.
    pub token_secret: PathBuf,
    /// How long a token lasts, in seconds.
    #[serde(default = "token_life")]
    pub token_life_seconds: u64,
    /// What account names begin with; the first is the users' own. `""` takes every name.
    #[serde(default = "reseller_prefixes")]
    pub reseller_prefixes: Vec<Reseller>,
    /// Replaces the scheme in the storage URL, where a proxy speaks HTTPS for this server.
    pub storage_url_scheme: Option<String>,
    /// `scheme://host[:port]` by which clients reach this server. Default: what the request's Host header says.
    pub public_url: Option<String>,
    /// How often the files above are looked at for changes, in seconds.
    #[serde(default = "one")]
    pub reload_seconds: u64,
    /// How many keys are checked at once. Each check takes some 20 MiB and tens of milliseconds of a core.
    #[serde(default = "two")]
    pub concurrent_checks: usize,
}

/// An account prefix, as `"AUTH"` or as `{ prefix = "SERVICE", require_group = ".service" }`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reseller {
    /// With its underscore (`AUTH_`), or empty.
    pub prefix: String,
    /// A group that one must also be in to own such an account.
    pub require_group: Option<String>,
}

/// `[limits]`: Swift's constraints by Swift's names (lengths and sizes in bytes), and what clients may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest object of one upload.
    pub max_file_size: u64,
    /// Longest name of a metadata item, without its prefix.
    pub max_meta_name_length: usize,
    /// Longest value of a metadata item.
    pub max_meta_value_length: usize,
    /// Most metadata items in a request.
    pub max_meta_count: usize,
    /// Names and values of all metadata items together.
    pub max_meta_overall_size: usize,
    /// Longest object name.
    pub max_object_name_length: usize,
    /// Longest container name.
    pub max_container_name_length: usize,
    /// Longest account name.
    pub max_account_name_length: usize,
    /// Most rows in a listing of a container.
    pub container_listing_limit: usize,
    /// Most rows in a listing of an account.
    pub account_listing_limit: usize,
    /// Longest header line.
    pub max_header_size: usize,
    /// Headers in a request beyond metadata and the usual 36.
    pub extra_header_count: usize,
    /// Most segments in a manifest.
    pub max_manifest_segments: usize,
    /// Largest manifest.
    pub max_manifest_size: usize,
    /// Smallest segment.
    pub min_segment_size: u64,
    /// How long a request that comes too early is held back before it is refused, in seconds.
    pub max_wait_seconds: u64,
    /// What one account may take.
    pub account: Share,
    /// What one client address may take (of IPv6: one /64).
    pub address: Share,
}

/// What one account or address may take. 0 is no limit.
#[derive(Clone, Copy, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Share {
    /// Requests per second in the long run.
    pub requests_per_second: f64,
    /// Requests that may come at once after a pause; 0 is one second's worth.
    pub burst_requests: u32,
    /// Bytes per second, both ways together.
    pub bytes_per_second: u64,
    /// Requests under way at once.
    pub in_flight: u32,
}

/// `[http]`: connections and their timeouts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Most connections at once.
    pub max_connections: usize,
    /// How long a connection may lie idle between requests, in seconds.
    pub idle_timeout_seconds: u64,
    /// How long the head of a request may take, in seconds.
    pub header_timeout_seconds: u64,
    /// How long a body may stand still, in seconds.
    pub body_timeout_seconds: u64,
}

/// `[pool]`: the threads that make file-system calls, per mount.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Most threads.
    pub threads: usize,
    /// Most calls that wait for a thread; beyond it, requests are answered 503.
    pub queue: usize,
}

/// `[access_log]`: one line per request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// The file, or `-` for standard output. A file that was moved away is made anew.
    pub path: PathBuf,
    /// Whether lines are written at all.
    pub enabled: bool,
    /// Lines that wait for the disk, in bytes; beyond it lines are dropped and counted.
    pub buffer_bytes: usize,
}

/// `[index]`: what the tree holds, for listings and counters, and who tells of changes to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Its file, on a disk of the server's own. It is derived: deleted, it is made anew.
    pub path: PathBuf,
    /// Bytes of it kept in memory at most.
    #[serde(default = "index_cache")]
    pub cache_bytes: usize,
    /// The relay: `unix:/path` or `tcp:host:port`.
    pub relay: String,
    /// What the relay was told to give this server: a directory of its own beneath its root.
    #[serde(default)]
    pub sub_path: String,
    /// This server's name among those that follow the relay.
    #[serde(default = "bridge_name")]
    pub name: String,
    /// Certificates for a relay on TCP; the files are read at each connection.
    pub tls: Option<RelayTls>,
    /// Without word that nothing is missing for so long, listings come from the tree, in seconds.
    #[serde(default = "max_lag")]
    pub max_lag_seconds: u64,
    /// Threads that scan.
    #[serde(default = "scan_threads")]
    pub scan_threads: usize,
    /// Entries that are scanned per second at most; 0 is no limit.
    #[serde(default)]
    pub scan_entries_per_second: u64,
}

/// `[index.tls]`: PEM files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayTls {
    /// Who signed the relay's certificate.
    pub ca: PathBuf,
    /// This server's certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// `[expirer]`: the remover of expired objects.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expirer {
    /// Whether it runs.
    pub enabled: bool,
    /// Pause between two rounds, in seconds.
    pub interval_seconds: u64,
}

/// `[hasher]`: the background reader that learns missing hashes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hasher {
    /// Whether it runs.
    pub enabled: bool,
    /// Bytes it reads per second.
    pub bytes_per_second: u64,
    /// Pause between two rounds, in seconds.
    pub interval_seconds: u64,
}

/// `[assembler]`: the copier that makes one file of a static large object's segments.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Assembler {
    /// Whether it runs. Not unless asked for: where blocks cannot be shared, such an object then takes its space twice.
    pub enabled: bool,
    /// Bytes it copies per second; 0 is no limit.
    pub bytes_per_second: u64,
    /// Pause between two rounds, in seconds.
    pub interval_seconds: u64,
    /// Where: accounts, as `"AUTH_physics"`, and containers, as `"AUTH_bio/results"`. Empty: everywhere.
    pub containers: Vec<String>,
}

/// An inclusive range of user or group ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdRange {
    /// The lowest.
    pub first: u32,
    /// The highest.
    pub last: u32,
}

/// A network: an address and how many of its first bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file_size: 5_368_709_122,
            max_meta_name_length: 128,
            max_meta_value_length: 256,
            max_meta_count: 90,
            max_meta_overall_size: 4096,
            max_object_name_length: 1024,
            max_container_name_length: 256,
            max_account_name_length: 256,
            container_listing_limit: 10_000,
            account_listing_limit: 10_000,
            max_header_size: 8192,
            extra_header_count: 0,
            max_manifest_segments: 1000,
            max_manifest_size: 8 << 20,
            min_segment_size: 1,
            max_wait_seconds: 0,
            account: Share::default(),
            address: Share::default(),
        }
    }
}

impl Limits {
    /// Most headers in a request, as Swift reckons it.
    pub fn max_header_count(&self) -> usize {
        self.max_meta_count + 36 + self.extra_header_count
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            idle_timeout_seconds: 60,
            header_timeout_seconds: 15,
            body_timeout_seconds: 60,
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self { threads: 64, queue: 1024 }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { path: "-".into(), enabled: true, buffer_bytes: 4 << 20 }
    }
}

impl Default for Expirer {
    fn default() -> Self {
        Self { enabled: true, interval_seconds: 300 }
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self { enabled: true, bytes_per_second: 64 << 20, interval_seconds: 300 }
    }
}

impl Default for Assembler {
    fn default() -> Self {
        Self { enabled: false, bytes_per_second: 64 << 20, interval_seconds: 300, containers: Vec::new() }
    }
}

impl Assembler {
    /// Whether it works in a container.
    pub fn covers(&self, account: &str, container: &str) -> bool {
        let of = |entry: &String| match entry.split_once('/') {
            Some((its, inner)) => (its, inner) == (account, container),
            None => entry == account,
        };
        self.containers.is_empty() || self.containers.iter().any(of)
    }
}

fn admin_listen() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 9464).into()
}

fn index_cache() -> usize {
    64 << 20
}

fn bridge_name() -> String {
    "object-server".to_owned()
}

fn max_lag() -> u64 {
    60
}

fn scan_threads() -> usize {
    2
}

fn clock_skew() -> u64 {
    300
}

fn tombstones() -> u64 {
    86_400
}

fn token_life() -> u64 {
    86_400
}

fn yes() -> bool {
    true
}

fn one() -> u64 {
    1
}

fn two() -> usize {
    2
}

fn reseller_prefixes() -> Vec<Reseller> {
    vec![Reseller { prefix: "AUTH_".to_owned(), require_group: None }]
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks a text; `path` names it in errors and is where relative paths count from.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        config.check().map_err(|(field, message)| ConfigError::Value {
            path: path.to_owned(),
            field,
            message,
        })?;
        Ok(config)
    }

    fn resolve(&mut self, folder: &Path) {
        let mut paths = vec![&mut self.root, &mut self.auth.users, &mut self.auth.token_secret];
        paths.extend(self.identity.map.as_mut());
        paths.extend(self.tls.as_mut().into_iter().flat_map(|tls| [&mut tls.certificate, &mut tls.key]));
        if let Some(index) = &mut self.index {
            paths.push(&mut index.path);
            paths.extend(
                index.tls.as_mut().into_iter().flat_map(|t| [&mut t.ca, &mut t.certificate, &mut t.key]),
            );
        }
        if self.access_log.path != Path::new("-") {
            paths.push(&mut self.access_log.path);
        }
        for path in paths {
            *path = folder.join(&*path);
        }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let tls_listen = self.tls.as_ref().map_or(0, |tls| tls.listen.len());
        require(
            !self.listen.is_empty() || tls_listen > 0,
            "listen",
            "needs an address, as [\"0.0.0.0:8080\"]",
        )?;
        require(
            self.tls.is_none() || tls_listen > 0,
            "tls.listen",
            "needs an address, as [\"0.0.0.0:8443\"]; without HTTPS leave [tls] out",
        )?;
        for path in self.accounts.values() {
            let beneath = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
            require(beneath, "accounts", "a directory must be a path beneath root, as \"projects/physics\"")?;
        }
        for entry in &self.assembler.containers {
            let parts: Vec<&str> = entry.split('/').collect();
            let right = matches!(parts.as_slice(), [account] | [account, _] if !account.is_empty())
                && parts.last().is_some_and(|last| !last.is_empty());
            require(right, "assembler.containers", {
                "an entry must be an account, as \"AUTH_physics\", or a container, as \"AUTH_bio/results\""
            })?;
        }
        self.check_identity()?;
        self.check_index()?;
        self.check_auth()?;
        let not_zero = [
            ("pool.threads", self.pool.threads),
            ("pool.queue", self.pool.queue),
            ("http.max_connections", self.http.max_connections),
            ("limits.container_listing_limit", self.limits.container_listing_limit),
            ("limits.account_listing_limit", self.limits.account_listing_limit),
            ("access_log.buffer_bytes", self.access_log.buffer_bytes),
        ];
        for (field, value) in not_zero {
            require(value > 0, field, "must be at least 1")?;
        }
        for (field, share) in [
            ("limits.account.requests_per_second", &self.limits.account),
            ("limits.address.requests_per_second", &self.limits.address),
        ] {
            let rate = share.requests_per_second;
            require((0.0..=1e9).contains(&rate), field, "must be a number from 0 (no limit) to 1e9")?;
        }
        Ok(())
    }

    fn check_identity(&self) -> Result<(), (&'static str, String)> {
        let identity = &self.identity;
        let fixed = identity.mode == IdentityMode::Fixed;
        for (field, id) in [("identity.uid", identity.uid), ("identity.gid", identity.gid)] {
            require(!fixed || id.is_some(), field, "mode \"fixed\" needs it")?;
            require(fixed || id.is_none(), field, "only mode \"fixed\" takes it")?;
        }
        require(fixed || identity.groups.is_empty(), "identity.groups", "only mode \"fixed\" takes it")?;
        if let (Some(uid), Some(gid)) = (identity.uid, identity.gid) {
            let gids = identity.groups.iter().copied().chain([gid]);
            require(
                identity.allows_uid(uid),
                "identity.uid",
                "must not be 0 and must lie within allowed_uids",
            )?;
            for gid in gids {
                require(
                    identity.allows_gid(gid),
                    "identity.gid",
                    "it and groups must not be 0 and must lie within allowed_gids",
                )?;
            }
        }
        let map = identity.mode == IdentityMode::Map;
        require(!map || identity.map.is_some(), "identity.map", "mode \"map\" needs a file")?;
        require(map || identity.map.is_none(), "identity.map", "only mode \"map\" takes it")
    }

    fn check_index(&self) -> Result<(), (&'static str, String)> {
        let Some(index) = &self.index else { return Ok(()) };
        // What one user may list another may not.
        require(self.identity.mode != IdentityMode::Map, "index", {
            "cannot serve identities of mode \"map\"; leave [index] out"
        })?;
        let host = index.relay.strip_prefix("tcp:").and_then(|address| address.rsplit_once(':'));
        let tcp = host.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let unix = index.relay.strip_prefix("unix:").is_some_and(|path| path.starts_with('/'));
        require(tcp || unix, "index.relay", "must be unix:/path or tcp:host:port")?;
        require(tcp == index.tls.is_some(), "index.tls", "a relay on tcp needs it, and only that")?;
        require(index.cache_bytes >= 1 << 20, "index.cache_bytes", "must be at least 1048576")?;
        require(index.max_lag_seconds > 0, "index.max_lag_seconds", "must be at least 1")?;
        require((1..=64).contains(&index.scan_threads), "index.scan_threads", "must be from 1 to 64")
    }

    fn check_auth(&self) -> Result<(), (&'static str, String)> {
        let auth = &self.auth;
        require((1..=10 * 365 * 86_400).contains(&auth.token_life_seconds), "auth.token_life_seconds", {
            "must be from 1 to 315360000 (ten years)"
        })?;
        require(!auth.reseller_prefixes.is_empty(), "auth.reseller_prefixes", "needs one, as [\"AUTH\"]")?;
        require(auth.reload_seconds > 0, "auth.reload_seconds", "must be at least 1")?;
        require(
            (1..=64).contains(&auth.concurrent_checks),
            "auth.concurrent_checks",
            "must be from 1 to 64",
        )?;
        let scheme = auth.storage_url_scheme.as_deref().unwrap_or("https");
        require(
            ["http", "https"].contains(&scheme),
            "auth.storage_url_scheme",
            "must be \"http\" or \"https\"",
        )?;
        let url = auth.public_url.as_deref().unwrap_or("https://host");
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or("");
        require(
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/'),
            "auth.public_url",
            "must be scheme, host and port alone, as \"https://objects.example.org:8443\"",
        )
    }
}

fn require(right: bool, field: &'static str, message: &str) -> Result<(), (&'static str, String)> {
    if right { Ok(()) } else { Err((field, message.to_owned())) }
}

impl Identity {
    /// Whether a request may take this user id.
    pub fn allows_uid(&self, uid: u32) -> bool {
        uid != 0
            && (self.allowed_uids.is_empty() || self.allowed_uids.iter().any(|range| range.contains(uid)))
    }

    /// Whether a request may take this group id.
    pub fn allows_gid(&self, gid: u32) -> bool {
        gid != 0
            && (self.allowed_gids.is_empty() || self.allowed_gids.iter().any(|range| range.contains(gid)))
    }
}

impl IdRange {
    /// Reads `1000` or `1000-1999`.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? };
        (range.first <= range.last).then_some(range)
    }

    /// Whether the range holds this id.
    pub fn contains(self, id: u32) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

impl Network {
    /// Reads `10.0.0.0/8`, `fd00::/8` or a single address.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse::<IpAddr>().ok()?, Some(bits.parse().ok()?)),
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { address, bits })
    }

    /// Whether the address lies in the network. IPv4 in IPv6's clothes counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits,
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for IdRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom(format!("\"{text}\" is not an id as \"1000\" or a range as \"1000-1999\""))
        })
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| de::Error::custom(format!("\"{text}\" is not a network as \"10.0.0.0/8\"")))
    }
}

impl<'de> Deserialize<'de> for Reseller {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            prefix: String,
            require_group: Option<String>,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Table;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a prefix as \"AUTH\" or { prefix = \"SERVICE\", require_group = \".service\" }")
            }

            fn visit_str<E: de::Error>(self, prefix: &str) -> Result<Table, E> {
                Ok(Table { prefix: prefix.to_owned(), require_group: None })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Table, A::Error> {
                Table::deserialize(de::value::MapAccessDeserializer::new(map))
            }
        }
        let Table { mut prefix, require_group } = deserializer.deserialize_any(Visitor)?;
        if prefix.contains('/') {
            return Err(de::Error::custom(format!("prefix \"{prefix}\" must not contain a slash")));
        }
        if !prefix.is_empty() && !prefix.ends_with('_') {
            prefix.push('_');
        }
        Ok(Self { prefix, require_group: require_group.filter(|group| !group.is_empty()) })
    }
}

#[cfg(test)]
mod tests;
