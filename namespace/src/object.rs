//! Objects: opening, changing metadata, deleting.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use lustre::fs::Fid;
use lustre::sys::{self, OFlags, Stat, Symlinks};
use md5::{Digest, Md5};
use rustix::io::Errno;

use crate::error::{Error, Result, Step, is, is_absent};
use crate::metadata::{Metadata, Slo};
use crate::place::{self, At, Found, split};
use crate::timestamp::Timestamp;
use crate::{Namespace, Scope, name, object_path};

/// The full name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// Account, as in the URL.
    pub account: String,
    /// Container, as in the URL.
    pub container: String,
    /// Object, as in the URL.
    pub object: String,
}

impl ObjectName {
    /// Puts the three parts together.
    pub fn new(account: impl Into<String>, container: impl Into<String>, object: impl Into<String>) -> Self {
        Self { account: account.into(), container: container.into(), object: object.into() }
    }

    /// One string that no other name shares: a container name has no slash.
    pub(crate) fn key(&self) -> String {
        [&self.account, "/", &self.container, "/", &self.object].concat()
    }
}

/// An object, open for reading.
#[derive(Debug)]
pub struct Object {
    /// The data; for a directory marker the directory.
    pub file: File,
    /// What is known of it.
    pub info: ObjectInfo,
}

/// What is known of an object.
#[derive(Debug, Clone)]
pub struct ObjectInfo {
    /// Bytes in the file.
    pub size: u64,
    /// MD5 of what was uploaded, if the file is known to be that: of its bytes, or of an assembled object's manifest.
    pub etag: Option<[u8; 16]>,
    /// X-Timestamp: of the upload, of a later POST, or the mtime of a file that was not uploaded.
    pub timestamp: Timestamp,
    /// X-Timestamp of the data alone.
    pub data_timestamp: Timestamp,
    /// Content-Type, if one was given.
    pub content_type: Option<String>,
    /// When it expires, in seconds since 1970.
    pub delete_at: Option<u64>,
    /// Stored headers, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Set if the object is a static large object.
    pub slo: Option<Slo>,
    /// Whether the object is a directory marker.
    pub directory: bool,
    /// The file's identity.
    pub fid: Fid,
    /// Whether the bytes came from elsewhere than an upload.
    pub foreign: bool,
    /// Inode change time in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i64,
}

impl ObjectInfo {
    /// Whether it has expired by now: to clients it is gone, though its file may still be there.
    pub fn has_expired(&self) -> bool {
        self.delete_at.is_some_and(|at| at <= Timestamp::now().seconds())
    }
}

/// New metadata of an object: it replaces all that a POST may change.
#[derive(Debug, Clone, Default)]
pub struct ObjectPost {
    /// New Content-Type; `None` keeps the old one.
    pub content_type: Option<String>,
    /// When it expires, in seconds since 1970; `None` means never.
    pub delete_at: Option<u64>,
    /// Stored headers, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// An object as found: open file and metadata.
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) stat: Stat,
    pub(crate) at: At,
    pub(crate) fid: Fid,
    pub(crate) metadata: Metadata,
}

impl Opened {
    pub(crate) fn info(&self, scope: &Scope<'_>) -> Result<ObjectInfo> {
        let Self { stat, fid, metadata, .. } = self;
        let directory = matches!(self.at, At::Marker(_));
        let ours = directory || metadata.matches(fid, stat.size, stat.mtime_ns);
        // A restored copy has another FID, but a manifest's bytes are still a manifest.
        let same_bytes = directory || (metadata.size == stat.size && metadata.mtime_ns == stat.mtime_ns);
        let unchanged = ours && !directory && trusted(scope, self.file.as_fd(), stat, metadata)?;
        let kept = metadata.slo.and_then(|slo| slo.kept);
        let etag = match kept {
            _ if directory => Some(EMPTY_MD5),
            Some(kept) => Some(kept.md5).filter(|_| unchanged),
            None => metadata.md5.filter(|_| unchanged),
        };
        let written = Timestamp::from_nanos(stat.mtime_ns);
        let data_timestamp = metadata.timestamp.filter(|_| ours).unwrap_or(written);
        Ok(ObjectInfo {
            size: if directory { 0 } else { stat.size },
            etag,
            timestamp: metadata.meta_timestamp.map_or(data_timestamp, |t| t.max(data_timestamp)),
            data_timestamp,
            content_type: metadata.content_type.clone(),
            delete_at: metadata.delete_at.filter(|_| metadata.fid == Some(*fid)),
            headers: metadata.headers.clone(),
            // What was assembled says nothing of a manifest by itself: edited or copied, it is an ordinary file.
            slo: metadata.slo.filter(|_| if kept.is_some() { unchanged } else { same_bytes }),
            directory,
            fid: *fid,
            foreign: !ours || metadata.timestamp.is_none(),
            ctime_ns: stat.ctime_ns,
            mtime_ns: stat.mtime_ns,
        })
    }
}

/// MD5 of nothing.
pub const EMPTY_MD5: [u8; 16] =
    [0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04, 0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8, 0x42, 0x7e];

/// Whether the stored MD5 is of the bytes there now, given that FID, size and mtime agree.
fn trusted(scope: &Scope<'_>, file: BorrowedFd<'_>, stat: &Stat, metadata: &Metadata) -> Result<bool> {
    let fs = &scope.namespace().fs;
    let window = fs.racy_window_ns() as i64;
    let taken = metadata.timestamp.map_or(i64::MAX, Timestamp::nanos);
    if window == 0 || taken.saturating_sub(stat.mtime_ns) > window {
        return Ok(true);
    }
    match metadata.data_version {
        Some(version) => Ok(fs.data_version(file).step("read the data version")? == Some(version)),
        None => Ok(false),
    }
}

impl Namespace {
    /// Opens an object for reading.
    pub fn open_object(&self, name: &ObjectName) -> Result<Object> {
        let scope = Scope::of_container(self, &name.account, &name.container)?;
        let opened = self.look(&scope, &object_path(&name.object)?)?.ok_or(Error::NoObject)?;
        let info = opened.info(&scope)?;
        Ok(Object { file: opened.file, info })
    }

    /// Finds an object and reads its metadata.
    pub(crate) fn look(&self, scope: &Scope<'_>, path: &[u8]) -> Result<Option<Opened>> {
        let Some(Found { fd, stat, at }) = place::locate(scope, path)? else { return Ok(None) };
        let opened = self.opened(scope, fd, stat, at)?;
        Ok((!opened.metadata.temporary).then_some(opened))
    }

    fn opened(&self, scope: &Scope<'_>, fd: OwnedFd, stat: Stat, at: At) -> Result<Opened> {
        if let At::Marker(metadata) = at {
            let fid = self.fs.fid(fd.as_fd()).step("read the directory's identity")?;
            let metadata = *metadata;
            return Ok(Opened { file: fd.into(), stat, at: At::Marker(Box::default()), fid, metadata });
        }
        let file = sys::reopen_read(fd.as_fd()).step("open the file")?;
        self.opened_file(scope, file, at)
    }

    fn opened_file(&self, scope: &Scope<'_>, file: File, at: At) -> Result<Opened> {
        // Size and time once more: the file may have grown since it was found.
        let stat = sys::stat(file.as_fd()).step("stat")?;
        let metadata = scope.read_file(file.as_fd(), &stat)?.metadata();
        let fid = self.fs.fid(file.as_fd()).step("read the file's identity")?;
        Ok(Opened { file, stat, at, fid, metadata })
    }

    /// Refuses a request that cannot be ordered, or that something newer supersedes.
    pub(crate) fn check_order(
        &self,
        scope: &Scope<'_>,
        key: &str,
        existing: Option<&Opened>,
        ts: Timestamp,
    ) -> Result<()> {
        if ts < self.tombstones.oldest() {
            return Err(Error::TooOld { oldest: self.tombstones.oldest() });
        }
        if let Some(existing) = self.tombstones.buried(key).filter(|t| *t >= ts) {
            return Err(Error::Superseded { existing });
        }
        if let Some(existing) = existing {
            let info = existing.info(scope)?;
            if !info.foreign && info.data_timestamp >= ts {
                return Err(Error::Superseded { existing: info.data_timestamp });
            }
        }
        Ok(())
    }

    /// What is known of something found, without opening it for reading; `None` for an unfinished upload.
    pub(crate) fn described(
        &self,
        scope: &Scope<'_>,
        fd: OwnedFd,
        stat: Stat,
        at: At,
    ) -> Result<Option<ObjectInfo>> {
        let metadata = match &at {
            At::Marker(metadata) => (**metadata).clone(),
            _ => scope.read_file(fd.as_fd(), &stat)?.metadata(),
        };
        if metadata.temporary {
            return Ok(None);
        }
        let fid = self.fs.fid(fd.as_fd()).step("read the file's identity")?;
        Opened { file: fd.into(), stat, at, fid, metadata }.info(scope).map(Some)
    }

    /// Replaces an object's metadata; its data stays.
    pub fn post_object(&self, name: &ObjectName, post: ObjectPost, ts: Timestamp) -> Result<ObjectInfo> {
        let scope = Scope::of_container(self, &name.account, &name.container)?;
        let _held = self.locks.lock(name);
        let mut opened = self.look(&scope, &object_path(&name.object)?)?.ok_or(Error::NoObject)?;
        let before = opened.info(&scope)?;
        if !before.foreign && before.timestamp >= ts {
            return Err(Error::Superseded { existing: before.timestamp });
        }
        let ObjectPost { content_type, delete_at, headers } = post;
        let metadata = &mut opened.metadata;
        if before.foreign {
            adopt(metadata, &before);
        }
        metadata.meta_timestamp = Some(ts);
        metadata.delete_at = delete_at;
        metadata.headers = headers;
        if content_type.is_some() {
            metadata.content_type = content_type;
        }
        scope.step("post: looked");
        self.rewrite(&scope, &opened, self.options.durable)?;
        scope.step("post: written");
        self.note_object(&name.account, &name.container, &object_path(&name.object)?);
        opened.info(&scope)
    }

    /// Writes changed metadata to an opened object, dropping the old spill file.
    fn rewrite(&self, scope: &Scope<'_>, opened: &Opened, durable: bool) -> Result<()> {
        let file = opened.file.as_fd();
        if let At::Marker(_) = opened.at {
            let dir = sys::open_beneath(file, b".", place::DIRECTORY, Symlinks::Never)
                .step("open the directory")?;
            return scope.change_marker(dir.as_fd(), &opened.metadata);
        }
        let old = scope.spill_name(file);
        scope.write_attribute(file, &opened.metadata)?;
        scope.step("attribute: written");
        // Until the new attribute is safe the old one, and what it names, may come back.
        let spilled = self.options.durable && old.is_some();
        if durable || spilled {
            sys::fsync(file).step("sync the metadata")?;
        }
        scope.forget_stale(old, file);
        Ok(())
    }

    /// Removes an object, and directories above it that are empty and were made for it.
    pub fn delete_object(&self, name: &ObjectName, ts: Timestamp) -> Result<ObjectInfo> {
        self.delete_if(name, ts, &|_| true)?.ok_or(Error::NoObject)
    }

    /// Removes an object that has expired by now; true if it had.
    pub fn expire_object(&self, name: &ObjectName) -> Result<bool> {
        match self.delete_if(name, Timestamp::now(), &ObjectInfo::has_expired) {
            Ok(deleted) => Ok(deleted.is_some()),
            Err(Error::NoObject | Error::NoContainer | Error::Superseded { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn delete_if(
        &self,
        name: &ObjectName,
        ts: Timestamp,
        wanted: &dyn Fn(&ObjectInfo) -> bool,
    ) -> Result<Option<ObjectInfo>> {
        let scope = Scope::of_container(self, &name.account, &name.container)?;
        let key = name.key();
        let _held = self.locks.lock(name);
        let path = object_path(&name.object)?;
        let existing = self.look_to_change(&scope, &path)?;
        self.check_order(&scope, &key, existing.as_ref(), ts)?;
        scope.step("delete: looked");
        let now = Timestamp::now();
        let Some(existing) = existing else {
            self.tombstones.bury(&key, ts, now);
            return Err(Error::NoObject);
        };
        let info = existing.info(&scope)?;
        if !wanted(&info) {
            return Ok(None);
        }
        let within = existing.at == At::Within;
        let mut next = Some(existing);
        let mut rounds = 0;
        while rounds < 8 {
            let Some(opened) = next.take() else { break };
            self.remove(&scope, &path, &opened)?;
            next = self.look_to_change(&scope, &path)?;
            rounds += 1;
        }
        if next.is_some() {
            return Err(Error::Contended { what: "deleting an object" });
        }
        if self.options.durable && (within || rounds > 1 || scope.moved_lately()?) {
            // Whoever moved it has taken the transit name away, but may not have made that durable.
            let place::Split { parent, file } = split(&path);
            if let Some(dir) = open_existing(&scope, parent)? {
                place::persist_moved(&scope, dir.as_fd(), file)?;
            }
        }
        self.tombstones.bury(&key, ts, now);
        scope.step("delete: removed");
        self.counters.change(&name.account, &name.container, -1, -(info.size as i64));
        let pruned = place::prune(&scope, split(&path).parent);
        self.note_object(&name.account, &name.container, &path);
        pruned.map(|()| Some(info))
    }

    /// As `look`, but not through permission to read: who may unlink need not be able to read.
    pub(crate) fn look_to_change(&self, scope: &Scope<'_>, path: &[u8]) -> Result<Option<Opened>> {
        for _ in 0..8 {
            let Some(Found { fd, stat, at }) = place::locate(scope, path)? else { return Ok(None) };
            if at == At::Transit {
                let (dir, _) = place::make_parents(scope, split(path).parent)?;
                place::settle(scope, dir.as_fd(), path)?;
                continue;
            }
            if matches!(at, At::Marker(_)) {
                return self.opened(scope, fd, stat, at).map(Some);
            }
            return match sys::reopen_read(fd.as_fd()) {
                Ok(file) => self.opened_file(scope, file, at).map(Some),
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                    let fid = self.fs.fid(fd.as_fd()).step("read the file's identity")?;
                    Ok(Some(Opened { file: fd.into(), stat, at, fid, metadata: Metadata::default() }))
                }
                Err(e) => Err(Error::io("open the file", e)),
            };
        }
        Err(Error::Contended { what: "settling an object" })
    }

    fn remove(&self, scope: &Scope<'_>, path: &[u8], opened: &Opened) -> Result<()> {
        let Opened { at, file, metadata, .. } = opened;
        let (parent, last) = match at {
            At::Within => (path.to_vec(), name::SELF.to_vec()),
            At::Marker(_) => return self.remove_marker(scope, path),
            _ => (split(path).parent.to_vec(), split(path).file.to_vec()),
        };
        let Some(dir) = open_existing(scope, &parent)? else { return Ok(()) };
        // The spill file goes last: until then the object is whole.
        let spill = scope.spill_name(file.as_fd()).filter(|_| *at != At::Link);
        match sys::unlink_at(dir.as_fd(), &last) {
            Ok(()) => {}
            // It moved into or out of its directory after we looked: the caller looks again.
            Err(e) if is_absent(&e) || is(&e, Errno::ISDIR) => return Ok(()),
            Err(e) => return Err(Error::io("unlink the object", e)),
        }
        scope.step("delete: unlinked");
        scope.persist(dir.as_fd(), None)?;
        if opened.stat.nlink <= 1 && *at != At::Link {
            if let Some(spill) = spill {
                scope.forget_side(&spill);
            }
            scope.forget_manifest(&opened.fid, metadata);
        }
        if *at == At::Within {
            place::prune(scope, &parent)?;
        }
        Ok(())
    }

    /// A directory that was an object becomes a mere directory, and goes if it is empty and ours.
    fn remove_marker(&self, scope: &Scope<'_>, path: &[u8]) -> Result<()> {
        let Some(dir) = open_existing(scope, path)? else { return Ok(()) };
        scope.change_marker(dir.as_fd(), &Metadata::default())?;
        place::prune(scope, path)
    }

    /// Reads the whole object, computes its MD5, and keeps it if nothing changed meanwhile. `None` if it kept changing.
    ///
    /// `progress` is called with the bytes read since the last call; it may sleep, to limit the rate, or return false to give up.
    pub fn compute_etag(
        &self,
        name: &ObjectName,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<[u8; 16]>> {
        let scope = Scope::of_container(self, &name.account, &name.container)?;
        let path = object_path(&name.object)?;
        for _ in 0..3 {
            let mut opened = self.look(&scope, &path)?.ok_or(Error::NoObject)?;
            if let Some(etag) = opened.info(&scope)?.etag {
                return Ok(Some(etag));
            }
            wait_past(opened.stat.mtime_ns);
            let version = self.fs.data_version(opened.file.as_fd()).step("read the data version")?;
            let Some(md5) = hash(&opened.file, progress)? else { return Ok(None) };
            let after = sys::stat(opened.file.as_fd()).step("stat")?;
            if (after.size, after.mtime_ns) != (opened.stat.size, opened.stat.mtime_ns) {
                continue;
            }
            let _held = self.locks.lock(name);
            // Published over while we read: the new file has its own MD5.
            let Some(now) = self.look(&scope, &path)? else { return Err(Error::NoObject) };
            if now.fid != opened.fid {
                continue;
            }
            opened.metadata = now.metadata.clone();
            let before = now.info(&scope)?;
            adopt(&mut opened.metadata, &before);
            opened.metadata.md5 = Some(md5);
            opened.metadata.data_version = version;
            match self.rewrite(&scope, &opened, false) {
                // Readable but not ours to write: known for this answer only.
                Ok(()) | Err(Error::Forbidden { .. } | Error::NoSpace { .. }) => {}
                Err(e) => return Err(e),
            }
            self.note_object(&name.account, &name.container, &path);
            return Ok(Some(md5));
        }
        Ok(None)
    }
}

/// Makes metadata that of the bytes there now, keeping what the owner said of them.
fn adopt(metadata: &mut Metadata, now: &ObjectInfo) {
    metadata.fid = Some(now.fid);
    metadata.size = now.size;
    metadata.mtime_ns = now.mtime_ns;
    metadata.md5 = now.etag;
    metadata.data_version = None;
    metadata.timestamp = Some(now.data_timestamp).filter(|_| !now.foreign);
    metadata.delete_at = now.delete_at;
    metadata.slo.clone_from(&now.slo);
}

/// A write in the same clock tick as the last one could leave the mtime as it was: sleep out the tick before hashing.
fn wait_past(mtime_ns: i64) {
    const TICK: i64 = 20_000_000;
    let age = sys::now_ns().saturating_sub(mtime_ns);
    if (0..TICK).contains(&age) {
        std::thread::sleep(std::time::Duration::from_nanos((TICK - age) as u64));
    }
}

fn hash(file: &File, progress: &mut dyn FnMut(u64) -> bool) -> Result<Option<[u8; 16]>> {
    let mut md5 = Md5::new();
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 0;
    loop {
        let n = file.read_at(&mut buffer, offset).step("read the object")?;
        if n == 0 {
            return Ok(Some(md5.finalize().into()));
        }
        md5.update(&buffer[..n]);
        offset += n as u64;
        if !progress(n as u64) {
            return Ok(None);
        }
    }
}

/// Opens an existing directory beneath the scope's base.
pub(crate) fn open_existing(scope: &Scope<'_>, path: &[u8]) -> Result<Option<OwnedFd>> {
    let path = if path.is_empty() { b".".as_slice() } else { path };
    match sys::open_beneath(scope.base(), path, OFlags::RDONLY | OFlags::DIRECTORY, Symlinks::Never) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(Error::io("open the directory", e)),
    }
}
