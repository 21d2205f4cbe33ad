//! The controller against an API server that is a table.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::id::VolumeId;
use crate::share::Shares;
use crate::volumes;

/// The objects of each collection; a change wakes the watches.
#[derive(Clone)]
struct Server {
    objects: Arc<Mutex<BTreeMap<&'static str, Vec<Value>>>>,
    patches: mpsc::UnboundedSender<(String, Value)>,
    changes: watch::Sender<u64>,
}

const SHARES: &str = "/apis/lustre-bridge.io/v1alpha1/lustreshares";
const BRIDGES: &str = "/apis/lustre-bridge.io/v1alpha1/swiftbridges";
const NAMESPACES: &str = "/api/v1/namespaces";

impl Server {
    fn new() -> (Server, mpsc::UnboundedReceiver<(String, Value)>) {
        let (patches, said) = mpsc::unbounded_channel();
        (Server { objects: Arc::default(), patches, changes: watch::channel(0).0 }, said)
    }

    fn put(&self, collection: &'static str, object: Value) {
        self.objects.lock().unwrap().entry(collection).or_default().push(object);
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let watching = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        if request.method() == Method::PATCH {
            let said = request.into_body().collect().await.unwrap().to_bytes();
            return self.patch(&path, serde_json::from_slice(&said).unwrap());
        }
        assert_eq!(request.method(), Method::GET);
        if watching {
            return self.watch(&path).await;
        }
        let items = self.objects.lock().unwrap().get(path.as_str()).cloned().unwrap_or_default();
        answer(
            &json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": items }),
        )
    }

    /// Ends with the next change; the client then begins again.
    async fn watch(&self, path: &str) -> Response<Body> {
        self.changes.subscribe().changed().await.unwrap();
        let items = self.objects.lock().unwrap().get(path).cloned().unwrap_or_default();
        let events =
            items.iter().map(|item| json!({ "type": "MODIFIED", "object": item }).to_string() + "\n");
        Response::new(Body::from(events.collect::<String>().into_bytes()))
    }

    fn patch(&self, place: &str, patch: Value) -> Response<Body> {
        let mut objects = self.objects.lock().unwrap();
        let name = patch["metadata"]["name"].clone();
        let collection = if patch["kind"] == "LustreShare" { SHARES } else { BRIDGES };
        let object =
            objects.get_mut(collection).unwrap().iter_mut().find(|object| object["metadata"]["name"] == name);
        let object = object.unwrap();
        object["status"] = patch["status"].clone();
        let answered = answer(object);
        drop(objects);
        self.patches.send((place.to_owned(), patch)).unwrap();
        self.changes.send_modify(|change| *change += 1);
        answered
    }
}

fn answer(value: &Value) -> Response<Body> {
    Response::new(Body::from(serde_json::to_vec(value).unwrap()))
}

/// A driver on a directory of its own, as whoever runs the test.
struct Driver {
    base: tempfile::TempDir,
    parts: Parts,
    server: Server,
    said: mpsc::UnboundedReceiver<(String, Value)>,
}

impl Driver {
    fn new() -> Driver {
        let base = tempfile::tempdir().unwrap();
        let (server, said) = Server::new();
        let parts = Parts::new(Shares::unknown(base.path()));
        server.put(
            NAMESPACES,
            json!({ "metadata": { "name": "team-a", "uid": "n1", "resourceVersion": "1" } }),
        );
        Driver { base, parts, server, said }
    }

    fn share(&self, host_path: &str) -> LustreShare {
        let mut share = fixtures::share(host_path);
        let is = std::fs::metadata(self.base.path()).unwrap();
        share.spec.ownership.uid = if is.uid() == 0 { 2000 } else { is.uid() };
        share.spec.ownership.gid = if is.uid() == 0 { 2000 } else { is.gid() };
        share
    }

    fn start(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(run(self.server.client(), self.parts.clone(), "n1".into(), true))
    }

    /// The next thing that was said of an object of this kind.
    async fn next(&mut self, kind: &str) -> Value {
        loop {
            let (place, patch) = self.said.recv().await.unwrap();
            assert!(place.ends_with("/status"), "{place}");
            if patch["kind"] == kind {
                return patch;
            }
        }
    }
}

fn says(patch: &Value, kind: &str, status: &str) -> bool {
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == status)
}

#[tokio::test]
async fn a_share_and_a_bridge_get_their_directories() {
    let mut driver = Driver::new();
    std::fs::create_dir(driver.base.path().join("srv")).unwrap();
    driver.server.put(SHARES, serde_json::to_value(driver.share("/srv")).unwrap());
    driver.server.put(BRIDGES, serde_json::to_value(fixtures::bridge("team-a")).unwrap());
    let running = driver.start();
    let said = driver.next("LustreShare").await;
    assert!(says(&said, "FilesystemReachable", "True") && says(&said, "DirectoryReady", "True"), "{said}");
    assert_eq!(said["status"]["grants"][0]["claimName"], "projects");
    // First the owner of the directory is unknown, then it is seen and the accounts follow.
    while !says(&driver.next("SwiftBridge").await, "DirectoryReady", "True") {}
    let account = std::fs::metadata(driver.base.path().join("srv/team-a/physics")).unwrap();
    assert_eq!(u64::from(account.uid()), said["status"]["grants"][0]["uid"].as_u64().unwrap());
    assert_eq!(account.mode() & 0o7777, 0o2770);
    // The grant is a volume that can be published.
    let granted = crds::grants::of_namespace(&driver.share("/srv"), "team-a", &BTreeMap::new());
    let id = VolumeId::parse(&granted[0].volume_handle()).unwrap();
    let share = driver.parts.shares.of_volume(&id).unwrap();
    let record = share.run(move |tree| volumes::find(tree, &id.uuid)).await.unwrap();
    assert_eq!((record.path.as_str(), record.name.as_str()), ("team-a", "team-a/projects"));
    running.abort();
}

#[tokio::test]
async fn a_missing_directory_is_said_and_one_bad_object_stops_nothing() {
    let mut driver = Driver::new();
    driver
        .server
        .put(SHARES, json!({ "metadata": { "name": "broken", "uid": "u9" }, "spec": { "backend": 7 } }));
    driver.server.put(SHARES, serde_json::to_value(driver.share("/missing")).unwrap());
    let running = driver.start();
    let said = driver.next("LustreShare").await;
    assert_eq!(said["metadata"]["name"], "projects");
    assert!(says(&said, "FilesystemReachable", "False") && says(&said, "DirectoryReady", "Unknown"));
    assert!(!driver.base.path().join("missing").exists());
    running.abort();
}

#[test]
fn a_revoked_grant_is_published_no_more_and_keeps_its_files() {
    let driver = Driver::new();
    std::fs::create_dir(driver.base.path().join("srv")).unwrap();
    let share = driver.share("/srv");
    let all = Namespaces::from([("team-a".to_owned(), BTreeMap::new())]);
    let mut plan = plan::plan(&share, &all, &[]).unwrap();
    driver.parts.shares.replace([("projects".to_owned(), plan.spec.clone())]);
    let opened = driver.parts.shares.get("projects").unwrap().unwrap();
    assert!(matches!(make::make(&opened, &plan), make::Outcome::Reachable { share: None, .. }));
    let uuid = plan.grants[0].uuid.clone();
    assert!(volumes::find(&opened.open().unwrap(), &uuid).is_ok());
    plan.grants.clear();
    make::make(&opened, &plan);
    assert!(volumes::find(&opened.open().unwrap(), &uuid).is_err());
    assert!(driver.base.path().join("srv/team-a").exists());
}

#[test]
fn the_shares_own_directory_is_made_beneath_the_backends() {
    let driver = Driver::new();
    std::fs::create_dir(driver.base.path().join("srv")).unwrap();
    let mut share = driver.share("/srv");
    share.spec.path = "/a/b".into();
    let plan = plan::plan(&share, &Namespaces::new(), &[]).unwrap();
    driver.parts.shares.replace([("projects".to_owned(), plan.spec.clone())]);
    let opened = driver.parts.shares.get("projects").unwrap().unwrap();
    make::make(&opened, &plan);
    let made = std::fs::metadata(driver.base.path().join("srv/a/b")).unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid()), (0o2770, share.spec.ownership.uid));
    assert_eq!(std::fs::metadata(driver.base.path().join("srv/a")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn what_is_in_the_way_of_a_directory_is_said_of_all_that_need_it() {
    let driver = Driver::new();
    std::fs::create_dir(driver.base.path().join("srv")).unwrap();
    std::fs::write(driver.base.path().join("srv/team-a"), "kept").unwrap();
    let mut share = driver.share("/srv");
    fixtures::set_owner(&mut share, "team-a", 2000, 2000);
    let all = Namespaces::from([("team-a".to_owned(), BTreeMap::new())]);
    let (bridge, other) = (fixtures::bridge("team-a"), fixtures::bridge("other"));
    let make = |share: &LustreShare| {
        let plan = plan::plan(share, &all, &[&bridge, &other]).unwrap();
        driver.parts.shares.replace([("projects".to_owned(), plan.spec.clone())]);
        make::make(&driver.parts.shares.get("projects").unwrap().unwrap(), &plan)
    };
    // A file where the granted directory is to be.
    let make::Outcome::Reachable { share: None, grants, bridges } = make(&share) else { panic!() };
    assert!(grants[0].as_ref().unwrap_err().contains("team-a"), "{grants:?}");
    assert!(matches!(&bridges[0], make::Made::Failed(why) if why.contains("team-a")), "{bridges:?}");
    assert!(matches!(&bridges[1], make::Made::NotAccepted(why) if why.contains("other")), "{bridges:?}");
    // A file where the share's own directory is to be.
    share.spec.path = "/team-a/b".into();
    let make::Outcome::Reachable { share: Some(why), grants, bridges } = make(&share) else { panic!() };
    assert!(why.contains("cannot make \"team-a\" of the share's directory team-a/b"), "{why}");
    assert!(grants[0].as_ref().unwrap_err() == &why);
    assert!(bridges.iter().all(|made| *made == make::Made::Failed(why.clone())), "{bridges:?}");
    assert_eq!(std::fs::read_to_string(driver.base.path().join("srv/team-a")).unwrap(), "kept");
}

#[tokio::test]
async fn what_stays_as_it_is_and_what_is_elsewhere_is_not_touched() {
    let mut driver = Driver::new();
    for name in ["srv", "elsewhere"] {
        std::fs::create_dir(driver.base.path().join(name)).unwrap();
    }
    let mut suspended = driver.share("/srv");
    suspended.metadata.name = Some("suspended".into());
    suspended.spec.suspend = true;
    let mut elsewhere = driver.share("/elsewhere");
    elsewhere.spec.backend.directory.as_mut().unwrap().node = Some("n2".into());
    driver.server.put(SHARES, serde_json::to_value(suspended).unwrap());
    driver.server.put(SHARES, serde_json::to_value(elsewhere).unwrap());
    driver.server.put(BRIDGES, serde_json::to_value(fixtures::bridge("team-a")).unwrap());
    let running = driver.start();
    let said = driver.next("LustreShare").await;
    assert_eq!(said["metadata"]["name"], "projects");
    assert!(said.to_string().contains("the share is on node n2 only"), "{said}");
    assert!(says(&said, "FilesystemReachable", "Unknown") && says(&said, "DirectoryReady", "False"));
    let said = driver.next("SwiftBridge").await;
    assert!(says(&said, "DirectoryReady", "False") && said.to_string().contains("on node n2 only"), "{said}");
    for name in ["srv", "elsewhere"] {
        assert_eq!(std::fs::read_dir(driver.base.path().join(name)).unwrap().count(), 0, "{name}");
    }
    running.abort();
}
