//! PUT of a manifest: every segment is looked at, then the manifest is stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use namespace::metadata::Slo;
use namespace::{Error, Namespace, ObjectName};
use tokio::sync::mpsc;

use super::put::{self, Input, Supply};
use super::{authorize, open};
use crate::http::{Body, Headers, Piece, Response, ResponseBody};
use crate::swift::call::{self, Call, Doing};
use crate::swift::content_type;
use crate::swift::errors::{self, Answer};
use crate::swift::slo::manifest::{self, Found, Segment};
use crate::swift::slo::report::{Field, Format};
use crate::swift::slo::stored::{Entry, Manifest};
use crate::swift::text;

/// How often a client that wants it hears that the work goes on; `/info` tells.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// Segments that one job looks at.
const LOOKED_AT_ONCE: usize = 100;

/// Answers a PUT with `multipart-manifest=put`.
pub async fn put(call: &Arc<Call>, name: ObjectName, mut body: Body) -> Result<Response, Answer> {
    let most = call.service.limits.max_manifest_size;
    let too_large = || Answer::html(413, format!("Manifest File > {most} bytes"));
    if !call.headers.contains("content-length") && !call.headers.contains("transfer-encoding") {
        return Err(Answer::new(411));
    }
    if body.length().is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let mut json = Vec::new();
    while let Some(chunk) = body.chunk().await.map_err(put::body_failure)? {
        if json.len() + chunk.len() > most {
            return Err(too_large());
        }
        json.extend_from_slice(&chunk);
    }
    put_manifest(call, name, &json, &call.headers).await
}

/// Stores a manifest as a client wrote it.
pub async fn put_manifest(
    call: &Arc<Call>,
    name: ObjectName,
    json: &[u8],
    headers: &Headers,
) -> Result<Response, Answer> {
    let own = format!("{}/{}", name.container, name.object);
    let segments = manifest::parse(json, &own, call.service.limits.max_manifest_segments)?;
    let format = Format::choose(call.header("accept"), true).unwrap_or(Format::Text);
    if call.target.query.flag("heartbeat") {
        return Ok(with_heartbeat(call, name, segments, headers, format));
    }
    store(call, name, segments, headers, format)
        .await
        .map(|(response, _)| response)
        .map_err(|(answer, _)| answer)
}

/// Answers at once, sends a blank now and then while the work goes on, and at last a report.
fn with_heartbeat(
    call: &Arc<Call>,
    name: ObjectName,
    segments: Vec<Segment>,
    headers: &Headers,
    format: Format,
) -> Response {
    let (sender, pieces) = mpsc::channel(2);
    let (call, headers) = (Arc::clone(call), headers.clone());
    tokio::spawn(async move {
        let blank = || Ok(Piece::Bytes(Bytes::from_static(b" ")));
        let work = store(&call, name, segments, &headers, format);
        tokio::pin!(work);
        let mut beats = tokio::time::interval(HEARTBEAT);
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                // The first one comes at once.
                _ = beats.tick() => if sender.send(blank()).await.is_err() { return },
            }
        };
        let report = format!("\r\n\r\n{}", report(format, outcome));
        // The client has gone; the work is done all the same.
        let _ = sender.send(blank()).await;
        let _ = sender.send(Ok(Piece::Bytes(report.into()))).await;
    });
    let body = ResponseBody::Pieces { length: None, pieces };
    Response { body, ..Response::new(202) }.header("Content-Type", format.content_type())
}

fn report(format: Format, outcome: Result<(Response, String), (Answer, Problems)>) -> String {
    let text = |value: &str| Field::Text(value.to_owned());
    match outcome {
        Ok((response, last_modified)) => {
            let fields = [
                ("Response Status", Field::Text(errors::line(response.status))),
                ("Etag", text(response.headers.get_str("etag").unwrap_or_default())),
                ("Last Modified", Field::Text(last_modified)),
                ("Response Body", text("")),
            ];
            format.write("upload", &fields, &[])
        }
        Err((answer, problems)) => {
            let body = if problems.is_empty() && answer.status != 422 {
                String::from_utf8_lossy(&answer.body).into_owned()
            } else {
                errors::explanation(answer.status)
            };
            let fields =
                [("Response Status", Field::Text(answer.line())), ("Response Body", Field::Text(body))];
            format.write("upload", &fields, &problems)
        }
    }
}

type Problems = Vec<(String, String)>;

/// The answer, with Last-Modified as text; or a failure with the segments that caused it.
async fn store(
    call: &Arc<Call>,
    name: ObjectName,
    segments: Vec<Segment>,
    headers: &Headers,
    format: Format,
) -> Result<(Response, String), (Answer, Problems)> {
    let plain = |answer: Answer| (answer, Problems::new());
    let found = look(call, &name.account, &segments).await.map_err(plain)?;
    let last = segments.len().saturating_sub(1);
    let mut problems = Problems::new();
    let mut entries = Vec::with_capacity(segments.len());
    for (at, segment) in segments.into_iter().enumerate() {
        match segment {
            Segment::Data(bytes) => entries.push(Entry::data(bytes)),
            Segment::Object(segment) => {
                let found = match found.get(&segment.path) {
                    Some(Ok(found)) => Ok(found),
                    Some(Err(status)) => Err(status.as_str()),
                    None => Err("404 Not Found"),
                };
                entries.extend(manifest::check(&segment, found, at == last, &mut problems));
            }
        }
    }
    if !problems.is_empty() {
        let body = format.write("upload", &[], &problems);
        let answer = Answer { content_type: format.content_type(), ..Answer::html(400, body) };
        return Err((answer, problems));
    }
    let manifest = Manifest { entries };
    let etag = text::hex(&manifest.etag());
    let wanted = headers.get_str("etag").map(text::bare_etag).filter(|tag| !tag.is_empty());
    if wanted.is_some_and(|wanted| wanted != etag) {
        return Err(plain(Answer::new(422)));
    }
    let json = Bytes::from(manifest.to_json());
    let slo = Slo { etag: manifest.etag(), size: manifest.size(), kept: None };
    let input = Input {
        length: Some(json.len() as u64),
        announced: true,
        slo: Some(slo),
        etag: None,
        supply: Supply::of(ResponseBody::Bytes(json)),
    };
    let published = put::upload(call, &name, input, headers).await.map_err(plain)?;
    let last_modified = published.timestamp.last_modified_http();
    let mut response = call::done(201);
    response.headers.append("Etag", format!("\"{etag}\""));
    response.headers.append("Last-Modified", &last_modified);
    Ok((response, last_modified))
}

type Looked = HashMap<String, Result<Found, String>>;

/// Looks at every object that is named, each once.
async fn look(call: &Arc<Call>, account: &str, segments: &[Segment]) -> Result<Looked, Answer> {
    let mut looked = Looked::new();
    let mut allowed: HashMap<String, Option<String>> = HashMap::new();
    let mut wanted = Vec::new();
    for segment in segments {
        let Segment::Object(segment) = segment else { continue };
        if looked.contains_key(&segment.path) {
            continue;
        }
        let Some((container, object)) = segment.target() else { continue };
        let name = ObjectName::new(account, container, object);
        if !allowed.contains_key(container) {
            let refused = authorize(call, "HEAD", &name).await.err().map(|answer| answer.line());
            allowed.insert(container.to_owned(), refused);
        }
        let refused = allowed.get(container).cloned().flatten();
        if refused.is_none() {
            wanted.push((segment.path.clone(), name));
        }
        looked.insert(segment.path.clone(), Err(refused.unwrap_or_default()));
    }
    let who = call.identity(account).await?;
    while !wanted.is_empty() {
        let rest = wanted.split_off(wanted.len().min(LOOKED_AT_ONCE));
        let batch = std::mem::replace(&mut wanted, rest);
        let found = call
            .run(who.clone(), move |ns| {
                let look = |(path, name): (String, ObjectName)| (path, head(ns, &name));
                batch.into_iter().map(look).collect::<Vec<_>>()
            })
            .await?;
        looked.extend(found);
    }
    Ok(looked)
}

/// What a HEAD of a segment tells; an unknown MD5 is taken now, because the manifest must hold it.
fn head(ns: &Namespace, name: &ObjectName) -> Result<Found, String> {
    let look = || -> Result<Found, Error> {
        let mut info = open(ns, name)?.info;
        if info.etag.is_none() {
            ns.compute_etag(name, &mut |_| true)?;
            info = open(ns, name)?.info;
        }
        let kind = info.content_type.as_deref().unwrap_or_else(|| content_type::guess(&name.object));
        let md5 = info.slo.map(|slo| slo.etag).or(info.etag);
        Ok(Found {
            size: info.slo.map_or(info.size, |slo| slo.size),
            etag: md5.map(|md5| text::hex(&md5)).unwrap_or_default(),
            content_type: content_type::essence(kind).to_owned(),
            last_modified: info.timestamp.seconds_up(),
            is_slo: info.slo.is_some(),
        })
    };
    look().map_err(|e| call::failure(&e, Doing::Other).line())
}
