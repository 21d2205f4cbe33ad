//! The part of a GET or HEAD that runs on the store's threads: open, judge, and read what is small.

use std::fs::File;
use std::ops::Range;

use bytes::Bytes;
use namespace::{Error, Namespace, ObjectInfo, ObjectName};

use super::open;
use super::read::{Request, Show};
use crate::swift::range::Selection;
use crate::swift::slo::stored::Manifest;
use crate::swift::{dlo, meta, text};

/// Bodies up to this size are read in the job that opens the file, and leave with the head.
pub const SMALL: u64 = 64 << 10;
/// Files up to this size are hashed before their first GET is answered.
const HASHED_FIRST: u64 = 64 << 20;
/// The largest manifest that is read; larger ones were never written by us.
const LARGEST_MANIFEST: u64 = 64 << 20;

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
    /// A manifest of segments.
    Slo(Manifest),
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
    let manifest = object.info.slo.is_some_and(|slo| !slo.assembled);
    if manifest && request.show != Show::Manifest {
        let json = read_all(&object.file, object.info.size)?;
        let manifest = Manifest::from_json(&json).map_err(|e| Error::Io {
            what: "read a manifest".to_owned(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, e),
        })?;
        let content = if serve { Content::Slo(manifest) } else { Content::Raw(manifest.to_raw()) };
        return Ok(Found { info: object.info, content });
    }
    let named = meta::find(&object.info.headers, "x-object-manifest").filter(|_| serve);
    if let Some(manifest) = named.and_then(dlo::Manifest::parse) {
        return Ok(Found { info: object.info, content: Content::Dlo(manifest) });
    }
    let unknown = object.info.etag.is_none() && !request.head;
    if unknown && object.info.size <= HASHED_FIRST {
        ns.compute_etag(&request.name, &mut |_| true)?;
        object = open(ns, &request.name)?;
    }
    let etag = etag_of(&object.info, request.show);
    let size = object.info.size;
    let verdict = judge(request, etag.as_deref(), object.info.timestamp.seconds_up(), size);
    let whole = 0..size;
    let parts = match &verdict {
        Verdict::Send(parts) if !request.head && size > 0 => match parts {
            Some(parts) => parts.as_slice(),
            None => std::slice::from_ref(&whole),
        },
        _ => &[],
    };
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

fn read_all(file: &File, size: u64) -> Result<Bytes, Error> {
    if size > LARGEST_MANIFEST {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "the manifest is too large");
        return Err(Error::Io { what: "read a manifest".to_owned(), source });
    }
    read_part(file, &(0..size))
}

/// Opens a manifest of segments.
pub fn open_manifest(ns: &Namespace, name: &ObjectName) -> Result<Option<Manifest>, Error> {
    let object = open(ns, name)?;
    if object.info.slo.is_none_or(|slo| slo.assembled) {
        return Ok(None);
    }
    let json = read_all(&object.file, object.info.size)?;
    // Unreadable is as good as none: whoever asks then says that the manifest is broken.
    Ok(Manifest::from_json(&json).ok())
}
