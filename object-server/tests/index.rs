//! The index of a server that follows a real relay: what files do shows, whoever was away in between.
#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of tests may fail them")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use changelog_syncer::hub::Bounds;
use changelog_syncer::listen::Address;
use changelog_syncer::source::Choice;
use namespace::{ListQuery, Namespace, ObjectMeta, Options, Row, Timestamp};
use object_server::follower::Follower;
use object_server::identities::Identities;
use object_server::metrics::Metrics;
use object_server::{config, indexing};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// How long anything may take, on a machine that does much else.
const LIMIT: Duration = Duration::from_mins(1);

const ACCOUNT: &str = "AUTH_test";

struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let site = Self { dir };
        fs::create_dir_all(site.path("root/AUTH_test/box/dir")).unwrap();
        fs::create_dir_all(site.path("other")).unwrap();
        fs::write(site.path("root/AUTH_test/box/dir/first"), "1").unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> config::Index {
        let text = format!(
            "root = 'root'\nlisten = ['127.0.0.1:0']\n[auth]\nusers = 'u'\ntoken_secret = 't'\n\
             [index]\npath = 'index.redb'\nrelay = 'unix:{}'\n",
            self.path("relay.sock").display()
        );
        config::Config::parse(&text, &self.path("server.toml")).unwrap().index.unwrap()
    }

    async fn relay(&self, root: &str) -> Relay {
        let config = changelog_syncer::daemon::Config {
            root: self.path(root),
            source: Choice::Inotify,
            interval: Duration::from_mins(10),
            listen: Address::Unix(self.path("relay.sock"), 0o600),
            tls: None,
            bounds: Bounds::default(),
            admin: None,
        };
        let stop = CancellationToken::new();
        let (ready, bound) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(changelog_syncer::daemon::run(config, stop.clone(), |_| {
            ready.send(()).unwrap();
        }));
        bound.await.unwrap();
        Relay { stop, task }
    }

    fn bridge(&self) -> Bridge {
        let config = self.config();
        let identities = Arc::new(Identities::new(config::Identity::default()).unwrap());
        let index = indexing::open(&config, &identities).unwrap();
        let options = Options { durable: false, ..Options::default() };
        let namespace = Arc::new(Namespace::open(&self.path("root"), options).unwrap().with_index(index));
        let metrics = Arc::new(Metrics::default());
        indexing::watch(&metrics, &namespace);
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(indexing::run(Arc::clone(&namespace), config.clone(), stopped.clone()));
        let (ns, counted) = (Arc::clone(&namespace), Arc::clone(&metrics));
        tasks.spawn(Follower { namespace: ns, config, metrics: counted }.run(stopped));
        Bridge { namespace, metrics, stop, tasks }
    }
}

struct Relay {
    stop: CancellationToken,
    task: JoinHandle<Result<(), changelog_syncer::daemon::DaemonError>>,
}

impl Relay {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

struct Bridge {
    namespace: Arc<Namespace>,
    metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Bridge {
    async fn stop(mut self) {
        self.stop.send(true).unwrap();
        while self.tasks.join_next().await.is_some() {}
    }

    fn names(&self) -> Vec<String> {
        let query = ListQuery { limit: 1000, ..ListQuery::default() };
        let rows = self.namespace.list_objects(ACCOUNT, "box", &query).unwrap();
        let name = |row| match row {
            Row::Object(row) => row.name,
            Row::Subdir(name) => name,
        };
        rows.into_iter().map(name).collect()
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.starts_with(&format!("lustre_bridge_{name} "))).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// All is proven and known to be as it is now.
    async fn settled(&self) {
        until("the index is current and proven", || {
            self.metric("index_current") == 1 && self.metric("index_unproven_containers") == 0
        })
        .await;
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn write(path: &Path) {
    fs::write(path, "x").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_files_do_is_listed_from_the_index() {
    let site = Site::new();
    let relay = site.relay("root").await;
    let bridge = site.bridge();
    bridge.settled().await;
    assert_eq!(bridge.names(), ["dir/first"]);
    assert_eq!(bridge.metric("relay_connected"), 1);
    fs::create_dir(site.path("root/AUTH_test/box/new")).unwrap();
    write(&site.path("root/AUTH_test/box/new/a"));
    fs::rename(site.path("root/AUTH_test/box/dir"), site.path("root/AUTH_test/box/moved")).unwrap();
    until("the new file and the move show", || bridge.names() == ["moved/first", "new/a"]).await;
    bridge.settled().await;
    assert_eq!(bridge.metric("index_current"), 1);
    assert!(bridge.metric("relay_marks_total") > 0);
    // A request of our own shows with the answer to it.
    let name = namespace::ObjectName::new(ACCOUNT, "box", "put");
    bridge.namespace.put_object(&name, b"x", ObjectMeta::default(), Timestamp::now(), None).unwrap();
    assert_eq!(bridge.names(), ["moved/first", "new/a", "put"]);
    bridge.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_was_away_hears_what_it_missed_and_scans_nothing() {
    let site = Site::new();
    let relay = site.relay("root").await;
    let bridge = site.bridge();
    bridge.settled().await;
    write(&site.path("root/AUTH_test/box/before"));
    until("the file shows", || bridge.names() == ["before", "dir/first"]).await;
    bridge.settled().await;
    // What is durable is told once a second.
    until("the checkpoint moved", || {
        bridge.namespace.index().unwrap().checkpoint().unwrap().first_chunk() > Some(&[0u8; 8])
    })
    .await;
    bridge.stop().await;
    write(&site.path("root/AUTH_test/box/away"));
    fs::remove_file(site.path("root/AUTH_test/box/before")).unwrap();
    let bridge = site.bridge();
    assert_eq!(bridge.metric("index_unproven_containers"), 0, "what was proven still is");
    until("it follows", || bridge.metric("index_current") == 1).await;
    assert_eq!(bridge.names(), ["away", "dir/first"]);
    assert!(bridge.metric("index_looks") < 10, "it looked at more than it missed");
    bridge.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_while_no_relay_runs_is_listed_from_the_tree_and_then_scanned() {
    let site = Site::new();
    let relay = site.relay("root").await;
    let bridge = site.bridge();
    bridge.settled().await;
    relay.stop().await;
    until("the relay is missed", || bridge.metric("relay_connected") == 0).await;
    write(&site.path("root/AUTH_test/box/unseen"));
    assert_eq!(bridge.names(), ["dir/first", "unseen"]);
    let relay = site.relay("root").await;
    until("the bridge follows again", || bridge.metric("relay_connected") == 1).await;
    // From then on it is exact at every moment: unproven, it comes from the tree.
    assert_eq!(bridge.names(), ["dir/first", "unseen"]);
    bridge.settled().await;
    assert_eq!(bridge.names(), ["dir/first", "unseen"]);
    bridge.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_of_another_directory_is_not_believed() {
    let site = Site::new();
    let relay = site.relay("other").await;
    let bridge = site.bridge();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(bridge.metric("index_current"), 0);
    assert_eq!(bridge.metric("relay_connected"), 0);
    write(&site.path("root/AUTH_test/box/new"));
    assert_eq!(bridge.names(), ["dir/first", "new"], "from the tree");
    bridge.stop().await;
    relay.stop().await;
}
