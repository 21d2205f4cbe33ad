use super::*;

const LEAST: &str = "
    root = 'data'
    listen = ['0.0.0.0:8080']
    [auth]
    users = 'users.toml'
    token_secret = '/etc/secret'
";

const FULL: &str = r#"
    root = "/srv/objects"
    listen = ["0.0.0.0:8080", "[::]:8080"]
    admin_listen = "127.0.0.1:9000"
    trusted_proxies = ["10.0.0.0/8", "::1"]
    durability = "relaxed"
    metadata = "xattr"
    clock_skew_seconds = 5
    tombstone_seconds = 6
    trans_id_suffix = "-a"
    account_autocreate = false

    [tls]
    listen = ["0.0.0.0:8443"]
    certificate = "tls.crt"
    key = "tls.key"

    [identity]
    mode = "fixed"
    uid = 1000
    gid = 1001
    groups = [1002]
    allowed_uids = ["1000-1999"]
    allowed_gids = ["1001", "1002"]

    [auth]
    users = "users.toml"
    token_secret = "secret"
    token_life_seconds = 60
    reseller_prefixes = ["AUTH", "", "OLD_", { prefix = "SERVICE", require_group = ".service" }]
    storage_url_scheme = "https"
    public_url = "http://objects.example.org:8080"
    reload_seconds = 2
    concurrent_checks = 1

    [limits]
    max_file_size = 10
    [limits.account]
    requests_per_second = 0.5
    burst_requests = 10
    bytes_per_second = 1000
    in_flight = 4
    [limits.address]
    in_flight = 2

    [http]
    max_connections = 5
    [pool]
    threads = 2
    [access_log]
    path = "access.log"
    [index]
    path = "index.redb"
    relay = "tcp:relay.example:9470"
    name = "bridge"
    sub_path = "tenant"
    scan_threads = 3
    [index.tls]
    ca = "ca.crt"
    certificate = "relay.crt"
    key = "/etc/relay.key"
    [expirer]
    interval_seconds = 1
    [hasher]
    bytes_per_second = 7
    [assembler]
    enabled = true
    bytes_per_second = 8
    interval_seconds = 9
    containers = ["AUTH_physics", "AUTH_bio/results"]
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/bridge/server.toml"))
}

#[test]
fn the_least_configuration_has_swifts_limits() {
    let config = parse(LEAST).unwrap();
    assert_eq!(config.root, Path::new("/etc/bridge/data"));
    assert_eq!(config.auth.users, Path::new("/etc/bridge/users.toml"));
    assert_eq!(config.auth.token_secret, Path::new("/etc/secret"));
    assert_eq!(config.admin_listen.to_string(), "127.0.0.1:9464");
    assert_eq!(config.auth.reseller_prefixes, reseller_prefixes());
    assert_eq!(config.auth.token_life_seconds, 86_400);
    assert_eq!(config.durability, Durability::Full);
    assert_eq!(config.metadata, Metadata::Auto);
    assert_eq!(config.identity.mode, IdentityMode::Process);
    assert_eq!(config.access_log.path, Path::new("-"));
    assert_eq!(config.limits.max_file_size, 5 * (1 << 30) + 2);
    assert_eq!(config.limits.max_header_count(), 126);
    assert_eq!(config.limits.max_manifest_size, 8 << 20);
    assert_eq!((config.clock_skew_seconds, config.tombstone_seconds), (300, 86_400));
    assert!(config.tls.is_none() && config.index.is_none());
    assert!(!config.assembler.enabled);
    assert!(config.account_autocreate);
}

#[test]
fn every_field_is_read() {
    let config = parse(FULL).unwrap();
    assert!(!config.account_autocreate);
    assert_eq!(config.tls.unwrap().key, Path::new("/etc/bridge/tls.key"));
    assert_eq!(config.access_log.path, Path::new("/etc/bridge/access.log"));
    assert_eq!(config.identity.allowed_uids, [IdRange { first: 1000, last: 1999 }]);
    let prefixes = config.auth.reseller_prefixes;
    assert_eq!(
        prefixes.iter().map(|r| r.prefix.as_str()).collect::<Vec<_>>(),
        ["AUTH_", "", "OLD_", "SERVICE_"]
    );
    assert_eq!(prefixes[3].require_group.as_deref(), Some(".service"));
    assert_eq!(config.limits.account.burst_requests, 10);
    assert_eq!(config.limits.address.in_flight, 2);
    assert_eq!(config.limits.max_meta_count, 90);
    let index = config.index.unwrap();
    assert_eq!(index.path, Path::new("/etc/bridge/index.redb"));
    assert_eq!((index.scan_threads, index.max_lag_seconds, index.cache_bytes), (3, 60, 64 << 20));
    assert_eq!(index.tls.unwrap().ca, Path::new("/etc/bridge/ca.crt"));
    let assembler = config.assembler;
    assert!(assembler.enabled && (assembler.bytes_per_second, assembler.interval_seconds) == (8, 9));
    assert!(assembler.covers("AUTH_physics", "any") && assembler.covers("AUTH_bio", "results"));
    assert!(!assembler.covers("AUTH_bio", "other") && !assembler.covers("AUTH_phys", "any"));
    assert!(Assembler::default().covers("AUTH_bio", "other"), "everywhere, unless told where");
}

/// What is changed in the full configuration, and what the error must say.
#[test]
fn wrong_values_are_named_with_what_would_be_right() {
    for (from, to, said) in [
        ("root = ", "rood = ", "unknown field `rood`"),
        ("threads = 2", "threads = 2\ndepth = 1", "unknown field `depth`"),
        ("in_flight = 2", "in_flight = '2'", "invalid type: string \"2\", expected u32"),
        ("root = \"/srv/objects\"", "", "missing field `root`"),
        ("\"relaxed\"", "\"lax\"", "unknown variant `lax`, expected `full` or `relaxed`"),
        ("\"10.0.0.0/8\"", "\"10.0.0.0/33\"", "\"10.0.0.0/33\" is not a network as \"10.0.0.0/8\""),
        ("\"1000-1999\"", "\"1999-1000\"", "is not an id as \"1000\" or a range as \"1000-1999\""),
        ("\"AUTH\", ", "\"A/B\", ", "prefix \"A/B\" must not contain a slash"),
        ("\"AUTH\", ", "7, ", "expected a prefix as \"AUTH\" or {"),
        ("require_group =", "group =", "unknown field `group`"),
        ("listen = [\"0.0.0.0:8443\"]", "listen = []", "server.toml: tls.listen: needs an address"),
        ("uid = 1000", "uid = 0", "server.toml: identity.uid: must not be 0 and must lie within"),
        ("uid = 1000", "uid = 2000", "identity.uid: must not be 0 and must lie within allowed_uids"),
        ("groups = [1002]", "groups = [0]", "identity.gid: it and groups must not be 0"),
        ("uid = 1000\n", "\n", "identity.uid: mode \"fixed\" needs it"),
        ("mode = \"fixed\"", "mode = \"owner\"", "identity.uid: only mode \"fixed\" takes it"),
        ("groups = [1002]", "map = 'm'", "identity.map: only mode \"map\" takes it"),
        ("token_life_seconds = 60", "token_life_seconds = 0", "auth.token_life_seconds: must be from 1"),
        ("reload_seconds = 2", "reload_seconds = 0", "auth.reload_seconds: must be at least 1"),
        ("concurrent_checks = 1", "concurrent_checks = 0", "auth.concurrent_checks: must be from 1 to 64"),
        ("\"https\"", "\"ftp\"", "auth.storage_url_scheme: must be \"http\" or \"https\""),
        ("org:8080\"", "org:8080/\"", "auth.public_url: must be scheme, host and port alone"),
        ("threads = 2", "threads = 0", "pool.threads: must be at least 1"),
        (
            "\"AUTH_physics\"",
            "\"\"",
            "assembler.containers: an entry must be an account, as \"AUTH_physics\"",
        ),
        ("AUTH_bio/results", "AUTH_bio/", "assembler.containers: an entry must be an account"),
        ("AUTH_bio/results", "AUTH_bio/a/b", "or a container, as \"AUTH_bio/results\""),
        ("tcp:relay", "https://relay", "index.relay: must be unix:/path or tcp:host:port"),
        ("relay.example:9470", "relay.example", "index.relay: must be unix:/path or tcp:host:port"),
        ("tcp:relay.example:9470", "unix:relay", "index.relay: must be unix:/path or tcp:host:port"),
        ("tcp:relay.example:9470", "unix:/relay", "index.tls: a relay on tcp needs it, and only that"),
        ("scan_threads = 3", "scan_threads = 0", "index.scan_threads: must be from 1 to 64"),
        ("scan_threads = 3", "cache_bytes = 9", "index.cache_bytes: must be at least 1048576"),
        ("scan_threads = 3", "max_lag_seconds = 0", "index.max_lag_seconds: must be at least 1"),
        ("= 0.5", "= -1.0", "limits.account.requests_per_second: must be a number from 0"),
        ("= 0.5", "= nan", "limits.account.requests_per_second: must be a number from 0"),
    ] {
        assert!(FULL.contains(from), "{from}");
        let error = parse(&FULL.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(said), "{said}\n{error}");
        assert!(error.starts_with("/etc/bridge/server.toml: "), "{error}");
    }
    let without = |from: &str, to: &str| parse(&LEAST.replacen(from, to, 1)).unwrap_err().to_string();
    assert!(without("['0.0.0.0:8080']", "[]").contains("listen: needs an address"));
    assert!(without("[auth]", "[auth]\nreseller_prefixes = []").contains("needs one, as [\"AUTH\"]"));
    assert!(
        without("[auth]", "[identity]\nmode = 'map'\n[auth]").contains("mode \"map\" needs a file"),
        "map"
    );
}

#[test]
fn a_map_needs_only_its_file() {
    let text = LEAST.replace("[auth]", "[identity]\nmode = 'map'\nmap = 'map'\n[auth]");
    assert_eq!(parse(&text).unwrap().identity.map.unwrap(), Path::new("/etc/bridge/map"));
    let error = parse(&(text + "[index]\npath = 'i'\nrelay = 'unix:/r'\n")).unwrap_err().to_string();
    assert!(error.contains("index: cannot serve identities of mode \"map\""), "{error}");
}

#[test]
fn files_are_loaded_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.toml");
    let error = Config::load(&path).unwrap_err();
    assert!(error.to_string().contains("cannot read") && error.to_string().contains("server.toml"));
    std::fs::write(&path, LEAST).unwrap();
    assert_eq!(Config::load(&path).unwrap().root, folder.path().join("data"));
}

#[test]
fn ids_and_networks_have_edges() {
    let identity = Identity::default();
    assert!(identity.allows_uid(1) && identity.allows_gid(1));
    assert!(!identity.allows_uid(0) && !identity.allows_gid(0));
    let zero = Identity { allowed_uids: vec![IdRange { first: 0, last: 9 }], ..Identity::default() };
    assert!(!zero.allows_uid(0) && zero.allows_uid(9) && !zero.allows_uid(10));
    assert_eq!(IdRange::parse("x"), None);

    let inside = |network: &str, address: &str| {
        Network::parse(network).unwrap().contains(address.parse::<IpAddr>().unwrap())
    };
    assert!(inside("10.0.0.0/8", "10.255.0.1") && !inside("10.0.0.0/8", "11.0.0.1"));
    assert!(inside("10.0.0.0/8", "::ffff:10.1.1.1") && !inside("10.0.0.0/8", "::1"));
    assert!(inside("0.0.0.0/0", "1.2.3.4") && inside("fd00::/8", "fdff::1"));
    assert!(inside("1.2.3.4", "1.2.3.4") && !inside("1.2.3.4", "1.2.3.5"));
    for wrong in ["", "a", "1.2.3.4/", "1.2.3.4/x", "::1/129", "1.2.3/8"] {
        assert_eq!(Network::parse(wrong), None, "{wrong}");
    }
}
