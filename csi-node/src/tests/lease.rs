//! Two nodes and one volume.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::share::{Named, Shares};
use crate::tree::Tree;

const GRACE: Duration = Duration::from_millis(300);

struct Place {
    _base: TempDir,
    store: Store,
    files: std::path::PathBuf,
}

fn place() -> Place {
    let base = TempDir::new().unwrap();
    let shares = Shares::unknown("/");
    let named: Named = format!("s=directory:{}", base.path().display()).parse().unwrap();
    shares.replace([(named.name, named.spec)]);
    let tree: Tree = shares.get("s").unwrap().unwrap().open().unwrap();
    let files = base.path().join(".lb~dcsi");
    Place { store: tree.make_store().unwrap(), files, _base: base }
}

fn id() -> VolumeId {
    VolumeId { share: "s".into(), uuid: Uuid::of_name("v") }
}

fn refused(result: Result<(), Error>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");
    error.to_string()
}

#[test]
fn one_node_has_it_until_it_gives_it_back() {
    let place = place();
    let (one, other) = (Leases::new("one", GRACE), Leases::new("other", GRACE));
    one.take(&place.store, &id()).unwrap();
    one.take(&place.store, &id()).unwrap();
    assert!(one.any_of("s") && !one.any_of("t"));
    assert!(refused(other.take(&place.store, &id())).contains("in use on node one (epoch 1)"));
    assert!(check_unused(&place.store, &id().uuid).is_err());
    other.release(&place.store, &id()).unwrap();
    assert!(other.take(&place.store, &id()).is_err());
    one.release(&place.store, &id()).unwrap();
    assert!(check_unused(&place.store, &id().uuid).unwrap().is_some());
    other.take(&place.store, &id()).unwrap();
    assert!(refused(one.take(&place.store, &id())).contains("other (epoch 2)"));
}

#[test]
fn two_calls_of_one_node_at_once_are_one() {
    let place = place();
    let node = Leases::new("node", GRACE);
    assert!(!is_of(&place.store, &id().uuid, "node").unwrap());
    std::thread::scope(|s| {
        let calls: Vec<_> = (0..4).map(|_| s.spawn(|| node.take(&place.store, &id()))).collect();
        for call in calls {
            call.join().unwrap().unwrap();
        }
    });
    assert!(is_of(&place.store, &id().uuid, "node").unwrap());
    assert!(refused(Leases::new("other", GRACE).take(&place.store, &id())).contains("(epoch 1)"));
}

#[test]
fn who_waits_for_a_lease_may_get_it() {
    let place = place();
    let dead = Leases::new("dead", GRACE);
    dead.take(&place.store, &id()).unwrap();
    drop(dead);
    let next = Leases::new("next", GRACE);
    next.recover(Some(&place.store), "s").unwrap();
    assert!(!next.concerns(&id()));
    std::thread::scope(|s| {
        let waiting = s.spawn(|| next.take(&place.store, &id()));
        // Whoever asked may be gone: who gives it back has to know of it.
        while !next.concerns(&id()) {
            assert!(!waiting.is_finished());
        }
        next.release(&place.store, &id()).unwrap();
        waiting.join().unwrap().unwrap();
    });
    assert!(!next.concerns(&id()) && !is_of(&place.store, &id().uuid, "next").unwrap());
}

#[test]
fn a_dead_node_is_outwaited_and_publishes_no_more() {
    let place = place();
    let dead = Leases::new("dead", GRACE);
    dead.take(&place.store, &id()).unwrap();
    // What kill -9 does: the lock goes, the file stays.
    drop(dead);
    let next = Leases::new("next", GRACE);
    next.take(&place.store, &id()).unwrap();
    let back = Leases::new("dead", GRACE);
    back.recover(Some(&place.store), "s").unwrap();
    assert!(refused(back.take(&place.store, &id())).contains("node next (epoch 2)"));
}

#[test]
fn a_restarted_driver_takes_its_leases_again_before_others_do() {
    let place = place();
    let node = Leases::new("node", GRACE);
    node.take(&place.store, &id()).unwrap();
    drop(node);
    let other = Leases::new("other", Duration::from_mins(10));
    std::thread::scope(|s| {
        let waiting = s.spawn(|| other.take(&place.store, &id()));
        let node = Leases::new("node", GRACE);
        // The one who waits looks in now and then, and has the lock in that moment.
        while !node.any_of("s") {
            node.recover(Some(&place.store), "s").unwrap();
        }
        assert!(refused(waiting.join().unwrap()).contains("node node (epoch 1)"));
        node.take(&place.store, &id()).unwrap();
        node.release(&place.store, &id()).unwrap();
    });
    other.take(&place.store, &id()).unwrap();
}

#[test]
fn a_sign_of_life_keeps_others_out() {
    let place = place();
    let node = Leases::new("node", GRACE);
    node.take(&place.store, &id()).unwrap();
    // It lost its lock, as an evicted client does, and lives.
    node.held().clear();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                node.beat(&place.store).unwrap();
            }
        });
        let answer = refused(Leases::new("other", GRACE).take(&place.store, &id()));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(answer.contains("node node (epoch 1)"));
    });
}

#[test]
fn what_was_leased_before_a_boot_is_free() {
    let place = place();
    let mut before = Leases::new("node", GRACE);
    before.boot = "another".into();
    before.take(&place.store, &id()).unwrap();
    drop(before);
    let node = Leases::new("node", GRACE);
    node.recover(Some(&place.store), "s").unwrap();
    assert!(!node.any_of("s"));
    // Nobody has to be outwaited.
    Leases::new("other", Duration::from_mins(10)).take(&place.store, &id()).unwrap();
}

#[test]
fn files_that_say_nothing() {
    let place = place();
    let node = Leases::new("node", GRACE);
    node.take(&place.store, &id()).unwrap();
    node.release(&place.store, &id()).unwrap();
    let path = place.files.join("leases").join(id().uuid.as_str());
    for damaged in ["{", r#"{"version":2,"epoch":1,"node":"","boot":""}"#] {
        fs::write(&path, damaged).unwrap();
        let error = node.take(&place.store, &id()).unwrap_err();
        assert_eq!(error.code(), tonic::Code::Internal, "{error}");
    }
    fs::write(&path, "").unwrap();
    node.take(&place.store, &id()).unwrap();
    forget(&place.store, &id().uuid).unwrap();
    forget(&place.store, &id().uuid).unwrap();
    assert!(!path.exists() && check_unused(&place.store, &id().uuid).unwrap().is_none());
}

#[test]
fn a_lease_that_another_took_is_the_nodes_no_more() {
    let place = place();
    let node = Leases::new("node", GRACE);
    node.take(&place.store, &id()).unwrap();
    // What another does that found the lock free and no sign of life.
    let held = node.held()[&id()].clone();
    let other = Lease { version: VERSION, epoch: 2, node: "other".into(), boot: String::new() };
    write(&held.file, &other).unwrap();
    assert!(refused(node.take(&place.store, &id())).contains("in use on node other (epoch 2)"));
    assert!(!node.any_of("s"));
}

#[test]
fn a_lease_that_says_nothing_stops_no_other_from_being_taken_again() {
    let place = place();
    let second = VolumeId { share: "s".into(), uuid: Uuid::of_name("second") };
    let node = Leases::new("node", GRACE);
    for id in [&id(), &second] {
        node.take(&place.store, id).unwrap();
    }
    drop(node);
    fs::write(place.files.join("leases").join(id().uuid.as_str()), "{").unwrap();
    let node = Leases::new("node", GRACE);
    node.recover(Some(&place.store), "s").unwrap();
    assert!(node.held().contains_key(&second) && !node.held().contains_key(&id()));
    assert!(
        is_of(&place.store, &id().uuid, "node").is_err()
            && is_of(&place.store, &second.uuid, "node").unwrap()
    );
}

#[test]
fn a_file_system_without_locks_is_named() {
    assert!(refused(Err(no_locks(Errno::OPNOTSUPP.into()))).contains("mount it with flock"));
    assert_eq!(no_locks(Errno::IO.into()).code(), tonic::Code::Internal);
}
