//! The object server's configuration, and where its pod has the files that it names.

use crds::SwiftBridge;
use crds::bridge::IdentityMode;
use crds::grants::{Accepted, Acts, Allowed};
use crds::ids::IdRange;
use toml::{Table, Value};

/// Where the claim is mounted.
pub const OBJECTS: &str = "/srv/objects";
/// Where the configuration is mounted.
pub const CONFIG: &str = "/etc/lustre-bridge/config";
/// The file of the configuration.
pub const FILE: &str = "object-server.toml";
/// Where the users and the token's secret are mounted.
pub const AUTH: &str = "/etc/lustre-bridge/auth";
/// Where the certificate is mounted.
pub const TLS: &str = "/etc/lustre-bridge/tls";
/// Where the map of identities is mounted.
pub const MAP: &str = "/etc/lustre-bridge/map";

/// Port of plain HTTP.
pub const HTTP_PORT: u16 = 8080;
/// Port of HTTPS.
pub const HTTPS_PORT: u16 = 8443;
/// Port of metrics and health.
pub const ADMIN_PORT: u16 = 9464;

/// The port that clients' requests come to.
pub fn port(bridge: &SwiftBridge) -> u16 {
    if bridge.spec.exposure.tls.is_some() { HTTPS_PORT } else { HTTP_PORT }
}

/// The configuration of a bridge's object server.
pub fn text(bridge: &SwiftBridge, accepted: &Accepted) -> String {
    let spec = &bridge.spec;
    let mut config = Table::new();
    let sub_path = spec.sub_path.as_str();
    let root = if sub_path.is_empty() { OBJECTS.to_owned() } else { format!("{OBJECTS}/{sub_path}") };
    config.insert("root".into(), root.into());
    config.insert("admin_listen".into(), everywhere(ADMIN_PORT));
    config.insert("durability".into(), "full".into());
    if spec.exposure.tls.is_some() {
        config.insert("tls".into(), tls());
    } else {
        config.insert("listen".into(), vec![everywhere(HTTP_PORT)].into());
    }
    // Who lists accounts means these and no others.
    config.insert("account_autocreate".into(), spec.accounts.is_empty().into());
    if !spec.accounts.is_empty() {
        let accounts = spec.accounts.iter().map(|account| (account.name.clone(), account.directory().into()));
        config.insert("accounts".into(), Value::Table(accounts.collect()));
    }
    config.insert("identity".into(), identity(bridge, accepted));
    config.insert("auth".into(), auth(bridge));
    config.to_string()
}

/// Every address of the pod, of both families.
fn everywhere(port: u16) -> Value {
    format!("[::]:{port}").into()
}

fn tls() -> Value {
    let mut tls = Table::new();
    tls.insert("listen".into(), vec![everywhere(HTTPS_PORT)].into());
    tls.insert("certificate".into(), format!("{TLS}/tls.crt").into());
    tls.insert("key".into(), format!("{TLS}/tls.key").into());
    Value::Table(tls)
}

fn auth(bridge: &SwiftBridge) -> Value {
    let mut auth = Table::new();
    auth.insert("users".into(), format!("{AUTH}/users.toml").into());
    auth.insert("token_secret".into(), format!("{AUTH}/token.secret").into());
    if let Some(url) = &bridge.spec.exposure.public_url {
        auth.insert("public_url".into(), url.trim_end_matches('/').into());
    }
    Value::Table(auth)
}

/// A pod of one identity acts as itself; one of several keeps to what the grant allows.
fn identity(bridge: &SwiftBridge, accepted: &Accepted) -> Value {
    let mut identity = Table::new();
    match &accepted.acts {
        Acts::Within(allowed) => several(&mut identity, bridge, allowed),
        Acts::As(_) | Acts::Unknown => drop(identity.insert("mode".into(), "process".into())),
    }
    Value::Table(identity)
}

fn several(identity: &mut Table, bridge: &SwiftBridge, allowed: &Allowed) {
    let wanted = &bridge.spec.identity;
    let mode = match wanted.mode {
        IdentityMode::Owner => "owner",
        IdentityMode::Fixed => "fixed",
        IdentityMode::Map => "map",
    };
    identity.insert("mode".into(), mode.into());
    identity.insert("allowed_uids".into(), ranges(&allowed.uids));
    identity.insert("allowed_gids".into(), ranges(&allowed.gids));
    if wanted.mode == IdentityMode::Map {
        identity.insert("map".into(), format!("{MAP}/map").into());
    }
    if let (IdentityMode::Fixed, Some(uid), Some(gid)) = (wanted.mode, wanted.uid, wanted.gid) {
        identity.insert("uid".into(), i64::from(uid).into());
        identity.insert("gid".into(), i64::from(gid).into());
    }
}

fn ranges(ranges: &[IdRange]) -> Value {
    ranges.iter().map(|range| Value::from(range.to_string())).collect::<Vec<_>>().into()
}
