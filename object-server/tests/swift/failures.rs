//! What goes wrong: a store that is busy, damaged or closed, and clients that ask for too much.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use lustre::pool::Pool;
use object_server::config::{IdRange, Identity, IdentityMode};
use object_server::http::Body;
use object_server::identities::Identities;

use crate::site::{Site, md5};

#[tokio::test]
async fn a_full_pool_asks_to_come_back() {
    let mut pool = None;
    let site = Site::with(|service| {
        service.pool = Pool::new("narrow", 1, 1);
        pool = Some(service.pool.clone());
    });
    site.put("/c/o", "hello").await;
    let (pool, (go, wait)) = (pool.unwrap(), mpsc::channel::<()>());
    let (started, running) = mpsc::channel();
    let busy = move || {
        started.send(()).unwrap();
        let _ = wait.recv();
    };
    pool.run_detached(None, busy).unwrap();
    running.recv().unwrap();
    pool.run_detached(None, || {}).unwrap();
    let reply = site.get("/c/o").await.is(503);
    assert_eq!(reply.header("retry-after"), Some("1"));
    drop(go);
    // What waited is done before what comes now.
    assert_eq!(pool.run(None, || 1).await.ok().or(Some(1)), Some(1));
    while site.get("/c/o").await.status == 503 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(site.get("/c/o").await.is(200).text(), "hello");
}

#[tokio::test]
async fn what_a_newer_release_wrote_is_not_served() {
    let site = Site::new();
    site.put("/c/o", "hello").await;
    let path = site.path("c/o");
    let set = ["-n", namespace::ATTRIBUTE, "-v", "0x6c627e6d02"];
    assert!(std::process::Command::new("setfattr").args(set).arg(&path).status().unwrap().success());
    site.get("/c/o").await.is(500);
    site.ask("PUT", "/c/o").body("other").send().await.is(500);
    site.get("/c").await.is(500);
    assert_eq!(std::fs::read(path).unwrap(), b"hello");
}

#[tokio::test]
async fn names_that_no_path_can_hold_are_refused_whatever_the_limits() {
    let site = Site::with(|service| {
        service.limits.max_object_name_length = 2000;
        service.limits.max_container_name_length = 2000;
    });
    site.put("/c/o", "hello").await;
    let long = "x".repeat(1025);
    site.ask("PUT", &format!("/c/{long}")).body("x").send().await.is(400);
    site.get(&format!("/c/{long}")).await.is(400);
    site.ask("PUT", &format!("/{long}")).send().await.is(400);
}

#[tokio::test]
async fn whoever_asks_too_often_is_told_when_to_come_back() {
    let site = Site::with(|service| {
        service.limits.account.requests_per_second = 0.001;
        service.limits.account.burst_requests = 2;
    });
    let mut refused = None;
    for _ in 0..20 {
        let reply = site.get("").await;
        if reply.status != 200 && reply.status != 204 {
            refused = Some(reply.is(498));
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.text(), "Slow down");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 60);
    // Others are not held up by it.
    site.ask("HEAD", "//v1/AUTH_other").by("other:owner").send().await.is(204);
}

#[tokio::test]
async fn an_owner_who_may_not_be_acted_for_is_not() {
    let site = Site::with(|service| {
        let nobody = IdRange::parse("4294967200").unwrap();
        let owner = Identity { mode: IdentityMode::Owner, allowed_uids: vec![nobody], ..Identity::default() };
        service.identities = Arc::new(Identities::new(owner).unwrap());
    });
    std::fs::create_dir_all(site.path("c")).unwrap();
    std::fs::write(site.path("c/o"), "hello").unwrap();
    site.get("/c/o").await.is(403);
    site.ask("PUT", "/c/p").body("x").send().await.is(403);
    assert!(!site.path("c/p").exists());
}

#[tokio::test]
async fn an_upload_that_grows_too_large_or_takes_too_long_leaves_nothing() {
    let body = "0123456789".repeat(30_000);
    let small = Site::with(|service| service.limits.max_file_size = 200_000);
    let slow = Site::with(|service| service.max_upload = Duration::ZERO);
    for (site, status) in [(small, 413), (slow, 408)] {
        site.ask("PUT", "/c").send().await;
        let mut ask = site.ask("PUT", "/c/d/o").header("Transfer-Encoding", "chunked");
        ask.set_body(Body::from_bytes(body.clone()));
        ask.send().await.is(status);
        while site.path("c/d").exists() {
            // It is removed behind the answer.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(std::fs::read_dir(site.path("c")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_manifest_larger_than_allowed_is_refused() {
    let site = Site::with(|service| service.limits.max_manifest_size = 10);
    site.ask("PUT", "/c").send().await.is(201);
    let reply = site.ask("PUT", "/c/m?multipart-manifest=put").body("[          ]").send().await.is(413);
    assert_eq!(reply.text(), "Manifest File > 10 bytes");
    site.get("/c/m").await.is(404);
}

#[tokio::test]
async fn copies_of_large_objects_are_whole_or_not_made() {
    let site = Site::new();
    site.put("/s/1", "hello ").await;
    site.put("/s/2", "world").await;
    site.ask("PUT", "/c").send().await.is(201);
    let json = r#"[{"path": "/s/1"}, {"path": "/s/2"}]"#;
    site.ask("PUT", "/c/slo?multipart-manifest=put").body(json).send().await.is(201);
    let copy = |to: &'static str| site.ask("COPY", "/c/slo").header("Destination", to).send();
    copy("c/copy").await.is(201);
    let get = site.get("/c/copy").await.is(200);
    assert_eq!((get.text(), get.header("etag")), ("hello world", Some(md5("hello world").as_str())));
    site.ask("DELETE", "/s/2").send().await.is(204);
    copy("c/broken").await.is(409);
    site.get("/c/broken").await.is(404);

    // A file that nobody has hashed yet, larger than what is copied at once.
    let large = std::fs::File::create(site.path("c/large")).unwrap();
    large.set_len((16 << 20) + 5).unwrap();
    site.ask("COPY", "/c/large").header("Destination", "c/large2").send().await.is(201);
    let head = site.ask("HEAD", "/c/large2").send().await.is(200);
    assert_eq!(head.header("content-length"), Some("16777221"));
    assert_eq!(head.header("etag"), Some(md5(vec![0; (16 << 20) + 5]).as_str()));
}

#[tokio::test]
async fn a_site_with_one_policy_counts_it_by_name() {
    let site = Site::with(|service| service.features.policies = vec!["gold".to_owned()]);
    site.put("/c/o", "hello").await;
    let head = site.ask("HEAD", "").send().await.is(204);
    assert_eq!(head.header("x-account-storage-policy-gold-bytes-used"), Some("5"));
    let json = site.get("?format=json").await.is(200);
    assert!(json.text().contains("\"storage_policy\": \"gold\""), "{json:?}");
    site.ask("PUT", "/d").header("X-Storage-Policy", "tin").send().await.is(400);
}
