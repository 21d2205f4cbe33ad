//! The bodies of large objects: pieces of other objects, opened one after the other while the client reads.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use namespace::{Error, ListQuery, Namespace, Object, ObjectName, Row};
use tokio::sync::mpsc;

use super::{authorize, look, open};
use crate::http::{FileRange, Piece, ResponseBody};
use crate::swift::call::{self, Call, Doing, Scope};
use crate::swift::dlo;
use crate::swift::errors::Answer;
use crate::swift::slo::MAX_DEPTH;
use crate::swift::slo::plan::{self, Plan};
use crate::swift::slo::stored::{Manifest, Source as Origin};
use crate::swift::text;

/// Sub-manifests remembered while one body is sent.
const REMEMBERED: usize = 20;

/// A part of a body.
#[derive(Debug, Clone)]
pub enum Step {
    /// Framing.
    Bytes(Bytes),
    /// Bytes of the large object.
    Span(Range<u64>),
}

impl Step {
    /// How many bytes it makes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Span(span) => span.end - span.start,
        }
    }
}

/// Why a body cannot go on.
#[derive(Debug)]
pub enum Fault {
    /// A segment is not what it should be.
    Segment(String),
    /// The store or the pool failed.
    Failed(Answer),
}

/// Where the bytes of a large object come from.
#[derive(Debug)]
pub enum Source {
    /// A manifest.
    Slo(Slo),
    /// A prefix.
    Dlo(Dlo),
}

impl Source {
    fn seek(&mut self, span: Range<u64>) {
        match self {
            Self::Slo(slo) => slo.seek(span),
            Self::Dlo(dlo) => dlo.seek(span),
        }
    }

    async fn next(&mut self) -> Result<Option<Piece>, Fault> {
        match self {
            Self::Slo(slo) => slo.next().await,
            Self::Dlo(dlo) => dlo.next().await,
        }
    }
}

/// Makes a body of the steps. The first segment is opened before the answer begins, so that a broken one is a
/// 409 and not a broken connection.
pub async fn stream(
    call: &Call,
    source: Source,
    steps: Vec<Step>,
    length: Option<u64>,
) -> Result<ResponseBody, Answer> {
    let mut body = Pieces { source, steps: steps.into(), spanning: false };
    let mut first = Vec::new();
    loop {
        match body.next().await {
            Ok(None) => break,
            Ok(Some(piece)) => {
                let framing = matches!(piece, Piece::Bytes(_));
                first.push(piece);
                if !framing {
                    break;
                }
            }
            Err(Fault::Failed(answer)) if answer.status >= 500 => return Err(answer),
            Err(fault) => {
                let path = String::from_utf8_lossy(&call.target.path);
                tracing::info!(?fault, %path, "a large object is broken");
                return Err(Answer::new(409));
            }
        }
    }
    let (sender, receiver) = mpsc::channel(first.len().max(2));
    for piece in first {
        // There is room for each, and the receiver is here.
        let _ = sender.try_send(Ok(piece));
    }
    tokio::spawn(async move {
        loop {
            let next = match body.next().await {
                Ok(None) => return,
                Ok(Some(piece)) => Ok(piece),
                Err(fault) => {
                    tracing::warn!(?fault, "a large object broke while it was sent");
                    Err(io::Error::other("a segment is not what the manifest says"))
                }
            };
            let failed = next.is_err();
            // Nobody takes it: the client has gone.
            if sender.send(next).await.is_err() || failed {
                return;
            }
        }
    });
    Ok(ResponseBody::Pieces { length, pieces: receiver })
}

struct Pieces {
    source: Source,
    steps: VecDeque<Step>,
    spanning: bool,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Piece>, Fault> {
        loop {
            if self.spanning {
                if let Some(piece) = self.source.next().await? {
                    return Ok(Some(piece));
                }
                self.spanning = false;
            }
            match self.steps.pop_front() {
                None => return Ok(None),
                Some(Step::Bytes(bytes)) => return Ok(Some(Piece::Bytes(bytes))),
                Some(Step::Span(span)) => {
                    self.source.seek(span);
                    self.spanning = true;
                }
            }
        }
    }
}

/// Opens segments as the caller, who needs the right to read their containers.
#[derive(Debug)]
struct Opener {
    call: Arc<Call>,
    account: String,
    allowed: HashSet<String>,
}

impl Opener {
    fn new(call: &Arc<Call>, account: &str) -> Self {
        Self { call: Arc::clone(call), account: account.to_owned(), allowed: HashSet::new() }
    }

    async fn run<T: Send + 'static>(
        &mut self,
        container: &str,
        object: &str,
        job: impl FnOnce(&Namespace, &ObjectName) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Fault> {
        let name = ObjectName::new(&self.account, container, object);
        let path = || text::quote(format!("/{container}/{object}").as_bytes());
        if !self.allowed.contains(container) {
            if let Err(answer) = authorize(&self.call, "GET", &name).await {
                return Err(Fault::Segment(format!("{} for {}", answer.line(), path())));
            }
            self.allowed.insert(container.to_owned());
        }
        let who = self.call.identity(&self.account).await.map_err(Fault::Failed)?;
        match self.call.run(who, move |ns| job(ns, &name)).await.map_err(Fault::Failed)? {
            Ok(value) => Ok(value),
            Err(e) => {
                let answer = call::failure(&e, Doing::Other);
                if answer.status >= 500 {
                    return Err(Fault::Failed(Answer::new(503)));
                }
                Err(Fault::Segment(format!("{} for {}", answer.line(), path())))
            }
        }
    }
}

fn file_piece(call: &Call, object: Object, span: Range<u64>) -> Piece {
    Piece::File(FileRange {
        file: Arc::new(object.file),
        offset: span.start,
        len: span.end - span.start,
        pool: call.service.pool.clone(),
    })
}

/// The segments of a manifest, and of the manifests that it names.
#[derive(Debug)]
pub struct Slo {
    opener: Opener,
    root: Arc<Manifest>,
    /// One for each manifest within a manifest.
    stack: Vec<Level>,
    known: HashMap<(String, String), Arc<Manifest>>,
}

#[derive(Debug)]
struct Level {
    manifest: Arc<Manifest>,
    pieces: std::vec::IntoIter<plan::Piece>,
}

impl Level {
    fn new(manifest: Arc<Manifest>, span: Range<u64>) -> Self {
        let pieces: Vec<_> = Plan::new(manifest.entries.iter().map(|entry| entry.length), span).collect();
        Self { manifest, pieces: pieces.into_iter() }
    }
}

impl Slo {
    /// Segments of an account.
    pub fn new(call: &Arc<Call>, account: &str, manifest: Manifest) -> Self {
        Self {
            opener: Opener::new(call, account),
            root: Arc::new(manifest),
            stack: Vec::new(),
            known: HashMap::new(),
        }
    }

    fn seek(&mut self, span: Range<u64>) {
        self.stack = vec![Level::new(Arc::clone(&self.root), span)];
    }

    async fn next(&mut self) -> Result<Option<Piece>, Fault> {
        loop {
            let Some(level) = self.stack.last_mut() else { return Ok(None) };
            let Some(piece) = level.pieces.next() else {
                self.stack.pop();
                continue;
            };
            let manifest = Arc::clone(&level.manifest);
            let Some(entry) = manifest.entries.get(piece.segment) else { continue };
            match &entry.source {
                Origin::Data(bytes) => {
                    let start = piece.offset as usize;
                    return Ok(Some(Piece::Bytes(bytes.slice(start..start + piece.len as usize))));
                }
                Origin::Object { container, object, bytes, hash, range, sub_slo, .. } => {
                    let start = range.as_ref().map_or(0, |r| r.start) + piece.offset;
                    let span = start..start + piece.len;
                    if *sub_slo {
                        match self.descend(container, object, span).await? {
                            Some(piece) => return Ok(Some(piece)),
                            None => continue,
                        }
                    }
                    let segment = self.segment(container, object, *bytes, hash).await?;
                    return Ok(Some(file_piece(&self.opener.call, segment, span)));
                }
            }
        }
    }

    /// Goes into a manifest within the manifest. If that was assembled, its file has the bytes.
    async fn descend(
        &mut self,
        container: &str,
        object: &str,
        span: Range<u64>,
    ) -> Result<Option<Piece>, Fault> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(Fault::Segment("manifests are nested too deeply".to_owned()));
        }
        let key = (container.to_owned(), object.to_owned());
        if !self.known.contains_key(&key) {
            let fault = |what: &str| Fault::Segment(format!("/{container}/{object} {what}"));
            let found = self.opener.run(container, object, look::open_content).await?;
            let manifest = match found {
                look::Opened::Assembled(content) if span.end <= content.info.size => {
                    return Ok(Some(file_piece(&self.opener.call, *content, span)));
                }
                look::Opened::Assembled(_) => return Err(fault("is shorter than the manifest says")),
                look::Opened::Manifest(None) => return Err(fault("is no readable manifest any more")),
                look::Opened::Manifest(Some(manifest)) => Arc::new(manifest),
            };
            if self.known.len() >= REMEMBERED {
                self.known.clear();
            }
            self.known.insert(key.clone(), manifest);
        }
        if let Some(manifest) = self.known.get(&key).map(Arc::clone) {
            self.stack.push(Level::new(manifest, span));
        }
        Ok(None)
    }

    /// Opens a segment that is still what the manifest says: its size, and its MD5 even if that must be taken first.
    async fn segment(
        &mut self,
        container: &str,
        object: &str,
        size: u64,
        hash: &str,
    ) -> Result<Object, Fault> {
        let (expected, path) = (hash.to_owned(), format!("/{container}/{object}"));
        let job = move |ns: &Namespace, name: &ObjectName| {
            let mut found = open(ns, name)?;
            if found.info.etag.is_none() && found.info.size == size {
                ns.compute_etag(name, &mut |_| true)?;
                found = open(ns, name)?;
            }
            let etag = found.info.etag.map(|md5| text::hex(&md5));
            let same = found.info.size == size && etag.as_deref() == Some(expected.as_str());
            Ok(same.then_some(found))
        };
        let found = self.opener.run(container, object, job).await?;
        found.ok_or_else(|| Fault::Segment(format!("{path} is not what the manifest says")))
    }
}

/// The objects under a prefix.
#[derive(Debug)]
pub struct Dlo {
    opener: Opener,
    manifest: dlo::Manifest,
    first: Arc<Vec<Segment>>,
    complete: bool,
    rows: VecDeque<Segment>,
    /// The name after which the next page begins; `None` at the end of the listing.
    marker: Option<String>,
    skip: u64,
    left: u64,
}

#[derive(Debug, Clone)]
struct Segment {
    name: String,
    size: u64,
    hash: String,
}

impl Dlo {
    /// Lists the first page.
    pub async fn new(call: &Arc<Call>, account: &str, manifest: dlo::Manifest) -> Result<Self, Answer> {
        let scope = Scope { account, container: Some(&manifest.container), object: false };
        call.authorize("GET", scope).await?;
        let mut dlo = Self {
            opener: Opener::new(call, account),
            manifest,
            first: Arc::default(),
            complete: false,
            rows: VecDeque::new(),
            marker: None,
            skip: 0,
            left: 0,
        };
        let first = dlo.list(String::new()).await?;
        dlo.complete = first.len() < dlo.limit();
        dlo.first = Arc::new(first);
        dlo.rewind();
        Ok(dlo)
    }

    fn limit(&self) -> usize {
        self.opener.call.service.limits.container_listing_limit.max(1)
    }

    /// What the first page tells.
    pub fn page(&self) -> dlo::Page {
        dlo::Page {
            lengths: self.first.iter().map(|segment| segment.size).collect(),
            hashes: self.first.iter().map(|segment| segment.hash.clone()).collect(),
            complete: self.complete,
        }
    }

    /// Back to the first segment.
    pub fn rewind(&mut self) {
        self.rows = self.first.iter().cloned().collect();
        self.marker = self.first.last().filter(|_| !self.complete).map(|segment| segment.name.clone());
    }

    fn seek(&mut self, span: Range<u64>) {
        self.rewind();
        self.skip = span.start;
        self.left = span.end - span.start;
    }

    async fn list(&self, marker: String) -> Result<Vec<Segment>, Answer> {
        let call = &self.opener.call;
        let who = call.identity(&self.opener.account).await?;
        let (account, container) = (self.opener.account.clone(), self.manifest.container.clone());
        let query = ListQuery {
            prefix: self.manifest.prefix.clone(),
            marker,
            limit: self.limit(),
            ..ListQuery::default()
        };
        let job = move |ns: &Namespace| ns.list_objects(&account, &container, &query);
        let rows = call.store(who, Doing::Other, job).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| match row {
                Row::Subdir(_) => None,
                Row::Object(o) => Some(Segment {
                    name: o.name,
                    size: o.size,
                    hash: o.etag.map(|md5| text::hex(&md5)).unwrap_or_default(),
                }),
            })
            .collect())
    }

    async fn next(&mut self) -> Result<Option<Piece>, Fault> {
        while self.left > 0 {
            let Some(segment) = self.rows.pop_front() else {
                let Some(marker) = self.marker.take() else { return Ok(None) };
                let page = self.list(marker).await.map_err(Fault::Failed)?;
                self.marker = page.last().filter(|_| page.len() >= self.limit()).map(|s| s.name.clone());
                self.rows = page.into();
                continue;
            };
            if segment.size <= self.skip {
                self.skip -= segment.size;
                continue;
            }
            let start = std::mem::take(&mut self.skip);
            let len = (segment.size - start).min(self.left);
            self.left -= len;
            let container = self.manifest.container.clone();
            let object = self.opener.run(&container, &segment.name, open).await?;
            return Ok(Some(file_piece(&self.opener.call, object, start..start + len)));
        }
        Ok(None)
    }
}
