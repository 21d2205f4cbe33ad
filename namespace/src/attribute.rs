//! The metadata of a file or directory, as it lies beside the data: one extended attribute, its spill file, or,
//! where the file system has no extended attributes, a side file.
//!
//! Spill and side files lie in the account's `.lb~dm/`, keyed by FID. They hold only what the file's owner may forge.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lustre::fs::Fid;
use lustre::sys::{self, OFlags, Symlinks};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, Step, is, is_absent};
use crate::metadata::{self, ATTRIBUTE, Kept, Metadata};
use crate::migration::{self, Legacy, Observed};
use crate::{MetadataMode, Scope, place};

/// Longest attribute value; what does not fit goes to a spill file. Lustre and ext4 hold 4 KiB with room for others' attributes.
const INLINE: usize = 3500;

/// Longest side or spill file that is read.
const MOST: u64 = 1 << 20;

/// The account's directory of spill and side files.
pub(crate) const DIRECTORY: &[u8] = b".lb~dm";

/// Ends the name of the side file that keeps an assembled object's manifest.
const MANIFEST: &str = ".slo";

/// What a file or directory says of itself.
#[derive(Debug)]
pub(crate) enum Attribute {
    /// Nothing that we know.
    None,
    /// Metadata of our own.
    Ours(Box<Metadata>),
    /// Something unreadable stands there; the data is unharmed.
    Corrupt,
}

impl Attribute {
    /// The metadata, or empty metadata.
    pub(crate) fn metadata(self) -> Metadata {
        match self {
            Self::Ours(metadata) => *metadata,
            Self::None | Self::Corrupt => Metadata::default(),
        }
    }
}

impl Scope<'_> {
    /// Metadata of an open directory.
    pub(crate) fn read_directory(&self, dir: BorrowedFd<'_>) -> Result<Attribute> {
        self.read_attribute(dir, None)
    }

    /// Metadata of an open file; `size` and `mtime` let metadata of other software be judged.
    pub(crate) fn read_file(&self, file: BorrowedFd<'_>, stat: &sys::Stat) -> Result<Attribute> {
        self.read_attribute(file, Some(stat))
    }

    fn read_attribute(&self, fd: BorrowedFd<'_>, stat: Option<&sys::Stat>) -> Result<Attribute> {
        if self.namespace().metadata_mode() == MetadataMode::Sidecar {
            let fid = self.namespace().fs.fid(fd).step("read the file's identity")?;
            return match self.read_side(&side_name(&fid))? {
                Some(bytes) => self.decode(&bytes),
                None => Ok(Attribute::None),
            };
        }
        let mut bytes = Vec::new();
        match sys::get_xattr(fd, ATTRIBUTE, &mut bytes) {
            Ok(true) => {}
            Ok(false) => return self.read_migrated(fd, stat),
            // The identity may see that the file is there, not what its owner says of it.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Ok(Attribute::None),
            Err(e) => return Err(Error::io("read the attribute", e)),
        }
        self.decode(&bytes)
    }

    /// Metadata written by `SwiftOnFile` or its descendants.
    fn read_migrated(&self, fd: BorrowedFd<'_>, stat: Option<&sys::Stat>) -> Result<Attribute> {
        let mut all = Vec::new();
        for piece in 0..migration::MAX_PIECES {
            let mut bytes = Vec::new();
            match sys::get_xattr(fd, &migration::attribute(piece), &mut bytes) {
                Ok(true) => {
                    let last = bytes.len() < migration::PIECE;
                    all.append(&mut bytes);
                    if last {
                        break;
                    }
                }
                Ok(false) => break,
                Err(e) => return Err(Error::io("read the attribute", e)),
            }
        }
        if all.is_empty() {
            return Ok(Attribute::None);
        }
        let observed = Observed {
            size: stat.map_or(0, |s| s.size),
            mtime_ns: stat.map_or(0, |s| s.mtime_ns),
            directory: stat.is_none(),
        };
        match migration::read(&all, observed) {
            Ok(Legacy { mut metadata, current, .. }) => {
                // It names no FID, so an expiry in it could be a copy's: that is not taken. Size and time vouch for the rest.
                if current {
                    metadata.fid = Some(self.namespace().fs.fid(fd).step("read the file's identity")?);
                }
                Ok(Attribute::Ours(Box::new(metadata)))
            }
            Err(e) => {
                self.namespace().report_corrupt(&e);
                Ok(Attribute::Corrupt)
            }
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<Attribute> {
        let joined = Metadata::decode(bytes).map(|inline| spill_name(&inline)).and_then(|spill| {
            // A spill file that cannot be read is reported below, like one that is missing.
            let spill = spill.and_then(|name| self.read_side(&name).ok().flatten());
            Metadata::join(bytes, spill.as_deref())
        });
        match joined {
            Ok((metadata, None)) => Ok(Attribute::Ours(Box::new(metadata))),
            Ok((metadata, Some(fault))) => {
                self.namespace().report_corrupt(&fault);
                Ok(Attribute::Ours(Box::new(metadata)))
            }
            Err(e @ metadata::Error::Newer(_)) => Err(Error::Newer { what: e.to_string() }),
            Err(e) => {
                self.namespace().report_corrupt(&e);
                Ok(Attribute::Corrupt)
            }
        }
    }

    /// Marks a directory as made by us. Others may have found it by now and made it an object; who does that,
    /// or ends it, holds the movers' lock, as the caller does if `held`.
    pub(crate) fn mark_made(&self, dir: BorrowedFd<'_>, held: bool) -> Result<()> {
        let ours = Metadata { made: true, ..Metadata::default() };
        if self.namespace().metadata_mode() != MetadataMode::Sidecar && self.create_attribute(dir, &ours)? {
            return Ok(());
        }
        let _unmoved = if held { None } else { Some(self.unmoved()?) };
        let metadata = Metadata { made: true, ..self.read_directory(dir)?.metadata() };
        self.write_attribute(dir, &metadata)
    }

    /// Changes what a directory that is an object says of itself, of which `made` is kept.
    pub(crate) fn change_marker(&self, dir: BorrowedFd<'_>, metadata: &Metadata) -> Result<()> {
        let _unmoved = self.unmoved()?;
        let made = self.read_directory(dir)?.metadata().made;
        self.replace_directory(dir, &Metadata { made, ..metadata.clone() })
    }

    /// Writes metadata to an open file or directory; a spill or side file is durable before the attribute names it.
    pub(crate) fn write_attribute(&self, fd: BorrowedFd<'_>, metadata: &Metadata) -> Result<()> {
        self.write(fd, metadata, sys::set_xattr)?.step("write the attribute")
    }

    /// As `write_attribute`; false, and nothing is written, where there is an attribute already.
    pub(crate) fn create_attribute(&self, fd: BorrowedFd<'_>, metadata: &Metadata) -> Result<bool> {
        match self.write(fd, metadata, sys::create_xattr)? {
            Err(e) if is(&e, Errno::EXIST) => Ok(false),
            other => other.step("write the attribute").map(|()| true),
        }
    }

    /// The outer error is one of spill and side files.
    fn write(
        &self,
        fd: BorrowedFd<'_>,
        metadata: &Metadata,
        set: fn(BorrowedFd<'_>, &str, &[u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>> {
        if self.namespace().metadata_mode() == MetadataMode::Sidecar {
            let fid = self.namespace().fs.fid(fd).step("read the file's identity")?;
            return self.write_side(&side_name(&fid), &metadata.encode()).map(Ok);
        }
        let (inline, spill) = metadata.split_for_spill(INLINE);
        let named = |_: &Vec<u8>| Metadata::decode(&inline).ok().and_then(|inline| spill_name(&inline));
        let name = spill.as_ref().and_then(named);
        if let (Some(spill), Some(name)) = (spill, &name) {
            self.write_side(name, &spill)?;
            self.step("attribute: spilled");
        }
        let written = set(fd, ATTRIBUTE, &inline);
        if let (Err(_), Some(name)) = (&written, name) {
            self.forget_stale(Some(name), fd);
        }
        Ok(written)
    }

    /// Writes the metadata of an open directory durably, and drops what it spilled before.
    pub(crate) fn replace_directory(&self, dir: BorrowedFd<'_>, metadata: &Metadata) -> Result<()> {
        let old = self.spill_name(dir);
        self.write_attribute(dir, metadata)?;
        self.persist(dir, None)?;
        self.forget_stale(old, dir);
        Ok(())
    }

    /// Removes a spill file that the open file or directory does not name, or no longer.
    pub(crate) fn forget_stale(&self, name: Option<String>, fd: BorrowedFd<'_>) {
        if let Some(name) = name.filter(|name| Some(name) != self.spill_name(fd).as_ref()) {
            self.forget_side(&name);
        }
    }

    /// The spill or side file of an open file, if it has one.
    pub(crate) fn spill_name(&self, file: BorrowedFd<'_>) -> Option<String> {
        if self.namespace().metadata_mode() == MetadataMode::Sidecar {
            return self.namespace().fs.fid(file).ok().map(|fid| side_name(&fid));
        }
        let mut bytes = Vec::new();
        match sys::get_xattr(file, ATTRIBUTE, &mut bytes) {
            Ok(true) => Metadata::decode(&bytes).ok().and_then(|inline| spill_name(&inline)),
            _ => None,
        }
    }

    /// Removes a side file; a leftover harms nobody, so failing is no error.
    pub(crate) fn forget_side(&self, name: &str) {
        if let Ok(Some(dir)) = self.side_directory(name, false) {
            let _ = sys::unlink_at(dir.as_fd(), name.as_bytes());
        }
    }

    fn side_directory(&self, name: &str, make: bool) -> Result<Option<OwnedFd>> {
        let shard = name.get(..2).unwrap_or("00");
        let path = place::join(DIRECTORY, shard.as_bytes());
        let account = self.account()?;
        match sys::open_beneath(account, &path, place::DIRECTORY, Symlinks::Never) {
            Ok(fd) => return Ok(Some(fd)),
            Err(e) if is_absent(&e) => {}
            Err(e) => return Err(Error::io("open the metadata directory", e)),
        }
        if !make {
            return Ok(None);
        }
        // Every identity of the account keeps its own files there; none removes another's.
        let around = sys::stat(account).step("stat the account")?;
        let mode = place::directory_mode(&around) | 0o1000;
        let mut dir =
            sys::open_beneath(account, b".", place::DIRECTORY, Symlinks::Never).step("open the account")?;
        for part in [DIRECTORY, shard.as_bytes()] {
            match sys::make_dir_at(dir.as_fd(), part, mode) {
                Ok(()) => self.persist(dir.as_fd(), None)?,
                Err(e) if is(&e, Errno::EXIST) => {}
                Err(e) => return Err(Error::io("make the metadata directory", e)),
            }
            dir = sys::open_beneath(dir.as_fd(), part, place::DIRECTORY, Symlinks::Never)
                .step("open the metadata directory")?;
        }
        Ok(Some(dir))
    }

    fn read_side(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(dir) = self.side_directory(name, false)? else { return Ok(None) };
        read_small(dir.as_fd(), name.as_bytes())
    }

    fn write_side(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let Some(dir) = self.side_directory(name, true)? else { return Ok(()) };
        write_small(self, dir.as_fd(), name.as_bytes(), bytes, None)
    }

    /// The manifest of an assembled object, whose file has this FID; `None` if it is not there.
    pub(crate) fn read_manifest(&self, fid: &Fid, kept: &Kept) -> Result<Option<Vec<u8>>> {
        let name = manifest_name(fid);
        let Some(dir) = self.side_directory(&name, false)? else { return Ok(None) };
        let Some(bytes) = read_at_most(dir.as_fd(), name.as_bytes(), kept.len.saturating_add(1))? else {
            return Ok(None);
        };
        if bytes.len() as u64 != kept.len || <[u8; 32]>::from(Sha256::digest(&bytes)) != kept.sha256 {
            let e = std::io::Error::new(std::io::ErrorKind::InvalidData, "it is another one");
            return Err(Error::io("read the manifest of an assembled object", e));
        }
        Ok(Some(bytes))
    }

    /// Keeps the manifest of what is to be an assembled object, durably, for whom `mode` lets read it.
    pub(crate) fn write_manifest(&self, fid: &Fid, manifest: &[u8], mode: u32) -> Result<()> {
        let name = manifest_name(fid);
        let Some(dir) = self.side_directory(&name, true)? else { return Ok(()) };
        write_small(self, dir.as_fd(), name.as_bytes(), manifest, Some(mode))
    }

    /// Removes the manifest of an object that is gone, if it was an assembled one.
    pub(crate) fn forget_manifest(&self, fid: &Fid, metadata: &Metadata) {
        if metadata.slo.is_some_and(|slo| slo.kept.is_some()) {
            self.forget_side(&manifest_name(fid));
        }
    }
}

/// Name of the side file of an assembled object's manifest. The manifest never changes while the file lives.
pub(crate) fn manifest_name(fid: &Fid) -> String {
    side_name(fid) + MANIFEST
}

/// The FID that a side file's name is made of; `None` if it is no name of a side file.
pub(crate) fn fid_of(name: &[u8]) -> Option<Fid> {
    let stem = std::str::from_utf8(name).ok()?.split('.').next()?;
    let digits = stem.get(2..)?;
    if digits.len() % 2 != 0 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect::<Option<_>>()?;
    Fid::from_bytes(&bytes).filter(|fid| side_name(fid) == stem)
}

/// Name of the spill file: keyed by FID, and by content, so that old and new lie side by side while one replaces the other.
fn spill_name(inline: &Metadata) -> Option<String> {
    let (spill, fid) = (inline.spill.as_ref()?, inline.fid.as_ref()?);
    Some(format!("{}.{}", side_name(fid), crate::hex(&spill.sha256[..8])))
}

fn side_name(fid: &Fid) -> String {
    // The last bytes of a handle vary most; they pick the directory.
    let hex = fid.to_string();
    let shard = hex.get(hex.len().saturating_sub(2)..).unwrap_or("00").to_owned();
    shard + &hex
}

/// Reads a whole small regular file of ours.
pub(crate) fn read_small(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Vec<u8>>> {
    read_at_most(dir, name, MOST)
}

fn read_at_most(dir: BorrowedFd<'_>, name: &[u8], most: u64) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match sys::open_beneath(dir, name, flags, Symlinks::Never) {
        Ok(fd) => std::fs::File::from(fd),
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(Error::io("open a metadata file", e)),
    };
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).step("read a metadata file")?;
    Ok(Some(bytes))
}

/// Writes a small file of ours so that a reader sees the old or the new one, and a power cut too.
pub(crate) fn write_small(
    scope: &Scope<'_>,
    dir: BorrowedFd<'_>,
    name: &[u8],
    bytes: &[u8],
    mode: Option<u32>,
) -> Result<()> {
    let mode = match mode {
        Some(mode) => mode,
        None => place::file_mode(&sys::stat(dir).step("stat a directory")?),
    };
    let fs = &scope.namespace().fs;
    let temporary = fs.temporary_name(name).step("name a temporary file")?;
    let mut file = fs.create(dir, &temporary, mode, Some(bytes.len() as u64)).step("make a metadata file")?;
    let written = file.write_all(bytes).step("write a metadata file").and_then(|()| {
        if scope.namespace().options.durable {
            sys::fsync(file.as_fd()).step("sync a metadata file")?;
        }
        sys::rename_at(dir, &temporary, dir, name).step("publish a metadata file")
    });
    if let Err(e) = written {
        let _ = sys::unlink_at(dir, &temporary);
        return Err(e);
    }
    scope.persist(dir, Some(file.as_fd()))
}
