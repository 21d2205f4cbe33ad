//! Objects as files: what one side does, the other sees.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use common::{ACCOUNT, CONTAINER, Site, get, md5, object, options, put};
use namespace::{Error, MetadataMode, ObjectMeta, ObjectPost, Options, Timestamp};

#[test]
fn an_uploaded_object_is_a_plain_file_under_its_own_name() {
    let site = Site::new();
    let published = site.put("dir/sub/name with spaces", "hello");
    assert_eq!(published.md5, md5(b"hello"));
    assert!(published.created);
    assert_eq!(fs::read_to_string(site.path("dir/sub/name with spaces")).unwrap(), "hello");
    assert_eq!(site.get("dir/sub/name with spaces").as_deref(), Some("hello"));
    assert_eq!(site.files(), ["dir", "dir/sub", "dir/sub/name with spaces"]);
}

#[test]
fn a_file_copied_in_is_at_once_an_object() {
    let site = Site::new();
    fs::create_dir_all(site.path("x/y")).unwrap();
    fs::write(site.path("x/y/z"), "from a job").unwrap();
    assert_eq!(site.get("x/y/z").as_deref(), Some("from a job"));
    assert_eq!(site.list(), ["x/y/z"]);
    let info = site.open("x/y/z").unwrap().info;
    assert!(info.foreign);
    assert_eq!(info.etag, None);
    assert_eq!(info.size, 10);
}

#[test]
fn the_etag_is_of_the_bytes_there_now_or_unknown() {
    let site = Site::new();
    site.put("a", "first");
    assert_eq!(site.open("a").unwrap().info.etag, Some(md5(b"first")));
    // A file-side append (versitygw: new size with the old MD5).
    fs::write(site.path("a"), "first and more").unwrap();
    let info = site.open("a").unwrap().info;
    assert_eq!((info.etag, info.size), (None, 14));
    // Same size, at once.
    site.put("a", "12345");
    fs::write(site.path("a"), "54321").unwrap();
    assert_eq!(site.open("a").unwrap().info.etag, None);
    assert_eq!(site.ns.compute_etag(&object("a"), &mut |_| true).unwrap(), Some(md5(b"54321")));
    assert_eq!(site.open("a").unwrap().info.etag, Some(md5(b"54321")));
    // Even so it is still a file that any later request beats.
    assert!(site.open("a").unwrap().info.foreign);
}

#[test]
fn a_hash_given_up_is_not_kept() {
    let site = Site::new();
    fs::write(site.path("a"), "data").unwrap();
    assert_eq!(site.ns.compute_etag(&object("a"), &mut |_| false).unwrap(), None);
    assert_eq!(site.open("a").unwrap().info.etag, None);
}

#[test]
fn a_copy_with_attributes_has_no_etag_and_does_not_expire() {
    let site = Site::new();
    let meta = ObjectMeta {
        delete_at: Some(4_000_000_000),
        headers: vec![("x-object-meta-colour".into(), b"blue".to_vec())],
        content_type: Some("text/x-test".into()),
        ..ObjectMeta::default()
    };
    site.ns.put_object(&object("a"), b"data", meta, Timestamp::now(), None).unwrap();
    let status = std::process::Command::new("cp")
        .args(["-a", "--preserve=all"])
        .arg(site.path("a"))
        .arg(site.path("b"))
        .status()
        .unwrap();
    assert!(status.success());
    let (a, b) = (site.open("a").unwrap().info, site.open("b").unwrap().info);
    assert_eq!((a.delete_at, b.delete_at), (Some(4_000_000_000), None));
    assert_eq!((a.etag, b.etag), (Some(md5(b"data")), None));
    assert_eq!(b.headers, a.headers);
    assert_eq!(b.content_type, a.content_type);
}

#[test]
fn the_newest_timestamp_wins_whatever_the_order() {
    let site = Site::new();
    let base = Timestamp::now();
    let at = |n: u64| Timestamp::from_units(base.units() + n).unwrap();
    let put =
        |body: &str, ts| site.ns.put_object(&object("a"), body.as_bytes(), ObjectMeta::default(), ts, None);
    put("new", at(100)).unwrap();
    assert!(matches!(put("old", at(50)), Err(Error::Superseded { existing }) if existing == at(100)));
    assert!(matches!(put("same", at(100)), Err(Error::Superseded { .. })));
    assert_eq!(site.get("a").as_deref(), Some("new"));
    assert!(matches!(site.ns.delete_object(&object("a"), at(60)), Err(Error::Superseded { .. })));
    site.ns.delete_object(&object("a"), at(200)).unwrap();
    // A slow upload does not bring back what was deleted meanwhile.
    assert!(matches!(put("slow", at(150)), Err(Error::Superseded { existing }) if existing == at(200)));
    assert_eq!(site.get("a"), None);
    put("later", at(300)).unwrap();
    assert_eq!(site.get("a").as_deref(), Some("later"));
    assert_eq!(site.files(), ["a"]);
}

#[test]
fn a_foreign_file_loses_to_any_later_request() {
    let site = Site::new();
    fs::write(site.path("a"), "from 2099").unwrap();
    let future = std::time::UNIX_EPOCH + std::time::Duration::from_secs(4_100_000_000);
    fs::File::options().write(true).open(site.path("a")).unwrap().set_modified(future).unwrap();
    site.put("a", "api");
    assert_eq!(site.get("a").as_deref(), Some("api"));
    fs::write(site.path("b"), "x").unwrap();
    fs::File::options().write(true).open(site.path("b")).unwrap().set_modified(future).unwrap();
    site.delete("b").unwrap();
    assert_eq!(site.get("b"), None);
}

#[test]
fn a_request_older_than_the_memory_of_deletions_is_refused() {
    let site = Site::new();
    let old = Timestamp::from_seconds(1_000_000_000);
    let result = site.ns.put_object(&object("a"), b"x", ObjectMeta::default(), old, None);
    assert!(matches!(result, Err(Error::TooOld { .. })));
    assert_eq!(site.files(), [""; 0]);
}

#[test]
fn a_wrong_md5_publishes_nothing_and_leaves_nothing() {
    let site = Site::new();
    let meta = ObjectMeta::default();
    let result = site.ns.put_object(&object("d/a"), b"data", meta, Timestamp::now(), Some(md5(b"other")));
    assert!(matches!(result, Err(Error::Digest { .. })));
    assert_eq!(site.files(), [""; 0]);
}

#[test]
fn an_upload_dropped_half_way_leaves_the_old_object() {
    let site = Site::new();
    site.put("a", "old");
    let mut upload = site.ns.begin(&object("a"), Some(100), Timestamp::now()).unwrap();
    upload.write(&"half".into()).unwrap();
    assert_eq!(site.list(), ["a"]);
    drop(upload);
    assert_eq!(site.get("a").as_deref(), Some("old"));
    assert_eq!(site.files(), ["a"]);
    let upload = site.ns.begin(&object("new/dir/b"), None, Timestamp::now()).unwrap();
    upload.abort(&site.ns);
    assert_eq!(site.files(), ["a"]);
}

#[test]
fn metadata_is_kept_replaced_and_spilled() {
    for mode in [MetadataMode::Xattr, MetadataMode::Sidecar] {
        let site = Site::with(Options { metadata: mode, ..options() });
        let side_files = || walk(&site.dir.path().join(ACCOUNT).join(".lb~dm")).len();
        let before = side_files();
        let headers: Vec<_> = (0..90).map(|i| (format!("x-object-meta-{i:03}"), vec![b'v'; 100])).collect();
        let meta = ObjectMeta {
            headers: headers.clone(),
            content_type: Some("a/b".into()),
            ..ObjectMeta::default()
        };
        site.ns.put_object(&object("a"), b"data", meta, Timestamp::now(), None).unwrap();
        let info = site.open("a").unwrap().info;
        assert_eq!(info.headers, headers, "{mode:?}");
        assert_eq!(info.content_type.as_deref(), Some("a/b"));
        let small = vec![("x-object-meta-one".to_string(), b"1".to_vec())];
        let post = ObjectPost { headers: small.clone(), ..ObjectPost::default() };
        let posted = Timestamp::now();
        site.ns.post_object(&object("a"), post, posted).unwrap();
        let info = site.open("a").unwrap().info;
        assert_eq!((info.headers, info.timestamp), (small, posted));
        assert_eq!(info.etag, Some(md5(b"data")), "a POST leaves the data as it was");
        assert_eq!(info.content_type.as_deref(), Some("a/b"));
        site.delete("a").unwrap();
        assert_eq!(side_files(), before, "{mode:?}: spill and side files go with their object");
    }
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[test]
fn a_corrupt_attribute_loses_no_data_and_is_counted() {
    let site = Site::new();
    site.put("a", "data");
    let status = std::process::Command::new("setfattr")
        .args(["-n", "user.lustre-bridge", "-v", "garbage"])
        .arg(site.path("a"))
        .status()
        .unwrap();
    assert!(status.success());
    let info = site.open("a").unwrap().info;
    assert_eq!((info.etag, info.foreign), (None, true));
    assert_eq!(site.get("a").as_deref(), Some("data"));
    assert!(site.ns.corrupt_attributes() > 0);
    assert_eq!(site.list(), ["a"]);
}

#[test]
fn a_directory_marker_is_a_directory_with_metadata() {
    let site = Site::new();
    let meta = || ObjectMeta {
        directory: true,
        content_type: Some("application/directory".into()),
        ..ObjectMeta::default()
    };
    let put = |name: &str| site.ns.put_object(&object(name), b"", meta(), Timestamp::now(), None).unwrap();
    put("d");
    assert!(site.path("d").is_dir());
    assert_eq!(site.list(), ["d"]);
    let info = site.open("d").unwrap().info;
    assert_eq!((info.size, info.content_type.as_deref()), (0, Some("application/directory")));
    site.put("d/x", "inside");
    assert_eq!(site.list(), ["d", "d/x"]);
    site.delete("d/x").unwrap();
    assert_eq!(site.list(), ["d"]);
    // A file of the same name replaces it, and the other way round.
    site.put("d", "file");
    assert_eq!(site.get("d").as_deref(), Some("file"));
    put("d");
    assert!(site.open("d").unwrap().info.directory);
    site.put("d/y", "inside");
    site.delete("d").unwrap();
    assert_eq!(site.list(), ["d/y"]);
    site.delete("d/y").unwrap();
    assert_eq!(site.files(), [""; 0]);
}

#[test]
fn a_plain_directory_is_no_object_and_is_not_removed() {
    let site = Site::new();
    fs::create_dir_all(site.path("made/by/a/job")).unwrap();
    assert_eq!(site.list(), [""; 0]);
    assert!(matches!(site.open("made"), Err(Error::NoObject)));
    site.put("made/by/x", "1");
    site.delete("made/by/x").unwrap();
    assert!(site.path("made/by/a/job").is_dir());
    fs::remove_dir(site.path("made/by/a/job")).unwrap();
    site.put("made/by/x", "1");
    site.delete("made/by/x").unwrap();
    assert!(site.path("made/by").is_dir(), "a directory that a job made stays, though empty");
}

#[test]
fn links_are_objects_only_to_files_beneath_the_container() {
    let site = Site::new();
    fs::create_dir(site.path("d")).unwrap();
    fs::write(site.path("d/target"), "inside").unwrap();
    fs::write(site.dir.path().join("secret"), "outside").unwrap();
    symlink("d/target", site.path("good")).unwrap();
    symlink("../../secret", site.path("out")).unwrap();
    symlink(site.dir.path().join("secret"), site.path("absolute")).unwrap();
    symlink("d", site.path("linkdir")).unwrap();
    symlink("nowhere", site.path("dangling")).unwrap();
    symlink("/proc/self/environ", site.path("proc")).unwrap();
    assert_eq!(site.get("good").as_deref(), Some("inside"));
    for name in ["out", "absolute", "linkdir", "dangling", "proc", "linkdir/target"] {
        assert_eq!(site.get(name), None, "{name}");
    }
    assert_eq!(site.list(), ["d/target", "good"]);
    assert!(matches!(put(&site.ns, "linkdir/new", "x"), Err(Error::Blocked { .. })));
    assert_eq!(fs::read_dir(site.path("d")).unwrap().count(), 1);
    site.delete("good").unwrap();
    assert_eq!(fs::read_to_string(site.path("d/target")).unwrap(), "inside", "the link goes, not the file");
    site.put("out", "now a file");
    assert_eq!(fs::read_to_string(site.dir.path().join("secret")).unwrap(), "outside");
    assert!(!site.path("out").is_symlink());
}

#[test]
fn fifos_sockets_and_devices_are_never_opened() {
    let site = Site::new();
    let made = std::process::Command::new("mkfifo").arg(site.path("fifo")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(site.path("socket")).unwrap();
    assert_eq!(site.get("fifo"), None);
    assert_eq!(site.get("socket"), None);
    assert_eq!(site.list(), [""; 0]);
    assert!(matches!(put(&site.ns, "fifo/x", "1"), Err(Error::Blocked { .. })));
}

#[test]
fn new_files_and_directories_take_the_permissions_of_the_directory_around_them() {
    let site = Site::new();
    fs::set_permissions(site.path(""), fs::Permissions::from_mode(0o2770)).unwrap();
    site.put("d/f", "x");
    let mode = |name: &str| fs::metadata(site.path(name)).unwrap().mode() & 0o7777;
    // The test's own umask still applies.
    assert_eq!(mode("d") & 0o7707, 0o2700);
    assert_eq!(mode("d/f") & 0o707, 0o600);
}

#[test]
fn containers_are_directories_and_go_only_when_they_hold_nothing() {
    let site = Site::new();
    fs::create_dir_all(site.path("empty/tree")).unwrap();
    site.put("a/b", "x");
    let delete = || site.ns.delete_container(ACCOUNT, CONTAINER);
    assert!(matches!(delete(), Err(Error::NotEmpty { first }) if first == "a/b"));
    assert!(site.path("empty/tree").is_dir(), "nothing goes when not all can go");
    site.delete("a/b").unwrap();
    // What is not served still keeps the container, and is named.
    let made = std::process::Command::new("mkfifo").arg(site.path("empty/fifo")).status().unwrap();
    assert!(made.success());
    assert!(matches!(delete(), Err(Error::NotEmpty { first }) if first == "empty/fifo"));
    fs::remove_file(site.path("empty/fifo")).unwrap();
    delete().unwrap();
    assert!(!site.path("").exists());
    assert!(matches!(delete(), Err(Error::NoContainer)));
    assert!(matches!(put(&site.ns, "x", "y"), Err(Error::NoContainer)));
}

#[test]
fn counters_follow_both_sides() {
    let site = Site::new();
    site.put("a", "12345");
    fs::create_dir(site.path("d")).unwrap();
    fs::write(site.path("d/b"), "123").unwrap();
    let count = || site.ns.container_info(ACCOUNT, CONTAINER).unwrap().count;
    assert_eq!((count().objects, count().bytes), (2, 8));
    site.put("a", "1");
    site.delete("d/b").unwrap();
    site.put("a/below", "22");
    assert_eq!((count().objects, count().bytes), (2, 3));
    let info = site.ns.account_info(ACCOUNT).unwrap();
    assert_eq!((info.containers, info.count.objects, info.count.bytes), (1, 2, 3));
}

#[test]
fn settings_are_kept_from_the_attribute_and_from_others() {
    let site = Site::new();
    let set = |value: Option<&str>| {
        let change = [("read".to_string(), value.map(str::to_string))];
        site.ns.update_system(ACCOUNT, Some(CONTAINER), &change).unwrap();
    };
    set(Some(".r:*"));
    assert_eq!(site.ns.system(ACCOUNT, Some(CONTAINER)).unwrap()["read"], ".r:*");
    assert!(site.ns.system(ACCOUNT, None).unwrap().is_empty());
    let dir = site.dir.path().join(ACCOUNT).join(".lb~ds");
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&dir).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
    }
    assert_eq!(get(&site.ns, ".lb~ds/account"), None);
    set(None);
    assert!(site.ns.system(ACCOUNT, Some(CONTAINER)).unwrap().is_empty());
    set(Some("x"));
    site.ns.forget_system(ACCOUNT, CONTAINER).unwrap();
    assert!(site.ns.system(ACCOUNT, Some(CONTAINER)).unwrap().is_empty());
}

#[test]
fn accounts_can_lie_in_any_directory() {
    let options = Options {
        accounts: [("AUTH_mapped".to_string(), "projects/physics".to_string())].into(),
        ..options()
    };
    let site = Site::with(options);
    site.ns.create_account("AUTH_mapped", vec![], Timestamp::now()).unwrap();
    fs::create_dir(site.dir.path().join("projects/physics/runs")).unwrap();
    fs::write(site.dir.path().join("projects/physics/runs/1"), "data").unwrap();
    let name = namespace::ObjectName::new("AUTH_mapped", "runs", "1");
    assert_eq!(site.ns.open_object(&name).unwrap().info.size, 4);
    assert!(site.ns.accounts().unwrap().contains(&"AUTH_mapped".to_string()));
    site.ns.delete_object(&name, Timestamp::now()).unwrap();
    site.ns.delete_container("AUTH_mapped", "runs").unwrap();
    site.ns.delete_account("AUTH_mapped").unwrap();
    assert!(!site.dir.path().join("projects/physics").exists());
}

#[test]
fn a_sweep_sees_every_object_once_and_reaps_old_temporaries() {
    let site = Site::new();
    site.put("a", "1");
    site.put("a/b", "2");
    fs::write(site.path(".lb~tabcdefghij0123456789"), "left by a crash").unwrap();
    let mut seen = Vec::new();
    let mut sweep = |age| {
        seen.clear();
        let result = site.ns.sweep(ACCOUNT, CONTAINER, age, &mut |s| {
            seen.push(s.name.object);
            std::ops::ControlFlow::Continue(())
        });
        seen.sort();
        (result.unwrap(), seen.clone())
    };
    let (result, names) = sweep(std::time::Duration::from_hours(1));
    assert_eq!((names, result.objects, result.reaped), (vec!["a".to_string(), "a/b".to_string()], 2, 0));
    let (result, _) = sweep(std::time::Duration::ZERO);
    assert_eq!(result.reaped, 1);
    assert_eq!(site.files(), ["a", "a/.lb~self", "a/b"]);
}

#[test]
fn objects_written_by_swift_on_file_are_read_as_they_are() {
    let site = Site::new();
    fs::write(site.path("old"), "data").unwrap();
    let modified = std::time::UNIX_EPOCH + std::time::Duration::from_mins(25_000_000);
    fs::File::options().write(true).open(site.path("old")).unwrap().set_modified(modified).unwrap();
    let json = r#"{"Content-Length": "4", "Content-Type": "text/old", "ETag": "8d777f385d3dfec8815d20f7496026dc",
        "X-Timestamp": "1500000000.00000", "X-Object-Type": "file", "X-Type": "Object",
        "X-Object-Meta-Colour": "red", "X-Object-PUT-Mtime": "1500000000.00000"}"#;
    set_attribute(&site.path("old"), "user.swift.metadata", json);
    let info = site.open("old").unwrap().info;
    assert_eq!(info.content_type.as_deref(), Some("text/old"));
    assert_eq!(info.headers, [("x-object-meta-colour".to_string(), b"red".to_vec())]);
    assert_eq!((info.etag, info.foreign), (Some(md5(b"data")), false));
    // Changed since: what the owner said of it stays, its ETag does not.
    fs::write(site.path("old"), "changed").unwrap();
    let info = site.open("old").unwrap().info;
    assert_eq!((info.etag, info.content_type.as_deref()), (None, Some("text/old")));
    // A pickle is refused, and harms nothing.
    fs::write(site.path("pickled"), "x").unwrap();
    set_attribute(&site.path("pickled"), "user.swift.metadata", "\u{2}(dp0\n.");
    assert_eq!(site.get("pickled").as_deref(), Some("x"));
    assert!(site.ns.corrupt_attributes() > 0);
}

fn set_attribute(path: &std::path::Path, name: &str, value: &str) {
    let status =
        std::process::Command::new("setfattr").args(["-n", name, "-v", value]).arg(path).status().unwrap();
    assert!(status.success(), "setfattr (Debian package attr)");
}
