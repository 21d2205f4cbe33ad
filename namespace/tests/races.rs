//! Two servers change names that depend on each other: one in the middle of what the other does.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Site, get, object, options, put};
use namespace::{Error, MetadataMode, Namespace, ObjectMeta, Options, Timestamp};

/// A server that at its step `at`, once, lets another do something.
fn interrupted(site: &Site, at: &'static str, act: fn(&Namespace)) -> (Namespace, Arc<AtomicBool>) {
    let (peer, done) = (site.peer(), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&done);
    let hook = move |step: &'static str| {
        if step == at && !seen.swap(true, Ordering::SeqCst) {
            act(&peer);
        }
    };
    (site.peer_with_hook(Box::new(hook)), done)
}

fn delete(ns: &Namespace, name: &str) {
    ns.delete_object(&object(name), Timestamp::now()).unwrap();
}

fn put_directory(ns: &Namespace, name: &str) {
    let meta = ObjectMeta { directory: true, ..ObjectMeta::default() };
    ns.put_object(&object(name), b"", meta, Timestamp::now(), None).unwrap();
}

#[test]
fn a_directory_that_becomes_the_object_is_not_removed_when_its_last_child_goes() {
    for content in [false, true] {
        let site = Site::new();
        if content {
            site.put("a", "content");
        }
        site.put("a/child", "x");
        let (ns, done) = interrupted(&site, "prune: looked", |peer| put_directory(peer, "a"));
        delete(&ns, "a/child");
        assert!(done.load(Ordering::SeqCst));
        assert!(site.open("a").unwrap().info.directory, "with content: {content}");
        assert_eq!(site.list(), ["a"]);
        site.delete("a").unwrap();
        assert_eq!(site.files(), [""; 0]);
    }
}

#[test]
fn a_directory_made_anew_as_an_object_is_not_removed_in_its_predecessors_stead() {
    let site = Site::new();
    site.put("a/child", "x");
    let (ns, done) = interrupted(&site, "prune: looked", |peer| {
        put_directory(peer, "a");
        delete(peer, "a");
        put_directory(peer, "a");
    });
    delete(&ns, "a/child");
    assert!(done.load(Ordering::SeqCst));
    assert!(site.open("a").unwrap().info.directory);
    site.delete("a").unwrap();
    assert_eq!(site.files(), [""; 0]);
}

#[test]
fn a_directory_that_becomes_an_object_the_moment_it_was_made_stays_one_and_goes_with_it() {
    for metadata in [MetadataMode::Auto, MetadataMode::Sidecar] {
        let site = Site::with(Options { metadata, ..options() });
        let (ns, done) = interrupted(&site, "directory: not marked yet", |peer| put_directory(peer, "a"));
        put(&ns, "a/child", "x").unwrap();
        assert!(done.load(Ordering::SeqCst));
        assert_eq!(site.list(), ["a", "a/child"], "{metadata:?}");
        site.delete("a/child").unwrap();
        assert!(site.open("a").unwrap().info.directory, "{metadata:?}");
        site.delete("a").unwrap();
        assert_eq!(site.files(), [""; 0], "{metadata:?}");
    }
}

#[test]
fn an_object_is_deleted_though_it_moves_after_it_was_found() {
    let site = Site::new();
    site.put("a", "content");
    let (ns, done) = interrupted(&site, "delete: looked", |peer| {
        put(peer, "a/child", "x").unwrap();
    });
    delete(&ns, "a");
    assert!(done.load(Ordering::SeqCst));
    assert_eq!((get(&ns, "a"), site.list()), (None, vec!["a/child".to_string()]));
    // And back.
    site.put("a", "content");
    let (ns, done) = interrupted(&site, "delete: looked", |peer| delete(peer, "a/child"));
    delete(&ns, "a");
    assert!(done.load(Ordering::SeqCst));
    assert_eq!(site.files(), [""; 0]);
}

#[test]
fn a_name_can_be_made_while_the_directories_to_it_are_tidied_away() {
    let site = Site::new();
    let (one, two) = (site.peer(), site.peer());
    for round in 0..200 {
        site.put("d/e/f/old", "x");
        std::thread::scope(|s| {
            s.spawn(|| delete(&one, "d/e/f/old"));
            put(&two, "d/e/f/g/new", "y").unwrap();
        });
        assert_eq!(site.list(), ["d/e/f/g/new"], "{round}");
        site.delete("d/e/f/g/new").unwrap();
        assert_eq!(site.files(), [""; 0], "{round}");
    }
}

#[test]
fn of_two_servers_that_make_a_new_object_one_does() {
    let exclusive = || ObjectMeta { exclusive: true, ..ObjectMeta::default() };
    for other in ["a", "a/child", "a as a directory"] {
        let site = Site::new();
        let act: fn(&Namespace) = match other {
            "a" => |peer| _ = put(peer, "a", "theirs").unwrap(),
            "a/child" => |peer| _ = put(peer, "a/child", "theirs").unwrap(),
            _ => |peer| put_directory(peer, "a"),
        };
        for large in [false, true] {
            let (ns, done) = interrupted(&site, "put: data durable", act);
            let now = Timestamp::now();
            let made = if large {
                let mut upload = ns.begin(&object("a"), None, now).unwrap();
                upload.write(&"ours".into()).unwrap();
                ns.finish(upload, exclusive(), None)
            } else {
                ns.put_object(&object("a"), b"ours", exclusive(), now, None)
            };
            assert!(done.load(Ordering::SeqCst));
            if other == "a" {
                assert!(matches!(made, Err(Error::Exists)), "{made:?}");
                assert_eq!(site.get("a").as_deref(), Some("theirs"));
                assert_eq!(site.files(), ["a"]);
            } else if other != "a/child" {
                assert!(matches!(made, Err(Error::Exists)), "{made:?}");
                assert!(site.open("a").unwrap().info.directory);
                assert_eq!(site.list(), ["a"]);
            } else {
                assert!(made.unwrap().created);
                assert_eq!(site.get("a").as_deref(), Some("ours"));
                assert_eq!(site.list(), ["a", "a/child"]);
            }
            for name in site.list() {
                site.delete(&name).unwrap();
            }
            assert_eq!(site.files(), [""; 0], "{other}, large: {large}");
        }
    }
}

#[test]
fn a_new_directory_takes_no_object_away() {
    let site = Site::new();
    let (ns, done) = interrupted(&site, "put: looked", |peer| _ = put(peer, "a", "theirs").unwrap());
    let meta = ObjectMeta { directory: true, exclusive: true, ..ObjectMeta::default() };
    let made = ns.put_object(&object("a"), b"", meta, Timestamp::now(), None);
    assert!(done.load(Ordering::SeqCst));
    assert!(matches!(made, Err(Error::Exists)), "{made:?}");
    assert_eq!(site.get("a").as_deref(), Some("theirs"));
    assert_eq!(site.files(), ["a"]);
}

#[test]
fn an_object_that_has_expired_does_not_stand_in_a_new_ones_way() {
    let site = Site::new();
    let gone = ObjectMeta { delete_at: Some(1), ..ObjectMeta::default() };
    site.ns.put_object(&object("a"), b"old", gone, Timestamp::now(), None).unwrap();
    let exclusive = || ObjectMeta { exclusive: true, ..ObjectMeta::default() };
    site.ns.put_object(&object("a"), b"new", exclusive(), Timestamp::now(), None).unwrap();
    let again = site.ns.put_object(&object("a"), b"third", exclusive(), Timestamp::now(), None);
    assert!(matches!(again, Err(Error::Exists)));
    assert_eq!(site.get("a").as_deref(), Some("new"));
}
