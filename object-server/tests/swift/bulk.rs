//! Many deletions in one request.

use object_server::http::Body;

use crate::site::{Reply, Site};

async fn bulk(site: &Site, user: &'static str, body: impl AsRef<[u8]>) -> Reply {
    let ask = site.ask("POST", "?bulk-delete").by(user).header("Accept", "application/json");
    ask.header("Content-Type", "text/plain").body(body).send().await.is(200)
}

fn json(status: &str, body: &str, deleted: u64, missing: u64, errors: &str) -> String {
    format!(
        "{{\"Response Status\": \"{status}\", \"Response Body\": \"{body}\", \"Number Deleted\": {deleted}, \
         \"Number Not Found\": {missing}, \"Errors\": [{errors}]}}"
    )
}

#[tokio::test]
async fn objects_and_then_their_container() {
    let site = Site::new();
    let objects: Vec<_> = (0..30).map(|n| format!("c/dir/o%20{n}")).collect();
    for object in &objects {
        site.put(&format!("/{object}"), "x").await;
    }
    site.put("/d/stays", "x").await;
    let list = format!("/c\n\n{}\r\nc/none\nd\n", objects.join("\n"));
    let reply = bulk(&site, "test:owner", list).await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.text(), json("400 Bad Request", "", 31, 1, r#"["d", "409 Conflict"]"#));
    assert!(!site.path("c").exists() && site.path("d/stays").exists());
}

#[tokio::test]
async fn in_every_format_by_either_method() {
    let site = Site::new();
    let ask = async |method: &str, path: &str, accept: &str| {
        site.put("/c/o", "x").await;
        site.ask(method, path).header("Accept", accept).body("c/o").send().await.is(200)
    };
    let text = ask("POST", "?bulk-delete", "*/*").await;
    assert_eq!(text.header("content-type"), Some("text/plain"));
    assert_eq!(
        text.text(),
        "Number Deleted: 1\nNumber Not Found: 0\nResponse Body: \nResponse Status: 200 OK\nErrors:\n"
    );
    let xml = ask("DELETE", "?bulk-delete=true", "application/xml").await;
    assert_eq!(
        xml.text(),
        "<delete>\n<number_deleted>1</number_deleted>\n<number_not_found>0</number_not_found>\n\
         <response_body></response_body>\n<response_status>200 OK</response_status>\n<errors>\n</errors>\n</delete>\n"
    );
    // What the URL names beside the account is not deleted.
    site.put("/c/other", "x").await;
    assert!(ask("DELETE", "/c/other?bulk-delete", "").await.text().contains("Number Deleted: 1\n"));
    site.get("/c/other").await.is(200);

    let odd = ask("POST", "?bulk-delete", "image/png").await;
    assert!(odd.text().contains("Response Status: 406 Not Acceptable"), "{odd:?}");
    site.get("/c/o").await.is(200);
    let ask = site.ask("POST", "?bulk-delete").header("Content-Type", "text/xml").body("c/o");
    assert!(ask.send().await.is(200).text().contains("Response Status: 406 Not Acceptable"));
    site.ask("GET", "?bulk-delete").send().await.is(200);
    site.ask("PUT", "?extract-archive=tar").body("").send().await.is(403);
}

#[tokio::test]
async fn nothing_goes_if_the_list_is_refused() {
    let site = Site::new();
    site.put("/c/o", "x").await;
    let refused = async |body: String| bulk(&site, "test:owner", body).await.text().to_owned();
    let many = "Maximum Bulk Deletes: 10000 per request";
    assert_eq!(
        refused(format!("c/o\n{}", "\n".repeat(10_000))).await,
        json("413 Request Entity Too Large", many, 0, 0, "")
    );
    let long = format!("c/o\nc/{}\n", "a".repeat(4000));
    assert_eq!(refused(long).await, json("400 Bad Request", "Invalid File Name", 0, 0, ""));
    assert_eq!(refused(" \n".to_owned()).await, json("400 Bad Request", "Invalid bulk delete.", 0, 0, ""));
    let unsaid = site.ask("POST", "?bulk-delete").send().await.is(200);
    assert!(unsaid.text().contains("411 Length Required"), "{unsaid:?}");
    site.get("/c/o").await.is(200);
    let mut chunked = site.ask("POST", "?bulk-delete").header("Transfer-Encoding", "chunked");
    chunked.set_body(Body::from_bytes("c/o\n"));
    assert!(chunked.send().await.is(200).text().contains("Number Deleted: 1\n"));
}

#[tokio::test]
async fn names_that_cannot_be_are_listed() {
    let site = Site::new();
    site.put("/c/o", "x").await;
    let list = b"c/o\n/c/\xde%C3\nc/%00\n/\nno/o\n";
    let errors = r#"["/c/%DE%C3", "412 Precondition Failed"], ["c/%00", "412 Precondition Failed"], ["/", "405 Method Not Allowed"]"#;
    assert_eq!(bulk(&site, "test:owner", list).await.text(), json("400 Bad Request", "", 1, 1, errors));
    assert!(site.path("").exists());
    // As if each were deleted alone.
    let (container, object) = ("c".repeat(257), format!("c/{}", "o".repeat(1025)));
    site.ask("DELETE", &format!("/{container}")).send().await.is(400);
    site.ask("DELETE", &format!("/{object}")).send().await.is(400);
    let both = bulk(&site, "test:owner", format!("{container}\n{object}")).await;
    let errors = format!("[\"{object}\", \"400 Bad Request\"], [\"{container}\", \"400 Bad Request\"]");
    assert_eq!(both.text(), json("400 Bad Request", "", 0, 0, &errors));
}

#[tokio::test]
async fn what_is_named_twice_is_deleted_once() {
    let site = Site::new();
    site.put("/c/o", "x").await;
    let list = "c/o\n/c/%6F\n".repeat(50);
    assert_eq!(bulk(&site, "test:owner", list).await.text(), json("200 OK", "", 1, 99, ""));
}

#[tokio::test]
async fn everyone_deletes_what_they_may() {
    let site = Site::new();
    for path in ["/open/o", "/open/p", "/shut/o", "/shut/p"] {
        site.put(path, "x").await;
    }
    site.ask("POST", "/open").header("X-Container-Write", "test:reader").send().await.is(204);
    let list = "open/o\nshut/o\nopen\n";
    let nobody = bulk(&site, "", list).await;
    let unauthorized = |name: &str| format!("[\"{name}\", \"401 Unauthorized\"]");
    let errors = ["open/o", "shut/o", "open"].map(unauthorized).join(", ");
    assert_eq!(nobody.text(), json("400 Bad Request", "", 0, 0, &errors));
    let reader = bulk(&site, "test:reader", list).await;
    let errors = r#"["shut/o", "403 Forbidden"], ["open", "403 Forbidden"]"#;
    assert_eq!(reader.text(), json("400 Bad Request", "", 1, 0, errors));
    let stranger = bulk(&site, "other:owner", "open/p").await;
    assert!(stranger.text().contains("403 Forbidden"), "{stranger:?}");
    for path in ["/open/p", "/shut/o", "/shut/p"] {
        site.get(path).await.is(200);
    }
    site.get("/open/o").await.is(404);
}

#[tokio::test]
async fn many_failures_end_it() {
    let site = Site::new();
    site.put("/c/o", "x").await;
    let list: Vec<_> = (0..1100).map(|n| format!("d/{n}")).collect();
    let reply = bulk(&site, "test:reader", list.join("\n") + "\nc/o\nc").await;
    let text = reply.text();
    assert!(text.contains(r#""400 Bad Request", "Response Body": "Max delete failures exceeded""#), "{text}");
    assert_eq!(text.matches("403 Forbidden").count(), 1000);
}

#[tokio::test]
async fn many_names() {
    let site = Site::new();
    for n in 0..300 {
        site.ask("PUT", "/c").send().await;
        site.ask("PUT", &format!("/c/{n}")).body("x").send().await.is(201);
    }
    let list: Vec<_> = (0..9_999).map(|n| format!("c/{n}")).collect();
    let reply = bulk(&site, "test:owner", list.join("\n") + "\nc").await;
    assert_eq!(reply.text(), json("200 OK", "", 301, 9_699, ""));
}
