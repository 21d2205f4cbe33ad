//! Who may do what.

use crate::site::Site;

#[tokio::test]
async fn strangers_and_guests() {
    let site = Site::new();
    site.put("/c/o", "hello").await;
    let denied = site.ask("GET", "/c/o").by("").send().await.is(401);
    assert_eq!(denied.header("www-authenticate"), Some("Swift realm=\"AUTH_test\""));
    site.ask("GET", "/c/o").by("test:reader").send().await.is(403);
    site.ask("GET", "/c/o").by("").header("X-Auth-Token", "AUTH_tkbogus").send().await.is(401);

    site.ask("POST", "/c").header("X-Container-Read", ".r:*").send().await.is(204);
    assert_eq!(site.ask("GET", "/c/o").by("").send().await.is(200).text(), "hello");
    site.ask("GET", "/c").by("").send().await.is(401);
    site.ask("POST", "/c").header("X-Container-Read", ".r:*, .rlistings").send().await.is(204);
    let listing = site.ask("GET", "/c").by("").send().await.is(200);
    assert_eq!(listing.header("x-container-read"), None);
    assert_eq!(site.get("/c").await.header("x-container-read"), Some(".r:*,.rlistings"));

    site.ask("POST", "/c").header("X-Container-Read", "test:reader").send().await.is(204);
    site.ask("GET", "/c/o").by("test:reader").send().await.is(200);
    site.ask("PUT", "/c/p").by("test:reader").body("x").send().await.is(403);
    site.ask("POST", "/c").header("X-Container-Write", "test:reader").send().await.is(204);
    site.ask("PUT", "/c/p").by("test:reader").body("x").send().await.is(201);
    site.ask("DELETE", "/c/p").by("test:reader").send().await.is(204);
    site.ask("DELETE", "/c").by("test:reader").send().await.is(403);
    site.ask("POST", "/c").header("X-Remove-Container-Read", "x").send().await.is(204);
    site.ask("GET", "/c/o").by("test:reader").send().await.is(403);
    let bad = site.ask("POST", "/c").header("X-Container-Write", ".r:*").send().await.is(400);
    assert!(bad.text().contains("Referrers not allowed"), "{bad:?}");
}

#[tokio::test]
async fn lists_do_not_outlive_their_container() {
    let site = Site::new();
    site.ask("PUT", "/c").header("X-Container-Read", ".r:*").send().await.is(201);
    site.ask("DELETE", "/c").send().await.is(204);
    site.put("/c/o", "secret").await;
    site.ask("GET", "/c/o").by("").send().await.is(401);
}

#[tokio::test]
async fn account_lists() {
    let site = Site::new();
    site.put("/c/o", "hello").await;
    let post = |list: &'static str| site.ask("POST", "").header("X-Account-Access-Control", list).send();
    post("nonsense").await.is(400);
    post(r#"{"read-only": ["test:reader"]}"#).await.is(204);
    assert_eq!(
        site.get("").await.header("x-account-access-control"),
        Some(r#"{"read-only":["test:reader"]}"#)
    );
    let reply = site.ask("GET", "").by("test:reader").send().await.is(200);
    assert_eq!(reply.header("x-account-access-control"), None);
    site.ask("GET", "/c/o").by("test:reader").send().await.is(200);
    site.ask("PUT", "/d").by("test:reader").send().await.is(403);
    post(r#"{"read-write": ["test:reader"]}"#).await.is(204);
    site.ask("PUT", "/d").by("test:reader").header("X-Container-Read", ".r:*").send().await.is(201);
    // Only owners set lists.
    assert_eq!(site.get("/d").await.header("x-container-read"), None);
    post("{}").await.is(204);
    site.ask("GET", "/c/o").by("test:reader").send().await.is(403);
}

#[tokio::test]
async fn keys_are_shown_to_owners_only() {
    let site = Site::new();
    site.ask("POST", "").header("X-Account-Meta-Temp-URL-Key", "k").send().await.is(204);
    site.ask("POST", "").header("X-Account-Access-Control", r#"{"read-only":["test:reader"]}"#).send().await;
    assert_eq!(site.get("").await.header("x-account-meta-temp-url-key"), Some("k"));
    let guest = site.ask("GET", "").by("test:reader").send().await.is(204);
    assert_eq!(guest.header("x-account-meta-temp-url-key"), None);
    site.ask("POST", "").header("X-Account-Meta-Temp-URL-Key", "").send().await.is(204);
    assert_eq!(site.get("").await.header("x-account-meta-temp-url-key"), None);
}
