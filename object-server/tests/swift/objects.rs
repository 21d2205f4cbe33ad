//! Objects: upload, download, conditions, ranges, metadata, expiry.

use std::time::{SystemTime, UNIX_EPOCH};

use object_server::http::Body;

use crate::site::{Site, md5};

#[tokio::test]
async fn what_is_uploaded_comes_back_and_is_a_file() {
    let site = Site::new();
    let put = site.put("/c/d/hello.txt", "hello").await;
    assert_eq!(put.header("etag"), Some(md5("hello").as_str()));
    assert!(put.header("last-modified").is_some());
    assert_eq!(std::fs::read(site.path("c/d/hello.txt")).unwrap(), b"hello");
    let get = site.get("/c/d/hello.txt").await.is(200);
    assert_eq!(get.text(), "hello");
    assert_eq!(get.header("content-type"), Some("text/plain"));
    assert_eq!(get.header("etag"), Some(md5("hello").as_str()));
    assert_eq!(get.header("accept-ranges"), Some("bytes"));
    let head = site.ask("HEAD", "/c/d/hello.txt").header("Range", "bytes=0-1").send().await.is(200);
    assert_eq!(head.header("content-length"), Some("5"));
    site.ask("DELETE", "/c/d/hello.txt").send().await.is(204);
    site.ask("DELETE", "/c/d/hello.txt").send().await.is(404);
    site.get("/c/d/hello.txt").await.is(404);
    assert!(!site.path("c/d").exists());
    site.ask("PUT", "/none/o").body("x").send().await.is(404);
}

#[tokio::test]
async fn large_bodies_are_streamed() {
    let site = Site::new();
    let body = "0123456789".repeat(30_000);
    site.put("/c/o", &body).await;
    let get = site.get("/c/o").await.is(200);
    assert_eq!(get.text(), body);
    let range = site.ask("GET", "/c/o").header("Range", "bytes=10-200009").send().await.is(206);
    assert_eq!(range.text(), &body[10..200_010]);
    assert_eq!(range.header("content-range"), Some("bytes 10-200009/300000"));
    let two = site.ask("GET", "/c/o").header("Range", "bytes=0-99999,-100000").send().await.is(206);
    assert!(!two.broken);
    assert!(two.header("content-type").unwrap().starts_with("multipart/byteranges;boundary="));
    // Chunked: no length is announced.
    let mut ask = site.ask("PUT", "/c/chunked").header("Transfer-Encoding", "chunked");
    ask = ask.header("Etag", md5(&body));
    let reply = ask.unannounced(&body).send().await.is(201);
    assert_eq!(reply.header("etag"), Some(md5(&body).as_str()));
    assert_eq!(site.get("/c/chunked").await.text(), body);
}

#[tokio::test]
async fn an_upload_that_must_be_the_first_is_refused_as_the_second() {
    let site = Site::new();
    let large = "0123456789".repeat(30_000);
    site.put("/c/another", "x").await;
    for (name, body) in [("small", "hello"), ("large", large.as_str())] {
        let path = format!("/c/{name}");
        let first = |body: &str| site.ask("PUT", &path).header("If-None-Match", "*").body(body).send();
        first(body).await.is(201);
        first("other").await.is(412);
        assert_eq!(site.get(&path).await.is(200).text(), body);
    }
    // Only "*" has a meaning here.
    site.ask("PUT", "/c/o").header("If-None-Match", "x").body("x").send().await.is(400);
}

#[tokio::test]
async fn small_ranges() {
    let site = Site::new();
    site.put("/c/o", "0123456789").await;
    let range = |value: &'static str| site.ask("GET", "/c/o").header("Range", value).send();
    let one = range("bytes=2-4").await.is(206);
    assert_eq!((one.text(), one.header("content-range")), ("234", Some("bytes 2-4/10")));
    let two = range("bytes=0-0,-1").await.is(206);
    let boundary = two.header("content-type").unwrap().split('=').nth(1).unwrap();
    assert_eq!(
        two.text(),
        format!(
            "--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-0/10\r\n\r\n0\r\n\
             --{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 9-9/10\r\n\r\n9\r\n\
             --{boundary}--"
        )
    );
    let none = range("bytes=10-").await.is(416);
    assert_eq!(none.header("content-range"), Some("bytes */10"));
    assert!(none.text().contains("Requested Range Not Satisfiable"));
    range("bytes=5-4").await.is(200);
    site.put("/c/empty", "").await;
    site.ask("GET", "/c/empty").header("Range", "bytes=-5").send().await.is(200);
    site.ask("GET", "/c/empty").header("Range", "bytes=0-").send().await.is(416);
}

#[tokio::test]
async fn conditions() {
    let site = Site::new();
    site.put("/c/o", "hello").await;
    let etag = md5("hello");
    let get = |name: &'static str, value: String| site.ask("GET", "/c/o").header(name, value).send();
    get("If-Match", format!("\"{etag}\"")).await.is(200);
    get("If-None-Match", "x".to_owned()).await.is(200);
    let unmodified = get("If-None-Match", etag.clone()).await.is(304);
    assert_eq!(unmodified.header("etag"), Some(etag.as_str()));
    let failed = get("If-Match", "x".to_owned()).await.is(412);
    assert!(failed.body.is_empty());
    let modified = site.get("/c/o").await.header("last-modified").unwrap().to_owned();
    get("If-Modified-Since", modified.clone()).await.is(304);
    get("If-Unmodified-Since", modified).await.is(200);
    get("If-Unmodified-Since", "Sun, 01 Jan 2017 00:00:00 GMT".to_owned()).await.is(412);
    site.ask("GET", "/c/none").header("If-Match", "*").send().await.is(412);
    let ranged = |validator: &str| {
        let ask = site.ask("GET", "/c/o").header("Range", "bytes=0-1").header("If-Range", validator);
        ask.send()
    };
    ranged(&etag).await.is(206);
    ranged("other").await.is(200);
    let put = |value: &'static str| site.ask("PUT", "/c/o").header("If-None-Match", value).body("x").send();
    put("*").await.is(412);
    assert_eq!(put("abc").await.is(400).text(), "If-None-Match only supports *");
    site.ask("PUT", "/c/new").header("If-None-Match", "*").body("x").send().await.is(201);
}

#[tokio::test]
async fn uploads_are_checked() {
    let site = Site::new();
    site.ask("PUT", "/c").send().await.is(201);
    let put = |name: &'static str, value: &'static str| {
        site.ask("PUT", "/c/o").header(name, value).body("x").send()
    };
    put("Etag", "d41d8cd98f00b204e9800998ecf8427e").await.is(422);
    put("Etag", "nonsense").await.is(422);
    assert!(!site.path("c/o").exists());
    put("Content-Type", "text/plain; swift_bytes=5").await.is(400);
    assert_eq!(put("X-Delete-At", "5").await.is(400).text(), "X-Delete-At in past");
    assert_eq!(put("X-Delete-After", "x").await.is(400).text(), "Non-integer X-Delete-After");
    put("X-Static-Large-Object", "true").await.is(400);
    put("X-Object-Manifest", "c").await.is(400);
    put("X-Timestamp", "soon").await.is(400);
    put("X-Object-Meta-A", "\u{e9}").await.is(201);
    let long = site.ask("PUT", &format!("/c/{}", "o".repeat(1025))).body("x").send().await.is(400);
    assert_eq!(long.text(), "Object name length of 1025 longer than 1024");
    let small = Site::with(|service| service.limits.max_file_size = 100_000);
    small.ask("PUT", "/c").send().await.is(201);
    small.ask("PUT", "/c/o").body("x".repeat(100_001)).send().await.is(413);
    let ask = small.ask("PUT", "/c/o").header("Transfer-Encoding", "chunked");
    ask.unannounced(&"x".repeat(100_001)).send().await.is(413);
    assert!(!small.path("c/o").exists());
    assert_eq!(std::fs::read_dir(small.path("c")).unwrap().count(), 0);
}

#[tokio::test]
async fn metadata_is_replaced_by_post() {
    let site = Site::new();
    site.ask("PUT", "/c").send().await;
    let put = site.ask("PUT", "/c/o").body("x").header("X-Object-Meta-A", "1");
    put.header("Content-Disposition", "inline").header("Content-Type", "a/b").send().await.is(201);
    let reply = site.get("/c/o").await.is(200);
    assert_eq!(reply.header("x-object-meta-a"), Some("1"));
    assert_eq!(reply.header("content-disposition"), Some("inline"));
    let post = site.ask("POST", "/c/o").header("X-Object-Meta-B", "2").send().await.is(202);
    assert!(post.text().contains("The request is accepted for processing."));
    let reply = site.ask("HEAD", "/c/o").send().await.is(200);
    assert_eq!(reply.header("x-object-meta-a"), None);
    assert_eq!(reply.header("x-object-meta-b"), Some("2"));
    assert_eq!(reply.header("content-disposition"), None);
    assert_eq!(reply.header("content-type"), Some("a/b"));
    site.ask("POST", "/c/o").header("Content-Type", "c/d").send().await.is(202);
    assert_eq!(site.get("/c/o").await.header("content-type"), Some("c/d"));
    site.ask("POST", "/c/none").send().await.is(404);
    site.ask("POST", "/none/o").header("X-Delete-At", "1").send().await.is(404);
    site.ask("POST", "/c/o").header("X-Delete-At", "1").send().await.is(400);
}

#[tokio::test]
async fn newer_timestamps_win() {
    let site = Site::new();
    site.put("/c/o", "new").await;
    let ancient = "1000000000.00000";
    site.ask("PUT", "/c/o").header("X-Timestamp", ancient).body("old").send().await.is(409);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let earlier = format!("{:.5}", now - 0.000_05);
    let soon = format!("{:.5}", now + 30.0);
    site.ask("PUT", "/c/o").header("X-Timestamp", &soon).body("newest").send().await.is(201);
    let late = site.ask("PUT", "/c/o").header("X-Timestamp", &earlier).body("late").send().await;
    assert!([202, 409].contains(&late.status), "{late:?}");
    site.ask("DELETE", "/c/o").send().await.is(409);
    site.ask("POST", "/c/o").send().await.is(409);
    assert_eq!(site.get("/c/o").await.text(), "newest");
    let far = format!("{:.5}", now + 3600.0);
    site.ask("PUT", "/c/o").header("X-Timestamp", far).body("x").send().await.is(400);
}

#[tokio::test]
async fn expired_objects_are_gone() {
    let site = Site::new();
    site.put("/c/o", "x").await;
    site.ask("POST", "/c/o").header("X-Delete-After", "1").send().await.is(202);
    let at = site.get("/c/o").await.is(200).header("x-delete-at").unwrap().to_owned();
    site.ask("DELETE", "/c/o").header("X-If-Delete-At", "5").send().await.is(412);
    site.ask("DELETE", "/c/o").header("X-If-Delete-At", "soon").send().await.is(400);
    tokio::time::sleep(std::time::Duration::from_millis(1600)).await;
    site.get("/c/o").await.is(404);
    site.ask("POST", "/c/o").send().await.is(404);
    site.ask("DELETE", "/c/o").header("X-If-Delete-At", at).send().await.is(204);
    assert!(!site.path("c/o").exists());
}

#[tokio::test]
async fn files_put_beside_us_are_objects_at_once() {
    let site = Site::new();
    site.ask("PUT", "/c").send().await;
    std::fs::write(site.path("c/report.pdf"), "data").unwrap();
    let head = site.ask("HEAD", "/c/report.pdf").send().await.is(200);
    assert_eq!(head.header("etag"), None);
    assert_eq!(head.header("content-type"), Some("application/pdf"));
    let get = site.get("/c/report.pdf").await.is(200);
    assert_eq!(get.header("etag"), Some(md5("data").as_str()));
    std::fs::write(site.path("c/report.pdf"), "data and more").unwrap();
    let get = site.get("/c/report.pdf").await.is(200);
    assert_eq!((get.text(), get.header("etag")), ("data and more", Some(md5("data and more").as_str())));
}

#[tokio::test]
async fn directories_can_be_objects() {
    let site = Site::new();
    site.ask("PUT", "/c").send().await;
    let put = || site.ask("PUT", "/c/d").header("Content-Type", "application/directory").body("");
    put().send().await.is(201);
    assert!(site.path("c/d").is_dir());
    let get = site.get("/c/d").await.is(200);
    assert_eq!(get.header("content-type"), Some("application/directory"));
    assert_eq!(get.header("etag"), Some(md5("").as_str()));
    site.put("/c/d/o", "x").await;
    assert_eq!(site.get("/c").await.text(), "d\nd/o\n");
}

#[tokio::test]
async fn names_are_kept_as_they_are() {
    let site = Site::new();
    site.ask("PUT", "/c").send().await;
    for name in ["p//q", "./z", "w/../v", "a", "a/b", "%2e%2e/x", "tr/", "%01%7f"] {
        site.ask("PUT", &format!("/c/{name}")).body(name).send().await.is(201);
    }
    for name in ["p//q", "./z", "w/../v", "a", "a/b", "%2e%2e/x", "tr/", "%01%7f"] {
        assert_eq!(site.get(&format!("/c/{name}")).await.is(200).text(), name);
    }
    site.get("/c/%ff").await.is(412);
    site.get("/c/%00").await.is(412);
}

impl crate::site::Ask<'_> {
    /// A body whose length the client does not tell.
    fn unannounced(mut self, body: &str) -> Self {
        self.set_body(Body::from_bytes(body.as_bytes().to_vec()));
        self
    }
}
