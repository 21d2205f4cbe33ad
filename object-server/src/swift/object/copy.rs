//! COPY, and PUT with X-Copy-From: a GET whose answer becomes a PUT.

use std::sync::Arc;

use namespace::ObjectName;

use super::put::{self, Input, Supply};
use super::read::{self, Show};
use super::{authorize, slo_put};
use crate::http::{Body, Headers, Response, ResponseBody};
use crate::swift::call::Call;
use crate::swift::errors::Answer;
use crate::swift::path::{copy_account, copy_path};
use crate::swift::{constraints, text};

/// Headers of the source that the copy does not take over.
const NOT_COPIED: [&str; 6] =
    ["x-static-large-object", "x-object-manifest", "etag", "content-type", "x-timestamp", "x-manifest-etag"];

/// Answers a COPY.
pub async fn copy(call: &Arc<Call>, source: ObjectName) -> Result<Response, Answer> {
    let Some(destination) = call.header("destination").filter(|value| !value.is_empty()) else {
        return Err(Answer::html(412, "Destination header required"));
    };
    let account = match call.header("destination-account") {
        Some(value) => copy_account(value)?,
        None => source.account.clone(),
    };
    let (container, object) = copy_path("Destination", destination)?;
    run(call, source, ObjectName::new(account, container, object)).await
}

/// Answers a PUT with X-Copy-From.
pub async fn copy_from(call: &Arc<Call>, target: ObjectName, body: Body) -> Result<Response, Answer> {
    if body.length().is_some_and(|length| length > 0) {
        return Err(Answer::plain(400, "Copy requests require a zero byte body"));
    }
    let account = match call.header("x-copy-from-account").filter(|value| !value.is_empty()) {
        Some(value) => copy_account(value)?,
        None => target.account.clone(),
    };
    let (container, object) = copy_path("X-Copy-From", call.header("x-copy-from").unwrap_or_default())?;
    run(call, ObjectName::new(account, container, object), target).await
}

async fn run(call: &Arc<Call>, source: ObjectName, target: ObjectName) -> Result<Response, Answer> {
    authorize(call, "GET", &source).await?;
    let manifests = call.target.query.is("multipart-manifest", "get");
    let show = if manifests { Show::Raw } else { Show::Content };
    let request = read::Request { head: false, show, ..read::Request::of(call, source.clone())? };
    let found = read::serve(call, request).await?;
    if found.status >= 300 {
        return Ok(found);
    }
    let length = match &found.body {
        ResponseBody::Empty => Some(0),
        ResponseBody::Bytes(bytes) => Some(bytes.len() as u64),
        ResponseBody::File(range) => Some(range.len),
        ResponseBody::Pieces { length, .. } => *length,
    };
    let limits = &call.service.limits;
    let Some(length) = length.filter(|length| *length <= limits.max_file_size) else {
        return Err(Answer::new(413));
    };
    authorize(call, "PUT", &target).await?;
    let headers = headers_of(call, &found, manifests);
    let from_slo = found.headers.contains("x-static-large-object");
    let mut response = if manifests && from_slo {
        let ResponseBody::Bytes(json) = found.body else { return Err(Answer::new(500)) };
        slo_put::put_manifest(call, target, &json, &headers).await?
    } else {
        let from_prefix = found.headers.contains("x-object-manifest") && !manifests;
        let whole = found.status == 200 && !from_slo && !from_prefix;
        let etag = found.headers.get_str("etag").filter(|_| whole).map(str::to_owned);
        store(call, &target, found.body, length, etag, &headers).await?
    };
    answer(&mut response, &source, &found.headers, &headers);
    Ok(response)
}

async fn store(
    call: &Arc<Call>,
    target: &ObjectName,
    body: ResponseBody,
    length: u64,
    etag: Option<String>,
    headers: &Headers,
) -> Result<Response, Answer> {
    let known = etag.as_deref().and_then(|etag| put::md5_of(etag).ok());
    let published = match (body, known) {
        (ResponseBody::File(range), Some(md5)) => put::clone_file(call, target, range, md5, headers).await?,
        (body, _) => {
            let supply = Supply::of(body);
            let input = Input { supply, length: Some(length), announced: true, slo: None, etag };
            put::upload(call, target, input, headers).await?
        }
    };
    Ok(put::created(&published))
}

/// The headers of the upload: the source's, unless fresh ones are wanted, then the request's.
fn headers_of(call: &Call, found: &Response, manifests: bool) -> Headers {
    let mut headers = Headers::new();
    let fresh = call.header("x-fresh-metadata").is_some_and(text::is_true);
    if !fresh {
        for (name, value) in found.headers.iter() {
            if !NOT_COPIED.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                headers.insert(name, value);
            }
        }
    }
    if call.headers.contains("x-delete-after") {
        headers.remove("x-delete-at");
    }
    for (name, value) in call.headers.iter() {
        if !name.eq_ignore_ascii_case("etag") {
            headers.insert(name, value);
        }
    }
    if manifests && let Some(value) = found.headers.get("x-object-manifest") {
        headers.insert("x-object-manifest", value);
    }
    if call.header("content-type").is_none_or(<[u8]>::is_empty)
        && let Some(value) = found.headers.get("content-type")
    {
        headers.insert("content-type", value);
    }
    headers
}

/// Tells where the copy came from and what metadata it has.
fn answer(response: &mut Response, source: &ObjectName, found: &Headers, stored: &Headers) {
    let path = format!("{}/{}", source.container, source.object);
    response.headers.append("X-Copied-From-Account", text::quote(source.account.as_bytes()));
    response.headers.append("X-Copied-From", text::quote(path.as_bytes()));
    if let Some(value) = found.get("last-modified") {
        response.headers.append("X-Copied-From-Last-Modified", value);
    }
    for (name, value) in stored.iter() {
        let item = constraints::Level::Object.item(name).is_some_and(|item| !item.is_empty());
        if item || name.eq_ignore_ascii_case("x-delete-at") {
            response.headers.append(&text::title_case(name), value);
        }
    }
}
