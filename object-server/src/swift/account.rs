//! Requests for accounts.

use namespace::{AccountInfo, ContainerRow, Error, HeaderUpdate, Namespace, System};

use super::call::{self, Call, Doing, Scope};
use super::constraints::{Level, check_metadata, check_total};
use super::errors::Answer;
use super::listing::{Format, Row, list_query};
use super::meta::{self, Secrets};
use super::path;
use crate::acl::AccountAcl;
use crate::http::{Headers, Response, ResponseBody};

/// What the handler answers to other methods.
pub const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE"];

/// Answers a request for an account.
pub async fn handle(call: &Call, account: &str) -> Result<Response, Answer> {
    let scope = Scope { account, container: None, object: false };
    let owner = call.authorize(&call.method, scope).await?;
    match call.method.as_str() {
        "GET" | "HEAD" => show(call, account, owner).await,
        "PUT" => put(call, account, owner).await,
        "POST" => post(call, account, owner).await,
        _ => delete(call, account).await,
    }
}

struct Shown {
    info: AccountInfo,
    body: String,
}

async fn show(call: &Call, account: &str, owner: bool) -> Result<Response, Answer> {
    path::check_account(&call.service.limits, account)?;
    let format = Format::choose(&call.target.query, call.header("accept"))?;
    let query = list_query(&call.target.query, call.service.limits.account_listing_limit)?;
    let settings = if owner { call.settings(account, None).await? } else { System::new() };
    let who = call.identity(account).await?;
    let name = account.to_owned();
    let head = call.is_head();
    let policies = call.service.features.policies.clone();
    let job = move |ns: &Namespace| {
        let info = ns.account_info(&name)?;
        if head {
            return Ok(Shown { info, body: String::new() });
        }
        let rows = ns.list_containers(&name, &query)?;
        let policies = policies_of(ns, &name, &rows, &policies)?;
        Ok(Shown { info, body: render(format, &name, &rows, &policies) })
    };
    let shown = match call.run(who, job).await? {
        Err(Error::NoAccount) if call.service.features.account_autocreate => {
            let created = call.timestamp;
            let info = AccountInfo {
                headers: Vec::new(),
                created,
                containers: 0,
                count: namespace::Count::default(),
                uid: 0,
                gid: 0,
            };
            Shown { info, body: if head { String::new() } else { render(format, account, &[], &[]) } }
        }
        other => other.map_err(|e| call::failure(&e, Doing::Other))?,
    };
    let mut headers = info_headers(call, &shown.info);
    meta::push_visible(&mut headers, &shown.info.headers);
    if owner {
        Secrets::Account.push(&mut headers, &settings);
        if let Some(list) = settings.get("access-control").and_then(|text| AccountAcl::format(text)) {
            headers.append("X-Account-Access-Control", list);
        }
    }
    Ok(listing(call, headers, format, shown.body))
}

fn render(format: Format, account: &str, rows: &[ContainerRow], policies: &[String]) -> String {
    let rows = rows.iter().zip(policies).map(|(row, policy)| match row {
        ContainerRow::Subdir(name) => Row::Subdir(name),
        ContainerRow::Container { name, count, last_modified } => Row::Container {
            name,
            count: count.objects,
            bytes: count.bytes,
            last_modified: last_modified.units(),
            policy,
        },
    });
    format.containers(account, rows)
}

/// The storage policy of each row; read from the settings only where there is a choice.
fn policies_of(
    ns: &Namespace,
    account: &str,
    rows: &[ContainerRow],
    policies: &[String],
) -> Result<Vec<String>, Error> {
    let default = policies.first().cloned().unwrap_or_default();
    if policies.len() < 2 {
        return Ok(vec![default; rows.len()]);
    }
    rows.iter()
        .map(|row| match row {
            ContainerRow::Subdir(_) => Ok(String::new()),
            ContainerRow::Container { name, .. } => {
                // Unreadable by this caller: shown as the default.
                let settings = ns.system(account, Some(name)).unwrap_or_default();
                Ok(settings.get("policy").cloned().unwrap_or_else(|| default.clone()))
            }
        })
        .collect()
}

fn info_headers(call: &Call, info: &AccountInfo) -> Headers {
    let mut headers = Headers::with_capacity(16, 512);
    let counts = [
        ("Container-Count", info.containers),
        ("Object-Count", info.count.objects),
        ("Bytes-Used", info.count.bytes),
    ];
    for (what, count) in counts {
        headers.append(&format!("X-Account-{what}"), count.to_string());
    }
    if let [policy] = call.service.features.policies.as_slice() {
        for (what, count) in counts {
            headers.append(&format!("X-Account-Storage-Policy-{policy}-{what}"), count.to_string());
        }
    }
    headers.append("X-Timestamp", info.created.to_string());
    headers.append("X-Put-Timestamp", info.created.to_string());
    headers
}

/// The answer to a GET or HEAD of an account or container.
pub fn listing(call: &Call, mut headers: Headers, format: Format, body: String) -> Response {
    headers.append("Accept-Ranges", "bytes");
    headers.append("Content-Type", format.content_type());
    if !call.target.query.has("format") {
        headers.append("Vary", "Accept");
    }
    let status = if body.is_empty() { 204 } else { 200 };
    let mut response = Response { headers, ..Response::new(status) };
    if body.is_empty() {
        response.headers.append("Content-Length", "0");
    } else {
        response.body = ResponseBody::Bytes(body.into());
    }
    response
}

fn checked(call: &Call, account: &str) -> Result<HeaderUpdate, Answer> {
    path::check_account(&call.service.limits, account)?;
    check_metadata(&call.service.limits, Level::Account, call.headers.iter())?;
    Ok(meta::update(&call.headers, Level::Account))
}

/// Stores settings: the access list and keys. Only owners get here with any.
async fn store_settings(call: &Call, account: &str, owner: bool) -> Result<(), Answer> {
    let mut changes = Secrets::Account.changes(&call.headers);
    if let Some(list) = call.headers.get_str("x-account-access-control") {
        changes.push(("access-control".to_owned(), Some(list.to_owned())));
    }
    if !owner || changes.is_empty() {
        return Ok(());
    }
    let keeper = call.keeper(account).await?;
    let account = account.to_owned();
    call.store(keeper, Doing::Other, move |ns| ns.update_system(&account, None, &changes)).await
}

/// Makes the account if it may appear by itself; false if it may not.
pub async fn create(call: &Call, account: &str) -> Result<bool, Answer> {
    if !call.service.features.account_autocreate {
        return Ok(false);
    }
    make(call, account, Vec::new()).await.map(|_| true)
}

/// Its directory is the server's, or the fixed identity's: no account has an owner before it exists.
async fn make(call: &Call, account: &str, update: HeaderUpdate) -> Result<bool, Answer> {
    let who = call.keeper(account).await?;
    let (account, timestamp) = (account.to_owned(), call.timestamp);
    call.store(who, Doing::Other, move |ns| ns.create_account(&account, update, timestamp)).await
}

async fn put(call: &Call, account: &str, owner: bool) -> Result<Response, Answer> {
    let update = checked(call, account)?;
    let made = make(call, account, update).await?;
    store_settings(call, account, owner).await?;
    Ok(call::done(if made { 201 } else { 202 }))
}

async fn post(call: &Call, account: &str, owner: bool) -> Result<Response, Answer> {
    let update = checked(call, account)?;
    let who = call.identity(account).await?;
    let limits = call.service.limits.clone();
    let timestamp = call.timestamp;
    let (name, change) = (account.to_owned(), update.clone());
    let job = move |ns: &Namespace| {
        let mut after = ns.account_info(&name)?.headers;
        meta::apply(&mut after, &change);
        if let Err(answer) =
            check_total(&limits, Level::Account, after.iter().map(|(k, v)| (k.as_str(), v.as_slice())))
        {
            return Ok(Err(answer));
        }
        ns.update_account(&name, change, timestamp).map(Ok)
    };
    match call.run(who, job).await? {
        Err(Error::NoAccount) if call.service.features.account_autocreate => {
            make(call, account, update).await?;
        }
        other => other.map_err(|e| call::failure(&e, Doing::Other))??,
    }
    store_settings(call, account, owner).await?;
    Ok(call::done(204))
}

async fn delete(call: &Call, account: &str) -> Result<Response, Answer> {
    // A query is most likely meant for something that deletes in bulk, not for the whole account.
    if !call.target.query.is_empty() {
        return Err(Answer::new(400));
    }
    let who = call.keeper(account).await?;
    let account = account.to_owned();
    call.store(who, Doing::Other, move |ns| ns.delete_account(&account)).await?;
    Ok(call::done(204))
}
