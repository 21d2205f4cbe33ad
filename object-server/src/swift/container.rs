//! Requests for containers.

use namespace::{Error, HeaderUpdate, Namespace, Row as Stored, System};

use super::account::{self, listing};
use super::call::{self, Call, Doing, Scope};
use super::constraints::{Level, check_metadata, check_total};
use super::content_type;
use super::errors::Answer;
use super::listing::{Format, Row, list_query};
use super::meta::{self, Secrets};
use super::path;
use super::text;
use crate::acl::{self, AclKind};
use crate::http::Response;

/// What the handler answers to other methods.
pub const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"];

/// Answers a request for a container.
pub async fn handle(call: &Call, account: &str, container: &str) -> Result<Response, Answer> {
    let owner = authorize(call, &call.method, account, container).await?;
    match call.method.as_str() {
        "GET" | "HEAD" => show(call, account, container, owner).await,
        "PUT" => put(call, account, container, owner).await,
        "POST" => post(call, account, container, owner).await,
        _ => remove(call, account, container).await.map(|()| call::done(204)),
    }
}

/// Refuses a caller who may not do `method` to a container. True: as an owner.
pub async fn authorize(call: &Call, method: &str, account: &str, container: &str) -> Result<bool, Answer> {
    let scope = Scope { account, container: Some(container), object: false };
    call.authorize(method, scope).await
}

async fn show(call: &Call, account: &str, container: &str, owner: bool) -> Result<Response, Answer> {
    let format = Format::choose(&call.target.query, call.header("accept"))?;
    let head = call.is_head();
    let mut query = list_query(&call.target.query, call.service.limits.container_listing_limit)?;
    if let Some(path) = call.target.query.text("path")? {
        let trimmed = path.trim_end_matches('/');
        query.prefix = if path.is_empty() { String::new() } else { format!("{trimmed}/") };
        "/".clone_into(&mut query.delimiter);
        query.path = true;
    }
    let settings = call.settings(account, Some(container)).await?;
    let who = call.identity(account).await?;
    let name = (account.to_owned(), container.to_owned());
    let job = move |ns: &Namespace| {
        let info = ns.container_info(&name.0, &name.1)?;
        if head {
            return Ok((info, String::new()));
        }
        // Here, for ten thousand rows are too many to print between other clients' requests.
        let body = render(format, &name.1, &ns.list_objects(&name.0, &name.1, &query)?);
        Ok((info, body))
    };
    let (info, body) = call.store(who, Doing::Other, job).await?;
    let mut headers = crate::http::Headers::with_capacity(16, 512);
    headers.append("X-Container-Object-Count", info.count.objects.to_string());
    headers.append("X-Container-Bytes-Used", info.count.bytes.to_string());
    headers.append("X-Timestamp", info.created.to_string());
    headers.append("X-Put-Timestamp", info.changed.to_string());
    headers.append("Last-Modified", info.changed.last_modified_http());
    headers.append("X-Storage-Policy", policy_of(call, &settings));
    if call.caller.reseller_admin() {
        headers.append("X-Container-Sharding", "False");
    }
    meta::push_visible(&mut headers, &info.headers);
    if owner {
        Secrets::Container.push(&mut headers, &settings);
    }
    Ok(listing(call, headers, format, body))
}

fn render(format: Format, container: &str, rows: &[Stored]) -> String {
    let etags: Vec<(String, Option<String>)> = rows
        .iter()
        .map(|row| match row {
            Stored::Subdir(_) => (String::new(), None),
            Stored::Object(o) => (
                o.etag.map(|md5| text::hex(&md5)).unwrap_or_default(),
                o.slo.as_ref().map(|slo| text::hex(&slo.etag)),
            ),
        })
        .collect();
    let rows = rows.iter().zip(&etags).map(|(row, (hash, slo_etag))| match row {
        Stored::Subdir(name) => Row::Subdir(name),
        Stored::Object(o) => Row::Object {
            name: &o.name,
            bytes: o.slo.as_ref().map_or(o.size, |slo| slo.size),
            hash,
            content_type: o.content_type.as_deref().unwrap_or_else(|| content_type::guess(&o.name)),
            last_modified: o.last_modified.units(),
            slo_etag: slo_etag.as_deref(),
        },
    });
    format.objects(container, rows)
}

/// The storage policy of a container.
fn policy_of(call: &Call, settings: &System) -> String {
    let default = call.service.features.policies.first().cloned().unwrap_or_default();
    settings.get("policy").cloned().unwrap_or(default)
}

/// The metadata and the settings that a request changes.
type Changes = (HeaderUpdate, Vec<(String, Option<String>)>);

fn checked(call: &Call, owner: bool) -> Result<Changes, Answer> {
    let mut settings = Secrets::Container.changes(&call.headers);
    for (key, value) in &mut settings {
        let kind = match key.as_str() {
            "read" => AclKind::Read,
            "write" => AclKind::Write,
            _ => continue,
        };
        if let Some(list) = value {
            *list = acl::clean(kind, list).map_err(|e| Answer::html(400, e.to_string()))?;
        }
    }
    check_metadata(&call.service.limits, Level::Container, call.headers.iter())?;
    if !owner {
        settings.clear();
    }
    Ok((meta::update(&call.headers, Level::Container), settings))
}

/// The policy that the request names, if it names one.
fn policy_wanted(call: &Call) -> Result<Option<String>, Answer> {
    let Some(wanted) = call.header_text("x-storage-policy") else { return Ok(None) };
    let known = call.service.features.policies.iter().find(|name| name.eq_ignore_ascii_case(wanted));
    let unknown = || Answer::plain(400, format!("Invalid X-Storage-Policy '{wanted}'"));
    known.cloned().map(Some).ok_or_else(unknown)
}

async fn store_settings(
    call: &Call,
    account: &str,
    container: &str,
    changes: Vec<(String, Option<String>)>,
) -> Result<(), Answer> {
    if changes.is_empty() {
        return Ok(());
    }
    let keeper = call.keeper(account).await?;
    let name = (account.to_owned(), container.to_owned());
    let job = move |ns: &Namespace| ns.update_system(&name.0, Some(&name.1), &changes);
    call.store(keeper, Doing::Other, job).await
}

async fn put(call: &Call, account: &str, container: &str, owner: bool) -> Result<Response, Answer> {
    let (update, mut settings) = checked(call, owner)?;
    let policy = policy_wanted(call)?;
    path::check_container(&call.service.limits, container)?;
    if let Some(policy) = &policy {
        let stored = call.settings(account, Some(container)).await?;
        let other = policy_of(call, &stored) != *policy;
        if other && exists(call, account, container).await? {
            return Err(Answer::new(409));
        }
        settings.push(("policy".to_owned(), Some(policy.clone())));
    }
    let made = match create(call, account, container, &update).await? {
        Err(Error::NoAccount) if account::create(call, account).await? => {
            create(call, account, container, &update).await?
        }
        other => other,
    };
    let made = match made {
        // The metadata as a whole would be too large.
        Ok(Err(answer)) => return Err(answer),
        Ok(Ok(made)) => made,
        Err(e) => return Err(call::failure(&e, Doing::Other)),
    };
    if made {
        // Lists and keys of an earlier container of that name must not come back.
        forget_settings(call, account, container).await?;
    }
    store_settings(call, account, container, settings).await?;
    Ok(call::done(if made { 201 } else { 202 }))
}

async fn forget_settings(call: &Call, account: &str, container: &str) -> Result<(), Answer> {
    let keeper = call.keeper(account).await?;
    let name = (account.to_owned(), container.to_owned());
    call.store(keeper, Doing::Other, move |ns| ns.forget_system(&name.0, &name.1)).await
}

async fn exists(call: &Call, account: &str, container: &str) -> Result<bool, Answer> {
    let who = call.identity(account).await?;
    let name = (account.to_owned(), container.to_owned());
    let job = move |ns: &Namespace| match ns.container_headers(&name.0, &name.1) {
        Ok(_) => Ok(true),
        Err(Error::NoAccount | Error::NoContainer) => Ok(false),
        Err(e) => Err(e),
    };
    call.store(who, Doing::Other, job).await
}

async fn create(
    call: &Call,
    account: &str,
    container: &str,
    update: &HeaderUpdate,
) -> Result<Result<Result<bool, Answer>, Error>, Answer> {
    let who = call.identity(account).await?;
    let name = (account.to_owned(), container.to_owned());
    let (update, timestamp, limits) = (update.clone(), call.timestamp, call.service.limits.clone());
    let job = move |ns: &Namespace| {
        let mut after = match ns.container_headers(&name.0, &name.1) {
            Ok(headers) => headers,
            Err(Error::NoContainer) => Vec::new(),
            Err(e) => return Err(e),
        };
        meta::apply(&mut after, &update);
        let total =
            check_total(&limits, Level::Container, after.iter().map(|(k, v)| (k.as_str(), v.as_slice())));
        match total {
            Err(answer) => Ok(Err(answer)),
            Ok(()) => ns.create_container(&name.0, &name.1, update, timestamp).map(Ok),
        }
    };
    call.run(who, job).await
}

async fn post(call: &Call, account: &str, container: &str, owner: bool) -> Result<Response, Answer> {
    let (update, settings) = checked(call, owner)?;
    let who = call.identity(account).await?;
    let name = (account.to_owned(), container.to_owned());
    let (timestamp, limits) = (call.timestamp, call.service.limits.clone());
    let job = move |ns: &Namespace| {
        let mut after = ns.container_headers(&name.0, &name.1)?;
        meta::apply(&mut after, &update);
        let total =
            check_total(&limits, Level::Container, after.iter().map(|(k, v)| (k.as_str(), v.as_slice())));
        match total {
            Err(answer) => Ok(Err(answer)),
            Ok(()) => ns.update_container(&name.0, &name.1, update, timestamp).map(Ok),
        }
    };
    call.store(who, Doing::Other, job).await??;
    store_settings(call, account, container, settings).await?;
    Ok(call::done(204))
}

/// Removes an empty container.
pub async fn remove(call: &Call, account: &str, container: &str) -> Result<(), Answer> {
    let who = call.identity(account).await?;
    let name = (account.to_owned(), container.to_owned());
    call.store(who, Doing::Other, move |ns| ns.delete_container(&name.0, &name.1)).await?;
    forget_settings(call, account, container).await
}

/// What a container lets other origins do, from its metadata.
pub async fn cors_headers(call: &Call, account: &str, container: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(who) = call.identity(account).await else { return Vec::new() };
    let name = (account.to_owned(), container.to_owned());
    let job = move |ns: &Namespace| ns.container_headers(&name.0, &name.1);
    call.store(who, Doing::Other, job).await.unwrap_or_default()
}
