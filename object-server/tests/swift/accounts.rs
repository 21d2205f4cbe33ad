//! Accounts.

use crate::site::Site;

#[tokio::test]
async fn an_account_that_is_not_there_looks_empty() {
    let site = Site::new();
    let reply = site.get("").await.is(204);
    assert_eq!(reply.header("x-account-container-count"), Some("0"));
    assert_eq!(reply.header("vary"), Some("Accept"));
    assert_eq!(site.get("?format=json").await.is(200).text(), "[]");
    assert!(!site.path("").exists());
    site.ask("HEAD", "").send().await.is(204);
    site.get("/c").await.is(404);
}

#[tokio::test]
async fn metadata_is_set_and_removed() {
    let site = Site::new();
    let post = |name: &'static str, value: &'static str| site.ask("POST", "").header(name, value).send();
    post("X-Account-Meta-A", "1").await.is(204);
    post("X-Account-Meta-B", "2").await.is(204);
    post("X-Remove-Account-Meta-A", "x").await.is(204);
    let reply = site.ask("HEAD", "").send().await.is(204);
    assert_eq!(reply.header("x-account-meta-a"), None);
    assert_eq!(reply.header("X-Account-Meta-B"), Some("2"));
    post("X-Account-Meta-B", "").await.is(204);
    assert_eq!(site.get("").await.header("x-account-meta-b"), None);
    assert_eq!(post("X-Account-Meta-C", "\u{e9}\0").await.is(400).text(), "Metadata must be valid UTF-8");
}

#[tokio::test]
async fn metadata_is_bounded_over_all_requests() {
    let site = Site::new();
    for round in 0..3 {
        let mut ask = site.ask("POST", "");
        for item in 0..30 {
            ask = ask.header(&format!("X-Account-Meta-{round}-{item}"), "x");
        }
        ask.send().await.is(204);
    }
    let reply = site.ask("POST", "").header("X-Account-Meta-One-More", "x").send().await.is(400);
    assert_eq!(reply.text(), "Too many metadata items; max 90");
}

#[tokio::test]
async fn containers_are_listed() {
    let site = Site::new();
    for container in ["b", "a-1", "a-2"] {
        site.ask("PUT", &format!("/{container}")).send().await.is(201);
    }
    site.put("/b/o", "hello").await;
    assert_eq!(site.get("").await.is(200).text(), "a-1\na-2\nb\n");
    assert_eq!(site.get("?delimiter=-").await.text(), "a-\nb\n");
    assert_eq!(site.get("?marker=a-1&limit=1").await.text(), "a-2\n");
    assert_eq!(site.get("?reverse=on&end_marker=a-1").await.text(), "b\na-2\n");
    let json = site.get("?format=json&prefix=b").await.is(200);
    assert!(
        json.text().starts_with("[{\"name\": \"b\", \"count\": 1, \"bytes\": 5, \"last_modified\": \""),
        "{json:?}"
    );
    assert!(json.text().ends_with("\", \"storage_policy\": \"gold\"}]"));
    let xml = site.ask("GET", "?limit=0").header("Accept", "application/xml").send().await.is(200);
    assert!(xml.text().ends_with("<account name=\"AUTH_test\">\n</account>"));
    let head = site.ask("HEAD", "").send().await.is(204);
    assert_eq!(head.header("x-account-container-count"), Some("3"));
    assert_eq!(head.header("x-account-bytes-used"), Some("5"));
    site.get("?limit=10001").await.is(412);
    site.get("?prefix=%ff").await.is(400);
    site.ask("GET", "").header("Accept", "image/png").send().await.is(406);
}

#[tokio::test]
async fn only_reseller_admins_make_and_remove_accounts() {
    let site = Site::new();
    site.ask("PUT", "").send().await.is(403);
    site.ask("PUT", "").by("admin:admin").header("X-Account-Meta-A", "1").send().await.is(201);
    site.ask("PUT", "").by("admin:admin").send().await.is(202);
    assert_eq!(site.get("").await.header("x-account-meta-a"), Some("1"));
    site.ask("DELETE", "?x=y").by("admin:admin").send().await.is(400);
    site.put("/c/o", "x").await;
    site.ask("DELETE", "").by("admin:admin").send().await.is(409);
    site.ask("DELETE", "/c/o").send().await.is(204);
    site.ask("DELETE", "/c").send().await.is(204);
    site.ask("DELETE", "").by("admin:admin").send().await.is(204);

    let closed = Site::with(|service| {
        service.features.account_management = false;
        service.features.account_autocreate = false;
    });
    let reply = closed.ask("PUT", "").by("admin:admin").send().await.is(405);
    assert_eq!(reply.header("allow"), Some("GET, HEAD, POST, OPTIONS"));
    closed.ask("PUT", "").send().await.is(405);
}

#[tokio::test]
async fn without_autocreation_a_missing_account_is_nowhere() {
    let site = Site::with(|service| service.features.account_autocreate = false);
    for method in ["GET", "HEAD", "POST", "DELETE"] {
        for path in ["", "/c", "/c/o"] {
            // An account's owner may not delete it, there or not.
            let status = if (method, path) == ("DELETE", "") { 403 } else { 404 };
            site.ask(method, path).send().await.is(status);
        }
    }
    site.ask("PUT", "/c").send().await.is(404);
    site.ask("PUT", "/c/o").body("x").send().await.is(404);
    assert!(!site.path("").exists(), "it was made");
    assert!(site.ask("GET", "//info").send().await.text().contains("\"account_autocreate\":false"));

    std::fs::create_dir(site.path("")).unwrap();
    site.get("").await.is(204);
    site.put("/c/o", "x").await;
    assert_eq!(site.get("/c/o").await.is(200).text(), "x");
}

#[tokio::test]
async fn names_are_bounded() {
    let site = Site::new();
    let long = "a".repeat(257);
    let reply = site.ask("GET", &format!("//v1/AUTH_{long}")).by("admin:admin").send().await.is(400);
    assert_eq!(reply.text(), "Account name length of 262 longer than 256");
}

#[tokio::test]
async fn service_paths() {
    let site = Site::new();
    assert_eq!(site.ask("GET", "//healthcheck").by("").send().await.is(200).text(), "OK");
    let info = site.ask("GET", "//info").by("").header("Origin", "http://o").send().await.is(200);
    assert_eq!(info.header("access-control-allow-origin"), Some("http://o"));
    assert!(info.text().contains("\"slo\""));
    site.ask("HEAD", "//info").by("").send().await.is(200);
    let options = site.ask("OPTIONS", "//info").by("").send().await.is(200);
    assert_eq!(options.header("allow"), Some("HEAD, GET, OPTIONS"));
    site.ask("PUT", "//info").by("").send().await.is(405);
    site.ask("GET", "//v1").send().await.is(412);
    site.ask("GET", "//v3/a").send().await.is(400);
    site.ask("GET", "//v1/a//o").send().await.is(404);
    site.ask("PATCH", "/c").send().await.is(405);
    let id = site.get("").await.header("x-trans-id").unwrap().to_owned();
    let record = site.last();
    assert_eq!((record.trans_id, record.user.as_str()), (id, "test:owner"));
}
