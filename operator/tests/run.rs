//! The whole operator against an API server in memory: watches, faults, and who leads. Time is the test's own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::similar_names,
    clippy::semicolon_if_nothing_returned,
    missing_docs,
    dead_code,
    reason = "also the helpers of tests may fail them, and not every test uses every helper"
)]

mod fake;
mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fake::{Fault, Server};
use harness::{Cluster, condition, conditions, crowd, share};
use operator::Settings;
use operator::lease::{Claim, Election};
use operator::metrics::Metrics;
use operator::run::Operator;
use serde_json::json;

fn start(server: &Server) -> Arc<AtomicBool> {
    let settings =
        Settings { object_server_image: "object-server:test".into(), image_pull_policy: "Never".into() };
    let operator = Operator::new(server.client(), Claim::for_ever(), settings, Metrics::new());
    let ready = Arc::new(AtomicBool::new(false));
    tokio::spawn(operator.run(Arc::clone(&ready)));
    ready
}

fn cluster() -> Server {
    let server = Server::default();
    server.put("namespaces", &json!({ "metadata": { "name": "team-a" } }));
    server
}

fn put(server: &Server, name: &str) {
    let access = json!({ "access": [{ "namespace": "team-a", "claimName": name }] });
    server.put("lustreshares", &share(name, &access));
}

fn has_claim(server: &Server, name: &str) -> bool {
    server.get("persistentvolumeclaims", "team-a", name).is_some()
}

/// Waits for something. The clock stands still while anything is left to do, so this takes no time.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(start_paused = true)]
async fn changes_are_seen_and_drift_is_repaired() {
    let server = cluster();
    put(&server, "first");
    let ready = start(&server);
    until("the first claim", || has_claim(&server, "first")).await;
    assert!(ready.load(Ordering::Relaxed));
    put(&server, "second");
    until("the second claim", || has_claim(&server, "second")).await;
    server.delete("persistentvolumeclaims", "team-a", "first");
    until("the claim again", || has_claim(&server, "first")).await;
    server.put("namespaces", &json!({ "metadata": { "name": "late" } }));
    server.change("lustreshares", "", "first", |share| {
        share["spec"]["access"] = json!([{ "namespace": "late" }])
    });
    until("the claim moves", || {
        !has_claim(&server, "first") && server.get("persistentvolumeclaims", "late", "first").is_some()
    })
    .await;
}

/// That nothing is written in an hour; nor by another instance, which reads everything anew.
async fn writes_nothing(server: &Server) {
    tokio::time::sleep(Duration::from_mins(1)).await;
    server.take_writes();
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(server.take_writes(), Vec::<String>::new());
    start(server);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(server.take_writes(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn at_rest_nothing_is_written() {
    let server = cluster();
    for n in 0..50 {
        put(&server, &format!("share-{n}"));
    }
    start(&server);
    until("every status", || {
        server.all("lustreshares").iter().all(|share| condition(share, "Ready").is_object())
    })
    .await;
    writes_nothing(&server).await;
}

#[tokio::test(start_paused = true)]
async fn five_hundred_shares_and_bridges_at_rest_write_nothing() {
    const COUNT: usize = 500;
    let server = Server::default();
    crowd(&server, COUNT);
    start(&server);
    let all = |plural: &str, kind: &str| conditions(&server, plural, kind);
    until("every share and bridge is judged", || {
        all("lustreshares", "Ready").0 == COUNT && all("swiftbridges", "Ready").0 == COUNT
    })
    .await;
    let cluster = Cluster::of(&server);
    cluster.driver();
    cluster.bind();
    until("every bridge has a pod", || server.all("deployments").len() == COUNT).await;
    cluster.start_pods();
    until("everything is ready", || {
        all("lustreshares", "Ready").1 == COUNT && all("swiftbridges", "Ready").1 == COUNT
    })
    .await;
    assert_eq!(server.all("persistentvolumeclaims").len(), 3 * COUNT);
    writes_nothing(&server).await;
}

#[tokio::test(start_paused = true)]
async fn a_history_that_is_gone_is_read_again() {
    let server = cluster();
    start(&server);
    put(&server, "first");
    until("the first claim", || has_claim(&server, "first")).await;
    server.end_watches(410);
    put(&server, "second");
    until("the second claim", || has_claim(&server, "second")).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_comes_back() {
    let server = cluster();
    for code in [500, 503, 429, 404] {
        server.fail(Fault { on: "GET", code, times: 20 });
    }
    server.fail(Fault { on: "PATCH", code: 500, times: 8 });
    put(&server, "first");
    start(&server);
    until("the claim", || has_claim(&server, "first")).await;
    until("the status", || condition(&server.get("lustreshares", "", "first").unwrap(), "Ready").is_object())
        .await;
}

async fn leads(election: &mut Election) -> bool {
    let ready = AtomicBool::new(false);
    let won = tokio::time::timeout(Duration::from_secs(1), election.win(&ready));
    won.await.is_ok() && election.claim().holds()
}

#[tokio::test(start_paused = true)]
async fn one_instance_leads_and_the_next_takes_over() {
    let server = cluster();
    let mut first = Election::new(server.client(), "system", "first");
    let mut second = Election::new(server.client(), "system", "second");
    assert!(leads(&mut first).await && !leads(&mut second).await);
    // The first stops without a word; long before the second may take over, the first itself has stopped writing.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!first.claim().holds() && !leads(&mut second).await);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(leads(&mut second).await && !leads(&mut first).await);
    second.release().await;
    assert!(!second.claim().holds() && leads(&mut first).await);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_ends_the_claim() {
    let server = cluster();
    let mut election = Election::new(server.client(), "system", "first");
    assert!(leads(&mut election).await);
    let claim = election.claim();
    let kept = tokio::spawn(async move { election.keep().await });
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(claim.holds() && !kept.is_finished(), "it is renewed");
    server.change("leases", "system", "lustre-bridge-operator", |lease| {
        lease["spec"]["holderIdentity"] = json!("another");
    });
    kept.await.unwrap();
    assert!(!claim.holds());
}

#[tokio::test(start_paused = true)]
async fn an_importer_that_comes_later_is_told_of_the_classes() {
    let server = cluster();
    let spec = json!({ "provisioning": { "virtualMachineDisks": {} } });
    server.put("lustreshares", &share("projects", &spec));
    start(&server);
    until("the classes", || server.all("storageclasses").len() == 2).await;
    assert!(server.all("storageprofiles").is_empty());
    // The importer makes one for each class, before we do.
    server.put(
        "storageprofiles",
        &json!({ "metadata": { "name": "projects" }, "status": { "provisioner": "x" } }),
    );
    server.offer("storageprofiles");
    until("the profiles", || {
        server.all("storageprofiles").iter().filter(|profile| profile["spec"].is_object()).count() == 2
    })
    .await;
    let sets =
        |name: &str| server.get("storageprofiles", "", name).unwrap()["spec"]["claimPropertySets"].clone();
    let set = |mode: &str, volume: &str| json!({ "accessModes": [mode], "volumeMode": volume });
    let files = [set("ReadWriteMany", "Filesystem"), set("ReadWriteOnce", "Filesystem")];
    assert_eq!(sets("projects"), json!(files));
    assert_eq!(sets("projects-disks"), json!([files[0], files[1], set("ReadWriteOnce", "Block")]));
    assert_eq!(server.get("storageprofiles", "", "projects").unwrap()["status"]["provisioner"], "x");
    server.change("lustreshares", "", "projects", |share| {
        share["spec"]["provisioning"].as_object_mut().unwrap().remove("virtualMachineDisks");
    });
    until("the class of disks and its profile gone", || {
        server.all("storageprofiles").len() == 1 && server.all("storageclasses").len() == 1
    })
    .await;
    // It is taken out of the cluster, objects and all.
    server.withdraw("storageprofiles");
    server.end_watches(410);
    put(&server, "after");
    until("a share after it", || has_claim(&server, "after")).await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    server.take_writes();
    server.change("lustreshares", "", "projects", |share| {
        share["spec"]["provisioning"]["virtualMachineDisks"] = json!({});
    });
    until("the class of disks", || server.all("storageclasses").len() == 2).await;
    let writes = server.take_writes();
    assert!(!writes.iter().any(|write| write.contains("storageprofiles")), "{writes:?}");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_its_lease_stops_before_another_takes_it() {
    let server = cluster();
    let mut election = Election::new(server.client(), "system", "first");
    // Neither an API server that is away nor another that was faster and is gone ends the wait.
    server.fail(Fault { on: "GET", code: 500, times: 1 });
    server.fail(Fault { on: "POST", code: 409, times: 1 });
    let ready = AtomicBool::new(false);
    election.win(&ready).await;
    let claim = election.claim();
    assert!(claim.holds() && !ready.load(Ordering::Relaxed));
    let kept = tokio::spawn(async move {
        election.keep().await;
        election
    });
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(claim.holds(), "it is renewed");
    // As often as the first tries before its claim is over.
    server.fail(Fault { on: "PUT", code: 500, times: 4 });
    let mut other = Election::new(server.client(), "system", "other");
    let others = other.claim();
    let won = tokio::spawn(async move { other.win(&AtomicBool::new(false)).await });
    let mut first = kept.await.unwrap();
    assert!(!claim.holds() && !others.holds());
    won.await.unwrap();
    assert!(others.holds());
    // What is another's is not given back.
    first.release().await;
    let lease = server.get("leases", "system", "lustre-bridge-operator").unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "other");
}
