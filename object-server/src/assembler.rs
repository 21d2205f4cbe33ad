//! The assembler: makes one plain file of a static large object's segments, for jobs that read files.
//!
//! Who may read the object's file afterwards reads the segments' bytes, wherever those lie. So that nobody reaches what he
//! could not:
//! - Who uploads a manifest may read each segment it names, or the upload is refused (`slo_put`); and a segment counts only
//!   while it has the size and the MD5 that it had then.
//! - A manifest within a manifest is no segment to copy from until it is itself assembled. Its uploader was asked for the
//!   right to read that object, not for the rights to what it names.
//! - Whom the container of the object lets read, the containers of all its segments must let read too; and whom the new
//!   file lets read by its permissions, the segments' files and the directories to them (`Assembly::may_take`).
//! - On the file side a manifest can be forged by whoever may write it, so that must be its owner alone, as whom all is
//!   read here (`Namespace::begin_assembly`).
//!
//! An assembly that fails is not tried again until the manifest, a segment or the rights change, or a day has passed.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use md5::{Digest as _, Md5};
use namespace::{Assembly, Error, Namespace, Object, ObjectName};

use crate::acl::ContainerAcl;
use crate::swift::slo::stored::{Entry, Manifest, Source};
use crate::swift::text;

/// What is copied between two looks at the rate and at whether to stop.
const STEP: u64 = 16 << 20;

/// What is read at once where the MD5 must be taken.
const BUFFER: usize = 1 << 20;

/// After so long what failed is tried again although nothing changed: the disk may have been full.
const RETRY: Duration = Duration::from_hours(24);

/// Failures remembered at most.
const MOST: usize = 100_000;

/// Why an object stays a manifest.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The manifest cannot be read, or its segments do not make up the object.
    #[error("its manifest is not what its metadata says")]
    Manifest,
    /// A segment is not what it was.
    #[error("its segment /{container}/{object} {reason}")]
    Segment {
        /// The segment's container.
        container: String,
        /// The segment's name.
        object: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not everybody who may read the object may read its segments.
    #[error("container {0:?}, where a segment lies, lets fewer read than the object's")]
    Rights(String),
    /// Not every local user who may read the object's file may read the segment's.
    #[error("its segment /{container}/{object} may be read by fewer users than the object's file")]
    Permissions {
        /// The segment's container.
        container: String,
        /// The segment's name.
        object: String,
    },
    /// The file may be written by others, or is another's, or has permissions of its own.
    #[error("its file has not the owner and permissions that a new one would have, or others may write it")]
    NotOurs,
    /// The file system failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Assembles objects, and remembers which ones it could not.
#[derive(Debug, Default)]
pub struct Assembler {
    /// What was seen when it failed, and when.
    failed: HashMap<ObjectName, (u64, Instant)>,
}

/// An object whose segments are all there.
struct Ready {
    object: Object,
    json: Vec<u8>,
    manifest: Manifest,
}

/// A segment as it is found.
enum Segment {
    /// What the manifest says.
    Right(Object),
    /// Of the right size; its MD5 is to be taken.
    Unhashed(Object),
    /// A manifest that is not assembled yet.
    Waiting,
}

impl Assembler {
    /// Assembles an object, if it is a static large one and all its segments are right. Returns its bytes if that was done.
    ///
    /// `spend` is told of bytes that were copied, `look` of segments that are looked at; they may sleep, to limit the rate,
    /// or return false to give up.
    pub fn assemble(
        &mut self,
        ns: &Namespace,
        name: &ObjectName,
        look: &mut dyn FnMut() -> bool,
        spend: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<u64>, Failure> {
        let mut seen = DefaultHasher::new();
        let ready = prepare(ns, name, look, &mut seen);
        let seen = seen.finish();
        if self.failed.get(name).is_some_and(|(then, at)| *then == seen && at.elapsed() < RETRY) {
            return Ok(None);
        }
        let done = match ready {
            Ok(Some(ready)) => copy(ns, name, ready, spend),
            Ok(None) => Ok(None),
            Err(failure) => Err(failure),
        };
        if done.is_err() {
            if self.failed.len() >= MOST {
                self.failed.clear();
            }
            self.failed.insert(name.clone(), (seen, Instant::now()));
        } else {
            self.failed.remove(name);
        }
        done
    }
}

/// Looks at the manifest and all its segments, without reading these. What it sees goes into `seen`.
fn prepare(
    ns: &Namespace,
    name: &ObjectName,
    look: &mut dyn FnMut() -> bool,
    seen: &mut DefaultHasher,
) -> Result<Option<Ready>, Failure> {
    let object = match open(ns, name) {
        Ok(Some(object)) => object,
        Ok(None) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let Some(slo) = object.info.slo.filter(|slo| slo.kept.is_none() && !object.info.foreign) else {
        return Ok(None);
    };
    (object.info.fid, object.info.ctime_ns, object.info.etag).hash(seen);
    let json = ns.manifest(name, &object)?.ok_or(Failure::Manifest)?;
    let manifest = Manifest::from_json(&json).map_err(|_| Failure::Manifest)?;
    if (manifest.etag(), manifest.size()) != (slo.etag, slo.size) {
        return Err(Failure::Manifest);
    }
    check_rights(ns, name, &manifest, seen)?;
    for entry in &manifest.entries {
        if !look() {
            return Ok(None);
        }
        match find(ns, &name.account, entry) {
            Ok(None) => {}
            Ok(Some(Segment::Waiting)) => return Ok(None),
            Ok(Some(Segment::Right(segment) | Segment::Unhashed(segment))) => {
                // The time of the last change also tells of permissions.
                (segment.info.fid, segment.info.ctime_ns, segment.info.etag).hash(seen);
            }
            Err(failure) => {
                failure.to_string().hash(seen);
                return Err(failure);
            }
        }
    }
    Ok(Some(Ready { object, json, manifest }))
}

/// Checks that whoever may read the object's container may read its segments' containers.
fn check_rights(
    ns: &Namespace,
    name: &ObjectName,
    manifest: &Manifest,
    seen: &mut DefaultHasher,
) -> Result<(), Failure> {
    let mut known = HashSet::new();
    let own = ns.system(&name.account, Some(&name.container))?;
    own.hash(seen);
    let read = |system: &namespace::System| system.get("read").cloned().unwrap_or_default();
    for entry in &manifest.entries {
        let Source::Object { container, .. } = &entry.source else { continue };
        if *container == name.container || known.contains(container) {
            continue;
        }
        let other = ns.system(&name.account, Some(container))?;
        other.hash(seen);
        // Who knows a container's key for synchronisation reads it as well.
        let key = own.get("sync-key");
        let within = ContainerAcl::parse(&read(&own)).is_within(&ContainerAcl::parse(&read(&other)));
        if !within || key.is_some() && key != other.get("sync-key") {
            return Err(Failure::Rights(container.clone()));
        }
        known.insert(container);
    }
    Ok(())
}

/// Opens an object that is there and has not expired.
fn open(ns: &Namespace, name: &ObjectName) -> Result<Option<Object>, Error> {
    match ns.open_object(name) {
        Ok(object) => Ok(Some(object).filter(|object| !object.info.has_expired())),
        Err(Error::NoObject | Error::NoContainer | Error::NoAccount) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The segment that an entry names; `None` for bytes in the manifest itself.
fn find(ns: &Namespace, account: &str, entry: &Entry) -> Result<Option<Segment>, Failure> {
    let Source::Object { container, object, bytes, hash, sub_slo, .. } = &entry.source else {
        return Ok(None);
    };
    let failure = |reason| Failure::Segment { container: container.clone(), object: object.clone(), reason };
    let name = ObjectName::new(account, container, object);
    let segment = open(ns, &name)?.ok_or_else(|| failure("is not there"))?;
    let info = &segment.info;
    let changed = || failure("is not what it was when the manifest was uploaded");
    match (sub_slo, info.slo) {
        (true, Some(slo)) if slo.size == *bytes && text::hex(&slo.etag) == *hash => {
            let assembled = slo.kept.is_some();
            Ok(Some(if assembled { Segment::Right(segment) } else { Segment::Waiting }))
        }
        (false, None) if info.size == *bytes => match info.etag {
            Some(md5) if text::hex(&md5) == *hash => Ok(Some(Segment::Right(segment))),
            Some(_) => Err(changed()),
            None => Ok(Some(Segment::Unhashed(segment))),
        },
        _ => Err(changed()),
    }
}

/// Gathers the segments and publishes the object.
fn copy(
    ns: &Namespace,
    name: &ObjectName,
    ready: Ready,
    spend: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<u64>, Failure> {
    let Ready { object, json, manifest } = ready;
    let mut assembly = ns.begin_assembly(name, &object, json)?.ok_or(Failure::NotOurs)?;
    for entry in &manifest.entries {
        match append(ns, &name.account, entry, &mut assembly, spend) {
            Ok(true) => {}
            other => {
                assembly.abort(ns);
                return other.map(|_| None);
            }
        }
    }
    // Replaced or removed meanwhile, there is nothing left to do.
    Ok(ns.finish_assembly(assembly)?.then(|| manifest.size()))
}

/// Appends what an entry stands for; false if it is to be given up.
fn append(
    ns: &Namespace,
    account: &str,
    entry: &Entry,
    assembly: &mut Assembly,
    spend: &mut dyn FnMut(u64) -> bool,
) -> Result<bool, Failure> {
    let (container, object, bytes, hash, range) = match &entry.source {
        Source::Data(data) => {
            assembly.write(data)?;
            return Ok(spend(data.len() as u64));
        }
        Source::Object { container, object, bytes, hash, range, .. } => {
            (container, object, *bytes, hash, range.clone().unwrap_or(0..*bytes))
        }
    };
    let changed = || Failure::Segment {
        container: container.clone(),
        object: object.clone(),
        reason: "changed while it was copied",
    };
    if !assembly.may_take(ns, &ObjectName::new(account, container, object))? {
        return Err(Failure::Permissions { container: container.clone(), object: object.clone() });
    }
    match find(ns, account, entry)? {
        None | Some(Segment::Waiting) => Err(changed()),
        Some(Segment::Unhashed(segment)) => {
            let Some(md5) = copy_hashing(&segment, bytes, &range, assembly, spend)? else { return Ok(false) };
            if text::hex(&md5) == *hash { Ok(true) } else { Err(changed()) }
        }
        Some(Segment::Right(segment)) => {
            let mut offset = range.start;
            while offset < range.end {
                let len = STEP.min(range.end - offset);
                assembly.copy(ns, &segment.file, offset, len)?;
                offset += len;
                if !spend(len) {
                    return Ok(false);
                }
            }
            // What vouched for its bytes before vouches for them still.
            match find(ns, account, entry)? {
                Some(Segment::Right(still)) if still.info.fid == segment.info.fid => Ok(true),
                _ => Err(changed()),
            }
        }
    }
}

/// Reads a whole segment, appends the part that counts, and returns the MD5 of all; `None` if it is to be given up.
fn copy_hashing(
    segment: &Object,
    bytes: u64,
    range: &Range<u64>,
    assembly: &mut Assembly,
    spend: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<[u8; 16]>, Failure> {
    let mut md5 = Md5::new();
    let mut buffer = vec![0; (bytes as usize).min(BUFFER)];
    let mut offset = 0;
    while offset < bytes {
        let len = (bytes - offset).min(buffer.len() as u64);
        let part = &mut buffer[..len as usize];
        let cut = |source| Error::Io { what: "read a segment".to_owned(), source };
        segment.file.read_exact_at(part, offset).map_err(cut)?;
        md5.update(&part);
        let wanted = range.start.clamp(offset, offset + len)..range.end.clamp(offset, offset + len);
        if wanted.start < wanted.end {
            assembly.write(&part[(wanted.start - offset) as usize..(wanted.end - offset) as usize])?;
        }
        offset += len;
        if !spend(len) {
            return Ok(None);
        }
    }
    Ok(Some(md5.finalize().into()))
}
