//! Assembly: the file of a static large object, so far its manifest, becomes the content of its segments.
//!
//! What a client sees stays as it was. The manifest moves to a side file keyed by the new file's FID, durably and
//! before anything names it; then the new file, with the object's metadata as it is at that moment, is renamed over the
//! manifest. Killed at any step, the object is the manifest or the assembled file; a side file without its file is an
//! orphan (see [`Namespace::reap_orphans`]).
//!
//! What the segments are, and that their bytes are right, the caller knows.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use lustre::sys::{self, Kind, Stat};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, Step};
use crate::metadata::{Kept, Metadata, Slo};
use crate::object::{Object, ObjectInfo, Opened};
use crate::place::{self, At};
use crate::upload::{Temporary, Upload};
use crate::{Namespace, ObjectName, Scope, attribute, name, object_path};

/// The largest manifest that is read; larger ones were never written by us.
const LARGEST_MANIFEST: u64 = 64 << 20;

/// An assembly leaves this part of the file system free, or this many bytes where that is less: clients go first.
const LEFT_FREE: (u64, u64) = (20, 10 << 30);

/// How often publishing starts over when the object's metadata keeps changing.
const TRIES: usize = 8;

/// An assembly under way: a temporary file that gathers the segments. Dropped, it leaves the manifest as it was.
#[derive(Debug)]
pub struct Assembly {
    upload: Upload,
    manifest: Vec<u8>,
    of: ObjectInfo,
    slo: Slo,
}

impl Assembly {
    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.upload.append_bytes(bytes)
    }

    /// Appends a part of an open file, sharing blocks where the file system can.
    pub fn copy(&mut self, namespace: &Namespace, source: &File, offset: u64, len: u64) -> Result<()> {
        self.upload.append(namespace, source, offset, len)
    }

    /// Whether all whom the new file will let read may read this segment's file, by its permissions and those of the
    /// directories that it lies in, from its container on.
    pub fn may_take(&self, namespace: &Namespace, segment: &ObjectName) -> Result<bool> {
        let Some(temporary) = &self.upload.temporary else { return Ok(false) };
        let new = sys::stat(temporary.file.as_fd()).step("stat")?;
        let scope = Scope::of_container(namespace, &segment.account, &segment.container)?;
        let path = object_path(&segment.object)?;
        let stat = |path: &[u8]| sys::stat_at(scope.base(), path, false).step("stat a segment");
        let mut way = vec![sys::stat(scope.base()).step("stat the container")?];
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for end in ends.chain([path.len()]) {
            way.push(stat(&path[..end])?);
        }
        if way.last().is_some_and(|last| last.kind == Kind::Directory) {
            way.push(stat(&place::join(&path, name::SELF))?);
        }
        Ok(way.iter().all(|stat| lets_in(stat, &new)))
    }

    /// Gives it up.
    pub fn abort(self, namespace: &Namespace) {
        self.upload.abort(namespace);
    }
}

impl Namespace {
    /// The manifest of an open static large object, as it was uploaded; `None` if the object is none, or if what was
    /// assembled has been replaced since it was opened.
    pub fn manifest(&self, name: &ObjectName, object: &Object) -> Result<Option<Vec<u8>>> {
        let Some(slo) = object.info.slo else { return Ok(None) };
        let len = slo.kept.map_or(object.info.size, |kept| kept.len);
        if len > LARGEST_MANIFEST {
            let e = std::io::Error::new(std::io::ErrorKind::InvalidData, "it is too large");
            return Err(Error::io("read a manifest", e));
        }
        let Some(kept) = slo.kept else {
            let mut bytes = vec![0; len as usize];
            object.file.read_exact_at(&mut bytes, 0).step("read a manifest")?;
            return Ok(Some(bytes));
        };
        let scope = Scope::of_account(self, &name.account)?;
        if let Some(bytes) = scope.read_manifest(&object.info.fid, &kept)? {
            return Ok(Some(bytes));
        }
        if sys::stat(object.file.as_fd()).step("stat")?.nlink == 0 {
            return Ok(None);
        }
        let e = std::io::Error::new(std::io::ErrorKind::NotFound, "its side file is missing");
        Err(Error::io("read the manifest of an assembled object", e))
    }

    /// Starts to assemble what was opened and has this manifest; `None` if that is not for us to do.
    ///
    /// Only a file that is as one that we would make now is replaced: the same owner, group and permissions, and no
    /// symbolic link. And nobody but its owner may write it: who could forge a manifest in
    /// the owner's name would have us copy for him what only the owner may read.
    pub fn begin_assembly(
        &self,
        name: &ObjectName,
        object: &Object,
        manifest: Vec<u8>,
    ) -> Result<Option<Assembly>> {
        let of = object.info.clone();
        let Some(slo) = of.slo.filter(|slo| slo.kept.is_none() && !of.foreign) else { return Ok(None) };
        if of.etag != Some(md5::Md5::digest(&manifest).into()) {
            return Ok(None);
        }
        let scope = Scope::of_container(self, &name.account, &name.container)?;
        let space = sys::statfs(scope.base()).step("ask for the free space")?;
        let (part, bytes) = LEFT_FREE;
        if space.available < slo.size.saturating_add((space.total / part).min(bytes)) {
            return Err(Error::NoSpace { what: "assemble, and leave some".to_owned() });
        }
        let mut upload = self.begin(name, Some(slo.size), of.data_timestamp)?;
        upload.hasher = None;
        let replaceable = self.look_to_change(&scope, &object_path(&name.object)?).and_then(|now| {
            let (Some(now), Some(temporary)) = (now, &upload.temporary) else { return Ok(false) };
            Ok(same(&scope, &now, &of)? && replaceable(&now, temporary)?)
        });
        match replaceable {
            Ok(true) => Ok(Some(Assembly { upload, manifest, of, slo })),
            other => {
                upload.abort(self);
                other.map(|_| None)
            }
        }
    }

    /// Publishes the assembled object. False if the manifest has been replaced or removed meanwhile; in that case, and
    /// after an error, what was gathered is gone.
    pub fn finish_assembly(&self, assembly: Assembly) -> Result<bool> {
        let Assembly { mut upload, manifest, of, slo } = assembly;
        let published = self.publish_assembly(&mut upload, &manifest, &of, slo);
        if !matches!(published, Ok(true)) {
            self.discard_assembly(&mut upload);
        }
        published
    }

    /// Removes what was gathered, unless it is published after all and only that could not be made durable.
    fn discard_assembly(&self, upload: &mut Upload) {
        if let Some(temporary) = &upload.temporary
            && sys::stat_at(temporary.dir.as_fd(), &temporary.name, false).is_ok()
            && let (Ok(fid), Ok(scope)) =
                (self.fs.fid(temporary.file.as_fd()), Scope::of_account(self, &upload.name.account))
        {
            scope.forget_side(&attribute::manifest_name(&fid));
        }
        upload.discard(self);
    }

    fn publish_assembly(
        &self,
        upload: &mut Upload,
        manifest: &[u8],
        of: &ObjectInfo,
        slo: Slo,
    ) -> Result<bool> {
        let name = upload.name.clone();
        let written = upload.written;
        let Some(temporary) = upload.temporary.as_mut().filter(|_| written == slo.size) else {
            return Ok(false);
        };
        let scope = Scope::of_container(self, &name.account, &name.container)?;
        let path = object_path(&name.object)?;
        let fid = self.fs.fid(temporary.file.as_fd()).step("read the file's identity")?;
        let mode = sys::stat(temporary.file.as_fd()).step("stat")?.mode & 0o777;
        scope.write_manifest(&fid, manifest, mode)?;
        scope.step("assemble: manifest kept");
        // The data before the lock, for that may take long.
        if self.options.durable {
            sys::fsync(temporary.file.as_fd()).step("sync the object")?;
        }
        scope.step("assemble: data durable");
        let kept = Kept {
            md5: md5::Md5::digest(manifest).into(),
            sha256: Sha256::digest(manifest).into(),
            len: manifest.len() as u64,
        };
        let slo = Slo { kept: Some(kept), ..slo };
        let _held = self.locks.lock(&name);
        for _ in 0..TRIES {
            let Some(now) = self.look_to_change(&scope, &path)? else { return Ok(false) };
            if !same(&scope, &now, of)? || !replaceable(&now, temporary)? {
                return Ok(false);
            }
            self.take_over(&scope, temporary, &now, slo)?;
            scope.step("assemble: attribute set");
            // Another server's POST is not held off by our lock.
            let Some(again) = self.look_to_change(&scope, &path)? else { return Ok(false) };
            let seen = |opened: &Opened| (opened.fid, opened.stat.size, opened.stat.mtime_ns);
            if seen(&again) != seen(&now) || again.metadata != now.metadata {
                continue;
            }
            let spill = scope.spill_name(now.file.as_fd());
            self.publish_file(&scope, &path, temporary, Some(&now), false)?;
            upload.temporary = None;
            scope.step("assemble: published");
            self.replaced(&scope, &name, Some(&now), spill, written);
            self.note_object(&name.account, &name.container, &path);
            return Ok(true);
        }
        Err(Error::Contended { what: "publishing an assembled object" })
    }

    /// Gives the temporary file the metadata of the manifest that it is to replace, durably.
    fn take_over(&self, scope: &Scope<'_>, temporary: &Temporary, now: &Opened, slo: Slo) -> Result<()> {
        let file = temporary.file.as_fd();
        // The object has not changed; and any later write gives the file another time.
        sys::set_mtime(file, now.stat.mtime_ns).step("set the time")?;
        let stat = sys::stat(file).step("stat")?;
        let metadata = Metadata {
            fid: Some(self.fs.fid(file).step("read the file's identity")?),
            size: stat.size,
            mtime_ns: stat.mtime_ns,
            md5: None,
            data_version: self.fs.data_version(file).step("read the data version")?,
            slo: Some(slo),
            ..now.metadata.clone()
        };
        let before = scope.spill_name(file);
        scope.write_attribute(file, &metadata)?;
        scope.forget_stale(before, file);
        if self.options.durable {
            sys::fsync(file).step("sync the metadata")?;
        }
        Ok(())
    }
}

/// Whether what is there now is still the manifest that was read, all of whose metadata is at hand.
fn same(scope: &Scope<'_>, now: &Opened, of: &ObjectInfo) -> Result<bool> {
    let info = now.info(scope)?;
    Ok(now.fid == of.fid
        && !info.foreign
        && (info.data_timestamp, info.slo, info.etag) == (of.data_timestamp, of.slo, of.etag)
        && now.metadata.spill.is_none())
}

/// Whether all whom a file with the permissions of `new` lets read may read this file, or go through this directory. A
/// symbolic link says nothing of what it leads to.
fn lets_in(stat: &Stat, new: &Stat) -> bool {
    let (group, other) = match stat.kind {
        Kind::File => (0o040, 0o004),
        Kind::Directory => (0o010, 0o001),
        Kind::Symlink | Kind::Other => return false,
    };
    // Who is in the group counts by that alone, even where others may do more.
    let everybody = stat.mode & (group | other) == group | other;
    let its_group = stat.gid == new.gid && stat.mode & group != 0;
    (new.mode & 0o004 == 0 || everybody) && (new.mode & 0o040 == 0 || everybody || its_group)
}

/// See [`Namespace::begin_assembly`].
fn replaceable(now: &Opened, temporary: &Temporary) -> Result<bool> {
    const OTHERS_WRITE: u32 = 0o022;
    let made = sys::stat(temporary.file.as_fd()).step("stat")?;
    let rights = |stat: &Stat| (stat.uid, stat.gid, stat.mode);
    Ok(matches!(now.at, At::File | At::Within)
        && rights(&now.stat) == rights(&made)
        && made.mode & OTHERS_WRITE == 0)
}
