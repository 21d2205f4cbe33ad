//! An object's metadata as one packed extended attribute, and the spill file that takes what it has no room
//! for.
//!
//! # Format
//! Four bytes of magic (`lb~m`, in a spill file `lb~s`), the version, then fields in rising order of their
//! tags: tag (a byte), length (LEB128, as short as it can be), value. Numbers are little-endian without
//! trailing zero bytes. A field whose value is the default is left out; only the header field occurs more
//! than once, in the order of the headers. So what one release wrote has one reading, and one value has one
//! writing.
//!
//! A tag with the highest bit set is *critical*: a reader that does not know it refuses the whole
//! ([`Error::Newer`]). Any other unknown tag is passed over, and lost when the metadata is written again.
//!
//! A release reads its own version and the one before it (1 is the first), and refuses newer ones.
use crate::timestamp::Timestamp;
use lustre::fs::Fid;
use sha2::{Digest, Sha256};

/// The extended attribute that holds [`Metadata::encode`].
pub const ATTRIBUTE: &str = "user.lustre-bridge";

/// The metadata of an object, container or account: what its file's owner may forge, and nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// The file that it was written for; a copy of the file carries the same attribute and another FID.
    pub fid: Option<Fid>,
    /// Bytes of content.
    pub size: u64,
    /// When the content was last modified, in ns since 1970.
    pub mtime_ns: i64,
    /// MD5 of the content.
    pub md5: Option<[u8; 16]>,
    /// The Lustre data version at which the MD5 was taken.
    pub data_version: Option<u64>,
    /// `X-Timestamp` of the content.
    pub timestamp: Option<Timestamp>,
    /// `X-Timestamp` of the last POST.
    pub meta_timestamp: Option<Timestamp>,
    /// `Content-Type` as it was given.
    pub content_type: Option<String>,
    /// `X-Delete-At`, in seconds since 1970.
    pub delete_at: Option<u64>,
    /// Other headers to give back: lower-case name, value.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Set on a static large object.
    pub slo: Option<Slo>,
    /// A directory that we made: DELETE may remove it when it is empty.
    pub made: bool,
    /// A directory that is itself an object.
    pub marker: bool,
    /// An upload that is not finished.
    pub temporary: bool,
    /// Where the rest lies, if this is only the part kept in the attribute.
    pub spill: Option<Spill>,
}

/// What makes an object a static large object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slo {
    /// MD5 of the segments' MD5s as hex, one after the other.
    pub etag: [u8; 16],
    /// Bytes that a GET gives.
    pub size: u64,
    /// Set once the file holds the segments' content: the manifest, which lies in a side file since then.
    pub kept: Option<Kept>,
}

/// The manifest of an assembled large object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Its MD5, by which listings know the object.
    pub md5: [u8; 16],
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Its bytes.
    pub len: u64,
}

/// The bytes that belong to an attribute but lie in a spill file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spill {
    /// SHA-256 of the spill file.
    pub sha256: [u8; 32],
    /// Its bytes.
    pub len: u64,
}

/// Why bytes are not metadata.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Written by a newer release: this one must not interpret or replace it.
    #[error("metadata is of format {0}, which is newer than this release reads")]
    Newer(String),
    /// Not metadata, or damaged.
    #[error("corrupt metadata: {0}")]
    Corrupt(&'static str),
}

/// What is wrong with a spill file; the part in the attribute still counts.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpillFault {
    /// There is none.
    #[error("the spill file is missing")]
    Missing,
    /// Its length or SHA-256 is another.
    #[error("the spill file is not the one the attribute names")]
    Wrong,
    /// Its digest is right, but it cannot be read.
    #[error("the spill file: {0}")]
    Unreadable(Error),
}

impl Metadata {
    /// Packed. If `spill` is set, this is again the attribute's part only, and names the same spill file.
    pub fn encode(&self) -> Vec<u8> {
        self.write(MAGIC, Parts::All)
    }

    /// From an attribute; `spill` is set on the result if it is only a part, see [`Metadata::join`].
    pub fn decode(bytes: &[u8]) -> Result<Metadata, Error> {
        Metadata::read(MAGIC, bytes)
    }

    /// Whether it was written for this very content: its file, size and mtime.
    pub fn matches(&self, fid: &Fid, size: u64, mtime_ns: i64) -> bool {
        self.fid.as_ref() == Some(fid) && self.size == size && self.mtime_ns == mtime_ns
    }

    /// The attribute and, if it would exceed `limit` bytes, the content of a spill file: the headers, and a
    /// content type of more than 255 bytes. What stays needs up to some 520 bytes, whatever the limit.
    /// Metadata that is itself only a part (`spill` is set) is not split again.
    pub fn split_for_spill(&self, limit: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        let whole = self.encode();
        if whole.len() <= limit || self.spill.is_some() {
            return (whole, None);
        }
        let spilled = self.write(SPILL_MAGIC, Parts::Spilled);
        let sha256 = Sha256::digest(&spilled).into();
        let inline = self.write(MAGIC, Parts::Inline(Spill { sha256, len: spilled.len() as u64 }));
        (inline, Some(spilled))
    }

    /// From an attribute and the content of its spill file. A fault leaves the attribute's own part, with
    /// `spill` still set: to be reported, and never to be written back as if it were all.
    pub fn join(inline: &[u8], spill: Option<&[u8]>) -> Result<(Metadata, Option<SpillFault>), Error> {
        let mut metadata = Metadata::decode(inline)?;
        let Some(expected) = metadata.spill else { return Ok((metadata, None)) };
        let Some(spill) = spill else { return Ok((metadata, Some(SpillFault::Missing))) };
        let sha256: [u8; 32] = Sha256::digest(spill).into();
        if spill.len() as u64 != expected.len || sha256 != expected.sha256 {
            return Ok((metadata, Some(SpillFault::Wrong)));
        }
        match Metadata::read(SPILL_MAGIC, spill) {
            Ok(rest) => {
                metadata.headers = rest.headers;
                metadata.content_type = metadata.content_type.or(rest.content_type);
                metadata.spill = None;
                Ok((metadata, None))
            }
            Err(error) => Ok((metadata, Some(SpillFault::Unreadable(error)))),
        }
    }

    fn write(&self, magic: [u8; 4], parts: Parts) -> Vec<u8> {
        // Without `..`, so that a new field is not forgotten here.
        let Metadata {
            fid,
            size,
            mtime_ns,
            md5,
            data_version,
            timestamp,
            meta_timestamp,
            content_type,
            delete_at,
            headers,
            slo,
            made,
            marker,
            temporary,
            spill,
        } = self;
        let mut out = Writer::new(magic);
        let (inline, spilled, spill) = match parts {
            Parts::All => (true, spill.is_none(), *spill),
            Parts::Inline(spill) => (true, false, Some(spill)),
            Parts::Spilled => (false, true, None),
        };
        if inline {
            out.optional(FID, fid.as_ref().map(Fid::as_bytes));
            out.number(SIZE, Some(*size).filter(|size| *size > 0));
            out.optional(MTIME, Some(mtime_ns.to_le_bytes()).filter(|_| *mtime_ns != 0).as_ref());
            out.optional(MD5, md5.as_ref());
            out.number(DATA_VERSION, *data_version);
            out.number(TIMESTAMP, timestamp.map(Timestamp::units));
            out.number(META_TIMESTAMP, meta_timestamp.map(Timestamp::units));
        }
        let here = |text: &&String| if text.len() <= INLINE_TYPE { inline } else { spilled };
        out.optional(CONTENT_TYPE, content_type.as_ref().filter(here));
        if inline {
            out.number(DELETE_AT, *delete_at);
            out.optional(SLO, slo.map(Slo::encode).as_ref());
            let flags =
                [u8::from(*made) * MADE + u8::from(*marker) * MARKER + u8::from(*temporary) * TEMPORARY];
            out.optional(FLAGS, Some(flags).filter(|flags| flags != &[0]).as_ref());
            out.optional(SPILL, spill.map(Spill::encode).as_ref());
        }
        for (name, value) in headers.iter().filter(|_| spilled) {
            out.header(name, value);
        }
        out.bytes
    }

    fn read(magic: [u8; 4], bytes: &[u8]) -> Result<Metadata, Error> {
        let mut metadata = Metadata::default();
        let mut rest = Reader::new(magic, bytes)?;
        let mut last = 0;
        while let Some((tag, value)) = rest.field()? {
            let number = tag & !CRITICAL;
            if number < last || (number == last && tag != HEADER) {
                return Err(Error::Corrupt("a field twice, or out of order"));
            }
            last = number;
            metadata.set(tag, value)?;
        }
        Ok(metadata)
    }

    fn set(&mut self, tag: u8, value: &[u8]) -> Result<(), Error> {
        match tag {
            FID => self.fid = Some(Fid::from_bytes(value).ok_or(Error::Corrupt("fid"))?),
            SIZE => self.size = nonzero(number(value)?)?,
            MTIME => self.mtime_ns = nonzero(u64::from_le_bytes(array(value)?))? as i64,
            MD5 => self.md5 = Some(array(value)?),
            DATA_VERSION => self.data_version = Some(number(value)?),
            TIMESTAMP => self.timestamp = Some(time(value)?),
            META_TIMESTAMP => self.meta_timestamp = Some(time(value)?),
            CONTENT_TYPE => self.content_type = Some(text(value)?),
            DELETE_AT => self.delete_at = Some(number(value)?),
            SLO => self.slo = Some(Slo::decode(value)?),
            FLAGS => self.set_flags(value)?,
            SPILL => self.spill = Some(Spill::decode(value)?),
            HEADER => {
                let mut value = Reader { rest: value };
                let name = value.length_and_bytes()?;
                self.headers.push((text(name)?, value.rest.to_vec()));
            }
            unknown if unknown & CRITICAL != 0 => {
                return Err(Error::Newer(format!("{VERSION} with field {unknown}")));
            }
            _ => {}
        }
        Ok(())
    }

    fn set_flags(&mut self, value: &[u8]) -> Result<(), Error> {
        let [flags] = array(value)?;
        if flags & !(MADE | MARKER | TEMPORARY) != 0 {
            return Err(Error::Newer(format!("{VERSION} with flags {flags}")));
        }
        nonzero(u64::from(flags))?;
        self.made = flags & MADE != 0;
        self.marker = flags & MARKER != 0;
        self.temporary = flags & TEMPORARY != 0;
        Ok(())
    }
}

impl Slo {
    fn encode(self) -> Vec<u8> {
        let mut out = self.etag.to_vec();
        out.push(u8::from(self.kept.is_some()));
        push_varint(&mut out, self.size);
        if let Some(Kept { md5, sha256, len }) = self.kept {
            out.extend_from_slice(&md5);
            out.extend_from_slice(&sha256);
            push_varint(&mut out, len);
        }
        out
    }

    fn decode(value: &[u8]) -> Result<Slo, Error> {
        let mut value = Reader { rest: value };
        let etag = array(value.take(16)?)?;
        let assembled = match array(value.take(1)?)? {
            [0] => false,
            [1] => true,
            [_] => return Err(Error::Newer(format!("{VERSION} with another kind of large object"))),
        };
        let size = value.varint()?;
        let mut kept = None;
        if assembled {
            let (md5, sha256) = (array(value.take(16)?)?, array(value.take(32)?)?);
            kept = Some(Kept { md5, sha256, len: value.varint()? });
        }
        value.end()?;
        Ok(Slo { etag, size, kept })
    }
}

impl Spill {
    fn encode(self) -> Vec<u8> {
        let mut out = self.sha256.to_vec();
        push_varint(&mut out, self.len);
        out
    }

    fn decode(value: &[u8]) -> Result<Spill, Error> {
        let mut value = Reader { rest: value };
        let sha256 = array(value.take(32)?)?;
        let len = value.varint()?;
        value.end()?;
        Ok(Spill { sha256, len })
    }
}

const MAGIC: [u8; 4] = *b"lb~m";
const SPILL_MAGIC: [u8; 4] = *b"lb~s";
/// Of both formats.
const VERSION: u8 = 1;

const CRITICAL: u8 = 0x80;
const FID: u8 = CRITICAL | 0x01;
const SIZE: u8 = CRITICAL | 0x02;
const MTIME: u8 = CRITICAL | 0x03;
const MD5: u8 = 4;
const DATA_VERSION: u8 = 5;
const TIMESTAMP: u8 = CRITICAL | 0x06;
const META_TIMESTAMP: u8 = CRITICAL | 0x07;
const CONTENT_TYPE: u8 = CRITICAL | 0x08;
const DELETE_AT: u8 = CRITICAL | 0x09;
const SLO: u8 = CRITICAL | 0x0a;
const FLAGS: u8 = CRITICAL | 0x0b;
const SPILL: u8 = CRITICAL | 0x0c;
/// Name (length, bytes), then the value.
const HEADER: u8 = CRITICAL | 0x7f;

const MADE: u8 = 1;
const MARKER: u8 = 2;
const TEMPORARY: u8 = 4;

/// A content type of more bytes goes to the spill file, where there is one.
const INLINE_TYPE: usize = 255;

/// What to write of some metadata.
#[derive(Clone, Copy)]
enum Parts {
    All,
    /// What stays in the attribute.
    Inline(Spill),
    /// What goes to the spill file.
    Spilled,
}

struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn new(magic: [u8; 4]) -> Writer {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&magic);
        bytes.push(VERSION);
        Writer { bytes }
    }

    fn field(&mut self, tag: u8, value: &[u8]) {
        self.bytes.push(tag);
        push_varint(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    fn optional<T: AsRef<[u8]> + ?Sized>(&mut self, tag: u8, value: Option<&T>) {
        if let Some(value) = value {
            self.field(tag, value.as_ref());
        }
    }

    fn number(&mut self, tag: u8, value: Option<u64>) {
        if let Some(value) = value {
            let bytes = value.to_le_bytes();
            let len = bytes.len() - value.leading_zeros() as usize / 8;
            self.field(tag, &bytes[..len]);
        }
    }

    fn header(&mut self, name: &str, value: &[u8]) {
        let mut field = Vec::with_capacity(name.len() + value.len() + 2);
        push_varint(&mut field, name.len() as u64);
        field.extend_from_slice(name.as_bytes());
        field.extend_from_slice(value);
        self.field(HEADER, &field);
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(magic: [u8; 4], bytes: &'a [u8]) -> Result<Reader<'a>, Error> {
        let rest = bytes.strip_prefix(&magic).ok_or(Error::Corrupt("magic"))?;
        match rest.split_first() {
            Some((&VERSION, rest)) => Ok(Reader { rest }),
            Some((version, _)) if *version > VERSION => Err(Error::Newer(version.to_string())),
            _ => Err(Error::Corrupt("version")),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Error::Corrupt("cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = array(self.take(1)?)?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit, and a zero byte at the end says nothing.
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(Error::Corrupt("number"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::Corrupt("number"))
    }

    fn length_and_bytes(&mut self) -> Result<&'a [u8], Error> {
        let len = usize::try_from(self.varint()?).map_err(|_| Error::Corrupt("length"))?;
        self.take(len)
    }

    /// The next tag and its value.
    fn field(&mut self) -> Result<Option<(u8, &'a [u8])>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let [tag] = array(self.take(1)?)?;
        Ok(Some((tag, self.length_and_bytes()?)))
    }

    fn end(&self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::Corrupt("length")) }
    }
}

fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], Error> {
    value.try_into().map_err(|_| Error::Corrupt("length"))
}

fn number(value: &[u8]) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    bytes.get_mut(..value.len()).ok_or(Error::Corrupt("number"))?.copy_from_slice(value);
    if value.last() == Some(&0) {
        return Err(Error::Corrupt("number"));
    }
    Ok(u64::from_le_bytes(bytes))
}

fn nonzero(value: u64) -> Result<u64, Error> {
    if value == 0 { Err(Error::Corrupt("a default written out")) } else { Ok(value) }
}

fn time(value: &[u8]) -> Result<Timestamp, Error> {
    Timestamp::from_units(number(value)?).ok_or(Error::Corrupt("timestamp"))
}

fn text(value: &[u8]) -> Result<String, Error> {
    String::from_utf8(value.to_vec()).map_err(|_| Error::Corrupt("not UTF-8"))
}

#[cfg(test)]
mod tests;
