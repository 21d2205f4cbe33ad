//! PUT of objects: small ones in one job, large ones streamed into a temporary file.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use lustre::identity::Identity;
use namespace::metadata::Slo;
use namespace::{Error, Namespace, ObjectMeta, ObjectName, Published, Timestamp, Upload};
use tokio::sync::mpsc;

use super::exists;
use super::look::SMALL;
use crate::http::{Body, BodyError, FileRange, Headers, Piece, Response, ResponseBody};
use crate::swift::call::{self, Call, Doing};
use crate::swift::conditional::Conditions;
use crate::swift::errors::Answer;
use crate::swift::{constraints, content_type, dlo, meta, text};

/// Bytes that one job copies from a file.
const COPIED_AT_ONCE: u64 = 16 << 20;

/// What is to be uploaded.
pub struct Input {
    /// The bytes.
    pub supply: Supply,
    /// How many, if that is known.
    pub length: Option<u64>,
    /// Whether the client announced a length at all, or sends chunks.
    pub announced: bool,
    /// Set if they are a manifest.
    pub slo: Option<Slo>,
    /// The ETag that they must have.
    pub etag: Option<String>,
}

/// Where the bytes come from.
pub enum Supply {
    /// The client.
    Wire(Body),
    /// The answer to an internal GET.
    Pieces(VecDeque<Piece>, Option<mpsc::Receiver<std::io::Result<Piece>>>),
}

/// A part of an upload.
enum Chunk {
    Bytes(Bytes),
    File(FileRange),
}

impl Supply {
    /// Takes the body of an internal GET.
    pub fn of(body: ResponseBody) -> Self {
        match body {
            ResponseBody::Empty => Self::Pieces(VecDeque::new(), None),
            ResponseBody::Bytes(bytes) => Self::Pieces([Piece::Bytes(bytes)].into(), None),
            ResponseBody::File(range) => Self::Pieces([Piece::File(range)].into(), None),
            ResponseBody::Pieces { pieces, .. } => Self::Pieces(VecDeque::new(), Some(pieces)),
        }
    }

    async fn next(&mut self) -> Result<Option<Chunk>, Answer> {
        match self {
            Self::Wire(body) => Ok(body.chunk().await.map_err(body_failure)?.map(Chunk::Bytes)),
            Self::Pieces(ready, more) => loop {
                let piece = match (ready.pop_front(), &mut *more) {
                    (Some(piece), _) => piece,
                    (None, None) => return Ok(None),
                    (None, Some(more)) => match more.recv().await {
                        None => return Ok(None),
                        Some(Ok(piece)) => piece,
                        // The source broke in the middle: nothing may be published.
                        Some(Err(_)) => return Err(Answer::new(409)),
                    },
                };
                match piece {
                    Piece::Bytes(bytes) if bytes.is_empty() => {}
                    Piece::Bytes(bytes) => return Ok(Some(Chunk::Bytes(bytes))),
                    Piece::File(mut range) => {
                        let rest = range.len.saturating_sub(COPIED_AT_ONCE);
                        if rest > 0 {
                            let mut later = range.clone();
                            later.offset += COPIED_AT_ONCE;
                            later.len = rest;
                            range.len = COPIED_AT_ONCE;
                            ready.push_front(Piece::File(later));
                        }
                        return Ok(Some(Chunk::File(range)));
                    }
                }
            },
        }
    }
}

/// The answer to a body that did not come.
pub fn body_failure(error: BodyError) -> Answer {
    Answer::new(error.status())
}

/// The type and the other metadata of an upload, from its headers.
pub fn meta_of(call: &Call, name: &ObjectName, headers: &Headers) -> Result<ObjectMeta, Answer> {
    if let Some(value) = headers.get("x-object-manifest") {
        dlo::check(value)?;
    }
    let detect = headers.get("x-detect-content-type").is_some_and(text::is_true);
    let given = headers.get("content-type").filter(|value| !value.is_empty() && !detect);
    let kind = given.unwrap_or_else(|| content_type::guess(&name.object).as_bytes());
    constraints::check_content_type(kind)?;
    constraints::check_metadata(&call.service.limits, constraints::Level::Object, headers.iter())?;
    let content_type = String::from_utf8_lossy(kind).into_owned();
    content_type::check(&content_type)?;
    let delete_at = constraints::delete_at(
        headers.get("x-delete-after"),
        headers.get("x-delete-at"),
        call.timestamp.units(),
    )?;
    Ok(ObjectMeta {
        content_type: Some(content_type),
        delete_at,
        headers: meta::of_object(headers),
        slo: None,
        directory: false,
        exclusive: false,
    })
}

/// Answers a PUT whose body is the object.
pub async fn put(call: &Arc<Call>, name: ObjectName, body: Body) -> Result<Response, Answer> {
    let announced = call.headers.contains("content-length") || call.headers.contains("transfer-encoding");
    let input = Input {
        length: body.length(),
        announced,
        slo: None,
        etag: call.header_text("etag").map(|tag| text::bare_etag(tag).to_owned()),
        supply: Supply::Wire(body),
    };
    let published = upload(call, &name, input, &call.headers).await?;
    Ok(created(&published))
}

/// The answer to a successful upload.
pub fn created(published: &Published) -> Response {
    let mut response = call::done(201);
    response.headers.append("Etag", text::hex(&published.md5));
    response.headers.append("Last-Modified", published.timestamp.last_modified_http());
    response
}

/// Checks and uploads. What is stored beside the bytes comes from `headers`.
pub async fn upload(
    call: &Arc<Call>,
    name: &ObjectName,
    mut input: Input,
    headers: &Headers,
) -> Result<Published, Answer> {
    let exclusive = Conditions::read(|header| headers.get(header)).for_upload()?;
    let limits = &call.service.limits;
    let who = call.identity(&name.account).await?;
    let checked = constraints::check_length(limits, input.length.filter(|_| input.announced), {
        input.length.is_none() && input.announced
    })
    .and_then(|()| crate::swift::path::check_object(limits, &name.object))
    .and_then(|()| meta_of(call, name, headers));
    let expected = input.etag.as_deref().map(md5_of).transpose();
    let (meta, expected) = match (checked, expected) {
        (Ok(meta), Ok(expected)) => (meta, expected),
        // A missing container goes before what is wrong with the request.
        (Err(answer), _) | (_, Err(answer)) => {
            let (account, container) = (name.account.clone(), name.container.clone());
            call.store(who, Doing::Upload, move |ns| ns.container_headers(&account, &container)).await?;
            return Err(answer);
        }
    };
    let meta = ObjectMeta { slo: input.slo, exclusive, ..meta };
    if let Supply::Wire(body) = &mut input.supply {
        body.set_limit(limits.max_file_size);
    }
    let job = Job { name: name.clone(), meta, timestamp: call.timestamp, expected, length: input.length };
    if input.length.is_some_and(|length| length <= SMALL) {
        return small(call, who, job, input.supply).await;
    }
    stream(call, who, job, input.supply).await
}

/// The MD5 that an ETag promises; what is none can never be met.
pub fn md5_of(etag: &str) -> Result<[u8; 16], Answer> {
    let mut md5 = [0; 16];
    let digits = etag.as_bytes();
    let lower = digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() != 32 || !lower {
        return Err(Answer::new(422));
    }
    let value = |b: u8| if b.is_ascii_digit() { b - b'0' } else { b - b'a' + 10 };
    for (byte, pair) in md5.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0]) << 4 | value(pair[1]);
    }
    Ok(md5)
}

/// An upload as the store sees it.
struct Job {
    name: ObjectName,
    meta: ObjectMeta,
    timestamp: Timestamp,
    expected: Option<[u8; 16]>,
    length: Option<u64>,
}

impl Job {
    /// Empty objects of type `application/directory` are directories.
    fn settle(&mut self, size: u64) {
        let kind = self.meta.content_type.as_deref().map(content_type::essence);
        let plain = self.meta.slo.is_none() && meta::find(&self.meta.headers, "x-object-manifest").is_none();
        self.meta.directory = size == 0 && plain && kind == Some("application/directory");
    }

    /// Spares the client an upload that will not be published.
    fn check(&self, ns: &Namespace) -> Result<(), Error> {
        if self.meta.exclusive && exists(ns, &self.name)? { Err(Error::Exists) } else { Ok(()) }
    }
}

type Who = Option<Arc<Identity>>;

/// Gathers the body, then publishes it in one job.
async fn small(call: &Call, who: Who, mut job: Job, mut supply: Supply) -> Result<Published, Answer> {
    let mut whole: Option<Bytes> = None;
    let mut more: Vec<u8> = Vec::new();
    while let Some(chunk) = supply.next().await? {
        let bytes = match chunk {
            Chunk::Bytes(bytes) => bytes,
            Chunk::File(range) => call.run(None, move |_| read(&range)).await??,
        };
        match &whole {
            None => whole = Some(bytes),
            Some(first) => {
                if more.is_empty() {
                    more.reserve(job.length.unwrap_or(SMALL) as usize);
                    more.extend_from_slice(first);
                }
                more.extend_from_slice(&bytes);
            }
        }
    }
    let body = if more.is_empty() { whole.unwrap_or_default() } else { more.into() };
    if job.length.is_some_and(|length| length != body.len() as u64) {
        return Err(Answer::new(499));
    }
    job.settle(body.len() as u64);
    let put = move |ns: &Namespace| ns.put_object(&job.name, &body, job.meta, job.timestamp, job.expected);
    call.store(who, Doing::Upload, put).await
}

fn read(range: &FileRange) -> Result<Bytes, Answer> {
    let mut buffer = vec![0; range.len as usize];
    // The source was cut while it was copied.
    range.file.read_exact_at(&mut buffer, range.offset).map_err(|_| Answer::new(409))?;
    Ok(buffer.into())
}

/// An upload between two jobs. Dropped, it is given up where blocking is allowed.
struct Held<'a> {
    call: &'a Call,
    who: Who,
    upload: Option<Upload>,
}

impl Held<'_> {
    /// Runs `job` on the upload.
    async fn with<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&Namespace, &mut Upload) -> Result<T, Answer> + Send + 'static,
    ) -> Result<T, Answer> {
        let Some(mut upload) = self.upload.take() else { return Err(Answer::new(500)) };
        let run = self.call.run(self.who.clone(), move |ns| {
            let result = job(ns, &mut upload);
            (upload, result)
        });
        let (upload, result) = run.await?;
        self.upload = Some(upload);
        result
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            let namespace = Arc::clone(&self.call.service.namespace);
            // With a full queue the file goes at once, from here: late is better than never.
            let _ = self.call.service.pool.run_detached(self.who.clone(), move || upload.abort(&namespace));
        }
    }
}

/// Streams the body: while one chunk is written and hashed, the next one is read.
async fn stream(call: &Call, who: Who, mut job: Job, mut supply: Supply) -> Result<Published, Answer> {
    let started = Instant::now();
    let (name, length, timestamp) = (job.name.clone(), job.length, job.timestamp);
    let begun = call
        .run(who.clone(), move |ns| {
            let begun = job.check(ns).and_then(|()| ns.begin(&name, length, timestamp));
            (job, begun.map_err(|e| call::failure(&e, Doing::Upload)))
        })
        .await?;
    job = begun.0;
    let mut held = Held { call, who: who.clone(), upload: Some(begun.1?) };
    let most = call.service.limits.max_file_size;
    let mut taken = 0_u64;
    let mut chunk = supply.next().await?;
    while let Some(now) = chunk.take() {
        taken = taken.saturating_add(match &now {
            Chunk::Bytes(bytes) => bytes.len() as u64,
            Chunk::File(range) => range.len,
        });
        if taken > most {
            return Err(Answer::new(413));
        }
        if started.elapsed() > call.service.max_upload {
            return Err(Answer::new(408));
        }
        let (written, next) = tokio::join!(held.with(move |_, upload| write(upload, &now)), supply.next());
        written?;
        chunk = next?;
    }
    if length.is_some_and(|length| length != taken) {
        return Err(Answer::new(499));
    }
    job.settle(taken);
    let Some(upload) = held.upload.take() else { return Err(Answer::new(500)) };
    let finish = move |ns: &Namespace| ns.finish(upload, job.meta, job.expected);
    call.store(who, Doing::Upload, finish).await
}

fn write(upload: &mut Upload, chunk: &Chunk) -> Result<(), Answer> {
    let failed = |e: Error| call::failure(&e, Doing::Upload);
    let range = match chunk {
        Chunk::Bytes(bytes) => return upload.write(bytes).map_err(failed),
        Chunk::File(range) => range,
    };
    let mut done = 0;
    while done < range.len {
        let len = (range.len - done).min(256 << 10);
        let part = FileRange { offset: range.offset + done, len, ..range.clone() };
        upload.write(&read(&part)?).map_err(failed)?;
        done += len;
    }
    Ok(())
}

/// Copies a whole file whose MD5 is known, sharing blocks where the file system can.
pub async fn clone_file(
    call: &Arc<Call>,
    name: &ObjectName,
    source: FileRange,
    md5: [u8; 16],
    headers: &Headers,
) -> Result<Published, Answer> {
    let exclusive = Conditions::read(|header| headers.get(header)).for_upload()?;
    crate::swift::path::check_object(&call.service.limits, &name.object)?;
    let meta = ObjectMeta { exclusive, ..meta_of(call, name, headers)? };
    let who = call.identity(&name.account).await?;
    let (timestamp, length) = (call.timestamp, Some(source.len));
    let mut job = Job { name: name.clone(), meta, timestamp, expected: Some(md5), length };
    job.settle(source.len);
    let copy = move |ns: &Namespace| {
        job.check(ns)?;
        let mut upload = ns.begin(&job.name, job.length, job.timestamp)?;
        match upload.copy_from(ns, &source.file, source.len, md5) {
            Ok(()) => ns.finish(upload, job.meta, job.expected),
            Err(e) => {
                upload.abort(ns);
                Err(e)
            }
        }
    };
    call.store(who, Doing::Upload, copy).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_hex_can_be_an_md5() {
        assert_eq!(md5_of("d41d8cd98f00b204e9800998ecf8427e"), Ok(namespace::EMPTY_MD5));
        for etag in ["", "d41d8cd98f00b204e9800998ecf8427", "D41D8CD98F00B204E9800998ECF8427E", "é"] {
            assert_eq!(md5_of(etag).unwrap_err().status, 422);
        }
    }
}
