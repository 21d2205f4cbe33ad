//! Static and dynamic large objects.

use crate::site::{Reply, Site, md5};

async fn segments(site: &Site) -> [String; 3] {
    let bodies = ["a", "b", "c"].map(|letter| letter.repeat(50_000));
    for (name, body) in ["1", "2", "3"].iter().zip(&bodies) {
        site.put(&format!("/s/{name}"), body).await;
    }
    site.ask("PUT", "/c").send().await;
    bodies
}

async fn manifest(site: &Site, name: &str, json: &str) -> Reply {
    let path = format!("/c/{name}?multipart-manifest=put");
    site.ask("PUT", &path).header("Content-Type", "x/y").body(json).send().await
}

#[tokio::test]
async fn a_manifest_is_served_as_its_segments() {
    let site = Site::new();
    let [a, b, c] = segments(&site).await;
    let json = format!(
        r#"[{{"path": "/s/1", "etag": "{}", "size_bytes": 50000}}, {{"data": "LS0t"}},
            {{"path": "s/2", "range": "10-19"}}, {{"path": "/s/3"}}]"#,
        md5(&a)
    );
    let put = manifest(&site, "slo", &json).await.is(201);
    let etag = md5(format!("{}{}{}:10-19;{}", md5(&a), md5("---"), md5(&b), md5(&c)));
    assert_eq!(put.header("etag"), Some(format!("\"{etag}\"").as_str()));
    let whole = format!("{a}---{}{c}", &b[10..20]);
    let get = site.get("/c/slo").await.is(200);
    assert!(get.text() == whole && !get.broken);
    assert_eq!(get.header("etag"), Some(format!("\"{etag}\"").as_str()));
    assert_eq!(get.header("x-static-large-object"), Some("True"));
    assert_eq!(get.header("content-type"), Some("x/y"));
    let head = site.ask("HEAD", "/c/slo").send().await.is(200);
    assert_eq!(head.header("content-length"), Some("100013"));
    assert!(head.header("x-manifest-etag").is_some());
    let ranged = |value: &'static str| site.ask("GET", "/c/slo").header("Range", value).send();
    assert_eq!(ranged("bytes=49999-50013").await.is(206).text(), &whole[49_999..50_014]);
    let two = ranged("bytes=0-1,-2").await.is(206);
    assert!(two.text().contains("\r\n\r\naa\r\n") && two.text().contains("\r\n\r\ncc\r\n"), "{two:?}");
    ranged("bytes=100013-").await.is(416);
    site.ask("GET", "/c/slo").header("If-None-Match", &etag).send().await.is(304);
    let listing = site.get("/c?format=json").await;
    assert!(listing.text().contains("\"bytes\": 100013"), "{listing:?}");
    assert!(listing.text().contains(&format!("\"slo_etag\": \"\\\"{etag}\\\"\"")), "{listing:?}");

    let stored = site.get("/c/slo?multipart-manifest=get").await.is(200);
    assert_eq!(stored.header("content-type"), Some("application/json; charset=utf-8"));
    assert!(stored.text().contains("\"name\": \"/s/2\"") && stored.text().contains("\"range\": \"10-19\""));
    let raw = site.get("/c/slo?multipart-manifest=get&format=raw").await.is(200);
    assert_eq!(raw.header("content-type"), Some("x/y"));
    let again = manifest(&site, "again", raw.text()).await.is(201);
    assert_eq!(again.header("etag"), put.header("etag"));
}

#[tokio::test]
async fn parts_by_number() {
    let site = Site::new();
    let [_, b, _] = segments(&site).await;
    manifest(&site, "slo", r#"[{"path": "/s/1"}, {"path": "/s/2"}]"#).await.is(201);
    let part = site.get("/c/slo?part-number=2").await.is(206);
    assert_eq!((part.text(), part.header("x-parts-count")), (b.as_str(), Some("2")));
    assert_eq!(part.header("content-range"), Some("bytes 50000-99999/100000"));
    let head = site.ask("HEAD", "/c/slo?part-number=1").send().await.is(206);
    assert_eq!(head.header("content-length"), Some("50000"));
    let none = site.get("/c/slo?part-number=3").await.is(416);
    assert_eq!(none.text(), "The requested part number is not satisfiable");
    site.ask("HEAD", "/c/slo?part-number=3").send().await.is(416);
    site.get("/c/slo?part-number=0").await.is(400);
    site.ask("GET", "/c/slo?part-number=1").header("Range", "bytes=0-1").send().await.is(400);
    site.get("/s/1?part-number=0").await.is(200);
}

#[tokio::test]
async fn wrong_manifests() {
    let site = Site::new();
    segments(&site).await;
    let reply = manifest(&site, "slo", r#"[{"path": "/s/1", "size_bytes": 1}, {"path": "/s/none"}]"#).await;
    assert_eq!(reply.is(400).text(), "Errors:\n/s/1, Size Mismatch\n/s/none, 404 Not Found\n");
    manifest(&site, "slo", "{}").await.is(400);
    let ask = || site.ask("PUT", "/c/slo?multipart-manifest=put").body(r#"[{"path": "/s/none"}]"#);
    let json = ask().header("Accept", "application/json").send().await.is(400);
    assert_eq!(json.text(), r#"{"Errors": [["/s/none", "404 Not Found"]]}"#);
    let good = || site.ask("PUT", "/c/slo?multipart-manifest=put").body(r#"[{"path": "/s/1"}]"#);
    good().header("Etag", "abc").send().await.is(422);
    site.ask("PUT", "/none/slo?multipart-manifest=put").body(r#"[{"path": "/s/1"}]"#).send().await.is(404);
    let beating = site.ask("PUT", "/c/slo?multipart-manifest=put&heartbeat=on");
    let reply = beating.body(r#"[{"path": "/s/none"}]"#).send().await.is(202);
    assert!(
        reply.text().contains("\r\n\r\nResponse Body: Bad Request\nThe server could not comply"),
        "{reply:?}"
    );
    assert!(reply.text().ends_with("Response Status: 400 Bad Request\nErrors:\n/s/none, 404 Not Found\n"));
    let beating = site.ask("PUT", "/c/slo?multipart-manifest=put&heartbeat=on");
    let reply = beating.body(r#"[{"path": "/s/1"}]"#).send().await.is(202);
    assert!(reply.text().contains("Response Status: 201 Created\nErrors:\n"), "{reply:?}");
    let tight = Site::with(|service| service.limits.max_manifest_size = 10);
    tight.ask("PUT", "/c").send().await;
    manifest(&tight, "slo", r#"[{"path": "/s/1"}]"#).await.is(413);
}

#[tokio::test]
async fn manifests_of_manifests() {
    let site = Site::new();
    let [a, b, _] = segments(&site).await;
    manifest(&site, "m0", r#"[{"path": "/s/1"}, {"path": "/s/2"}]"#).await.is(201);
    for level in 1..12 {
        let json = format!(r#"[{{"path": "/c/m{}"}}]"#, level - 1);
        manifest(&site, &format!("m{level}"), &json).await.is(201);
    }
    let whole = format!("{a}{b}");
    assert!(site.get("/c/m1").await.is(200).text() == whole);
    assert!(site.get("/c/m9").await.is(200).text() == whole);
    site.get("/c/m11").await.is(409);
    manifest(&site, "part", r#"[{"path": "/c/m0", "range": "49999-50000"}]"#).await.is(201);
    assert_eq!(site.get("/c/part").await.is(200).text(), "ab");
}

#[tokio::test]
async fn changed_segments_are_noticed() {
    let site = Site::new();
    segments(&site).await;
    manifest(&site, "slo", r#"[{"path": "/s/1"}, {"path": "/s/2"}]"#).await.is(201);
    // Changed by hand to as many other bytes.
    std::fs::write(site.path("s/2"), "x".repeat(50_000)).unwrap();
    let late = site.get("/c/slo").await.is(200);
    assert!(late.broken && late.body.len() == 50_000);
    site.ask("DELETE", "/s/1").send().await.is(204);
    site.get("/c/slo").await.is(409);
    site.ask("HEAD", "/c/slo").send().await.is(200);
}

#[tokio::test]
async fn segments_need_their_own_rights() {
    let site = Site::new();
    segments(&site).await;
    manifest(&site, "slo", r#"[{"path": "/s/1"}]"#).await.is(201);
    site.ask("POST", "/c").header("X-Container-Read", "test:reader").send().await.is(204);
    site.ask("GET", "/c/slo").by("test:reader").send().await.is(409);
    site.ask("POST", "/s").header("X-Container-Read", "test:reader").send().await.is(204);
    site.ask("GET", "/c/slo").by("test:reader").send().await.is(200);
}

#[tokio::test]
async fn deleting_with_segments() {
    let site = Site::new();
    segments(&site).await;
    manifest(&site, "slo", r#"[{"path": "/s/1"}, {"path": "/s/2"}]"#).await.is(201);
    let delete = |name: &str| site.ask("DELETE", &format!("/c/{name}?multipart-manifest=delete"));
    let reply = delete("slo").send().await.is(200);
    assert_eq!(
        reply.text(),
        "Number Deleted: 3\nNumber Not Found: 0\nResponse Body: \nResponse Status: 200 OK\nErrors:\n"
    );
    assert!(!site.path("s/1").exists() && !site.path("c/slo").exists());
    let missing = delete("slo").header("Accept", "application/json").send().await.is(200);
    assert_eq!(
        missing.text(),
        r#"{"Response Status": "200 OK", "Response Body": "", "Number Deleted": 0, "Number Not Found": 1, "Errors": []}"#
    );
    site.put("/c/plain", "x").await;
    let plain = delete("plain").send().await.is(200);
    assert!(plain.text().contains("/c/plain, Not an SLO manifest"), "{plain:?}");
    assert!(plain.text().contains("Response Status: 400 Bad Request"));
    let odd = delete("plain").header("Accept", "image/png").send().await.is(200);
    assert!(odd.text().contains("406 Not Acceptable"));
}

#[tokio::test]
async fn copies_of_manifests() {
    let site = Site::new();
    let [a, _, _] = segments(&site).await;
    manifest(&site, "slo", r#"[{"path": "/s/1"}]"#).await.is(201);
    site.ask("COPY", "/c/slo?multipart-manifest=get").header("Destination", "c/same").send().await.is(201);
    assert_eq!(site.get("/c/same").await.header("x-static-large-object"), Some("True"));
    site.ask("COPY", "/c/slo").header("Destination", "c/flat").send().await.is(201);
    let flat = site.get("/c/flat").await.is(200);
    assert_eq!((flat.header("x-static-large-object"), flat.text()), (None, a.as_str()));
}

#[tokio::test]
async fn a_prefix_is_served_as_its_objects() {
    let site = Site::new();
    let [a, b, c] = segments(&site).await;
    let put = site.ask("PUT", "/c/dlo").header("X-Object-Manifest", "s/").body("");
    put.send().await.is(400);
    for (name, body) in [("p%201", &a), ("p%202", &b)] {
        site.put(&format!("/s/{name}"), body).await;
    }
    let put = site.ask("PUT", "/c/dlo").header("X-Object-Manifest", "s/p%20").body("");
    put.send().await.is(201);
    let get = site.get("/c/dlo").await.is(200);
    assert!(get.text() == format!("{a}{b}"));
    let etag = md5(format!("{}{}", md5(&a), md5(&b)));
    assert_eq!(get.header("etag"), Some(format!("\"{etag}\"").as_str()));
    assert_eq!(get.header("x-object-manifest"), Some("s/p%20"));
    let head = site.ask("HEAD", "/c/dlo").send().await.is(200);
    assert_eq!(head.header("content-length"), Some("100000"));
    let ranged = |value: &'static str| site.ask("GET", "/c/dlo").header("Range", value).send();
    assert_eq!(ranged("bytes=49999-50000").await.is(206).text(), "ab");
    ranged("bytes=100000-").await.is(416);
    site.ask("GET", "/c/dlo").header("If-Match", "x").send().await.is(412);
    assert_eq!(site.get("/c/dlo?multipart-manifest=get").await.is(200).text(), "");
    site.put("/s/p%203", &c).await;
    assert!(site.get("/c/dlo").await.is(200).body.len() == 150_000);
    site.ask("COPY", "/c/dlo").header("Destination", "c/flat").send().await.is(201);
    assert_eq!(site.get("/c/flat").await.is(200).body.len(), 150_000);
    site.ask("COPY", "/c/dlo?multipart-manifest=get").header("Destination", "c/same").send().await.is(201);
    assert_eq!(site.get("/c/same").await.header("x-object-manifest"), Some("s/p%20"));
}

#[tokio::test]
async fn more_segments_than_a_page() {
    let site = Site::with(|service| service.limits.container_listing_limit = 2);
    for name in ["p1", "p2", "p3", "p4", "p5"] {
        site.put(&format!("/s/{name}"), name).await;
    }
    site.ask("PUT", "/s/dlo").header("X-Object-Manifest", "s/p").body("").send().await.is(201);
    let get = site.get("/s/dlo").await.is(200);
    assert_eq!((get.text(), get.header("etag")), ("p1p2p3p4p5", None));
    let head = site.ask("HEAD", "/s/dlo").send().await.is(200);
    assert_eq!(head.header("content-length"), None);
    let within = site.ask("GET", "/s/dlo").header("Range", "bytes=1-2").send().await.is(206);
    assert_eq!(within.text(), "1p");
    let beyond = site.ask("GET", "/s/dlo").header("Range", "bytes=1-8").send().await.is(200);
    assert_eq!(beyond.text(), "p1p2p3p4p5");
    site.ask("COPY", "/s/dlo").header("Destination", "s/x").send().await.is(413);
}
