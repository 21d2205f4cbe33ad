//! Static large objects become plain files, and orphaned metadata files go.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{ACCOUNT, Site, md5, object, options, put};
use namespace::metadata::Slo;
use namespace::{
    Assembly, MetadataMode, Namespace, Object, ObjectInfo, ObjectMeta, ObjectPost, Options, Orphans,
    Timestamp,
};

const MANIFEST: &[u8] = b"[{\"name\": \"/s/1\"}]";
const CONTENT: &[u8] = b"the content of all segments";

fn put_manifest(ns: &Namespace, name: &str, headers: usize) {
    let headers =
        (0..headers).map(|n| (format!("x-object-meta-{n:02}"), vec![b'v'; 200])).collect::<Vec<_>>();
    let slo = Some(Slo { etag: [7; 16], size: CONTENT.len() as u64, kept: None });
    let delete_at = Some(4_000_000_000);
    let meta =
        ObjectMeta { content_type: Some("x/y".into()), delete_at, headers, slo, ..ObjectMeta::default() };
    ns.put_object(&object(name), MANIFEST, meta, Timestamp::now(), None).unwrap();
}

fn begin(ns: &Namespace, name: &str) -> Option<Assembly> {
    let opened = ns.open_object(&object(name)).unwrap();
    let manifest = ns.manifest(&object(name), &opened).unwrap().unwrap();
    let mut assembly = ns.begin_assembly(&object(name), &opened, manifest).unwrap()?;
    let (first, rest) = CONTENT.split_at(5);
    assembly.write(first).unwrap();
    let mut source = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut source, CONTENT).unwrap();
    assembly.copy(ns, &source, 5, rest.len() as u64).unwrap();
    Some(assembly)
}

fn assemble(ns: &Namespace, name: &str) -> bool {
    begin(ns, name).is_some_and(|assembly| ns.finish_assembly(assembly).unwrap())
}

/// What a client can see.
fn seen(info: &ObjectInfo) -> impl PartialEq + std::fmt::Debug + use<> {
    let slo = info.slo.map(|slo| (slo.etag, slo.size));
    let times = (info.timestamp, info.data_timestamp, info.mtime_ns, info.foreign);
    (times, info.etag, info.content_type.clone(), info.delete_at, info.headers.clone(), slo, info.directory)
}

fn side_files(site: &Site) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(shards) = fs::read_dir(site.dir.path().join(ACCOUNT).join(".lb~dm")) else { return found };
    for shard in shards {
        for file in fs::read_dir(shard.unwrap().path()).unwrap() {
            found.push(file.unwrap().file_name().into_string().unwrap());
        }
    }
    found.sort();
    found
}

fn sites() -> [Site; 2] {
    [MetadataMode::Xattr, MetadataMode::Sidecar].map(|metadata| Site::with(Options { metadata, ..options() }))
}

fn is_assembled(site: &Site, name: &str) -> bool {
    let Object { info, .. } = site.open(name).unwrap();
    info.slo.unwrap().kept.is_some()
}

#[test]
fn only_the_file_changes() {
    for site in sites() {
        for headers in [0, 30] {
            let before = side_files(&site);
            put_manifest(&site.ns, "dir/slo", headers);
            let was = seen(&site.open("dir/slo").unwrap().info);
            assert!(assemble(&site.ns, "dir/slo"));
            assert_eq!(fs::read(site.path("dir/slo")).unwrap(), CONTENT);
            let opened = site.open("dir/slo").unwrap();
            assert_eq!(seen(&opened.info), was);
            assert_eq!(opened.info.size, CONTENT.len() as u64);
            assert_eq!(opened.info.etag, Some(md5(MANIFEST)));
            let manifest = site.ns.manifest(&object("dir/slo"), &opened).unwrap().unwrap();
            assert_eq!(manifest, MANIFEST);
            assert!(!assemble(&site.ns, "dir/slo"), "once is enough");
            // A POST keeps it.
            let post =
                ObjectPost { headers: vec![("x-object-meta-a".into(), b"b".into())], ..Default::default() };
            site.ns.post_object(&object("dir/slo"), post, Timestamp::now()).unwrap();
            let opened = site.open("dir/slo").unwrap();
            assert_eq!(opened.info.headers.len(), 1);
            assert_eq!(site.ns.manifest(&object("dir/slo"), &opened).unwrap().unwrap(), MANIFEST);
            site.delete("dir/slo").unwrap();
            assert_eq!(side_files(&site), before, "its side files go with it");
            assert!(site.ns.manifest(&object("dir/slo"), &opened).unwrap().is_none(), "replaced meanwhile");
            // Replaced, too.
            put_manifest(&site.ns, "dir/slo", headers);
            assert!(assemble(&site.ns, "dir/slo"));
            site.put("dir/slo", "plain");
            assert!(site.open("dir/slo").unwrap().info.slo.is_none());
            site.delete("dir/slo").unwrap();
            assert_eq!((side_files(&site), site.files().len()), (before, 0));
        }
    }
}

#[test]
fn what_happens_meanwhile_wins() {
    for site in sites() {
        // A POST is not lost.
        put_manifest(&site.ns, "slo", 0);
        let assembly = begin(&site.ns, "slo").unwrap();
        let headers = vec![("x-object-meta-new".to_string(), vec![b'n'; 5000])];
        let post = ObjectPost { headers: headers.clone(), content_type: Some("p/q".into()), delete_at: None };
        site.ns.post_object(&object("slo"), post, Timestamp::now()).unwrap();
        let was = seen(&site.open("slo").unwrap().info);
        assert!(site.ns.finish_assembly(assembly).unwrap());
        let now = site.open("slo").unwrap().info;
        assert_eq!((seen(&now), now.headers), (was, headers));
        assert!(now.slo.unwrap().kept.is_some());
        site.delete("slo").unwrap();
        // A PUT stays, also one of the same manifest.
        for again in [true, false] {
            put_manifest(&site.ns, "slo", 0);
            let assembly = begin(&site.ns, "slo").unwrap();
            if again {
                put_manifest(&site.ns, "slo", 1);
            } else {
                site.put("slo", "new");
            }
            let was = seen(&site.open("slo").unwrap().info);
            assert!(!site.ns.finish_assembly(assembly).unwrap());
            assert_eq!(seen(&site.open("slo").unwrap().info), was);
        }
        site.delete("slo").unwrap();
        // What was deleted is not brought back, nor its directory.
        put_manifest(&site.ns, "d/slo", 0);
        let assembly = begin(&site.ns, "d/slo").unwrap();
        site.delete("d/slo").unwrap();
        assert!(!site.ns.finish_assembly(assembly).unwrap());
        assert_eq!(site.files(), [""; 0]);
        // Nor is anything left of what is given up or comes out too short.
        put_manifest(&site.ns, "slo", 0);
        begin(&site.ns, "slo").unwrap().abort(&site.ns);
        let opened = site.open("slo").unwrap();
        let short = site.ns.begin_assembly(&object("slo"), &opened, MANIFEST.to_vec()).unwrap().unwrap();
        assert!(!site.ns.finish_assembly(short).unwrap());
        let wrong = site.ns.begin_assembly(&object("slo"), &opened, b"[]".to_vec()).unwrap();
        assert!(wrong.is_none(), "another manifest than the one that is there");
        assert_eq!(site.files(), ["slo"]);
        assert!(!is_assembled(&site, "slo"));
        site.delete("slo").unwrap();
        let left = side_files(&site);
        assert!(left.iter().all(|file| !file.contains(".slo")), "{left:?}");
    }
}

#[test]
fn another_servers_post_between_the_last_look_and_the_rename_is_not_lost() {
    for mode in [MetadataMode::Xattr, MetadataMode::Sidecar] {
        let options = Options { metadata: mode, ..options() };
        let site = Site::with(options.clone());
        put_manifest(&site.ns, "slo", 0);
        let peer = Namespace::open(site.dir.path(), options.clone()).unwrap();
        let done = AtomicBool::new(false);
        let hook = move |step: &'static str| {
            if step == "assemble: attribute set" && !done.swap(true, Ordering::SeqCst) {
                let headers = vec![("x-object-meta-late".to_string(), b"yes".to_vec())];
                let post = ObjectPost { headers, ..ObjectPost::default() };
                peer.post_object(&object("slo"), post, Timestamp::now()).unwrap();
            }
        };
        let ns = Namespace::open(site.dir.path(), options).unwrap().with_hook(Box::new(hook));
        assert!(assemble(&ns, "slo"));
        let info = site.open("slo").unwrap().info;
        assert_eq!(info.headers, [("x-object-meta-late".to_string(), b"yes".to_vec())]);
        assert!(info.slo.unwrap().kept.is_some());
    }
}

#[test]
fn an_edited_or_copied_file_is_an_ordinary_one() {
    let site = Site::new();
    put_manifest(&site.ns, "slo", 0);
    assert!(assemble(&site.ns, "slo"));
    let copied = Command::new("cp").arg("-a").args([site.path("slo"), site.path("copy")]).status().unwrap();
    assert!(copied.success());
    assert!(is_assembled(&site, "slo"));
    let copy = site.open("copy").unwrap().info;
    assert!(copy.slo.is_none() && copy.etag.is_none() && copy.foreign && copy.delete_at.is_none());
    fs::write(site.path("slo"), CONTENT.to_ascii_uppercase()).unwrap();
    let edited = site.open("slo").unwrap().info;
    assert!(edited.slo.is_none() && edited.etag.is_none() && edited.foreign);
    let etag = site.ns.compute_etag(&object("slo"), &mut |_| true).unwrap();
    assert_eq!(etag, Some(md5(&CONTENT.to_ascii_uppercase())));
    assert_eq!(site.open("slo").unwrap().info.etag, etag);
    // Moved within the account it stays what it is.
    let before = side_files(&site);
    put_manifest(&site.ns, "slo", 0);
    assert!(assemble(&site.ns, "slo"));
    fs::create_dir(site.path("d")).unwrap();
    fs::rename(site.path("slo"), site.path("d/moved")).unwrap();
    let moved = site.open("d/moved").unwrap();
    assert_eq!(site.ns.manifest(&object("d/moved"), &moved).unwrap().unwrap(), MANIFEST);
    // Without its manifest, that alone fails; another one in its place is told from it.
    let manifest = side_files(&site).into_iter().find(|file| !before.contains(file)).unwrap();
    let path = site.dir.path().join(ACCOUNT).join(".lb~dm").join(&manifest[..2]).join(&manifest);
    for damage in
        [fs::write(&path, "[]"), fs::write(&path, [MANIFEST, b" "].concat()), fs::remove_file(&path)]
    {
        damage.unwrap();
        assert!(site.ns.manifest(&object("d/moved"), &moved).is_err());
        assert_eq!(site.get("d/moved").unwrap().as_bytes(), CONTENT);
    }
}

#[test]
fn an_object_beside_objects_below_its_name_is_assembled_where_it_lies() {
    let site = Site::new();
    put_manifest(&site.ns, "a", 0);
    site.put("a/b", "child");
    assert!(assemble(&site.ns, "a"));
    assert_eq!(fs::read(site.path("a/.lb~self")).unwrap(), CONTENT);
    site.delete("a/b").unwrap();
    assert!(is_assembled(&site, "a"));
    assert_eq!(site.files(), ["a"]);
    // It moves there, and back, meanwhile.
    put_manifest(&site.ns, "a", 0);
    let assembly = begin(&site.ns, "a").unwrap();
    site.put("a/b", "child");
    assert!(site.ns.finish_assembly(assembly).unwrap());
    assert_eq!((site.list(), site.get("a").unwrap().as_bytes()), (vec!["a".into(), "a/b".into()], CONTENT));
    put_manifest(&site.ns, "a", 0);
    let assembly = begin(&site.ns, "a").unwrap();
    site.delete("a/b").unwrap();
    assert!(site.ns.finish_assembly(assembly).unwrap());
    assert_eq!((site.list(), site.get("a").unwrap().as_bytes()), (vec!["a".to_string()], CONTENT));
}

#[test]
fn a_file_with_rights_of_its_own_is_left_alone() {
    let site = Site::new();
    put_manifest(&site.ns, "slo", 0);
    let mode = |mode| fs::set_permissions(site.path("slo"), fs::Permissions::from_mode(mode)).unwrap();
    let ordinary = fs::metadata(site.path("slo")).unwrap().permissions().mode();
    // Whoever may write it may have forged it.
    for other in [0o666, 0o660, 0o600] {
        mode(other);
        assert_eq!(assemble(&site.ns, "slo"), other == ordinary & 0o777, "{other:o}");
    }
    if !is_assembled(&site, "slo") {
        mode(ordinary);
        let assembly = begin(&site.ns, "slo").unwrap();
        mode(0o666);
        assert!(!site.ns.finish_assembly(assembly).unwrap(), "changed meanwhile");
        mode(ordinary);
        std::os::unix::fs::symlink("slo", site.path("link")).unwrap();
        assert!(!assemble(&site.ns, "link"));
        assert!(assemble(&site.ns, "slo"));
    }
    assert!(site.files().iter().all(|file| !file.contains(".lb~")), "{:?}", site.files());
    // Where everybody may write, nothing is assembled.
    fs::create_dir(site.path("shared")).unwrap();
    fs::set_permissions(site.path("shared"), fs::Permissions::from_mode(0o777)).unwrap();
    put_manifest(&site.ns, "shared/slo", 0);
    mode(ordinary);
    fs::set_permissions(site.path("shared/slo"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(!assemble(&site.ns, "shared/slo"));
}

fn reap(site: &Site, orphans: &mut Orphans, age: Duration) -> u64 {
    let proceed = &mut || ControlFlow::Continue(());
    site.ns.reap_orphans(ACCOUNT, age, orphans, proceed).unwrap()
}

#[test]
fn side_files_without_a_file_go_and_others_stay() {
    for site in sites() {
        put_manifest(&site.ns, "slo", 0);
        put_manifest(&site.ns, "kept", 30);
        assert!(assemble(&site.ns, "slo") && assemble(&site.ns, "kept"));
        put(&site.ns, "d/e/plain", "x").unwrap();
        // A file that is no object is a file all the same.
        fs::rename(site.path("kept"), site.path(".lb~dhidden")).unwrap();
        let all = side_files(&site);
        let mut orphans = Orphans::default();
        let none = Duration::ZERO;
        for _ in 0..3 {
            assert_eq!(reap(&site, &mut orphans, none), 0);
        }
        assert_eq!(side_files(&site), all);
        let gone = site.path("slo");
        let away = site.dir.path().join("away");
        fs::rename(&gone, &away).unwrap();
        assert_eq!(reap(&site, &mut orphans, Duration::from_hours(1)), 0, "too young");
        assert_eq!(reap(&site, &mut orphans, none), 0, "found for the first time");
        // It was on the move: a look that finds it absolves it.
        fs::rename(&away, &gone).unwrap();
        assert_eq!(reap(&site, &mut orphans, none), 0);
        fs::rename(&gone, &away).unwrap();
        assert_eq!(reap(&site, &mut orphans, none), 0);
        let breaking = &mut || ControlFlow::Break(());
        assert_eq!(site.ns.reap_orphans(ACCOUNT, none, &mut orphans, breaking).unwrap(), 0);
        assert_eq!(side_files(&site), all);
        assert!(reap(&site, &mut orphans, none) > 0);
        let left = side_files(&site);
        assert!(left.len() < all.len() && left.iter().all(|file| all.contains(file)));
        // Temporary files of ours, and nobody else's.
        let shard = site.dir.path().join(ACCOUNT).join(".lb~dm/00");
        fs::create_dir_all(&shard).unwrap();
        for name in [".lb~tabcdefghijklmnopqrst", "README", "00zz", "0"] {
            fs::write(shard.join(name), "x").unwrap();
        }
        assert_eq!(reap(&site, &mut orphans, Duration::from_hours(1)), 0);
        assert_eq!(reap(&site, &mut orphans, none), 1);
        assert_eq!(side_files(&site).len(), left.len() + 3);
    }
    let site = Site::new();
    assert_eq!(reap(&site, &mut Orphans::default(), Duration::ZERO), 0);
}
