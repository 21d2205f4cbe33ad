//! Static large objects that were assembled look to clients as they did before.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use namespace::{Namespace, ObjectName, ObjectPost, Timestamp};
use object_server::assembler::{Assembler, Failure};

use crate::site::{Ask, Reply, Site, md5};

struct Assembling {
    site: Site,
    ns: Arc<Namespace>,
    assembler: Assembler,
}

impl Assembling {
    /// With three segments in the container `s`, and an empty container `c`.
    async fn new() -> (Self, [String; 3]) {
        let mut ns = None;
        let site = Site::with(|service| ns = Some(Arc::clone(&service.namespace)));
        let bodies = ["a", "b", "c"].map(|letter| letter.repeat(50_000));
        for (name, body) in ["1", "2", "3"].iter().zip(&bodies) {
            site.put(&format!("/s/{name}"), body).await;
        }
        site.ask("PUT", "/c").send().await.is(201);
        (Self { site, ns: ns.unwrap(), assembler: Assembler::default() }, bodies)
    }

    async fn manifest(&self, name: &str, json: &str) -> Reply {
        self.ask_manifest(name, json).send().await.is(201)
    }

    fn ask_manifest(&self, name: &str, json: &str) -> Ask<'_> {
        let ask = self.site.ask("PUT", &format!("/{name}?multipart-manifest=put"));
        ask.header("Content-Type", "x/y").header("X-Object-Meta-Color", "blue").body(json)
    }

    fn assemble(&mut self, name: &str) -> Result<Option<u64>, Failure> {
        let (container, object) = name.split_once('/').unwrap();
        let name = ObjectName::new("AUTH_test", container, object);
        self.assembler.assemble(&self.ns, &name, &mut || true, &mut |_| true)
    }

    fn is_assembled(&self, name: &str) -> bool {
        let (container, object) = name.split_once('/').unwrap();
        let object = self.ns.open_object(&ObjectName::new("AUTH_test", container, object)).unwrap();
        object.info.slo.is_some_and(|slo| slo.kept.is_some())
    }

    /// Everything that a client can ask about an object.
    async fn all_answers(&self, name: &str) -> Vec<(String, Reply)> {
        let etag = self.site.ask("HEAD", &format!("/{name}")).send().await;
        let etag = etag.header("etag").unwrap().trim_matches('"').to_owned();
        let mut replies = Vec::new();
        for query in [
            "",
            "?multipart-manifest=get",
            "?multipart-manifest=get&format=raw",
            "?part-number=1",
            "?part-number=2",
            "?part-number=99",
            "?part-number=0",
            "?part-number=x",
        ] {
            for (header, value) in [
                ("X-Nothing", ""),
                ("Range", "bytes=0-9"),
                ("Range", "bytes=49990-50020"),
                ("Range", "bytes=-3"),
                ("Range", "bytes=1-2,50001-50009,-1"),
                ("Range", "bytes=9999999-"),
                ("If-None-Match", etag.as_str()),
                ("If-None-Match", "*"),
                ("If-Match", etag.as_str()),
                ("If-Match", "other"),
                ("If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT"),
                ("If-Unmodified-Since", "Fri, 01 Jan 1990 00:00:00 GMT"),
            ] {
                for method in ["GET", "HEAD"] {
                    let ask = self.site.ask(method, &format!("/{name}{query}")).header(header, value);
                    let reply = ask.send().await;
                    assert!(!reply.broken);
                    replies.push((format!("{method} {query} {header}: {value}"), reply));
                }
            }
        }
        let container = name.split('/').next().unwrap();
        for query in ["", "?format=json", "?format=xml", "?delimiter=/"] {
            let path = format!("/{container}{query}");
            replies.push((path.clone(), self.site.get(&path).await));
        }
        replies
    }

    /// Assembles an object, and compares what clients are told before and after.
    async fn assemble_unseen(&mut self, name: &str, content: &str) {
        let before = self.all_answers(name).await;
        assert_eq!(self.assemble(name).unwrap(), Some(content.len() as u64));
        assert!(self.is_assembled(name));
        assert!(std::fs::read(self.site.path(name)).unwrap() == content.as_bytes(), "{name} on disk");
        let after = self.all_answers(name).await;
        for ((what, before), (_, after)) in before.iter().zip(&after) {
            assert_eq!((before.status, headers(before)), (after.status, headers(after)), "{what}");
            assert!(plain(before) == plain(after), "{what}");
        }
        assert!(self.assemble(name).unwrap().is_none());
    }
}

/// Those that tell of the object.
fn headers(reply: &Reply) -> HashMap<String, String> {
    let told = |name: &str| !["date", "x-trans-id", "x-openstack-request-id"].contains(&name);
    let mut headers: HashMap<String, String> = reply
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), String::from_utf8_lossy(value).into_owned()))
        .filter(|(name, _)| told(name))
        .collect();
    if let Some(kind) = headers.get_mut("content-type") {
        *kind = kind.split("boundary=").next().unwrap().to_owned();
    }
    // What the files take is another matter.
    headers.remove("x-container-bytes-used");
    headers
}

/// The body; of several ranges without their boundaries, which are random.
fn plain(reply: &Reply) -> String {
    let boundary = reply.header("content-type").and_then(|kind| kind.split_once("boundary="));
    match boundary {
        Some((_, boundary)) => reply.text().replace(boundary, "boundary"),
        None => reply.text().to_owned(),
    }
}

#[tokio::test]
async fn assembly_changes_nothing_that_clients_see() {
    let (mut all, [a, b, c]) = Assembling::new().await;
    all.manifest("c/slo", r#"[{"path": "/s/1"}, {"path": "/s/2"}, {"path": "/s/3"}]"#).await;
    all.assemble_unseen("c/slo", &format!("{a}{b}{c}")).await;
    // Inline data, a part, the same one twice; and a name that is also a directory.
    let json = r#"[{"path": "/s/1"}, {"data": "LS0t"}, {"path": "/s/2", "range": "10-19"}, {"path": "/s/1"},
                   {"path": "/s/2", "range": "-5"}]"#;
    all.manifest("c/mixed/slo", json).await;
    all.site.put("/c/mixed/slo/below", "x").await;
    let content = format!("{a}---{}{a}{}", &b[..10], &b[..5]);
    let before = all.all_answers("c/mixed/slo").await;
    assert_eq!(all.assemble("c/mixed/slo").unwrap(), Some(content.len() as u64));
    assert!(std::fs::read(all.site.path("c/mixed/slo/.lb~self")).unwrap() == content.as_bytes());
    let after = all.all_answers("c/mixed/slo").await;
    assert!(
        before.iter().zip(&after).all(|((_, a), (_, b))| headers(a) == headers(b) && plain(a) == plain(b))
    );
    // With metadata that needs a spill file, which expires, and which was changed since.
    let json = r#"[{"path": "/s/1"}]"#;
    let mut ask = all.ask_manifest("c/meta", json).header("X-Delete-At", "4000000000");
    for n in 0..20 {
        ask = ask.header(&format!("X-Object-Meta-{n}"), "v".repeat(190));
    }
    ask.send().await.is(201);
    all.site
        .ask("POST", "/c/meta")
        .header("X-Object-Meta-Shape", "round")
        .header("X-Delete-At", "4000000009")
        .send()
        .await
        .is(202);
    all.assemble_unseen("c/meta", &a).await;
    let post = all.site.ask("POST", "/c/meta").header("X-Object-Meta-Shape", "flat");
    post.send().await.is(202);
    let head = all.site.ask("HEAD", "/c/meta").send().await.is(200);
    assert_eq!(head.header("x-object-meta-shape"), Some("flat"));
    assert_eq!((head.header("x-static-large-object"), head.header("x-delete-at")), (Some("True"), None));
    let stored = all.site.get("/c/meta?multipart-manifest=get").await;
    assert!(stored.text().contains("\"name\": \"/s/1\""));
    // A large object that also names a prefix is the former.
    let ask = all.ask_manifest("c/both", json).header("X-Object-Manifest", "s/");
    ask.send().await;
    let ask = all.ask_manifest("c/both", json).header("X-Object-Manifest", "s/2");
    ask.send().await.is(201);
    all.assemble_unseen("c/both", &a).await;
    // Nothing.
    all.site.put("/s/empty", "").await;
    all.manifest("c/empty", r#"[{"path": "/s/empty"}]"#).await;
    all.assemble_unseen("c/empty", "").await;
}

#[tokio::test]
async fn manifests_of_assembled_manifests() {
    let (mut all, [a, b, c]) = Assembling::new().await;
    all.manifest("c/inner", r#"[{"path": "/s/1"}, {"path": "/s/2"}]"#).await;
    let json = r#"[{"path": "/c/inner"}, {"path": "/s/3"}, {"path": "/c/inner", "range": "49999-50000"}]"#;
    all.manifest("c/outer", json).await;
    let content = format!("{a}{b}{c}ab");
    let etag = all.site.ask("HEAD", "/c/outer").send().await;
    // The inner one first.
    assert!(all.assemble("c/outer").unwrap().is_none());
    all.assemble_unseen("c/inner", &format!("{a}{b}")).await;
    let again = all.manifest("c/again", json).await;
    assert_eq!(again.header("etag"), etag.header("etag"));
    assert!(all.site.get("/c/again?multipart-manifest=get").await.text().contains("\"sub_slo\": true"));
    // Its segments are not needed any more, for nothing.
    all.site.ask("DELETE", "/s/1").send().await.is(204);
    std::fs::write(all.site.path("s/2"), "changed").unwrap();
    assert!(all.site.get("/c/inner").await.is(200).text() == format!("{a}{b}"));
    assert!(all.site.get("/c/again").await.is(200).text() == content);
    all.assemble_unseen("c/outer", &content).await;
    // Replaced by a shorter one, the outer manifest is broken.
    all.manifest("c/inner", r#"[{"path": "/s/3", "range": "0-9"}]"#).await;
    assert!(matches!(all.assemble("c/again"), Err(Failure::Segment { .. })));
    all.assemble("c/inner").unwrap();
    assert!(all.is_assembled("c/inner"));
    all.site.get("/c/again").await.is(409);
    assert!(all.site.get("/c/outer").await.is(200).text() == content);
}

#[tokio::test]
async fn copies_and_deletions_of_assembled_objects() {
    let (mut all, [a, b, _]) = Assembling::new().await;
    all.manifest("c/slo", r#"[{"path": "/s/1"}, {"path": "/s/2"}]"#).await;
    let copies = async |all: &Assembling, to: &str| {
        for (query, name) in [("", "flat"), ("?multipart-manifest=get", "same")] {
            let ask = all.site.ask("COPY", &format!("/c/slo{query}"));
            ask.header("Destination", format!("c/{to}{name}")).send().await.is(201);
        }
    };
    copies(&all, "before-").await;
    assert!(all.assemble("c/slo").unwrap().is_some());
    copies(&all, "after-").await;
    for name in ["flat", "same"] {
        let get = async |when: &str| all.site.get(&format!("/c/{when}-{name}")).await.is(200);
        let (before, after) = (get("before").await, get("after").await);
        assert!(before.text() == format!("{a}{b}") && before.text() == after.text());
        for header in
            ["etag", "x-static-large-object", "x-manifest-etag", "content-type", "x-object-meta-color"]
        {
            assert_eq!(before.header(header), after.header(header), "{name}: {header}");
        }
    }
    assert!(!all.is_assembled("c/after-same"));
    let delete = all.site.ask("DELETE", "/c/slo?multipart-manifest=delete").send().await.is(200);
    assert!(delete.text().starts_with("Number Deleted: 3\nNumber Not Found: 0\n"), "{delete:?}");
    assert!(!all.site.path("s/1").exists() && !all.site.path("c/slo").exists());
    // Edited on the file side it is an ordinary file.
    all.site.put("/s/1", &a).await;
    all.manifest("c/slo", r#"[{"path": "/s/1"}]"#).await;
    assert!(all.assemble("c/slo").unwrap().is_some());
    std::fs::write(all.site.path("c/slo"), "edited").unwrap();
    let edited = all.site.get("/c/slo").await.is(200);
    assert_eq!((edited.text(), edited.header("x-static-large-object")), ("edited", None));
    assert_eq!(edited.header("etag"), Some(md5("edited").as_str()));
    let delete = all.site.ask("DELETE", "/c/slo?multipart-manifest=delete").send().await.is(200);
    assert!(delete.text().contains("Not an SLO manifest"), "{delete:?}");
    // A plain one with a manifest in its place.
    all.manifest("c/slo", r#"[{"path": "/s/1"}]"#).await;
    assert!(all.assemble("c/slo").unwrap().is_some());
    all.site.ask("DELETE", "/c/slo").send().await.is(204);
    assert!(all.site.path("s/1").exists(), "a plain DELETE leaves the segments");
}

#[tokio::test]
async fn segments_that_are_not_what_they_were_leave_the_manifest() {
    let (mut all, [a, b, _]) = Assembling::new().await;
    all.manifest("c/slo", r#"[{"path": "/s/1"}, {"path": "/s/2"}]"#).await;
    let failed = |all: &mut Assembling| match all.assemble("c/slo") {
        Err(Failure::Segment { object, .. }) => Some(object),
        Ok(None) => None,
        other => panic!("{other:?}"),
    };
    // As many other bytes, whose MD5 nobody knows yet.
    std::fs::write(all.site.path("s/2"), "x".repeat(50_000)).unwrap();
    assert_eq!(failed(&mut all).as_deref(), Some("2"));
    assert_eq!(failed(&mut all), None, "it is not tried again");
    all.site.ask("DELETE", "/s/2").send().await.is(204);
    assert_eq!(failed(&mut all).as_deref(), Some("2"), "until something changed");
    all.site.put("/s/2", "other").await;
    assert_eq!(failed(&mut all).as_deref(), Some("2"));
    assert_eq!(all.site.path("c").read_dir().unwrap().count(), 1, "nothing is left");
    // The same bytes, put there by hand: read, and found to be right; a part of them too.
    std::fs::write(all.site.path("s/2"), &b).unwrap();
    assert_eq!(all.assemble("c/slo").unwrap(), Some(100_000));
    assert!(std::fs::read_to_string(all.site.path("c/slo")).unwrap() == format!("{a}{b}"));
    all.manifest("c/part", r#"[{"path": "/s/2", "range": "7-8"}, {"data": "LS0t"}]"#).await;
    std::fs::write(all.site.path("s/2"), &b).unwrap();
    assert_eq!(all.assemble("c/part").unwrap(), Some(5));
    assert_eq!(std::fs::read_to_string(all.site.path("c/part")).unwrap(), "bb---");
    // A large object where there was a plain one.
    all.manifest("c/slo", r#"[{"path": "/s/1"}]"#).await;
    all.manifest("s/1", r#"[{"path": "/s/2"}]"#).await;
    assert_eq!(failed(&mut all).as_deref(), Some("1"));
    // A manifest whose metadata is another's.
    all.manifest("c/x", r#"[{"path": "/s/2"}]"#).await;
    std::fs::write(all.site.path("c/x"), "[]").unwrap();
    assert!(all.assemble("c/x").unwrap().is_none());
    // What expired is not there, neither segment nor manifest.
    let expire = |all: &Assembling, container: &str, object: &str, delete_at| {
        let name = ObjectName::new("AUTH_test", container, object);
        let post = ObjectPost { delete_at, ..ObjectPost::default() };
        all.ns.post_object(&name, post, Timestamp::now()).unwrap();
    };
    all.manifest("c/slo", r#"[{"path": "/s/2"}]"#).await;
    expire(&all, "s", "2", Some(1));
    assert_eq!(failed(&mut all).as_deref(), Some("2"));
    expire(&all, "s", "2", None);
    expire(&all, "c", "slo", Some(1));
    assert_eq!(failed(&mut all), None);
    assert!(!all.is_assembled("c/slo"));
    assert!(all.assemble("none/x").unwrap().is_none() && all.assemble("s/2").unwrap().is_none());
    // Given up in the middle.
    all.manifest("c/slo", r#"[{"path": "/s/2"}, {"data": "LS0t"}]"#).await;
    let name = ObjectName::new("AUTH_test", "c", "slo");
    let files = all.site.path("c").read_dir().unwrap().count();
    for most in 0..2 {
        let mut left = most;
        let mut spend = |_| {
            left -= 1;
            left >= 0
        };
        assert!(all.assembler.assemble(&all.ns, &name, &mut || true, &mut spend).unwrap().is_none());
        assert_eq!(all.site.path("c").read_dir().unwrap().count(), files);
    }
    assert_eq!(all.assemble("c/slo").unwrap(), Some(50_003));
}

/// A user who may write to one container has bytes of another copied there that he may not read: by no way.
#[tokio::test]
async fn nobody_reads_by_way_of_an_assembly_what_he_may_not_read() {
    let (mut all, [a, _, _]) = Assembling::new().await;
    for container in ["/x", "/z"] {
        all.site.ask("PUT", container).send().await.is(201);
    }
    let acl = async |all: &Assembling, container: &str, header: &str, value: &str| {
        all.site.ask("POST", container).header(header, value).send().await.is(204);
    };
    for header in ["X-Container-Read", "X-Container-Write"] {
        acl(&all, "/x", header, "test:reader").await;
    }
    let secret = format!(r#"[{{"path": "/s/1", "etag": "{}", "size_bytes": 50000}}]"#, md5(&a));
    // Directly.
    let put = all.ask_manifest("x/loot", &secret).by("test:reader").send().await.is(400);
    assert!(put.text().contains("/s/1, 403 Forbidden"), "{put:?}");
    assert!(!all.site.path("x/loot").exists());
    let copy = all.site.ask("COPY", "/s/1").by("test:reader").header("Destination", "x/loot");
    copy.send().await.is(403);
    // By way of the owner's manifest, which he may look at; first where only he may look, then where others may.
    acl(&all, "/z", "X-Container-Read", "test:reader").await;
    all.manifest("z/inner", &secret).await;
    all.ask_manifest("x/loot", r#"[{"path": "/z/inner"}]"#).by("test:reader").send().await.is(201);
    let copy = all.site.ask("COPY", "/z/inner?multipart-manifest=get").by("test:reader");
    copy.header("Destination", "x/copied").send().await.is(400);
    for name in ["x/loot", "z/inner"] {
        all.site.get(&format!("/{name}")).await.is(200);
        all.site.ask("GET", &format!("/{name}")).by("test:reader").send().await.is(409);
    }
    assert!(matches!(all.assemble("z/inner"), Err(Failure::Rights(container)) if container == "s"));
    assert!(all.assemble("x/loot").unwrap().is_none());
    // A manifest that the owner put where the other may read.
    all.manifest("x/mine", &secret).await;
    assert!(matches!(all.assemble("x/mine"), Err(Failure::Rights(_))));
    for name in ["x/loot", "x/mine", "z/inner"] {
        all.site.ask("GET", &format!("/{name}")).by("test:reader").send().await.is(409);
        assert!(!all.is_assembled(name));
    }
    // By one whom nobody may read but he who knows the container's key.
    acl(&all, "/z", "X-Container-Read", "").await;
    acl(&all, "/z", "X-Container-Sync-Key", "key").await;
    assert!(matches!(all.assemble("z/inner"), Err(Failure::Rights(_))));
    acl(&all, "/z", "X-Container-Sync-Key", "").await;
    // Who wrote it while he might read it does not get what was put there since.
    acl(&all, "/s", "X-Container-Read", "test:reader").await;
    all.ask_manifest("x/loot", &secret).by("test:reader").send().await.is(201);
    all.site.put("/s/1", &a.to_ascii_uppercase()).await;
    acl(&all, "/x", "X-Container-Read", "").await;
    acl(&all, "/s", "X-Container-Read", "").await;
    assert!(matches!(all.assemble("x/loot"), Err(Failure::Segment { .. })));
    // Once those who may read the one may read the other, there is nothing to hide.
    all.site.put("/s/1", &a).await;
    acl(&all, "/x", "X-Container-Read", "test:reader").await;
    acl(&all, "/s", "X-Container-Read", ".r:*,test:reader").await;
    assert!(all.assemble("x/mine").unwrap().is_some());
    assert!(all.site.ask("GET", "/x/mine").by("test:reader").send().await.is(200).text() == a);
}

#[tokio::test]
async fn local_users_read_no_more_by_way_of_an_assembly() {
    let (mut all, [a, _, _]) = Assembling::new().await;
    let mode = |path: &str, mode: u32| {
        std::fs::set_permissions(all.site.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("c", 0o755);
    mode("s", 0o700);
    mode("s/1", 0o644);
    all.manifest("c/slo", &format!(r#"[{{"path": "/s/1", "etag": "{}"}}]"#, md5(&a))).await;
    for (directory, file) in [(0o700, 0o644), (0o755, 0o600), (0o751, 0o640)] {
        mode("s", directory);
        mode("s/1", file);
        let failed = all.assembler.assemble(&all.ns, &slo(), &mut || true, &mut |_| true);
        assert!(matches!(failed, Err(Failure::Permissions { .. })), "{directory:o} {file:o}: {failed:?}");
        assert!(!all.is_assembled("c/slo"));
    }
    mode("s", 0o755);
    mode("s/1", 0o644);
    assert!(all.assemble("c/slo").unwrap().is_some());
}

fn slo() -> ObjectName {
    ObjectName::new("AUTH_test", "c", "slo")
}
