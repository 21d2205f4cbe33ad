//! Request targets and the paths in copy headers: names hold no NUL, and their files lie beneath their container.
#![no_main]

use libfuzzer_sys::fuzz_target;
use namespace::name;
use object_server::swift::path::{Resource, Target, copy_account, copy_path};
use object_server::swift::text::quote;

fuzz_target!(|data: &[u8]| {
    let target = Target::new(data);
    assert!(target.path.len() <= target.raw_path.len().max(1));
    let realm = target.realm();
    let inner = realm.strip_prefix("Swift realm=\"").and_then(|rest| rest.strip_suffix('"'));
    let safe = |b: u8| b.is_ascii_graphic() && b != b'"';
    assert!(inner.is_some_and(|inner| inner.bytes().all(safe)), "{realm:?}");
    assert!(target.query.limit(10).is_ok_and(|limit| limit <= 10) || target.query.has("limit"));
    if let Ok(resource) = target.resource() {
        check(&resource);
    }
    if let Ok((container, object)) = copy_path("Destination", data) {
        check(&Resource::Object("a".to_owned(), container, object));
    }
    if let Ok(account) = copy_account(data) {
        check(&Resource::Account(account));
    }
});

/// Quoted, it addresses the same again.
fn check(resource: &Resource) {
    let names: &[&String] = match resource {
        Resource::Info | Resource::Healthcheck => return,
        Resource::Account(account) => &[account],
        Resource::Container(account, container) => &[account, container],
        Resource::Object(account, container, object) => &[account, container, object],
    };
    assert!(names.iter().all(|name| !name.is_empty() && !name.contains('\0')));
    assert!(names.iter().take(2).all(|name| !name.contains('/')));
    let quoted: Vec<String> = names.iter().map(|name| quote(name.as_bytes())).collect();
    let again = Target::new(format!("/v1/{}", quoted.join("/")).as_bytes());
    assert_eq!(again.resource().ok().as_ref(), Some(resource));
    let path = match names {
        [_, _, object] => name::path_of(object),
        [.., last] => name::container_path(last),
        [] => return,
    };
    let inside = |file: &[u8]| !matches!(file, b"" | b"." | b"..") && !file.contains(&0);
    assert!(path.is_err() || path.is_ok_and(|path| path.components().all(inside)), "{names:?}");
}
