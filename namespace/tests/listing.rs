//! Listings: exactly Swift's order and parameters, for any names.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use common::{ACCOUNT, CONTAINER, Site, list, object};
use namespace::{ContainerRow, ListQuery, ObjectMeta, Timestamp};
use proptest::prelude::*;

/// What Swift's database answers, from a sorted set of names.
fn model(names: &BTreeSet<String>, q: &ListQuery) -> Vec<String> {
    let ordered: Vec<&String> = if q.reverse { names.iter().rev().collect() } else { names.iter().collect() };
    let (after, before) = if q.reverse { (&q.end_marker, &q.marker) } else { (&q.marker, &q.end_marker) };
    let mut rows: Vec<String> = Vec::new();
    let mut last_rolled = None;
    for name in ordered {
        if !name.starts_with(&q.prefix)
            || (!after.is_empty() && name <= after)
            || (!before.is_empty() && name >= before)
        {
            continue;
        }
        let at = if q.delimiter.is_empty() { None } else { name[q.prefix.len()..].find(&q.delimiter) };
        if let Some(at) = at {
            let rolled = &name[..q.prefix.len() + at + q.delimiter.len()];
            if last_rolled.as_deref() != Some(rolled) {
                last_rolled = Some(rolled.to_string());
                if *rolled != q.marker {
                    rows.push(format!("[{rolled}]"));
                }
            }
        } else {
            rows.push(name.clone());
        }
        if rows.len() >= q.limit {
            break;
        }
    }
    rows.truncate(q.limit);
    rows
}

fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => "[ab]{1,2}",
        2 => Just(String::new()),
        1 => Just(".".to_string()),
        1 => Just("..".to_string()),
        1 => Just(".lb~self".to_string()),
        1 => Just(".lb~n1".to_string()),
        1 => "[!.0~é]{1,2}",
        1 => "a{245,260}",
        1 => "a{250}[ab!]{1,20}",
    ];
    prop::collection::vec(part, 1..5)
        .prop_map(|parts| parts.join("/"))
        .prop_filter("a name", |n| !n.is_empty() && n.len() <= 1024)
}

fn bound() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just(String::new()), 2 => name(), 1 => "[ab/]{1,3}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]
    #[test]
    fn any_page_of_any_names_is_as_swift_would_answer(
        names in prop::collection::btree_set(name(), 0..25),
        queries in prop::collection::vec(
            (bound(), bound(), bound(), prop_oneof!["", "/", "a", "//", "é"], any::<bool>(), 1..30_usize), 8),
    ) {
        let site = Site::new();
        for n in &names {
            let meta = ObjectMeta::default();
            site.ns.put_object(&object(n), n.as_bytes(), meta, Timestamp::now(), None).unwrap();
        }
        for n in &names {
            prop_assert_eq!(site.get(n), Some(n.clone()));
        }
        for (prefix, marker, end_marker, delimiter, reverse, limit) in queries {
            let q = ListQuery { prefix, marker, end_marker, delimiter, reverse, limit, path: false };
            prop_assert_eq!(list(&site.ns, &q), model(&names, &q), "{:?}", q);
        }
        for n in &names {
            site.delete(n).unwrap();
        }
        prop_assert_eq!(site.files(), Vec::<String>::new());
    }
}

#[test]
fn files_of_any_name_are_listed_under_a_name_that_opens_them() {
    let site = Site::new();
    let odd: [&[u8]; 8] =
        [b"\xff\xfe", b".lb~nonsense", b".lb~b00", b".lb~n01", b"new\nline", b"tab\t", b" ", b".lb~n+"];
    for (i, file) in odd.iter().enumerate() {
        fs::write(site.path(OsStr::from_bytes(file)), i.to_string()).unwrap();
    }
    let names = site.list();
    assert_eq!(names.len(), odd.len(), "{names:?}");
    let mut contents: Vec<String> = names.iter().map(|n| site.get(n).unwrap()).collect();
    contents.sort();
    assert_eq!(contents, (0..odd.len()).map(|i| i.to_string()).collect::<Vec<_>>());
    for name in names {
        site.delete(&name).unwrap();
    }
    assert_eq!(site.files(), [""; 0]);
}

#[test]
fn our_own_files_are_never_objects() {
    let site = Site::new();
    fs::write(site.path(".lb~tabc"), "unfinished").unwrap();
    fs::create_dir(site.path(".lb~dx")).unwrap();
    fs::write(site.path(".lb~dx/inner"), "service").unwrap();
    fs::write(site.path(".lb~self"), "stray").unwrap();
    assert_eq!(site.list(), [""; 0]);
    for name in [".lb~tabc", ".lb~dx/inner", ".lb~self"] {
        assert_eq!(site.get(name), None, "{name}");
        site.put(name, "mine");
        assert_eq!(site.get(name).as_deref(), Some("mine"));
    }
    assert_eq!(fs::read_to_string(site.path(".lb~tabc")).unwrap(), "unfinished");
}

#[test]
fn path_lists_one_level_without_what_is_rolled_up() {
    let site = Site::new();
    for name in ["p/a", "p/b/", "p/b/c", "p/d/e", "p/", "q", "p"] {
        site.put(name, "");
    }
    let query = |reverse| ListQuery {
        prefix: "p/".into(),
        delimiter: "/".into(),
        path: true,
        reverse,
        limit: 100,
        ..ListQuery::default()
    };
    assert_eq!(site.query(query(false)), ["p/a", "p/b/"]);
    assert_eq!(site.query(query(true)), ["p/a"]);
}

#[test]
fn empty_directories_are_no_subdirectories_of_a_listing() {
    let site = Site::new();
    fs::create_dir_all(site.path("empty/deep")).unwrap();
    fs::create_dir_all(site.path("full/deep")).unwrap();
    fs::write(site.path("full/deep/x"), "").unwrap();
    let query = ListQuery { delimiter: "/".into(), limit: 10, ..ListQuery::default() };
    assert_eq!(site.query(query), ["[full/]"]);
}

#[test]
fn names_too_long_for_an_object_are_counted_not_served() {
    let site = Site::new();
    let mut dir = site.path("");
    for _ in 0..5 {
        dir.push("d".repeat(250));
    }
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("x"), "").unwrap();
    assert_eq!(site.list(), [""; 0]);
    let sweep = site
        .ns
        .sweep(ACCOUNT, CONTAINER, std::time::Duration::from_secs(9999), &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(sweep.unserved.get("too_long"), Some(&1));
}

#[test]
fn a_page_of_a_large_directory_is_whole_and_pages_meet() {
    let site = Site::new();
    let count = 2500;
    for i in 0..count {
        fs::write(site.path(format!("f{i:05}")), "").unwrap();
    }
    let mut marker = String::new();
    let mut seen = Vec::new();
    loop {
        let page = site.query(ListQuery { marker: marker.clone(), limit: 700, ..ListQuery::default() });
        let Some(last) = page.last() else { break };
        marker.clone_from(last);
        seen.extend(page);
    }
    assert_eq!(seen, (0..count).map(|i| format!("f{i:05}")).collect::<Vec<_>>());
}

#[test]
fn accounts_list_their_directories_in_byte_order() {
    let site = Site::new();
    let long = "L".repeat(256);
    for name in ["b", "a", ".", "..", ".lb~d", &long, "A"] {
        assert!(site.ns.create_container(ACCOUNT, name, vec![], Timestamp::now()).unwrap(), "{name}");
        assert!(!site.ns.create_container(ACCOUNT, name, vec![], Timestamp::now()).unwrap(), "{name}");
    }
    site.ns.update_system(ACCOUNT, None, &[("k".into(), Some("v".into()))]).unwrap();
    fs::write(site.dir.path().join(ACCOUNT).join("a file"), "no container").unwrap();
    fs::create_dir(site.dir.path().join(ACCOUNT).join("job")).unwrap();
    let names = |q: ListQuery| -> Vec<String> {
        let rows = site.ns.list_containers(ACCOUNT, &q).unwrap();
        rows.into_iter()
            .map(|r| match r {
                ContainerRow::Subdir(n) => format!("[{n}]"),
                ContainerRow::Container { name, .. } => name,
            })
            .collect()
    };
    let all = ListQuery { limit: 100, ..ListQuery::default() };
    let expected = [".", "..", ".lb~d", "A", &long, "a", "b", CONTAINER, "job"];
    assert_eq!(names(all.clone()), expected);
    let mut reversed = names(ListQuery { reverse: true, ..all.clone() });
    reversed.reverse();
    assert_eq!(reversed, expected);
    assert_eq!(
        names(ListQuery { prefix: ".".into(), delimiter: ".".into(), ..all.clone() }),
        [".", "[..]", ".lb~d"]
    );
    assert_eq!(names(ListQuery { marker: "a".into(), end_marker: "job".into(), ..all }), ["b", CONTAINER]);
    for name in expected {
        site.ns.delete_container(ACCOUNT, name).unwrap();
    }
    assert_eq!(site.ns.container_names(ACCOUNT).unwrap(), [""; 0]);
    fs::remove_file(site.dir.path().join(ACCOUNT).join("a file")).unwrap();
    site.ns.delete_account(ACCOUNT).unwrap();
    assert_eq!(fs::read_dir(site.dir.path()).unwrap().count(), 0);
}
