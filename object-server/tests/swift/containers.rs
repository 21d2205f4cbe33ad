//! Containers and their listings.

use crate::site::{Site, md5};

#[tokio::test]
async fn a_container_lives_and_dies() {
    let site = Site::new();
    site.ask("HEAD", "/c").send().await.is(404);
    site.ask("DELETE", "/c").send().await.is(404);
    site.ask("POST", "/c").send().await.is(404);
    site.ask("PUT", "/c").header("X-Container-Meta-A", "1").send().await.is(201);
    site.ask("PUT", "/c").send().await.is(202);
    assert!(site.path("c").is_dir());
    site.ask("POST", "/c").header("X-Container-Meta-B", "2").send().await.is(204);
    let reply = site.ask("HEAD", "/c").send().await.is(204);
    assert_eq!(reply.header("x-container-meta-a"), Some("1"));
    assert_eq!(reply.header("x-container-meta-b"), Some("2"));
    assert_eq!(reply.header("x-container-object-count"), Some("0"));
    assert_eq!(reply.header("x-storage-policy"), Some("gold"));
    assert!(reply.header("last-modified").is_some());
    site.put("/c/o", "x").await;
    let busy = site.ask("DELETE", "/c").send().await.is(409);
    assert!(busy.text().ends_with("<p>It still holds o</p>"), "{busy:?}");
    site.ask("DELETE", "/c/o").send().await.is(204);
    site.ask("DELETE", "/c").send().await.is(204);
    assert!(!site.path("c").exists());
}

#[tokio::test]
async fn names_and_metadata_are_checked() {
    let site = Site::new();
    let long = site.ask("PUT", &format!("/{}", "c".repeat(257))).send().await.is(400);
    assert_eq!(long.text(), "Container name length of 257 longer than 256");
    let reply = site.ask("PUT", "/c").header("X-Container-Meta-", "1").send().await.is(400);
    assert_eq!(reply.text(), "Metadata name cannot be empty");
    let mut ask = site.ask("PUT", "/c");
    for item in 0..17 {
        ask = ask.header(&format!("X-Container-Meta-{item}"), "x".repeat(256));
    }
    assert_eq!(ask.send().await.is(400).text(), "Total metadata too large; max 4096");
}

#[tokio::test]
async fn policies_are_chosen_once() {
    let site = Site::new();
    let put = |policy: &'static str| site.ask("PUT", "/c").header("X-Storage-Policy", policy).send();
    assert_eq!(put("lead").await.is(400).text(), "Invalid X-Storage-Policy 'lead'");
    put("TIN").await.is(201);
    assert_eq!(site.ask("HEAD", "/c").send().await.header("x-storage-policy"), Some("tin"));
    put("tin").await.is(202);
    put("gold").await.is(409);
    assert!(site.get("?format=json").await.text().contains("\"storage_policy\": \"tin\""));
    // A new container of the name has nothing from the old one.
    site.ask("DELETE", "/c").send().await.is(204);
    site.ask("PUT", "/c").send().await.is(201);
    assert_eq!(site.ask("HEAD", "/c").send().await.header("x-storage-policy"), Some("gold"));
}

#[tokio::test]
async fn objects_are_listed_in_every_form() {
    let site = Site::new();
    for name in ["a/b", "a/c/d", "e", "<&>"] {
        site.put(&format!("/c/{}", name.replace('<', "%3C")), "hello").await;
    }
    assert_eq!(site.get("/c").await.is(200).text(), "<&>\na/b\na/c/d\ne\n");
    assert_eq!(site.get("/c?delimiter=/").await.text(), "<&>\na/\ne\n");
    assert_eq!(site.get("/c?path=a").await.text(), "a/b\n");
    assert_eq!(site.get("/c?prefix=a/&reverse=1").await.text(), "a/c/d\na/b\n");
    assert_eq!(site.get("/c?end_marker=a/c").await.text(), "<&>\na/b\n");
    let json = site.get("/c?format=json&prefix=e").await.is(200);
    let expected = format!("[{{\"bytes\": 5, \"hash\": \"{}\", \"name\": \"e\", ", md5("hello"));
    assert!(json.text().starts_with(&expected), "{json:?}");
    let xml = site.get("/c?format=xml&delimiter=/").await.is(200);
    assert!(xml.text().contains("<name>&lt;&amp;&gt;</name>"));
    assert!(xml.text().contains("<subdir name=\"a/\"><name>a/</name></subdir>"));
    site.get("/c?prefix=zzz").await.is(204);
}

#[tokio::test]
async fn files_put_beside_us_are_listed_at_once() {
    let site = Site::new();
    site.ask("PUT", "/c").send().await.is(201);
    std::fs::write(site.path("c/film.mp4"), "0123").unwrap();
    let json = site.get("/c?format=json").await.is(200);
    let expected =
        "[{\"bytes\": 4, \"hash\": \"\", \"name\": \"film.mp4\", \"content_type\": \"video/mp4\", ";
    assert!(json.text().starts_with(expected), "{json:?}");
}

#[tokio::test]
async fn other_origins() {
    let site = Site::new();
    site.ask("PUT", "/c")
        .header("X-Container-Meta-Access-Control-Allow-Origin", "http://a")
        .send()
        .await
        .is(201);
    site.ask("PUT", "/c/o").body("x").header("X-Object-Meta-K", "v").send().await.is(201);
    let reply = site.ask("GET", "/c/o").header("Origin", "http://a").send().await.is(200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("http://a"));
    assert!(reply.header("access-control-expose-headers").unwrap().contains("x-object-meta-k"));
    let missing = site.ask("GET", "/c/none").header("Origin", "http://a").send().await.is(404);
    assert_eq!(missing.header("access-control-allow-origin"), Some("http://a"));
    let other = site.ask("GET", "/c/o").header("Origin", "http://b").send().await.is(200);
    assert_eq!(other.header("access-control-allow-origin"), None);
    let preflight = |origin: &'static str| {
        let ask = site.ask("OPTIONS", "/c/o").by("").header("Origin", origin);
        ask.header("Access-Control-Request-Method", "PUT").send()
    };
    let granted = preflight("http://a").await.is(200);
    assert!(granted.header("access-control-allow-methods").unwrap().contains("COPY"));
    preflight("http://b").await.is(401);
    let plain = site.ask("OPTIONS", "/c").by("").send().await.is(200);
    assert_eq!(plain.header("allow"), Some("GET, HEAD, PUT, POST, DELETE, OPTIONS"));
}
