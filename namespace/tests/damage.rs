//! What is damaged, of a newer release, in the way, or no object at all.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

use common::{ACCOUNT, CONTAINER, Site, object, options, put};
use namespace::{ATTRIBUTE, Error, ListQuery, Namespace, ObjectMeta, Timestamp};

fn set_attribute(file: &std::path::Path, value: &str) {
    let status = Command::new("setfattr").args(["-n", ATTRIBUTE, "-v", value]).arg(file).status().unwrap();
    assert!(status.success());
}

#[test]
fn what_a_newer_release_wrote_is_neither_read_nor_replaced() {
    let site = Site::new();
    site.put("a", "data");
    // Version 2.
    set_attribute(&site.path("a"), "0x6c627e6d02");
    let words = site.open("a").unwrap_err().to_string();
    assert!(words.contains("newer"), "{words}");
    assert!(matches!(put(&site.ns, "a", "other"), Err(Error::Newer { .. })));
    assert!(matches!(site.delete("a"), Err(Error::Newer { .. })));
    assert_eq!(fs::read_to_string(site.path("a")).unwrap(), "data");
    assert_eq!(site.files(), ["a"]);
}

#[test]
fn newer_settings_are_refused() {
    let site = Site::new();
    let change = [("read".to_owned(), Some(".r:*".to_owned()))];
    site.ns.update_system(ACCOUNT, None, &change).unwrap();
    let file = site.dir.path().join(ACCOUNT).join(".lb~ds/account");
    let newer = fs::read_to_string(&file).unwrap().replace("\"version\":1", "\"version\":2");
    fs::write(&file, &newer).unwrap();
    assert!(matches!(site.ns.system(ACCOUNT, None), Err(Error::Newer { .. })));
    assert!(matches!(
        site.ns.update_system(ACCOUNT, None, &[("read".into(), None)]),
        Err(Error::Newer { .. })
    ));
    assert_eq!(fs::read_to_string(&file).unwrap(), newer);
}

#[test]
fn without_its_spill_file_an_object_keeps_what_its_attribute_says() {
    let site = Site::new();
    let headers = (0..80).map(|n| (format!("x-object-meta-{n}"), vec![b'v'; 200])).collect();
    let meta = ObjectMeta { content_type: Some("text/x-test".into()), headers, ..ObjectMeta::default() };
    site.ns.put_object(&object("a"), b"data", meta, Timestamp::now(), None).unwrap();
    assert_eq!(site.open("a").unwrap().info.headers.len(), 80);
    assert_eq!(site.ns.corrupt_attributes(), 0);
    fs::remove_dir_all(site.dir.path().join(ACCOUNT).join(".lb~dm")).unwrap();
    let info = site.open("a").unwrap().info;
    assert_eq!((info.content_type.as_deref(), info.size), (Some("text/x-test"), 4));
    assert_eq!(info.etag, Some(common::md5(b"data")));
    assert!(info.headers.is_empty());
    assert!(site.ns.corrupt_attributes() > 0);
}

#[test]
fn a_body_with_another_digest_than_announced_leaves_nothing() {
    let site = Site::new();
    let wrong = common::md5(b"other");
    let put =
        site.ns.put_object(&object("d/a"), b"data", ObjectMeta::default(), Timestamp::now(), Some(wrong));
    assert!(
        matches!(put, Err(Error::Digest { found, .. }) if found == namespace::hex(&common::md5(b"data")))
    );
    assert!(site.files().is_empty());
}

#[test]
fn a_copy_whose_source_is_cut_leaves_nothing() {
    let site = Site::new();
    site.put("a", "1234");
    let source = fs::File::open(site.path("a")).unwrap();
    let mut upload = site.ns.begin(&object("d/b"), Some(10), Timestamp::now()).unwrap();
    assert!(upload.copy_from(&site.ns, &source, 10, common::md5(b"1234567890")).is_err());
    upload.abort(&site.ns);
    assert_eq!(site.files(), ["a"]);
}

#[test]
fn what_is_no_object_is_counted_by_its_reason() {
    let site = Site::new();
    site.put("a", "1");
    let long = "x".repeat(246);
    fs::write(site.path(".lb~self"), "").unwrap();
    fs::create_dir(site.path(".lb~dx")).unwrap();
    fs::write(site.path(format!(".lb~n+{long}")), "").unwrap();
    let _socket = UnixListener::bind(site.path("socket")).unwrap();
    let deep = site.path([["d".repeat(250)].as_slice(); 5].concat().join("/"));
    fs::create_dir_all(deep).unwrap();
    let mut seen = Vec::new();
    let mut visit = |object: namespace::Seen| {
        seen.push(object.name.object);
        ControlFlow::Continue(())
    };
    let sweep = site.ns.sweep(ACCOUNT, CONTAINER, Duration::from_hours(1), &mut visit).unwrap();
    assert_eq!(seen, ["a"]);
    let unserved: Vec<_> = sweep.unserved.into_iter().collect();
    assert_eq!(unserved, [("own", 2), ("special_file", 1), ("too_long", 1), ("unfinished", 1)]);
    assert_eq!(site.list(), ["a"]);
    let info = site.ns.container_info(ACCOUNT, CONTAINER).unwrap();
    assert_eq!((info.count.objects, info.count.bytes), (1, 1));
    // None of it may be lost with its container.
    assert!(matches!(site.ns.delete_container(ACCOUNT, CONTAINER), Err(Error::NotEmpty { .. })));
}

#[test]
fn a_sweep_puts_back_what_a_crash_left_in_transit() {
    let site = Site::new();
    site.put("a", "data");
    fs::rename(site.path("a"), site.path(".lb~t~a")).unwrap();
    let mut visit = |_| ControlFlow::Continue(());
    site.ns.sweep(ACCOUNT, CONTAINER, Duration::from_hours(1), &mut visit).unwrap();
    assert_eq!(site.files(), ["a"]);
    assert_eq!(site.get("a").as_deref(), Some("data"));
}

#[test]
fn a_file_in_the_place_of_a_directory_is_told_of() {
    let site = Site::new();
    let root = site.dir.path();
    fs::write(root.join("AUTH_file"), "").unwrap();
    let blocked = |result: namespace::Result<_>| matches!(result, Err(Error::Blocked { .. }));
    assert!(blocked(site.ns.create_account("AUTH_file", vec![], Timestamp::now()).map(drop)));
    fs::write(root.join(ACCOUNT).join("file"), "").unwrap();
    assert!(blocked(site.ns.create_container(ACCOUNT, "file", vec![], Timestamp::now()).map(drop)));
    fs::write(root.join("root"), "").unwrap();
    let file = fs::File::options().read(true).open(root.join("root")).unwrap();
    let fs = lustre::fs::detect(std::os::fd::AsFd::as_fd(&file));
    assert!(blocked(Namespace::with_file_system(file.into(), fs, options()).map(drop)));
}

/// More entries than are held of one directory at once.
#[test]
fn no_name_of_a_huge_directory_is_missed() {
    const NAMES: usize = 100_020;
    let site = Site::new();
    let names: Vec<String> = (0..NAMES).map(|n| format!("x-{n:06}")).collect();
    for name in &names {
        fs::File::create(site.path(name)).unwrap();
    }
    fs::File::create(site.path("z")).unwrap();
    let query = ListQuery { limit: NAMES + 2, ..ListQuery::default() };
    let rolled = ListQuery { delimiter: "-".into(), ..query.clone() };
    assert_eq!(site.query(rolled.clone()), ["[x-]", "z"]);
    assert_eq!(site.query(ListQuery { reverse: true, ..rolled }), ["z", "[x-]"]);
    let page = ListQuery { marker: names[NAMES - 3].clone(), ..query.clone() };
    assert_eq!(site.query(page), [&names[NAMES - 2], &names[NAMES - 1], "z"]);
    let all = site.query(query);
    assert!(all[..NAMES] == names && all[NAMES..] == ["z"]);
}
