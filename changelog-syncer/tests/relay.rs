//! The relay as bridges see it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use changelog_syncer::client::{self, ClientError, Following};
use changelog_syncer::daemon::{self, Bound, Config, DaemonError};
use changelog_syncer::hub::Bounds;
use changelog_syncer::listen::Address;
use changelog_syncer::proto::relay::follow_response::What;
use changelog_syncer::proto::relay::{Checkpoint, Open};
use changelog_syncer::root::Root;
use changelog_syncer::source::Choice;
use changelog_syncer::source::replay::{Disorder, record};
use changelog_syncer::tls::Files;
use lustre::fs::Fid;
use namespace::{Mark, Spot};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

const PATIENCE: Duration = Duration::from_mins(1);

/// A directory with `a` and `b` in it, and what is needed to follow it.
struct Place {
    base: TempDir,
}

impl Place {
    fn new() -> Place {
        let base = TempDir::new().unwrap();
        for name in ["root/a/sub", "root/b"] {
            fs::create_dir_all(base.path().join(name)).unwrap();
        }
        Place { base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join("root").join(name)
    }

    fn socket(&self) -> PathBuf {
        self.base.path().join("relay.sock")
    }

    fn config(&self) -> Config {
        Config {
            root: self.path(""),
            source: Choice::Inotify,
            interval: Duration::from_mins(10),
            listen: Address::Unix(self.socket(), 0o600),
            tls: None,
            bounds: Bounds::default(),
            admin: Some("127.0.0.1:0".parse().unwrap()),
        }
    }

    async fn follow(&self, sub_path: &str, resume: Option<Checkpoint>) -> Following {
        let channel = client::unix(&self.socket()).await.unwrap();
        Following::open(channel, "bridge", sub_path.as_bytes(), resume).await.unwrap()
    }
}

/// A relay that runs.
struct Running {
    bound: Bound,
    stop: CancellationToken,
    task: JoinHandle<Result<(), DaemonError>>,
}

impl Running {
    async fn start(config: Config) -> Running {
        let (stop, (ready, bound)) = (CancellationToken::new(), oneshot::channel());
        let task = tokio::spawn(daemon::run(config, stop.clone(), |bound| ready.send(bound).unwrap()));
        Running { bound: bound.await.unwrap(), stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.bound.admin.unwrap()).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await;
        let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }
}

async fn next(following: &mut Following) -> What {
    tokio::time::timeout(PATIENCE, following.next()).await.expect("something is said").unwrap().unwrap()
}

/// The marks until one is of `name`, and the sequence with it.
async fn until(following: &mut Following, name: &str) -> (Vec<Mark>, u64) {
    let mut all = Vec::new();
    loop {
        if let What::Marks(marks) = next(following).await {
            all.extend(marks.marks.into_iter().map(Mark::from));
            if all.iter().any(|mark| names(mark).contains(&name.into())) {
                return (all, marks.sequence);
            }
        }
    }
}

/// The next heartbeat's sequence, and the marks before it.
async fn beat(following: &mut Following) -> (Vec<Mark>, u64) {
    let mut all = Vec::new();
    loop {
        match next(following).await {
            What::Marks(marks) => all.extend(marks.marks.into_iter().map(Mark::from)),
            What::Heartbeat(beat) => return (all, beat.sequence),
            What::Start(_) => panic!("a start comes once"),
        }
    }
}

fn full(spot: &Spot) -> String {
    let (path, name) = (String::from_utf8_lossy(&spot.path), String::from_utf8_lossy(&spot.name));
    if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") }
}

fn names(mark: &Mark) -> Vec<String> {
    match mark {
        Mark::Entry(spot) => vec![full(spot)],
        Mark::Moved { from, to } => from.iter().chain(to).map(full).collect(),
        Mark::Below { .. } | Mark::Everything => Vec::new(),
    }
}

#[allow(clippy::unnecessary_wraps)]
fn checkpoint(following: &Following, sequence: u64) -> Option<Checkpoint> {
    Some(Checkpoint { epoch: following.start.from.as_ref().unwrap().epoch.clone(), sequence })
}

fn refusal(error: ClientError) -> (Code, String) {
    match error {
        ClientError::Refused(status) => (status.code(), status.message().to_owned()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_bridge_hears_of_its_sub_path_alone() {
    let place = Place::new();
    let relay = Running::start(place.config()).await;
    let mut a = place.follow("a", None).await;
    let mut all = place.follow("", None).await;
    assert!(a.start.gap && a.start.source == "inotify");
    let root = Root::open(&place.path("a")).unwrap();
    assert_eq!(Fid::from_bytes(&a.start.directory).unwrap(), root.fid());
    fs::write(place.path("b/other"), "").unwrap();
    fs::write(place.path("a/sub/mine"), "").unwrap();
    fs::rename(place.path("a/sub/mine"), place.path("b/gone")).unwrap();
    fs::write(place.path("a/last"), "").unwrap();
    let (marks, _) = until(&mut a, "last").await;
    assert!(marks.iter().flat_map(names).all(|name| ["sub/mine", "last"].contains(&&*name)), "{marks:?}");
    let half =
        |mark: &Mark| matches!(mark, Mark::Moved { from: Some(from), to: None } if full(from) == "sub/mine");
    assert!(marks.iter().any(half), "{marks:?}");
    let (marks, _) = until(&mut all, "a/last").await;
    let found: Vec<String> = marks.iter().flat_map(names).collect();
    assert!(found.contains(&"b/other".into()) && found.contains(&"b/gone".into()), "{found:?}");
    relay.stop().await;
    assert!(!place.socket().exists());
}

#[tokio::test]
async fn a_bridge_that_comes_back_misses_nothing() {
    let place = Place::new();
    let relay = Running::start(place.config()).await;
    let mut first = place.follow("a", None).await;
    fs::write(place.path("a/one"), "").unwrap();
    let (_, sequence) = until(&mut first, "one").await;
    let resume = checkpoint(&first, sequence);
    drop(first);
    fs::write(place.path("a/two"), "").unwrap();
    let mut second = place.follow("a", resume.clone()).await;
    assert!(!second.start.gap);
    assert_eq!(second.start.from, resume);
    fs::write(place.path("a/three"), "").unwrap();
    let (marks, _) = until(&mut second, "three").await;
    assert!(marks.iter().flat_map(names).any(|name| name == "two"), "{marks:?}");
    // Of another sub-path it knows nothing.
    let other = place.follow("b", resume).await;
    assert!(other.start.gap);
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_that_was_restarted_has_a_gap() {
    let place = Place::new();
    let relay = Running::start(place.config()).await;
    let mut first = place.follow("", None).await;
    fs::write(place.path("one"), "").unwrap();
    let (_, sequence) = until(&mut first, "one").await;
    let resume = checkpoint(&first, sequence);
    relay.stop().await;
    let end = loop {
        match first.next().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    let relay = Running::start(place.config()).await;
    let second = place.follow("", resume).await;
    assert!(second.start.gap);
    assert_ne!(second.start.from.unwrap().epoch, first.start.from.unwrap().epoch);
    relay.stop().await;
}

#[tokio::test]
async fn what_is_acknowledged_is_not_kept() {
    let place = Place::new();
    let relay = Running::start(place.config()).await;
    let mut bridge = place.follow("", None).await;
    fs::write(place.path("one"), "").unwrap();
    until(&mut bridge, "one").await;
    let (_, sequence) = beat(&mut bridge).await;
    assert!(relay.metric("lustre_bridge_sync_tail_records").await > 0.0);
    assert!(relay.metric("lustre_bridge_sync_lag_seconds").await > 0.0);
    assert!(bridge.acknowledge(sequence).await);
    while relay.metric("lustre_bridge_sync_tail_records").await > 0.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(relay.metric("lustre_bridge_sync_marks_total").await >= 1.0);
    assert!(relay.metric("lustre_bridge_sync_bridges").await >= 1.0);
    // What was never sent cannot be durable.
    bridge.acknowledge(sequence + 1000).await;
    let end = loop {
        match bridge.next().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::InvalidArgument);
    relay.stop().await;
}

#[tokio::test]
async fn an_idle_relay_says_that_nothing_is_missing() {
    let place = Place::new();
    let relay = Running::start(place.config()).await;
    let mut bridge = place.follow("a", None).await;
    let mut times = Vec::new();
    for _ in 0..3 {
        let What::Heartbeat(beat) = next(&mut bridge).await else { panic!("there is nothing to say") };
        assert!(beat.immediate && beat.state.contains("inotify on 4 directories"), "{}", beat.state);
        times.push(beat.drained_ns);
    }
    assert!(times.is_sorted() && times[0] < times[2]);
    // What others are told counts too: the sequence goes on.
    fs::write(place.path("b/x"), "").unwrap();
    while beat(&mut bridge).await.1 == bridge.start.from.as_ref().unwrap().sequence {}
    assert!(relay.get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(relay.get("/readyz").await.contains("inotify on 4 directories"));
    assert!(relay.get("/nothing").await.starts_with("HTTP/1.1 404"));
    relay.stop().await;
}

fn recording(count: usize) -> Vec<Mark> {
    let dir = Fid::from_bytes(b"directory").unwrap();
    let path = vec![b'p'; 2000];
    let spot = |number: usize| Spot { dir, path: path.clone(), name: number.to_string().into_bytes() };
    (0..count).map(|number| Mark::Entry(spot(number))).collect()
}

#[tokio::test]
async fn a_bridge_that_is_too_slow_is_told_so_and_holds_up_nobody() {
    let place = Place::new();
    let mut config = place.config();
    config.bounds = Bounds { records: 1000, ..Bounds::default() };
    let relay = Running::start(config).await;
    // One reads no more than its start, of more than the connection holds.
    let channel = client::unix(&place.socket()).await.unwrap();
    let mut slow = Following::open(channel, "slow", b"", None).await.unwrap();
    let mut quick = place.follow("b", None).await;
    for number in 0..2000 {
        fs::write(place.path(&format!("a/{number:0>200}")), "").unwrap();
    }
    fs::write(place.path("b/last"), "").unwrap();
    until(&mut quick, "last").await;
    while relay.metric("lustre_bridge_sync_dropped_tails_total").await < 1.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let end = loop {
        match tokio::time::timeout(PATIENCE, slow.next()).await.unwrap() {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::DataLoss);
    let resume = checkpoint(&slow, 1);
    let channel = client::unix(&place.socket()).await.unwrap();
    assert!(Following::open(channel, "slow", b"", resume).await.unwrap().start.gap);
    beat(&mut quick).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_recording_reaches_a_bridge_as_it_is() {
    let place = Place::new();
    let (file, wanted) = (place.base.path().join("marks"), recording(2500));
    fs::write(&file, record(&wanted)).unwrap();
    let mut config = place.config();
    config.source = Choice::Replay(file, Disorder::default());
    let relay = Running::start(config).await;
    let mut bridge = place.follow("", None).await;
    let mut found = Vec::new();
    while found.len() < wanted.len() {
        found.extend(beat(&mut bridge).await.0);
    }
    assert_eq!(found, wanted);
    relay.stop().await;
}

#[tokio::test]
async fn the_same_bridge_follows_once() {
    let place = Place::new();
    let relay = Running::start(place.config()).await;
    let mut first = place.follow("", None).await;
    let _second = place.follow("", None).await;
    let end = loop {
        match first.next().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::Aborted);
    relay.stop().await;
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused_by_name() {
    let place = Place::new();
    std::os::unix::fs::symlink("a", place.path("link")).unwrap();
    let relay = Running::start(place.config()).await;
    let open = async |protocol, bridge: &str, sub_path: &str| {
        let channel = client::unix(&place.socket()).await.unwrap();
        let open =
            Open { protocol, bridge: bridge.into(), sub_path: sub_path.as_bytes().to_vec(), resume: None };
        refusal(Following::open_as(channel, open).await.unwrap_err())
    };
    let (code, text) = open(2, "b", "").await;
    assert!(code == Code::FailedPrecondition && text.contains("protocol 2"), "{text}");
    let (code, text) = open(1, "", "").await;
    assert!(code == Code::InvalidArgument && text.contains("name"), "{text}");
    assert_eq!(open(1, "b", "../x").await.0, Code::InvalidArgument);
    let (code, text) = open(1, "b", "missing").await;
    assert!(code == Code::NotFound && text.contains("missing"), "{text}");
    assert_eq!(open(1, "b", "link").await.0, Code::NotFound);
    relay.stop().await;
}

#[tokio::test]
async fn the_socket_is_its_owner_s_and_a_second_relay_leaves_it() {
    let place = Place::new();
    let relay = Running::start(place.config()).await;
    assert_eq!(fs::metadata(place.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let second = daemon::run(place.config(), CancellationToken::new(), |_| panic!("it runs")).await;
    assert!(matches!(second, Err(DaemonError::Listen(..))));
    place.follow("", None).await;
    relay.stop().await;
    // What a relay that was killed left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(place.socket()).unwrap());
    Running::start(place.config()).await.stop().await;
    fs::write(place.socket(), "kept").unwrap();
    let third = daemon::run(place.config(), CancellationToken::new(), |_| panic!("it runs")).await;
    assert!(matches!(third, Err(DaemonError::Listen(..))));
}

#[tokio::test]
async fn the_end_of_the_root_ends_the_relay() {
    let place = Place::new();
    let relay = Running::start(place.config()).await;
    fs::rename(place.path(""), place.base.path().join("was")).unwrap();
    let error = tokio::time::timeout(PATIENCE, relay.task).await.unwrap().unwrap().unwrap_err();
    let text = changelog_syncer::source::chain(&error);
    assert!(text.contains("unmounted, or the directory was replaced"), "{text}");
}

/// An authority and what it signed, as files.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let dir = TempDir::new().unwrap();
        let (mut params, key) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { dir, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, file: &str, name: SanType) -> Files {
        let (mut params, key) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
        params.subject_alt_names = vec![name];
        let path = |end: &str| self.dir.path().join(format!("{file}.{end}"));
        fs::write(path("pem"), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        Files { authority: self.dir.path().join("ca.pem"), certificate: path("pem"), key: path("key") }
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn grant(path: &Path, pairs: &[(&str, &str)]) {
    let mut text = "version = 1\n".to_owned();
    for (name, sub_path) in pairs {
        text = format!("{text}[[bridge]]\nname = '{name}'\npath = '{sub_path}'\n");
    }
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn over_tcp_the_certificate_decides() {
    let (place, authority) = (Place::new(), Authority::new());
    let grants = place.base.path().join("grants.toml");
    grant(&grants, &[("a.example", "a"), ("spiffe://cluster/b", "b")]);
    let mut config = place.config();
    config.listen = Address::Tcp("127.0.0.1:0".parse().unwrap());
    config.tls = Some((authority.sign("relay", dns("relay.example")), grants.clone()));
    let relay = Running::start(config).await;
    let address = relay.bound.relay.unwrap().to_string();
    let open = async |files: &Files, sub_path: &str| {
        let channel = client::tls(&address, "relay.example", files).await?;
        Following::open(channel, "bridge", sub_path.as_bytes(), None).await
    };

    let a = authority.sign("a", dns("a.example"));
    let mut follows = open(&a, "").await.unwrap();
    open(&a, "a").await.unwrap();
    let (code, text) = refusal(open(&a, "b").await.unwrap_err());
    assert!(code == Code::PermissionDenied && text.contains("\"a\""), "{text}");
    let b = authority.sign("b", SanType::URI("spiffe://cluster/b".try_into().unwrap()));
    let mut b = open(&b, "b").await.unwrap();
    fs::write(place.path("b/x"), "").unwrap();
    until(&mut b, "x").await;

    let unknown = authority.sign("unknown", dns("c.example"));
    assert_eq!(refusal(open(&unknown, "").await.unwrap_err()).0, Code::PermissionDenied);
    let foreign = Authority::new().sign("a", dns("a.example"));
    let foreign = Files { authority: a.authority.clone(), ..foreign };
    assert!(open(&foreign, "").await.is_err());
    // Nor does a bridge take anybody for the relay.
    assert!(client::tls(&address, "other.example", &a).await.is_err());

    // What was granted may be withdrawn.
    grant(&grants, &[("spiffe://cluster/b", "b")]);
    let end = loop {
        match tokio::time::timeout(PATIENCE, follows.next()).await.unwrap() {
            Ok(Some(_)) => {}
            Err(status) if status.code() == Code::Aborted => follows = open(&a, "").await.unwrap(),
            end => break end,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::PermissionDenied);
    relay.stop().await;
}

#[tokio::test]
async fn new_certificates_are_used() {
    let (place, old, new) = (Place::new(), Authority::new(), Authority::new());
    let grants = place.base.path().join("grants.toml");
    grant(&grants, &[("a.example", "a")]);
    let mut config = place.config();
    config.listen = Address::Tcp("127.0.0.1:0".parse().unwrap());
    let files = old.sign("relay", dns("relay.example"));
    config.tls = Some((files.clone(), grants));
    let relay = Running::start(config).await;
    let address = relay.bound.relay.unwrap().to_string();
    let later = new.sign("relay", dns("relay.example"));
    for (from, to) in [
        (&later.authority, &files.authority),
        (&later.certificate, &files.certificate),
        (&later.key, &files.key),
    ] {
        fs::copy(from, to).unwrap();
    }
    let bridge = new.sign("a", dns("a.example"));
    loop {
        if let Ok(channel) = client::tls(&address, "relay.example", &bridge).await
            && Following::open(channel, "bridge", b"", None).await.is_ok()
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    relay.stop().await;
}

#[tokio::test]
async fn there_is_no_tcp_without_certificates() {
    let place = Place::new();
    let mut config = place.config();
    config.listen = Address::Tcp("127.0.0.1:0".parse().unwrap());
    let error = daemon::run(config, CancellationToken::new(), |_| panic!("it runs")).await.unwrap_err();
    assert!(matches!(error, DaemonError::NoTls));
}
