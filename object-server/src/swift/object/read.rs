//! GET and HEAD of objects: plain files, static and dynamic large objects, manifests as they are.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use namespace::{Error, ObjectInfo, ObjectName};
use tokio::sync::mpsc;

use super::look::{Content, Found, Plain, Verdict, judge, look};
use super::segments::{self, Slo, Source, Step};
use crate::http::{FileRange, Headers, Piece, Response, ResponseBody};
use crate::swift::call::{self, Call, Doing};
use crate::swift::conditional::Conditions;
use crate::swift::errors::Answer;
use crate::swift::range::{self, Multipart, Ranges};
use crate::swift::slo::stored::Manifest;
use crate::swift::{content_type, dlo, text};

/// How a manifest is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// As the large object.
    Content,
    /// As it is stored.
    Manifest,
    /// As it can be uploaded again.
    Raw,
}

/// A GET or HEAD.
#[derive(Debug, Clone)]
pub struct Request {
    /// Of what.
    pub name: ObjectName,
    /// Whether it is a HEAD.
    pub head: bool,
    /// The conditions.
    pub conditions: Conditions,
    /// The Range header.
    pub ranges: Option<Ranges>,
    /// How a manifest is shown.
    pub show: Show,
    /// The part-number parameter, judged only if the object is a static large one.
    pub part: Option<Result<usize, Answer>>,
}

impl Request {
    /// The request that a client made.
    pub fn of(call: &Call, name: ObjectName) -> Result<Self, Answer> {
        let query = &call.target.query;
        let show = match (query.text("multipart-manifest")?, query.text("format")?) {
            (Some("get"), Some("raw")) => Show::Raw,
            (Some("get"), _) => Show::Manifest,
            _ => Show::Content,
        };
        let head = call.is_head();
        let ranges = call.header("range").and_then(Ranges::parse);
        let part = query.text("part-number")?.map(|text| part_number(text, ranges.is_some()));
        Ok(Self {
            name,
            head,
            conditions: Conditions::read(|header| call.header(header)),
            ranges: ranges.filter(|_| !head),
            show,
            part,
        })
    }
}

fn part_number(text: &str, ranged: bool) -> Result<usize, Answer> {
    let number = text::integer(text).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let Some(number) = number else {
        return Err(Answer::html(400, "Part number must be an integer greater than 0"));
    };
    if ranged {
        let text = "Range requests are not supported with part number queries";
        return Err(Answer::html(400, text));
    }
    Ok(number)
}

/// Answers a GET or HEAD.
pub async fn serve(call: &Arc<Call>, request: Request) -> Result<Response, Answer> {
    let who = call.identity(&request.name.account).await?;
    let (request, found) = call
        .run(who, move |ns| {
            let found = look(ns, &request);
            (request, found)
        })
        .await?;
    let found = match found {
        Ok(found) => found,
        Err(Error::NoObject | Error::NoContainer | Error::NoAccount) => {
            return Err(match request.conditions.missing() {
                412 => Answer::html(412, ""),
                status => Answer::new(status),
            });
        }
        Err(e) => return Err(call::failure(&e, Doing::Other)),
    };
    let Found { info, content } = found;
    match content {
        Content::Plain(verdict, body) => Ok(plain(call, &request, &info, verdict, body)),
        Content::Raw(json) => Ok(raw(&request, &info, json)),
        Content::Slo(manifest, file) => serve_slo(call, &request, &info, manifest, file).await,
        Content::Dlo(manifest) => serve_dlo(call, &request, &info, manifest).await,
    }
}

/// The headers of an object, but Etag, Content-Length and Content-Type.
fn headers_of(info: &ObjectInfo) -> Headers {
    let mut headers = Headers::with_capacity(16, 512);
    headers.append("Accept-Ranges", "bytes");
    headers.append("Last-Modified", info.timestamp.last_modified_http());
    headers.append("X-Timestamp", info.timestamp.to_string());
    if let Some(at) = info.delete_at {
        headers.append("X-Delete-At", at.to_string());
    }
    if info.slo.is_some() {
        headers.append("X-Static-Large-Object", "True");
    }
    for (name, value) in &info.headers {
        headers.append(&text::title_case(name), value);
    }
    headers
}

fn type_of(info: &ObjectInfo, name: &ObjectName) -> String {
    match &info.content_type {
        Some(kind) => kind.clone(),
        None if info.directory => "application/directory".to_owned(),
        None => content_type::guess(&name.object).to_owned(),
    }
}

/// The answer but for its body, and the steps that make the body.
fn frame(
    mut headers: Headers,
    verdict: Verdict,
    length: u64,
    kind: &str,
    head: bool,
) -> (Response, Vec<Step>) {
    let mut steps = Vec::new();
    let status = match verdict {
        Verdict::Unmet(status) => {
            headers.append("Content-Type", kind);
            headers.append("Content-Length", "0");
            status
        }
        Verdict::Unsatisfiable => {
            headers.append("Content-Type", kind);
            headers.append("Content-Range", range::unsatisfied(length));
            let body = ResponseBody::Bytes(Answer::new(416).body);
            return (Response { headers, body, ..Response::new(416) }, steps);
        }
        Verdict::Send(None) => {
            headers.append("Content-Type", kind);
            if head {
                headers.append("Content-Length", length.to_string());
            } else {
                steps.push(Step::Span(0..length));
            }
            200
        }
        Verdict::Send(Some(parts)) => {
            if let [part] = parts.as_slice() {
                headers.append("Content-Type", kind);
                headers.append("Content-Range", range::content_range(part, length));
                steps.push(Step::Span(part.clone()));
            } else {
                let multipart = Multipart::new(kind, length, boundary());
                headers.append("Content-Type", multipart.content_type());
                for part in parts {
                    steps.push(Step::Bytes(multipart.head(&part).into()));
                    steps.push(Step::Span(part));
                    steps.push(Step::Bytes(Bytes::from_static(Multipart::TAIL)));
                }
                steps.push(Step::Bytes(multipart.close().into()));
            }
            206
        }
    };
    (Response { headers, ..Response::new(status) }, steps)
}

/// A boundary that nobody can have put into an object on purpose.
fn boundary() -> [u8; 16] {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Only a guess away from the content then, never a failure.
        bytes = std::process::id().to_le_bytes().repeat(4).try_into().unwrap_or(bytes);
    }
    bytes
}

/// The length of what the steps make.
fn length_of(steps: &[Step]) -> u64 {
    steps.iter().map(Step::size).sum()
}

fn plain(call: &Call, request: &Request, info: &ObjectInfo, verdict: Verdict, body: Plain) -> Response {
    let mut headers = headers_of(info);
    match (&info.slo, request.show) {
        (Some(slo), Show::Content) => {
            headers.append("Etag", format!("\"{}\"", text::hex(&slo.etag)));
            if let Some(md5) = info.etag {
                headers.append("X-Manifest-Etag", text::hex(&md5));
            }
        }
        _ => {
            if let Some(md5) = info.etag {
                headers.append("Etag", text::hex(&md5));
            }
        }
    }
    let kind = match (request.show, info.slo) {
        (Show::Manifest, Some(_)) => "application/json; charset=utf-8".to_owned(),
        _ => type_of(info, &request.name),
    };
    let (mut response, steps) = frame(headers, verdict, info.size, &kind, request.head);
    match body {
        Plain::None => {}
        Plain::Bytes(parts) => response.body = ResponseBody::Bytes(join(&steps, parts)),
        Plain::File(file) => response.body = file_body(call, file, &steps),
    }
    response
}

/// The body that the steps make of a file.
fn file_body(call: &Call, file: File, steps: &[Step]) -> ResponseBody {
    let file = Arc::new(file);
    let range = |span: &Range<u64>| FileRange {
        file: Arc::clone(&file),
        offset: span.start,
        len: span.end - span.start,
        pool: call.service.pool.clone(),
    };
    if let [Step::Span(span)] = steps {
        return ResponseBody::File(range(span));
    }
    let pieces = steps.iter().map(|step| match step {
        Step::Bytes(bytes) => Piece::Bytes(bytes.clone()),
        Step::Span(span) => Piece::File(range(span)),
    });
    known_pieces(length_of(steps), pieces)
}

/// Puts the parts that were read between the framing.
fn join(steps: &[Step], parts: Vec<Bytes>) -> Bytes {
    if let ([Step::Span(_)], [part]) = (steps, parts.as_slice()) {
        return part.clone();
    }
    let mut parts = parts.into_iter();
    let mut all = Vec::with_capacity(length_of(steps) as usize);
    for step in steps {
        match step {
            Step::Bytes(bytes) => all.extend_from_slice(bytes),
            Step::Span(_) => all.extend_from_slice(&parts.next().unwrap_or_default()),
        }
    }
    all.into()
}

/// Pieces that are all known now.
fn known_pieces(length: u64, pieces: impl ExactSizeIterator<Item = Piece>) -> ResponseBody {
    let (sender, receiver) = mpsc::channel(pieces.len().max(1));
    for piece in pieces {
        // There is room for each, and the receiver is here.
        let _ = sender.try_send(Ok(piece));
    }
    ResponseBody::Pieces { length: Some(length), pieces: receiver }
}

fn raw(request: &Request, info: &ObjectInfo, json: String) -> Response {
    use md5::{Digest as _, Md5};
    let etag = text::hex(&Md5::digest(&json));
    let length = json.len() as u64;
    let verdict = judge(request, Some(&etag), info.timestamp.seconds_up(), length);
    let mut headers = headers_of(info);
    headers.append("Etag", etag);
    let (mut response, steps) = frame(headers, verdict, length, &type_of(info, &request.name), request.head);
    let json = Bytes::from(json);
    let parts = steps.iter().filter_map(|step| match step {
        Step::Span(span) => Some(json.slice(span.start as usize..span.end as usize)),
        Step::Bytes(_) => None,
    });
    if !steps.is_empty() {
        response.body = ResponseBody::Bytes(join(&steps, parts.collect()));
    }
    response
}

async fn serve_slo(
    call: &Arc<Call>,
    request: &Request,
    info: &ObjectInfo,
    manifest: Manifest,
    assembled: Option<File>,
) -> Result<Response, Answer> {
    let part = request.part.clone().transpose()?;
    let length = manifest.size();
    let etag = text::hex(&manifest.etag());
    let mut headers = headers_of(info);
    headers.append("Etag", format!("\"{etag}\""));
    if let Some(md5) = info.etag {
        headers.append("X-Manifest-Etag", text::hex(&md5));
    }
    let kind = type_of(info, &request.name);
    let mut verdict = judge(request, Some(&etag), info.timestamp.seconds_up(), length);
    if let Some(part) = part {
        headers.append("X-Parts-Count", manifest.entries.len().to_string());
        if !matches!(verdict, Verdict::Unmet(_)) {
            let Some(span) = part_span(&manifest, part) else {
                return Ok(no_such_part(headers, &kind, length, request.head));
            };
            if request.head {
                headers.append("Content-Type", kind);
                headers.append("Content-Length", (span.end - span.start).to_string());
                headers.append("Content-Range", range::content_range(&span, length));
                return Ok(Response { headers, ..Response::new(206) });
            }
            verdict = Verdict::Send(Some(vec![span]));
        }
    }
    let (mut response, steps) = frame(headers, verdict, length, &kind, request.head);
    if let Some(file) = assembled.filter(|_| !steps.is_empty()) {
        response.body = file_body(call, file, &steps);
    } else if !steps.is_empty() {
        let total = length_of(&steps);
        let source = Source::Slo(Slo::new(call, &request.name.account, manifest));
        response.body = segments::stream(call, source, steps, Some(total)).await?;
    }
    Ok(response)
}

/// The bytes of a part, counted from 1.
fn part_span(manifest: &Manifest, part: usize) -> Option<Range<u64>> {
    let length = manifest.entries.get(part - 1)?.length;
    let start = manifest.entries[..part - 1].iter().map(|entry| entry.length).sum();
    Some(start..start + length)
}

fn no_such_part(mut headers: Headers, kind: &str, length: u64, head: bool) -> Response {
    headers.append("Content-Type", kind);
    headers.append("Content-Range", range::unsatisfied(length));
    if head {
        headers.append("Content-Length", "0");
        return Response { headers, ..Response::new(416) };
    }
    let body = ResponseBody::Bytes(Bytes::from_static(b"The requested part number is not satisfiable"));
    Response { headers, body, ..Response::new(416) }
}

async fn serve_dlo(
    call: &Arc<Call>,
    request: &Request,
    info: &ObjectInfo,
    manifest: dlo::Manifest,
) -> Result<Response, Answer> {
    let mut source = segments::Dlo::new(call, &request.name.account, manifest).await?;
    let page = source.page();
    let mut headers = headers_of(info);
    let etag = page.etag();
    if let Some(etag) = &etag {
        headers.append("Etag", format!("\"{etag}\""));
    }
    let kind = type_of(info, &request.name);
    let modified = info.timestamp.seconds_up();
    if let Some(status) = request.conditions.check(etag.as_deref(), modified) {
        return Ok(frame(headers, Verdict::Unmet(status), 0, &kind, request.head).0);
    }
    let held = request.conditions.range_holds(etag.as_deref(), modified);
    let ranges = request.ranges.as_ref().filter(|_| held && !request.head);
    let (verdict, length) = match page.answer(ranges) {
        dlo::Answering::Whole(length) => (Verdict::Send(None), length),
        dlo::Answering::Part(part, length) => (Verdict::Send(Some(vec![part])), Some(length)),
        dlo::Answering::Unsatisfiable(Some(length)) => (Verdict::Unsatisfiable, Some(length)),
        dlo::Answering::Unsatisfiable(None) => return Err(Answer::new(416).with("Accept-Ranges", "bytes")),
    };
    if length.is_none() && request.head {
        headers.append("Content-Type", kind);
        return Ok(Response { headers, ..Response::new(200) });
    }
    let (mut response, steps) = frame(headers, verdict, length.unwrap_or(u64::MAX), &kind, request.head);
    if !steps.is_empty() {
        source.rewind();
        let total = length.map(|_| length_of(&steps));
        response.body = segments::stream(call, Source::Dlo(source), steps, total).await?;
    }
    Ok(response)
}
