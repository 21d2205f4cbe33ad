//! Metadata that `SwiftOnFile` and IBM's unified file and object left on files, read as it is and never
//! changed.
//!
//! The attribute holds one JSON object of header-like keys (`Content-Length`, `Content-Type`, `ETag`,
//! `X-Timestamp`, `X-Object-Meta-…`); `X-Type` says whether of an object, a container or an account, and of
//! the latter two a value may be a pair, text and time. Old releases wrote Python pickles, which can run code
//! when they are read: these are refused. No release compressed it. A changed file kept its attribute, so an
//! `ETag` counts only while `Content-Length` is the file's size and `X-Object-PUT-Mtime`, to 10 µs, its
//! mtime. (That key came late, and a POST dropped it: without it a change of the same size went unseen, so
//! the MD5 does not count here.)
use crate::metadata::Metadata;
use crate::timestamp::Timestamp;
use serde_json::{Map, Value};

/// The extended attribute, see [`attribute`].
pub const ATTRIBUTE: &str = "user.swift.metadata";
/// Bytes of every piece but the last.
pub const PIECE: usize = 65_536;
/// Pieces worth reading; Swift's limits on metadata need one.
pub const MAX_PIECES: usize = 16;

/// The attribute that holds a piece: `user.swift.metadata`, `user.swift.metadata1`, `…2`. There is a next one
/// only if a piece has [`PIECE`] bytes.
pub fn attribute(piece: usize) -> String {
    if piece == 0 { ATTRIBUTE.to_owned() } else { format!("{ATTRIBUTE}{piece}") }
}

/// The file that carries the attribute, as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed {
    /// Bytes; of no meaning for a directory.
    pub size: u64,
    /// In ns since 1970.
    pub mtime_ns: i64,
    /// Whether it is a directory.
    pub directory: bool,
}

/// What the attribute was written for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A file, or a directory that is or was an object.
    Object,
    /// A container's directory.
    Container,
    /// An account's directory.
    Account,
}

/// What there was to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Legacy {
    /// What it was written for.
    pub kind: Kind,
    /// Without FID and without `delete_at`; `size` and `mtime_ns` are those observed, and there is an `md5`
    /// only if it is of the file as it is now. `marker` is set on a directory that is an object. Of a
    /// container or account `timestamp` is its creation and `meta_timestamp` its last PUT.
    pub metadata: Metadata,
    /// Whether the file is, by size and mtime, the one it was written for. Always so for a directory.
    pub current: bool,
    /// `X-Delete-At` in seconds, if current. Apart, since a copy of the file carries it too, and must not
    /// expire.
    pub delete_at: Option<u64>,
    /// Whether the content is the manifest of a static large object.
    pub static_large_object: bool,
    /// The keys that were not taken: access lists, system metadata, what is no header.
    pub not_taken: Vec<String>,
}

/// Why an attribute was not read. It is to be reported and left alone.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// A Python pickle.
    #[error("pickled metadata is refused; migrate it to JSON with SwiftOnFile's own tool first")]
    Pickle,
    /// Not a JSON object.
    #[error("not a JSON object: {0}")]
    Json(String),
    /// A key whose value cannot be.
    #[error("{0} has a value it cannot have")]
    Value(String),
}

/// Reads the pieces of the attribute, put together.
pub fn read(attribute: &[u8], observed: Observed) -> Result<Legacy, Error> {
    // Protocol 2 and later begin with 0x80, older ones with `(`; none ends otherwise.
    if matches!(attribute, [0x80 | b'(', .., b'.']) {
        return Err(Error::Pickle);
    }
    let fields: Map<String, Value> =
        serde_json::from_slice(attribute).map_err(|e| Error::Json(e.to_string()))?;
    let mut found = Found::default();
    for (key, value) in fields {
        found.take(key, &value)?;
    }
    Ok(found.into_legacy(observed))
}

/// Headers that belong to an object beside its metadata proper.
const CONTENT_HEADERS: [&str; 7] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-object-manifest",
    "x-robots-tag",
];
const META_PREFIXES: [&str; 3] = ["x-object-meta-", "x-container-meta-", "x-account-meta-"];

#[derive(Default)]
struct Found {
    kind: Option<Kind>,
    length: Option<u64>,
    mtime: Option<String>,
    md5: Option<[u8; 16]>,
    marker: bool,
    delete_at: Option<u64>,
    static_large_object: bool,
    timestamp: Option<Timestamp>,
    put_timestamp: Option<Timestamp>,
    content_type: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    not_taken: Vec<String>,
}

impl Found {
    fn take(&mut self, key: String, value: &Value) -> Result<(), Error> {
        let name = key.to_ascii_lowercase();
        let wrong = || Error::Value(key.clone());
        let text = text(value).ok_or_else(wrong)?;
        match name.as_str() {
            "x-type" => self.kind = Some(kind(&text).ok_or_else(wrong)?),
            "x-object-type" => self.marker = text == "marker_dir",
            "x-object-put-mtime" => self.mtime = Some(text),
            "content-length" => self.length = Some(text.trim().parse().map_err(|_| wrong())?),
            "content-type" => self.content_type = content_type(&text),
            "etag" => self.md5 = md5(text.trim_matches('"')),
            "x-timestamp" => self.timestamp = Some(timestamp(&text).ok_or_else(wrong)?),
            "x-put-timestamp" => self.put_timestamp = Some(timestamp(&text).ok_or_else(wrong)?),
            "x-delete-at" => self.delete_at = Some(timestamp(&text).ok_or_else(wrong)?.seconds()),
            "x-static-large-object" => self.static_large_object = text.eq_ignore_ascii_case("true"),
            // The path within Swift, and counters that are counted anew.
            "name" | "x-object-count" | "x-bytes-used" | "x-container-count" => {}
            // A removed item is one without a value.
            _ if is_header(&name) && text.is_empty() => {}
            _ if is_header(&name) && !text.contains(|c: char| c.is_ascii_control()) => {
                self.headers.push((name, text.into_bytes()));
            }
            _ => self.not_taken.push(key),
        }
        Ok(())
    }

    fn into_legacy(self, observed: Observed) -> Legacy {
        let unchanged = self.length == Some(observed.size)
            && self.mtime.is_some_and(|mtime| seconds(&mtime) == Some(seconds_of(observed.mtime_ns)));
        let current = observed.directory || unchanged;
        let metadata = Metadata {
            size: observed.size,
            mtime_ns: observed.mtime_ns,
            md5: self.md5.filter(|_| current && !observed.directory),
            timestamp: self.timestamp,
            meta_timestamp: self.put_timestamp,
            content_type: self.content_type,
            headers: self.headers,
            marker: self.marker && observed.directory,
            ..Metadata::default()
        };
        Legacy {
            kind: self.kind.unwrap_or(Kind::Object),
            metadata,
            current,
            delete_at: self.delete_at.filter(|_| current),
            static_large_object: self.static_large_object,
            not_taken: self.not_taken,
        }
    }
}

/// A scalar, or the first of a pair of text and time.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null => Some(String::new()),
        Value::Array(pair) => match pair.as_slice() {
            [value @ (Value::String(_) | Value::Number(_) | Value::Null), _time] => text(value),
            _ => None,
        },
        Value::Object(_) => None,
    }
}

fn kind(text: &str) -> Option<Kind> {
    match text {
        "Object" => Some(Kind::Object),
        "Container" => Some(Kind::Container),
        "Account" => Some(Kind::Account),
        _ => None,
    }
}

/// Without the parameter in which Swift keeps the size of a large object.
fn content_type(text: &str) -> Option<String> {
    let given = text.split_once(";swift_bytes=").map_or(text, |(before, _)| before);
    (!given.is_empty() && !given.contains(|c: char| c.is_ascii_control())).then(|| given.to_owned())
}

fn md5(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// Swift's own form may carry an offset after `_`.
fn timestamp(text: &str) -> Option<Timestamp> {
    text.split('_').next()?.trim().parse().ok()
}

fn is_header(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let known = CONTENT_HEADERS.contains(&name)
        || META_PREFIXES.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
    known && name.bytes().all(token)
}

/// As the writers printed an mtime: by way of a float of seconds, which rounds as theirs did.
fn seconds(text: &str) -> Option<String> {
    text.trim()
        .parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite())
        .map(|seconds| format!("{seconds:.5}"))
}

fn seconds_of(ns: i64) -> String {
    let (whole, rest) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    format!("{:.5}", whole as f64 + 1e-9 * rest as f64)
}

#[cfg(test)]
mod tests;
