//! Uploads: a temporary file that becomes the object in one step, or leaves nothing.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use lustre::sys::{self, Kind};
use md5::{Digest, Md5};
use rustix::io::Errno;

use crate::attribute::Attribute;
use crate::digest::Hasher;
use crate::error::{Error, Result, Step, is, is_absent};
use crate::metadata::{Metadata, Slo};
use crate::object::{Opened, open_existing};
use crate::place::{self, At, split};
use crate::timestamp::Timestamp;
use crate::{Namespace, ObjectName, Scope, hex, name, object_path};

/// What an upload says of its object.
#[derive(Debug, Clone, Default)]
pub struct ObjectMeta {
    /// Content-Type.
    pub content_type: Option<String>,
    /// When it expires, in seconds since 1970.
    pub delete_at: Option<u64>,
    /// Stored headers, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Set if the bytes are the manifest of a static large object.
    pub slo: Option<Slo>,
    /// Make a directory that is the object; only for an empty body.
    pub directory: bool,
    /// Only if there is no such object: what another upload publishes meanwhile stays.
    pub exclusive: bool,
}

/// An object that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// MD5 of its bytes.
    pub md5: [u8; 16],
    /// Its X-Timestamp.
    pub timestamp: Timestamp,
    /// Whether there was no such object before.
    pub created: bool,
    /// The data's file is one of these bytes.
    pub size: u64,
}

/// An upload under way: a temporary file beside its target. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    pub(crate) name: ObjectName,
    timestamp: Timestamp,
    pub(crate) temporary: Option<Temporary>,
    pub(crate) hasher: Option<Hasher>,
    pub(crate) written: u64,
    // Set when the bytes came by a copy of known MD5.
    known: Option<[u8; 16]>,
}

#[derive(Debug)]
pub(crate) struct Temporary {
    pub(crate) dir: OwnedFd,
    pub(crate) name: Vec<u8>,
    pub(crate) file: File,
    // The name beside it that it will take, as things were when it was made.
    target: Vec<u8>,
}

impl Temporary {
    /// True if it was there, and so is not published.
    fn remove(&self) -> bool {
        sys::unlink_at(self.dir.as_fd(), &self.name).is_ok()
    }

    /// As `remove`; what its attribute spilled and the directories made for it at `path` go too.
    fn discard(&self, scope: &Scope<'_>, path: &[u8]) {
        let spill = scope.spill_name(self.file.as_fd());
        if let (true, Some(spill)) = (self.remove(), spill) {
            scope.forget_side(&spill);
        }
        tidy(scope, split(path).parent);
    }
}

impl Upload {
    /// Appends to the object and hashes.
    pub fn write(&mut self, bytes: &Bytes) -> Result<()> {
        self.append_bytes(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(())
    }

    /// Appends without hashing.
    pub(crate) fn append_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        temporary.file.write_all_at(bytes, self.written).step("write the object")?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Takes the whole body from an open file whose MD5 is known, sharing blocks where the file system can.
    pub fn copy_from(&mut self, namespace: &Namespace, source: &File, len: u64, md5: [u8; 16]) -> Result<()> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        let copied =
            namespace.fs.copy(source.as_fd(), 0, temporary.file.as_fd(), 0, len).step("copy the object")?;
        if copied != len {
            let e = std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the source was cut while it was copied",
            );
            return Err(Error::io("copy the object", e));
        }
        self.written = len;
        self.hasher = None;
        self.known = Some(md5);
        Ok(())
    }

    /// Appends a part of an open file, sharing blocks where the file system can. From then on the MD5 of the whole is not
    /// known, which only an assembly bears.
    pub(crate) fn append(
        &mut self,
        namespace: &Namespace,
        source: &File,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        self.hasher = None;
        let to = temporary.file.as_fd();
        let copied =
            namespace.fs.copy(source.as_fd(), offset, to, self.written, len).step("copy a segment")?;
        self.written += copied;
        if copied != len {
            let e = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it was cut while it was copied");
            return Err(Error::io("copy a segment", e));
        }
        Ok(())
    }

    /// The MD5 of what was written so far.
    pub fn md5(&self) -> [u8; 16] {
        match (&self.hasher, self.known) {
            (_, Some(md5)) => md5,
            (Some(hasher), None) => hasher.digest(),
            (None, None) => crate::object::EMPTY_MD5,
        }
    }

    /// Gives the upload up. What it made goes; call it where blocking is allowed.
    pub fn abort(mut self, namespace: &Namespace) {
        self.discard(namespace);
    }

    pub(crate) fn discard(&mut self, namespace: &Namespace) {
        let Some(temporary) = self.temporary.take() else { return };
        if let (Ok(scope), Ok(path)) = (
            Scope::of_container(namespace, &self.name.account, &self.name.container),
            object_path(&self.name.object),
        ) {
            temporary.discard(&scope, &path);
        } else {
            temporary.remove();
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            temporary.remove();
        }
    }
}

impl Namespace {
    /// Starts an upload of `size` bytes, if the size is known.
    pub fn begin(&self, name: &ObjectName, size: Option<u64>, timestamp: Timestamp) -> Result<Upload> {
        check_names(name)?;
        let scope = Scope::of_container(self, &name.account, &name.container)?;
        let path = object_path(&name.object)?;
        let temporary = self.temporary(&scope, &path, size)?;
        scope.step("put: temporary made");
        Ok(Upload {
            name: name.clone(),
            timestamp,
            temporary: Some(temporary),
            hasher: Some(Hasher::new(Arc::clone(&self.together))),
            written: 0,
            known: None,
        })
    }

    /// Makes the temporary file in the directory where the object will lie.
    fn temporary(&self, scope: &Scope<'_>, path: &[u8], size: Option<u64>) -> Result<Temporary> {
        for _ in 0..8 {
            let parents = place::make_parents(scope, split(path).parent);
            let (mut dir, _) = parents.inspect_err(|_| tidy(scope, split(path).parent))?;
            let mut file_name = split(path).file;
            if is_directory(dir.as_fd(), file_name)? {
                match open_existing(scope, path)? {
                    Some(inner) => (dir, file_name) = (inner, name::SELF),
                    None => continue,
                }
            }
            let mode = place::file_mode(&sys::stat(dir.as_fd()).step("stat the directory")?);
            let temporary = self.fs.temporary_name(file_name).step("name a temporary file")?;
            let file = match self.fs.create(dir.as_fd(), &temporary, mode, size) {
                Ok(file) => file,
                // The directory was removed meanwhile.
                Err(e) if is_absent(&e) => continue,
                Err(e) => {
                    tidy(scope, split(path).parent);
                    return Err(Error::io("make a temporary file", e));
                }
            };
            let target = file_name.to_vec();
            let temporary = Temporary { dir, name: temporary, file, target };
            if self.fs.temporaries_look_foreign() {
                let unfinished = Metadata { temporary: true, ..Metadata::default() };
                if let Err(e) = scope.write_attribute(temporary.file.as_fd(), &unfinished) {
                    temporary.remove();
                    return Err(e);
                }
            }
            return Ok(temporary);
        }
        Err(Error::Contended { what: "making a temporary file" })
    }

    /// Publishes an upload. Afterwards it is durable, if this namespace promises that.
    ///
    /// # Errors
    /// `Digest` if `expected` is not the MD5 of the bytes; `Superseded` if a newer version is there; in every case nothing is left behind.
    pub fn finish(
        &self,
        mut upload: Upload,
        meta: ObjectMeta,
        expected: Option<[u8; 16]>,
    ) -> Result<Published> {
        let result = self.publish(&mut upload, meta, expected);
        if result.is_err() {
            upload.discard(self);
        }
        result
    }

    fn publish(
        &self,
        upload: &mut Upload,
        meta: ObjectMeta,
        expected: Option<[u8; 16]>,
    ) -> Result<Published> {
        let md5 = upload.md5();
        if let Some(expected) = expected.filter(|e| *e != md5) {
            return Err(Error::Digest { found: hex(&md5), expected: hex(&expected) });
        }
        let name = upload.name.clone();
        let scope = Scope::of_container(self, &name.account, &name.container)?;
        let path = object_path(&name.object)?;
        let key = name.key();
        let timestamp = upload.timestamp;
        if let Some(temporary) = upload.temporary.as_ref().filter(|_| !meta.directory) {
            self.complete(&scope, temporary, &meta, md5, timestamp)?;
        }
        scope.step("put: data durable");
        let _held = self.locks.lock(&name);
        let existing = self.look_to_change(&scope, &path)?;
        check_exclusive(&scope, &meta, existing.as_ref())?;
        self.check_order(&scope, &key, existing.as_ref(), timestamp)?;
        let new = meta.exclusive && existing.is_none();
        scope.step("put: looked");
        let spill = existing.as_ref().and_then(|old| scope.spill_name(old.file.as_fd()));
        if meta.directory {
            upload.discard(self);
            let published = self.publish_marker(&scope, &path, existing.as_ref(), meta, timestamp, new);
            published.inspect_err(|_| tidy(&scope, &path))?;
        } else if let Some(temporary) = upload.temporary.as_mut() {
            self.publish_file(&scope, &path, temporary, existing.as_ref(), new)?;
            upload.temporary = None;
        }
        scope.step("put: published");
        self.replaced(&scope, &name, existing.as_ref(), spill, upload.written);
        self.note_object(&name.account, &name.container, &path);
        Ok(Published { md5, timestamp, created: existing.is_none(), size: upload.written })
    }

    /// What is left to do for the version that was there before.
    pub(crate) fn replaced(
        &self,
        scope: &Scope<'_>,
        name: &ObjectName,
        existing: Option<&Opened>,
        spill: Option<String>,
        written: u64,
    ) {
        let mut old_size = 0;
        if let Some(old) = existing {
            if !matches!(old.at, At::Marker(_)) {
                old_size = old.stat.size;
            }
            // A directory that was the object is still there, and was seen to.
            let gone = matches!(old.at, At::File | At::Within | At::Transit) && old.stat.nlink <= 1;
            if gone {
                if let Some(spill) = spill {
                    scope.forget_side(&spill);
                }
                scope.forget_manifest(&old.fid, &old.metadata);
            }
        }
        let created = i64::from(existing.is_none());
        self.counters.change(&name.account, &name.container, created, written as i64 - old_size as i64);
    }

    /// Sets the attribute and makes the temporary file's bytes durable.
    fn complete(
        &self,
        scope: &Scope<'_>,
        temporary: &Temporary,
        meta: &ObjectMeta,
        md5: [u8; 16],
        timestamp: Timestamp,
    ) -> Result<()> {
        let file = temporary.file.as_fd();
        // A time between the clock's ticks: any later write gives the file another.
        sys::set_mtime(file, sys::now_ns()).step("set the time")?;
        let stat = sys::stat(file).step("stat")?;
        let metadata = Metadata {
            fid: Some(self.fs.fid(file).step("read the file's identity")?),
            size: stat.size,
            mtime_ns: stat.mtime_ns,
            md5: Some(md5),
            data_version: self.fs.data_version(file).step("read the data version")?,
            timestamp: Some(timestamp),
            content_type: meta.content_type.clone(),
            delete_at: meta.delete_at,
            headers: meta.headers.clone(),
            slo: meta.slo,
            ..Metadata::default()
        };
        scope.write_attribute(file, &metadata)?;
        scope.step("put: attribute set");
        if self.options.durable {
            sys::fsync(file).step("sync the object")?;
        }
        Ok(())
    }

    /// Renames the temporary file over the object's place; with `new`, only where nothing is.
    pub(crate) fn publish_file(
        &self,
        scope: &Scope<'_>,
        path: &[u8],
        temporary: &mut Temporary,
        existing: Option<&Opened>,
        new: bool,
    ) -> Result<()> {
        for _ in 0..100 {
            let (mut dir, _) = place::make_parents(scope, split(path).parent)?;
            let mut target = split(path).file;
            if is_directory(dir.as_fd(), target)? {
                match open_existing(scope, path)? {
                    Some(inner) if new && scope.read_directory(inner.as_fd())?.metadata().marker => {
                        return Err(Error::Exists);
                    }
                    Some(inner) => (dir, target) = (inner, name::SELF),
                    None => continue,
                }
            }
            match take_name(temporary, dir.as_fd(), target, new) {
                Ok(()) => {}
                Err(e) if new && is(&e, Errno::EXIST) && !is_directory(dir.as_fd(), target)? => {
                    return Err(Error::Exists);
                }
                // It became a directory, or went, after we looked.
                Err(e) if is(&e, Errno::ISDIR) || is(&e, Errno::EXIST) || is_absent(&e) => continue,
                Err(e) if is(&e, Errno::NOTEMPTY) => continue,
                Err(e) => return Err(Error::io("publish the object", e)),
            }
            return published(scope, dir.as_fd(), target, temporary, existing);
        }
        Err(Error::Contended { what: "publishing an object" })
    }

    /// Makes the directory that is the object.
    fn publish_marker(
        &self,
        scope: &Scope<'_>,
        path: &[u8],
        existing: Option<&Opened>,
        meta: ObjectMeta,
        timestamp: Timestamp,
        new: bool,
    ) -> Result<()> {
        if existing.is_some_and(|old| old.at == At::Link)
            && let Some(dir) = open_existing(scope, split(path).parent)?
        {
            sys::unlink_at(dir.as_fd(), split(path).file).step("replace the object")?;
        }
        let object = Metadata {
            timestamp: Some(timestamp),
            content_type: meta.content_type,
            delete_at: meta.delete_at,
            headers: meta.headers,
            marker: true,
            ..Metadata::default()
        };
        for _ in 0..100 {
            // A file of that name moves inside, and stays the object until the directory takes over.
            place::make_parents(scope, path)?;
            // Until it is an object, whoever finds it empty removes it; under this lock only.
            let unmoved = scope.unmoved()?;
            let Some(dir) = open_existing(scope, path)? else { continue };
            let attribute = scope.read_directory(dir.as_fd())?;
            let unmarked = matches!(attribute, Attribute::None);
            let before = attribute.metadata();
            if new && (before.marker || sys::stat_at(dir.as_fd(), name::SELF, false).is_ok()) {
                return Err(Error::Exists);
            }
            let stat = sys::stat(dir.as_fd()).step("stat the directory")?;
            let metadata = Metadata {
                fid: Some(self.fs.fid(dir.as_fd()).step("read the directory's identity")?),
                mtime_ns: stat.mtime_ns,
                made: before.made,
                ..object.clone()
            };
            let spilled = scope.spill_name(dir.as_fd());
            if !unmarked {
                scope.write_attribute(dir.as_fd(), &metadata)?;
            } else if !scope.create_attribute(dir.as_fd(), &metadata)? {
                // Who made it has marked it in this moment.
                continue;
            }
            drop(unmoved);
            if sys::stat_at(dir.as_fd(), name::SELF, false).is_ok() {
                // One of the two is there after a power cut only if they reach the disk in this order.
                scope.persist(dir.as_fd(), None)?;
            }
            match sys::unlink_at(dir.as_fd(), name::SELF) {
                Err(e) if !is_absent(&e) => return Err(Error::io("replace the object", e)),
                _ => {}
            }
            scope.persist(dir.as_fd(), None)?;
            scope.forget_stale(spilled, dir.as_fd());
            return Ok(());
        }
        Err(Error::Contended { what: "publishing an object" })
    }

    /// An upload of a body that is at hand: the same as `begin`, `write` and `finish`, with fewer steps.
    pub fn put_object(
        &self,
        name: &ObjectName,
        body: &[u8],
        meta: ObjectMeta,
        timestamp: Timestamp,
        expected: Option<[u8; 16]>,
    ) -> Result<Published> {
        if meta.directory {
            let upload = self.begin(name, Some(body.len() as u64), timestamp)?;
            return self.finish(upload, meta, expected);
        }
        let md5: [u8; 16] = Md5::digest(body).into();
        if let Some(expected) = expected.filter(|e| *e != md5) {
            return Err(Error::Digest { found: hex(&md5), expected: hex(&expected) });
        }
        check_names(name)?;
        let scope = Scope::of_container(self, &name.account, &name.container)?;
        let path = object_path(&name.object)?;
        let _held = self.locks.lock(name);
        let existing = self.look_to_change(&scope, &path)?;
        check_exclusive(&scope, &meta, existing.as_ref())?;
        self.check_order(&scope, &name.key(), existing.as_ref(), timestamp)?;
        let new = meta.exclusive && existing.is_none();
        let spill = existing.as_ref().and_then(|old| scope.spill_name(old.file.as_fd()));
        let size = body.len() as u64;
        let mut temporary = self.temporary(&scope, &path, Some(size))?;
        scope.step("put: temporary made");
        let written = temporary
            .file
            .write_all_at(body, 0)
            .step("write the object")
            .and_then(|()| self.complete(&scope, &temporary, &meta, md5, timestamp))
            .and_then(|()| self.publish_at_once(&scope, &path, &mut temporary, existing.as_ref(), new));
        if let Err(e) = written {
            temporary.discard(&scope, &path);
            return Err(e);
        }
        scope.step("put: published");
        self.replaced(&scope, name, existing.as_ref(), spill, size);
        self.note_object(&name.account, &name.container, &path);
        Ok(Published { md5, timestamp, created: existing.is_none(), size })
    }

    /// Renames a temporary file that was made a moment ago: where it was to go is most likely still right.
    fn publish_at_once(
        &self,
        scope: &Scope<'_>,
        path: &[u8],
        temporary: &mut Temporary,
        existing: Option<&Opened>,
        new: bool,
    ) -> Result<()> {
        scope.step("put: data durable");
        let dir = temporary.dir.as_fd();
        // What must be new needs a second look at what is there.
        if new {
            return self.publish_file(scope, path, temporary, existing, new);
        }
        match sys::rename_at(dir, &temporary.name, dir, &temporary.target) {
            Ok(()) => published(scope, dir, &temporary.target, temporary, existing),
            Err(_) => self.publish_file(scope, path, temporary, existing, new),
        }
    }
}

fn check_names(name: &ObjectName) -> Result<()> {
    name::validate_container(&name.container).map_err(|e| Error::Name(e.to_string()))?;
    name::validate_object(&name.object).map_err(|e| Error::Name(e.to_string()))
}

/// Refuses an upload that was to make a new object where there is one that has not expired.
fn check_exclusive(scope: &Scope<'_>, meta: &ObjectMeta, existing: Option<&Opened>) -> Result<()> {
    let Some(existing) = existing.filter(|_| meta.exclusive) else { return Ok(()) };
    if existing.info(scope)?.has_expired() { Ok(()) } else { Err(Error::Exists) }
}

/// Gives the temporary file its name; with `new`, `EEXIST` where there is one.
fn take_name(temporary: &Temporary, dir: BorrowedFd<'_>, target: &[u8], new: bool) -> std::io::Result<()> {
    let (from, name) = (temporary.dir.as_fd(), &temporary.name);
    if !new {
        return sys::rename_at(from, name, dir, target);
    }
    match sys::link_at(from, name, dir, target) {
        Ok(()) => {
            // Left behind, it would be reaped like any upload that was cut short.
            let _ = sys::unlink_at(from, name);
            Ok(())
        }
        Err(e) if place::LINK_REFUSED.iter().any(|errno| is(&e, *errno)) => {
            sys::rename_exclusive_at(from, name, dir, target)
        }
        Err(e) => Err(e),
    }
}

/// Removes the directories that were made for what then failed, which is the error to tell of.
fn tidy(scope: &Scope<'_>, path: &[u8]) {
    let _ = place::prune(scope, path);
}

fn is_directory(dir: BorrowedFd<'_>, file: &[u8]) -> Result<bool> {
    match sys::stat_at(dir, file, false) {
        Ok(stat) => Ok(stat.kind == Kind::Directory),
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(Error::io("stat", e)),
    }
}

/// Makes a rename durable and puts right what it left.
fn published(
    scope: &Scope<'_>,
    dir: BorrowedFd<'_>,
    target: &[u8],
    temporary: &Temporary,
    existing: Option<&Opened>,
) -> Result<()> {
    scope.step("put: renamed");
    scope.persist(dir, Some(temporary.file.as_fd()))?;
    if target == name::SELF {
        clear_marker(scope, dir, existing)?;
    }
    Ok(())
}

/// The object is a file inside its directory now: the directory is no object any more.
fn clear_marker(scope: &Scope<'_>, dir: BorrowedFd<'_>, existing: Option<&Opened>) -> Result<()> {
    if !existing.is_some_and(|old| matches!(old.at, At::Marker(_))) {
        return Ok(());
    }
    match scope.change_marker(dir, &Metadata::default()) {
        // The file inside comes before it all the same.
        Err(Error::NoSpace { .. }) => Ok(()),
        result => result,
    }
}
