//! The part of a GET or HEAD that runs on the store's threads: open, judge, and read what is small.

use std::fs::File;
use std::ops::Range;

use bytes::Bytes;
use namespace::{Error, Namespace, Object, ObjectInfo, ObjectName};

use super::open;
use super::read::{Request, Show};
use crate::swift::range::Selection;
use crate::swift::slo::stored::Manifest;
use crate::swift::{dlo, meta, text};

/// Bodies up to this size are read in the job that opens the file, and leave with the head.
pub const SMALL: u64 = 64 << 10;
/// Files up to this size are hashed before their first GET is answered.
const HASHED_FIRST: u64 = 64 << 20;

/// What to answer, when the object is known.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 304 or 412.
    Unmet(u16),
    /// 416.
    Unsatisfiable,
    /// 200, or 206 for these parts.
    Send(Option<Vec<Range<u64>>>),
}

/// Decides by what the headers will say.
pub fn judge(request: &Request, etag: Option<&str>, last_modified: u64, length: u64) -> Verdict {
    if let Some(status) = request.conditions.check(etag, last_modified) {
        return Verdict::Unmet(status);
    }
    let held = request.conditions.range_holds(etag, last_modified);
    match request.ranges.as_ref().filter(|_| held && !request.head).map(|r| r.select(length)) {
        None | Some(Selection::Whole) => Verdict::Send(None),
        Some(Selection::Unsatisfiable) => Verdict::Unsatisfiable,
        Some(Selection::Parts(parts)) => Verdict::Send(Some(parts)),
    }
}

/// What the store's thread found.
pub struct Found {
    /// What is known of the object.
    pub info: ObjectInfo,
    /// What it is.
    pub content: Content,
}

/// What a name may stand for.
pub enum Content {
    /// Judged already; the body is at hand or a file.
    Plain(Verdict, Plain),
    /// A manifest of segments; with the file that holds them all, if they were assembled.
    Slo(Manifest, Option<File>),
    /// A prefix of segments.
    Dlo(dlo::Manifest),
    /// The manifest itself, rewritten.
    Raw(String),
}

/// The body of a plain object.
pub enum Plain {
    /// None is wanted.
    None,
    /// The parts, read.
    Bytes(Vec<Bytes>),
    /// The file, to be sent from.
    File(File),
}

/// Opens, judges and, if it is small, reads; all in one job.
pub fn look(ns: &Namespace, request: &Request) -> Result<Found, Error> {
    let mut object = open(ns, &request.name)?;
    let serve = request.show == Show::Content;
    if let Some(slo) = object.info.slo {
        let assembled = slo.kept.is_some();
        // Of an assembled object the manifest is asked for by those alone who name it or its parts.
        let read = if assembled { !serve || request.part.is_some() } else { request.show != Show::Manifest };
        if read {
            return match with_manifest(ns, &request.name, object)? {
                Some((object, json)) => show_manifest(request, object, &json),
                None => look(ns, request),
            };
        }
    }
    let named = meta::find(&object.info.headers, "x-object-manifest");
    let named = named.filter(|_| serve && object.info.slo.is_none());
    if let Some(manifest) = named.and_then(dlo::Manifest::parse) {
        return Ok(Found { info: object.info, content: Content::Dlo(manifest) });
    }
    let unknown = object.info.etag.is_none() && !request.head;
    if unknown && object.info.size <= HASHED_FIRST {
        ns.compute_etag(&request.name, &mut |_| true)?;
        object = open(ns, &request.name)?;
    }
    let (verdict, parts) = wanted(request, &object.info);
    let total: u64 = parts.iter().map(|part| part.end - part.start).sum();
    let body = if parts.is_empty() {
        Plain::None
    } else if total <= SMALL {
        let read = parts.iter().map(|part| read_part(&object.file, part)).collect::<Result<_, _>>()?;
        Plain::Bytes(read)
    } else {
        Plain::File(object.file)
    };
    Ok(Found { info: object.info, content: Content::Plain(verdict, body) })
}

/// The verdict on what lies in one piece, and which parts of it are to be sent.
fn wanted(request: &Request, info: &ObjectInfo) -> (Verdict, Vec<Range<u64>>) {
    let etag = etag_of(info, request.show);
    let verdict = judge(request, etag.as_deref(), info.timestamp.seconds_up(), info.size);
    let whole = 0..info.size;
    let parts = match &verdict {
        Verdict::Send(parts) if !request.head && info.size > 0 => match parts {
            Some(parts) => parts.clone(),
            None => std::slice::from_ref(&whole).to_vec(),
        },
        _ => Vec::new(),
    };
    (verdict, parts)
}

/// What a manifest makes of the answer.
fn show_manifest(request: &Request, object: Object, json: &Bytes) -> Result<Found, Error> {
    let Object { file, mut info } = object;
    if request.show == Show::Manifest {
        info.size = json.len() as u64;
        let (verdict, parts) = wanted(request, &info);
        let cut = |part: &Range<u64>| json.slice(part.start as usize..part.end as usize);
        let body = if parts.is_empty() { Plain::None } else { Plain::Bytes(parts.iter().map(cut).collect()) };
        return Ok(Found { info, content: Content::Plain(verdict, body) });
    }
    let manifest = Manifest::from_json(json).map_err(|e| Error::Io {
        what: "read a manifest".to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, e),
    })?;
    let content = if request.show == Show::Content {
        let assembled = info.slo.is_some_and(|slo| slo.kept.is_some());
        Content::Slo(manifest, assembled.then_some(file))
    } else {
        Content::Raw(manifest.to_raw())
    };
    Ok(Found { info, content })
}

/// The ETag that conditions are about. An assembled large object keeps the one that its manifest had.
fn etag_of(info: &ObjectInfo, show: Show) -> Option<String> {
    match info.slo {
        Some(slo) if show == Show::Content => Some(text::hex(&slo.etag)),
        _ => info.etag.map(|md5| text::hex(&md5)),
    }
}

fn read_part(file: &File, part: &Range<u64>) -> Result<Bytes, Error> {
    let len = (part.end - part.start) as usize;
    let mut buffer = Vec::with_capacity(len);
    let failed = |source| Error::Io { what: "read the object".to_owned(), source };
    while buffer.len() < len {
        let at = part.start + buffer.len() as u64;
        let read = rustix::io::retry_on_intr(|| {
            rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at)
        });
        if read.map_err(|e| failed(e.into()))? == 0 {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
    // The allocator may have given more room than asked for, and the file may have grown.
    buffer.truncate(len);
    Ok(buffer.into())
}

/// The manifest of an opened static large object, with the object. Where that was replaced before its manifest could be
/// read, this is about the one that is there now; `None` if that is no such object.
fn with_manifest(
    ns: &Namespace,
    name: &ObjectName,
    mut object: Object,
) -> Result<Option<(Object, Bytes)>, Error> {
    while object.info.slo.is_some() {
        if let Some(json) = ns.manifest(name, &object)? {
            return Ok(Some((object, json.into())));
        }
        object = open(ns, name)?;
    }
    Ok(None)
}

/// What stands under the name of a static large object.
#[derive(Debug)]
pub enum Opened {
    /// The manifest; `None` if it cannot be read.
    Manifest(Option<Manifest>),
    /// The file that holds all segments.
    Assembled(Box<Object>),
}

/// Opens the manifest of a static large object; `None` if it is none.
pub fn open_manifest(ns: &Namespace, name: &ObjectName) -> Result<Option<Option<Manifest>>, Error> {
    let found = with_manifest(ns, name, open(ns, name)?)?;
    // Unreadable is as good as none: whoever asks then says that the manifest is broken.
    Ok(found.map(|(_, json)| Manifest::from_json(&json).ok()))
}

/// Opens a static large object for its content.
pub fn open_content(ns: &Namespace, name: &ObjectName) -> Result<Opened, Error> {
    let object = open(ns, name)?;
    if object.info.slo.is_some_and(|slo| slo.kept.is_some()) {
        return Ok(Opened::Assembled(Box::new(object)));
    }
    let found = with_manifest(ns, name, object)?;
    Ok(Opened::Manifest(found.and_then(|(_, json)| Manifest::from_json(&json).ok())))
}
