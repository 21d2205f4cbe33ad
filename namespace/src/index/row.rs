//! Keys and values as bytes.
//!
//! | key | value |
//! |---|---|
//! | `m` name | what the index says of itself |
//! | `d` id | a [`Directory`] |
//! | `f` FID after its length, account | the id of the directory with that FID |
//! | `r` parent, kind, text | an [`Object`] or an [`Entry`] |
//! | `c` id | a [`Container`] |
//! | `p` id | the directory is to be scanned |
//! | `l` id | the directory left the tree: all beneath it is to go |
//! | `e` seconds, parent, text | the object expires then |
//! | `h` id | there are objects in the directory whose MD5 is not known |
//! | `s` parent, text | it is a manifest whose segments are not assembled |
//! | `n` account, inode, parent, text | nothing: the row's file has other names; a byte: the row is a symbolic link to it |
//! | `k` account, inode | the file has names that are not known to be its |
//! | `y` parent, text | the entry is a symbolic link, whatever it leads to |
//! | `u` parent, file name | a label: why the file has no name |
//!
//! Ids are eight bytes, big-endian. Values are fields in a fixed order: numbers as LEB128, byte strings after their length.

use lustre::fs::Fid;

use crate::error::{Error, Result};
use crate::listing::ObjectRow;
use crate::metadata::{Kept, Slo};
use crate::name::Context;
use crate::timestamp::Timestamp;

/// A directory's number in the index, given once.
pub(super) type Id = u64;

/// Above all accounts.
pub(super) const TOP: Id = 0;
/// Above what left the tree.
pub(super) const LIMBO: Id = u64::MAX;

/// What a row is, as the order of names within a directory needs it: the names of one kind are in byte order forwards and
/// backwards, those of different kinds must be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// An object.
    Object = 0,
    /// A directory whose text ends in a slash; at the level of accounts and containers, in nothing.
    Directory = 1,
    /// A directory of a name that goes on in it.
    Part = 2,
    /// A directory of a run of empty components. Names below it may sort among those below its siblings; there are few.
    Run = 3,
}

/// Kinds that are directories.
pub(super) const DIRECTORIES: [Kind; 3] = [Kind::Directory, Kind::Part, Kind::Run];

/// What a directory is to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// An account.
    Account = 0,
    /// The first part of a long container name.
    Between = 1,
    /// A container.
    Container = 2,
    /// Beneath a container.
    Object = 3,
}

/// A directory as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory {
    pub(super) parent: Id,
    /// The account's directory; of that, itself.
    pub(super) account: Id,
    pub(super) level: Level,
    pub(super) kind: Kind,
    /// Its key in its parent.
    pub(super) text: String,
    /// Its file name; of an account, the path from the root.
    pub(super) file: Vec<u8>,
    /// What names in it mean.
    pub(super) context: Context,
    pub(super) fid: Fid,
    /// Objects in it, not beneath it.
    pub(super) objects: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Objects in it whose MD5 is not known.
    pub(super) unhashed: u64,
    /// Symbolic links in it.
    pub(super) links: u64,
    /// Directories in it beneath which there is an object.
    pub(super) live: u64,
    /// No name beneath it is longer than its own and this.
    pub(super) longest: u64,
    /// Whether it is to be scanned.
    pub(super) pending: bool,
    /// The epoch in which it was last scanned; 0: never.
    pub(super) epoch: u64,
}

/// The row of a directory in its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: Id,
    /// Whether there is an object beneath it.
    pub(super) live: bool,
}

/// What is summed up of a container; of an account, only what is to be scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Container {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// Directories in it that are to be scanned.
    pub(super) pending: u64,
    /// The epoch in which all of it was seen.
    pub(super) epoch: u64,
    /// When it was made or last changed, in units of [`Timestamp`].
    pub(super) changed: u64,
    /// Symbolic links in it.
    pub(super) links: u64,
    /// Changes since its links were looked at that may have given one another target; 0: none.
    pub(super) unsure: u64,
}

/// An object's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) size: u64,
    pub(super) etag: Option<[u8; 16]>,
    pub(super) content_type: Option<String>,
    pub(super) modified: Timestamp,
    pub(super) delete_at: Option<u64>,
    pub(super) slo: Option<Slo>,
    /// Of the file that holds it. The same with the same `ctime` and size means: nothing changed.
    pub(super) ino: u64,
    pub(super) ctime_ns: i64,
    /// Whether it may change without another `ctime`.
    pub(super) racy: bool,
    /// How many names its file has, if there are more than this one; 0 for a symbolic link, whose target has a name.
    pub(super) links: Option<u64>,
}

impl Object {
    /// Whether its bytes are to be hashed.
    pub(super) fn is_unhashed(&self) -> bool {
        self.etag.is_none() && self.slo.is_none()
    }

    /// As a listing shows it.
    pub(super) fn listed(self, name: String) -> ObjectRow {
        let Self { size, etag, content_type, modified, slo, .. } = self;
        ObjectRow { name, size, etag, content_type, last_modified: modified, slo }
    }
}

pub(super) fn meta_key(name: &str) -> Vec<u8> {
    [b"m", name.as_bytes()].concat()
}

fn with_id(tag: u8, id: Id) -> Vec<u8> {
    let mut key = Vec::with_capacity(48);
    key.push(tag);
    key.extend_from_slice(&id.to_be_bytes());
    key
}

pub(super) fn directory_key(id: Id) -> Vec<u8> {
    with_id(b'd', id)
}

pub(super) fn container_key(id: Id) -> Vec<u8> {
    with_id(b'c', id)
}

pub(super) fn pending_key(id: Id) -> Vec<u8> {
    with_id(b'p', id)
}

pub(super) fn left_key(id: Id) -> Vec<u8> {
    with_id(b'l', id)
}

pub(super) fn fid_key(account: Id, fid: &Fid) -> Vec<u8> {
    let mut key = fid_prefix(fid);
    key.extend_from_slice(&account.to_be_bytes());
    key
}

/// What the keys of a directory's FID begin with, in whatever accounts it is.
pub(super) fn fid_prefix(fid: &Fid) -> Vec<u8> {
    let bytes = fid.as_bytes();
    let mut key = Vec::with_capacity(2 + bytes.len() + 8);
    key.extend_from_slice(&[b'f', bytes.len() as u8]);
    key.extend_from_slice(bytes);
    key
}

pub(super) fn link_key(parent: Id, text: &str) -> Vec<u8> {
    let mut key = with_id(b'y', parent);
    key.extend_from_slice(text.as_bytes());
    key
}

/// A row; also, with an empty text, where the rows of a kind begin.
pub(super) fn row_key(parent: Id, kind: Kind, text: &str) -> Vec<u8> {
    let mut key = with_id(b'r', parent);
    key.push(kind as u8);
    key.extend_from_slice(text.as_bytes());
    key
}

/// Bytes of a row's key before its text.
pub(super) const ROW_TEXT: usize = 10;

pub(super) fn expiry_key(seconds: u64, parent: Id, text: &str) -> Vec<u8> {
    let mut key = with_id(b'e', seconds);
    key.extend_from_slice(&parent.to_be_bytes());
    key.extend_from_slice(text.as_bytes());
    key
}

pub(super) fn unhashed_key(id: Id) -> Vec<u8> {
    with_id(b'h', id)
}

pub(super) fn manifest_key(parent: Id, text: &str) -> Vec<u8> {
    let mut key = with_id(b's', parent);
    key.extend_from_slice(text.as_bytes());
    key
}

pub(super) fn unserved_key(parent: Id, file: &[u8]) -> Vec<u8> {
    let mut key = with_id(b'u', parent);
    key.extend_from_slice(file);
    key
}

pub(super) fn kin_key(account: Id, ino: u64, place: Option<(Id, &str)>) -> Vec<u8> {
    let mut key = with_id(b'n', account);
    key.extend_from_slice(&ino.to_be_bytes());
    if let Some((parent, text)) = place {
        key.extend_from_slice(&parent.to_be_bytes());
        key.extend_from_slice(text.as_bytes());
    }
    key
}

/// Where in the key of a name of a file its directory stands, and its text.
pub(super) const KIN: (usize, usize) = (17, 25);

pub(super) fn search_key(account: Id, ino: u64) -> Vec<u8> {
    let mut key = with_id(b'k', account);
    key.extend_from_slice(&ino.to_be_bytes());
    key
}

/// The first key after all that begin with `key`; `None` if there is none.
pub(super) fn after(key: &[u8]) -> Option<Vec<u8>> {
    let last = key.iter().rposition(|b| *b != 0xff)?;
    let mut next = key[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

/// The id that a key holds behind its tag.
pub(super) fn id_in(key: &[u8], at: usize) -> Option<Id> {
    Some(Id::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?))
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_bytes(bytes: &mut Vec<u8>, field: &[u8]) {
    put(bytes, field.len() as u64);
    bytes.extend_from_slice(field);
}

/// Reads fields; whatever the bytes are it ends with an error, not a panic.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn take(&mut self, len: usize) -> Result<&'b [u8]> {
        let (field, rest) = self.0.split_at_checked(len).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(field)
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(damaged())
    }

    fn bytes(&mut self) -> Result<&'b [u8]> {
        let len = self.number()?;
        self.take(usize::try_from(len).map_err(|_| damaged())?)
    }

    fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| damaged())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| damaged())
    }
}

pub(super) fn damaged() -> Error {
    Error::Index("a row of the index is damaged; delete the index's file, and it is made anew".to_owned())
}

/// A number that stands alone.
pub(super) fn number(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, value);
    bytes
}

pub(super) fn read_number(bytes: &[u8]) -> Result<u64> {
    Fields(bytes).number()
}

impl Kind {
    pub(super) fn of(byte: u8) -> Result<Self> {
        [Self::Object, Self::Directory, Self::Part, Self::Run]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
            .ok_or_else(damaged)
    }
}

impl Level {
    fn of(byte: u8) -> Result<Self> {
        [Self::Account, Self::Between, Self::Container, Self::Object]
            .into_iter()
            .find(|level| *level as u8 == byte)
            .ok_or_else(damaged)
    }
}

impl Directory {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self {
            parent,
            account,
            level,
            kind,
            text,
            file,
            context,
            fid,
            objects,
            bytes,
            unhashed,
            links,
            live,
            longest,
            pending,
            epoch,
        } = self;
        let mut out = vec![*level as u8, *kind as u8, u8::from(*pending)];
        for number in [*parent, *account, *objects, *bytes, *unhashed, *links, *live, *longest, *epoch] {
            put(&mut out, number);
        }
        put_bytes(&mut out, text.as_bytes());
        put_bytes(&mut out, file);
        put_bytes(&mut out, fid.as_bytes());
        put_bytes(&mut out, &context.to_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        let [level, kind, pending] = fields.array()?;
        let mut numbers = [0; 9];
        for number in &mut numbers {
            *number = fields.number()?;
        }
        let [parent, account, objects, held, unhashed, links, live, longest, epoch] = numbers;
        Ok(Self {
            parent,
            account,
            level: Level::of(level)?,
            kind: Kind::of(kind)?,
            text: fields.text()?,
            file: fields.bytes()?.to_vec(),
            fid: Fid::from_bytes(fields.bytes()?).ok_or_else(damaged)?,
            context: Context::from_bytes(fields.bytes()?).ok_or_else(damaged)?,
            objects,
            bytes: held,
            unhashed,
            links,
            live,
            longest,
            pending: pending != 0,
            epoch,
        })
    }

    /// Whether there is an object in or beneath it.
    pub(super) fn lives(&self) -> bool {
        self.objects > 0 || self.live > 0
    }
}

impl Entry {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = vec![u8::from(self.live)];
        out.extend_from_slice(&self.id.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        let [live] = fields.array()?;
        Ok(Self { live: live != 0, id: Id::from_be_bytes(fields.array()?) })
    }
}

impl Container {
    /// Whether listings may come from here, as far as it says.
    pub(super) fn is_proven(self, epoch: u64) -> bool {
        self.pending == 0 && self.unsure == 0 && self.epoch == epoch
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let Self { objects, bytes, pending, epoch, changed, links, unsure } = self;
        let mut out = Vec::new();
        for number in [objects, bytes, pending, epoch, changed, links, unsure] {
            put(&mut out, number);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        Ok(Self {
            objects: fields.number()?,
            bytes: fields.number()?,
            pending: fields.number()?,
            epoch: fields.number()?,
            changed: fields.number()?,
            links: fields.number()?,
            unsure: fields.number()?,
        })
    }
}

const ETAG: u8 = 1;
const TYPE: u8 = 2;
const EXPIRES: u8 = 4;
const SLO: u8 = 8;
const KEPT: u8 = 16;
const RACY: u8 = 32;
const LINKS: u8 = 64;

impl Object {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { size, etag, content_type, modified, delete_at, slo, ino, ctime_ns, racy, links } = self;
        let kept = slo.and_then(|slo| slo.kept);
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let mut out = Vec::with_capacity(80);
        out.push(
            flag(etag.is_some(), ETAG)
                | flag(content_type.is_some(), TYPE)
                | flag(delete_at.is_some(), EXPIRES)
                | flag(slo.is_some(), SLO)
                | flag(kept.is_some(), KEPT)
                | flag(*racy, RACY)
                | flag(links.is_some(), LINKS),
        );
        put(&mut out, *size);
        put(&mut out, modified.units());
        put(&mut out, *ino);
        out.extend_from_slice(&ctime_ns.to_be_bytes());
        if let Some(etag) = etag {
            out.extend_from_slice(etag);
        }
        if let Some(content_type) = content_type {
            put_bytes(&mut out, content_type.as_bytes());
        }
        if let Some(delete_at) = delete_at {
            put(&mut out, *delete_at);
        }
        if let Some(slo) = slo {
            out.extend_from_slice(&slo.etag);
            put(&mut out, slo.size);
        }
        if let Some(kept) = kept {
            out.extend_from_slice(&kept.md5);
            out.extend_from_slice(&kept.sha256);
            put(&mut out, kept.len);
        }
        if let Some(links) = links {
            put(&mut out, *links);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        let [flags] = fields.array()?;
        let has = |bit| flags & bit != 0;
        let (size, modified, ino) = (fields.number()?, fields.number()?, fields.number()?);
        let ctime_ns = i64::from_be_bytes(fields.array()?);
        let etag = if has(ETAG) { Some(fields.array()?) } else { None };
        let content_type = if has(TYPE) { Some(fields.text()?) } else { None };
        let delete_at = if has(EXPIRES) { Some(fields.number()?) } else { None };
        let mut slo = None;
        if has(SLO) {
            slo = Some(Slo { etag: fields.array()?, size: fields.number()?, kept: None });
        }
        if let Some(slo) = slo.as_mut().filter(|_| has(KEPT)) {
            slo.kept = Some(Kept { md5: fields.array()?, sha256: fields.array()?, len: fields.number()? });
        }
        let links = if has(LINKS) { Some(fields.number()?) } else { None };
        Ok(Self {
            links,
            size,
            etag,
            content_type,
            modified: Timestamp::from_units(modified).ok_or_else(damaged)?,
            delete_at,
            slo,
            ino,
            ctime_ns,
            racy: has(RACY),
        })
    }
}
