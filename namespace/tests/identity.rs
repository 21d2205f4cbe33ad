//! Requests act as POSIX identities, and the kernel judges them. Needs root.
//!
//! Not shown: that a quota counts for the right user. It follows the owner of the file, which is shown; quotas
//! of ext4, XFS and tmpfs are an option of the kernel, and those of Lustre need Lustre.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "common/mounts.rs"]
mod mounts;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::sync::Arc;
use std::task::Poll;

use common::{ACCOUNT, CONTAINER, Site, md5, object, put};
use lustre::identity::Identity;
use lustre::pool::Pool;
use mounts::not_run;
use namespace::{Error, ListQuery, Namespace, ObjectMeta, ObjectPost, Result, Timestamp};

const FIRST: u32 = 70_000;
const SHARED: u32 = 90_000;

/// A namespace that every identity may walk through, whose container belongs to nobody in particular.
struct World {
    site: Site,
    ns: Arc<Namespace>,
}

impl World {
    fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            not_run(test, "it needs root");
            return None;
        }
        // Whatever the shell of the test allows others.
        rustix::process::umask(rustix::fs::Mode::empty());
        let site = Site::new();
        for (path, mode) in
            [(site.dir.path().to_path_buf(), 0o755), (site.path(".."), 0o777), (site.path(""), 0o777)]
        {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        let ns = Arc::new(site.peer());
        Some(Self { site, ns })
    }

    /// A directory in the container.
    fn directory(&self, name: &str, uid: u32, mode: u32) {
        fs::create_dir(self.site.path(name)).unwrap();
        self.give(name, uid, uid, mode);
    }

    /// A file in the container, as other software makes it.
    fn file(&self, name: &str, uid: u32, gid: u32, mode: u32) {
        fs::write(self.site.path(name), name).unwrap();
        self.give(name, uid, gid, mode);
    }

    fn give(&self, name: &str, uid: u32, gid: u32, mode: u32) {
        chown(self.site.path(name), Some(uid), Some(gid)).unwrap();
        fs::set_permissions(self.site.path(name), Permissions::from_mode(mode)).unwrap();
    }

    fn owner(&self, name: &str) -> (u32, u32) {
        let seen = fs::symlink_metadata(self.site.path(name)).unwrap();
        (seen.uid(), seen.gid())
    }

    /// Acts on this thread.
    fn as_user<T>(&self, who: &Identity, act: impl FnOnce(&Namespace) -> T) -> T {
        let _guard = who.assume().unwrap();
        act(&self.ns)
    }
}

fn user(uid: u32) -> Identity {
    Identity { uid, gid: uid, groups: vec![] }
}

fn is_forbidden<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Forbidden { .. }))
}

fn post(ns: &Namespace, name: &str) -> Result<()> {
    let headers = vec![("x-object-meta-k".to_string(), b"v".to_vec())];
    ns.post_object(&object(name), ObjectPost { headers, ..ObjectPost::default() }, Timestamp::now()).map(drop)
}

fn read(ns: &Namespace, name: &str) -> Result<String> {
    Ok(std::io::read_to_string(&ns.open_object(&object(name))?.file).unwrap())
}

fn etag(ns: &Namespace, name: &str) -> Result<Option<[u8; 16]>> {
    ns.compute_etag(&object(name), &mut |_| true)
}

fn list(ns: &Namespace) -> Result<usize> {
    Ok(ns.list_objects(ACCOUNT, CONTAINER, &ListQuery { limit: 10_000, ..ListQuery::default() })?.len())
}

/// One job of one identity in its own directory `uN`, and what it must not be able to do in the next one's.
fn job(ns: &Namespace, n: u32, step: u32) -> Result<()> {
    let own = |name: &str| format!("u{n}/{name}");
    let next = |name: &str| format!("u{}/{name}", (n + 1) % 64);
    match step {
        0 => put(ns, &own("a"), "one").map(drop),
        1 => put(ns, &own("deep/er/b"), "two").map(drop),
        2 => {
            assert_eq!(read(ns, &own("a"))?, "one");
            post(ns, &own("a"))
        }
        3 => {
            for name in ["secret", "a", "new"] {
                assert!(is_forbidden(&read(ns, &next(name))), "{n} reads {name}");
                assert!(is_forbidden(&put(ns, &next(name), "x")), "{n} writes {name}");
                assert!(is_forbidden(&ns.delete_object(&object(&next(name)), Timestamp::now())));
            }
            Ok(())
        }
        4 => put(ns, &own("a/below"), "three").map(drop),
        5 => ns.delete_object(&object(&own("gone")), Timestamp::now()).map(drop),
        _ => {
            let meta = ObjectMeta { directory: true, ..ObjectMeta::default() };
            ns.put_object(&object(&own("marker")), b"", meta, Timestamp::now(), None).map(drop)
        }
    }
}

#[test]
fn interleaved_identities_own_what_they_make_and_reach_nothing_else() {
    let test = "interleaved_identities_own_what_they_make_and_reach_nothing_else";
    let Some(world) = World::new(test) else { return };
    for n in 0..64 {
        world.directory(&format!("u{n}"), FIRST + n, 0o700);
        for file in ["secret", "gone"] {
            world.file(&format!("u{n}/{file}"), FIRST + n, FIRST + n, 0o600);
        }
    }
    // Few threads: each acts as many.
    let pool = Pool::new("identities", 3, 1000);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for step in 0..7 {
            let jobs: Vec<_> = (0..64)
                .map(|n| {
                    let (pool, ns, who) = (pool.clone(), Arc::clone(&world.ns), Arc::new(user(FIRST + n)));
                    // All wait in the queue before the first is done.
                    async move { pool.run(Some(who), move || job(&ns, n, step)).await }
                })
                .collect();
            let mut running: Vec<_> = jobs.into_iter().map(Box::pin).collect();
            // Polled once, a job is queued.
            let mut done = Vec::new();
            for job in &mut running {
                let polled = std::future::poll_fn(|cx| Poll::Ready(job.as_mut().poll(cx))).await;
                done.push(polled);
            }
            for (job, done) in running.into_iter().zip(done) {
                let done = if let Poll::Ready(done) = done { done } else { job.await };
                done.unwrap().unwrap_or_else(|e| panic!("{step}: {e}"));
            }
            // In between the threads are root again.
            let own = pool.run(None, || Identity::of_process().map(|i| i.uid)).await.unwrap().unwrap();
            assert_eq!(own, 0);
            pool.run(None, {
                let ns = Arc::clone(&world.ns);
                move || put(&ns, &format!("root/{step}"), "x")
            })
            .await
            .unwrap()
            .unwrap();
            assert_eq!(world.owner(&format!("root/{step}")), (0, 0));
        }
    });
    for n in 0..64 {
        let expected = (FIRST + n, FIRST + n);
        for name in ["a", "a/.lb~self", "a/below", "deep", "deep/er", "deep/er/b", "marker", "secret"] {
            let name = format!("u{n}/{name}");
            assert_eq!(world.owner(&name), expected, "{name}");
        }
        assert!(!world.site.path(format!("u{n}/gone")).exists());
        assert_eq!(world.site.get(&format!("u{n}/a")).as_deref(), Some("one"));
    }
}

#[test]
fn supplementary_groups_count() {
    let Some(world) = World::new("supplementary_groups_count") else { return };
    world.file("shared", FIRST, SHARED, 0o640);
    world.file("other", FIRST, SHARED + 1, 0o640);
    world.directory("team", FIRST, 0o2770);
    chown(world.site.path("team"), None, Some(SHARED)).unwrap();
    let member = Identity { groups: vec![SHARED], ..user(FIRST + 1) };
    world.as_user(&member, |ns| {
        assert_eq!(read(ns, "shared").unwrap(), "shared");
        assert!(is_forbidden(&read(ns, "other")));
        put(ns, "team/new/x", "y").unwrap();
    });
    let root = fs::metadata(world.site.path("team/new/x")).unwrap();
    assert_eq!(
        (root.uid(), root.gid()),
        (FIRST + 1, SHARED),
        "the directory's group, by its set-group-id bit"
    );
    world.as_user(&user(FIRST + 2), |ns| {
        assert!(is_forbidden(&read(ns, "shared")));
        assert!(is_forbidden(&put(ns, "team/z", "y")));
    });
}

#[test]
fn a_file_of_another_that_may_not_be_read_is_forbidden() {
    let Some(world) = World::new("a_file_of_another_that_may_not_be_read_is_forbidden") else { return };
    world.file("private", FIRST, FIRST, 0o600);
    world.file("readable", FIRST, FIRST, 0o644);
    world.as_user(&user(FIRST + 1), |ns| {
        assert!(is_forbidden(&ns.open_object(&object("private"))));
        assert!(is_forbidden(&post(ns, "private")));
        assert!(is_forbidden(&etag(ns, "private")));
        // What may be read but not written: its metadata belongs to its owner.
        assert_eq!(read(ns, "readable").unwrap(), "readable");
        assert!(is_forbidden(&post(ns, "readable")));
        assert_eq!(etag(ns, "readable").unwrap(), Some(md5(b"readable")));
        // It is there, and who may list the directory sees that.
        assert_eq!(list(ns).unwrap(), 2);
    });
    world.as_user(&user(FIRST), |ns| {
        post(ns, "private").unwrap();
        assert_eq!(etag(ns, "private").unwrap(), Some(md5(b"private")));
    });
}

#[test]
fn a_directory_of_another_is_forbidden_and_never_left_out_of_a_listing() {
    let test = "a_directory_of_another_is_forbidden_and_never_left_out_of_a_listing";
    let Some(world) = World::new(test) else { return };
    world.file("a", FIRST, FIRST, 0o644);
    world.directory("closed", FIRST, 0o700);
    world.file("closed/x", FIRST, FIRST, 0o644);
    world.file("z", FIRST, FIRST, 0o644);
    world.as_user(&user(FIRST + 1), |ns| {
        assert!(is_forbidden(&ns.open_object(&object("closed/x"))));
        assert!(is_forbidden(&ns.open_object(&object("closed/nothing"))));
        assert!(is_forbidden(&put(ns, "closed/new", "x")));
        assert!(is_forbidden(&put(ns, "closed/deep/new", "x")));
        assert!(is_forbidden(&post(ns, "closed/x")));
        assert!(is_forbidden(&ns.delete_object(&object("closed/x"), Timestamp::now())));
        assert!(is_forbidden(&list(ns)));
        assert!(is_forbidden(&ns.container_info(ACCOUNT, CONTAINER)), "a count that leaves something out");
        // A page that needs nothing of it is whole.
        let page = ListQuery { prefix: "z".into(), limit: 10, ..ListQuery::default() };
        assert_eq!(ns.list_objects(ACCOUNT, CONTAINER, &page).unwrap().len(), 1);
    });
    world.as_user(&user(FIRST), |ns| assert_eq!(list(ns).unwrap(), 3));
}

/// As unlink(2) and rename(2): the directory decides, not the file.
#[test]
fn delete_and_put_over_need_write_permission_of_the_directory_only() {
    let test = "delete_and_put_over_need_write_permission_of_the_directory_only";
    let Some(world) = World::new(test) else { return };
    let me = user(FIRST + 1);
    world.directory("mine", me.uid, 0o755);
    for name in ["mine/deleted", "mine/replaced", "mine/parent"] {
        world.file(name, FIRST, FIRST, 0o600);
    }
    world.as_user(&me, |ns| {
        ns.delete_object(&object("mine/deleted"), Timestamp::now()).unwrap();
        assert!(!put(ns, "mine/replaced", "new").unwrap().created);
        assert_eq!(read(ns, "mine/replaced").unwrap(), "new");
        // Another's file moves into its directory and stays as it is.
        put(ns, "mine/parent/child", "x").unwrap();
        assert!(is_forbidden(&read(ns, "mine/parent")));
        assert_eq!(list(ns).unwrap(), 3);
        ns.delete_object(&object("mine/parent/child"), Timestamp::now()).unwrap();
    });
    assert!(!world.site.path("mine/deleted").exists());
    assert_eq!(world.owner("mine/replaced"), (me.uid, me.gid));
    assert_eq!(world.owner("mine/parent"), (FIRST, FIRST));
    assert_eq!(fs::read_to_string(world.site.path("mine/parent")).unwrap(), "mine/parent");
    // The other way round: an own file in a directory that may not be changed.
    world.directory("theirs", FIRST, 0o755);
    world.file("theirs/own", me.uid, me.gid, 0o600);
    // And the sticky bit, as in /tmp.
    world.directory("sticky", FIRST, 0o1777);
    world.file("sticky/theirs", FIRST, FIRST, 0o644);
    world.file("sticky/own", me.uid, me.gid, 0o644);
    world.as_user(&me, |ns| {
        assert!(is_forbidden(&ns.delete_object(&object("theirs/own"), Timestamp::now())));
        assert!(is_forbidden(&put(ns, "theirs/own", "new")));
        post(ns, "theirs/own").unwrap();
        assert!(is_forbidden(&ns.delete_object(&object("sticky/theirs"), Timestamp::now())));
        assert!(is_forbidden(&put(ns, "sticky/theirs", "new")));
        ns.delete_object(&object("sticky/own"), Timestamp::now()).unwrap();
    });
    assert_eq!(fs::read_to_string(world.site.path("theirs/own")).unwrap(), "theirs/own");
    assert_eq!(fs::read_to_string(world.site.path("sticky/theirs")).unwrap(), "sticky/theirs");
    let left = world.site.files().into_iter().find(|path| path.contains(".lb~"));
    assert_eq!(left, None, "what was refused leaves nothing");
}

/// An unreadable object's timestamp cannot be known: the directory's owner always wins over it.
#[test]
fn deleting_below_a_directory_that_may_not_be_changed_deletes_all_the_same() {
    let test = "deleting_below_a_directory_that_may_not_be_changed_deletes_all_the_same";
    let Some(world) = World::new(test) else { return };
    let me = user(FIRST + 1);
    world.directory("top", FIRST, 0o755);
    world.as_user(&user(FIRST), |ns| {
        put(ns, "top/a", "parent").unwrap();
        put(ns, "top/a/child", "x").unwrap();
    });
    fs::set_permissions(world.site.path("top/a"), Permissions::from_mode(0o777)).unwrap();
    world.as_user(&me, |ns| {
        // The last child goes; the directory around is not this user's to tidy.
        ns.delete_object(&object("top/a/child"), Timestamp::now()).unwrap();
        assert_eq!(read(ns, "top/a").unwrap(), "parent");
        assert_eq!(list(ns).unwrap(), 1);
    });
}
