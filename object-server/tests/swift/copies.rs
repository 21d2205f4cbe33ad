//! Copies.

use crate::site::{Site, md5};

#[tokio::test]
async fn copy_takes_data_and_metadata() {
    let site = Site::new();
    site.ask("PUT", "/c").send().await;
    site.ask("PUT", "/d").send().await;
    let put = site.ask("PUT", "/c/o%20o").body("hello").header("X-Object-Meta-A", "1");
    put.header("Content-Type", "a/b").send().await.is(201);
    let copy = site.ask("COPY", "/c/o%20o").header("Destination", "d/p").header("X-Object-Meta-B", "2");
    let reply = copy.send().await.is(201);
    assert_eq!(reply.header("x-copied-from"), Some("c/o%20o"));
    assert_eq!(reply.header("x-copied-from-account"), Some("AUTH_test"));
    assert!(reply.header("x-copied-from-last-modified").is_some());
    assert_eq!(reply.header("x-object-meta-a"), Some("1"));
    assert_eq!(reply.header("etag"), Some(md5("hello").as_str()));
    let get = site.get("/d/p").await.is(200);
    assert_eq!((get.text(), get.header("content-type")), ("hello", Some("a/b")));
    assert_eq!((get.header("x-object-meta-a"), get.header("x-object-meta-b")), (Some("1"), Some("2")));

    let fresh = site.ask("PUT", "/d/q").header("X-Copy-From", "/c/o%20o").header("X-Fresh-Metadata", "yes");
    fresh.header("X-Object-Meta-C", "3").send().await.is(201);
    let get = site.get("/d/q").await.is(200);
    assert_eq!((get.header("x-object-meta-a"), get.header("x-object-meta-c")), (None, Some("3")));
}

#[tokio::test]
async fn copies_of_large_files_and_of_ranges() {
    let site = Site::new();
    let body = "0123456789".repeat(20_000);
    site.put("/c/o", &body).await;
    site.ask("COPY", "/c/o").header("Destination", "c/p").send().await.is(201);
    assert_eq!(site.get("/c/p").await.text(), body);
    let range = site.ask("COPY", "/c/o").header("Destination", "c/r").header("Range", "bytes=5-100004");
    range.send().await.is(201);
    assert_eq!(site.get("/c/r").await.text(), &body[5..100_005]);
    let onto_itself = site.ask("COPY", "/c/o").header("Destination", "c/o").header("X-Object-Meta-A", "1");
    onto_itself.send().await.is(201);
    assert_eq!(site.get("/c/o").await.header("x-object-meta-a"), Some("1"));
}

#[tokio::test]
async fn wrong_copies() {
    let site = Site::new();
    site.put("/c/o", "hello").await;
    let copy = |name: &'static str, value: &'static str| site.ask("COPY", "/c/o").header(name, value).send();
    assert_eq!(copy("X", "").await.is(412).text(), "Destination header required");
    copy("Destination", "c").await.is(412);
    copy("Destination", "none/o").await.is(404);
    let account = site.ask("COPY", "/c/o").header("Destination", "c/p").header("Destination-Account", "a/b");
    account.send().await.is(412);
    site.ask("COPY", "/c/none").header("Destination", "c/p").send().await.is(404);
    let body = site.ask("PUT", "/c/p").header("X-Copy-From", "c/o").body("x").send().await.is(400);
    assert_eq!(body.text(), "Copy requests require a zero byte body");
    site.ask("PUT", "/c/p").header("X-Copy-From", "c").send().await.is(412);
    let unmet = site.ask("COPY", "/c/o").header("Destination", "c/p").header("If-Match", "x");
    unmet.send().await.is(412);
    let small = Site::with(|service| service.limits.max_file_size = 10);
    small.put("/c/o", "x").await;
    std::fs::write(small.path("c/big"), "0123456789a").unwrap();
    small.ask("COPY", "/c/big").header("Destination", "c/p").send().await.is(413);
}

#[tokio::test]
async fn copies_between_accounts_need_both_rights() {
    let site = Site::new();
    site.put("/c/o", "hello").await;
    site.ask("PUT", "//v1/AUTH_other/d").by("other:owner").send().await.is(201);
    let copy = || {
        let ask = site.ask("COPY", "/c/o").header("Destination", "d/p");
        ask.header("Destination-Account", "AUTH_other").send()
    };
    copy().await.is(403);
    let list = site.ask("POST", "//v1/AUTH_other/d").by("other:owner");
    list.header("X-Container-Write", "test:owner").send().await.is(204);
    copy().await.is(201);
    let get = site.ask("GET", "//v1/AUTH_other/d/p").by("other:owner").send().await.is(200);
    assert_eq!(get.text(), "hello");
    let back =
        site.ask("PUT", "/c/q").header("X-Copy-From", "d/p").header("X-Copy-From-Account", "AUTH_other");
    back.send().await.is(403);
}
