//! A manifest as it is stored and shown: the JSON that Swift keeps, and its two renderings.

use super::plan::Plan;
use crate::swift::{dates, text};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest, Md5};
use serde::Deserialize;
use std::fmt::Write as _;
use std::ops::Range;

/// One segment of a checked manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// How many bytes it contributes.
    pub length: u64,
    /// Where they come from.
    pub source: Source,
}

/// Where the bytes of a segment come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The manifest itself.
    Data(Bytes),
    /// (A part of) an object.
    Object {
        /// Its container.
        container: String,
        /// Its name.
        object: String,
        /// Its size (of a manifest: of all its segments).
        bytes: u64,
        /// Its ETag without quotes.
        hash: String,
        /// Its type without parameters.
        content_type: String,
        /// Its Last-Modified in seconds since 1970.
        last_modified: u64,
        /// The part that counts; `None` is all of it.
        range: Option<Range<u64>>,
        /// Whether it is itself a manifest.
        sub_slo: bool,
    },
}

impl Entry {
    /// A segment of bytes in the manifest.
    pub fn data(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { length: bytes.len() as u64, source: Source::Data(bytes) }
    }

    /// What it contributes to the ETag of the large object.
    fn etag_part(&self) -> String {
        match &self.source {
            Source::Data(bytes) => text::hex(&Md5::digest(bytes)),
            Source::Object { hash, range: Some(range), .. } => {
                format!("{hash}:{}-{};", range.start, range.end.saturating_sub(1))
            }
            Source::Object { hash, .. } => hash.clone(),
        }
    }
}

/// A stored manifest that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no JSON of the right form.
    #[error("manifest is not readable")]
    Json(#[from] serde_json::Error),
    /// A segment makes no sense.
    #[error("segment {0} of the manifest is not readable")]
    Segment(usize),
}

/// A checked manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// The segments in order.
    pub entries: Vec<Entry>,
}

impl Manifest {
    /// The size of the large object in bytes.
    pub fn size(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.length))
    }

    /// The MD5 of the segments' ETags: the ETag of the large object.
    pub fn etag(&self) -> [u8; 16] {
        let mut hash = Md5::new();
        for entry in &self.entries {
            hash.update(entry.etag_part());
        }
        hash.finalize().into()
    }

    /// Which segments hold a range of the large object.
    pub fn plan(&self, bytes: Range<u64>) -> Plan<impl Iterator<Item = u64>> {
        Plan::new(self.entries.iter().map(|entry| entry.length), bytes)
    }

    /// The JSON that is stored, and shown by `multipart-manifest=get`.
    pub fn to_json(&self) -> String {
        self.write(|out, entry| match &entry.source {
            Source::Data(bytes) => push_data(out, bytes),
            Source::Object { bytes, hash, content_type, last_modified, range, sub_slo, .. } => {
                out.push_str("{\"name\": ");
                text::push_json(out, &entry.path());
                let _ = write!(out, ", \"bytes\": {bytes}, \"hash\": ");
                text::push_json(out, hash);
                out.push_str(", \"content_type\": ");
                text::push_json(out, content_type);
                let units = last_modified.saturating_mul(dates::UNITS);
                let date = dates::iso(units);
                let _ = write!(out, ", \"last_modified\": \"{date}\"");
                push_range(out, range.as_ref());
                if *sub_slo {
                    out.push_str(", \"sub_slo\": true");
                }
                out.push('}');
            }
        })
    }

    /// The JSON that `multipart-manifest=get&format=raw` shows: what can be uploaded again.
    pub fn to_raw(&self) -> String {
        self.write(|out, entry| match &entry.source {
            Source::Data(bytes) => push_data(out, bytes),
            Source::Object { bytes, hash, range, .. } => {
                out.push_str("{\"etag\": ");
                text::push_json(out, hash);
                out.push_str(", \"path\": ");
                text::push_json(out, &entry.path());
                push_range(out, range.as_ref());
                let _ = write!(out, ", \"size_bytes\": {bytes}}}");
            }
        })
    }

    fn write(&self, push: impl Fn(&mut String, &Entry)) -> String {
        let mut out = String::from("[");
        for (at, entry) in self.entries.iter().enumerate() {
            if at > 0 {
                out.push_str(", ");
            }
            push(&mut out, entry);
        }
        out.push(']');
        out
    }

    /// Reads what [`Self::to_json`] wrote (or Swift did).
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let stored: Vec<Stored> = serde_json::from_slice(json)?;
        let entries = stored
            .into_iter()
            .enumerate()
            .map(|(at, segment)| segment.entry().ok_or(Error::Segment(at)))
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }
}

impl Entry {
    /// `/container/object`; empty for inline data.
    pub fn path(&self) -> String {
        match &self.source {
            Source::Data(_) => String::new(),
            Source::Object { container, object, .. } => format!("/{container}/{object}"),
        }
    }
}

fn push_data(out: &mut String, bytes: &[u8]) {
    out.push_str("{\"data\": \"");
    STANDARD.encode_string(bytes, out);
    out.push_str("\"}");
}

fn push_range(out: &mut String, range: Option<&Range<u64>>) {
    if let Some(range) = range {
        let (first, last) = (range.start, range.end.saturating_sub(1));
        let _ = write!(out, ", \"range\": \"{first}-{last}\"");
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
struct Stored {
    data: Option<String>,
    name: Option<String>,
    bytes: Option<Number>,
    hash: Option<String>,
    content_type: Option<String>,
    last_modified: Option<String>,
    range: Option<String>,
    #[serde(default)]
    sub_slo: bool,
}

impl Stored {
    fn entry(self) -> Option<Entry> {
        if let Some(data) = self.data {
            return Some(Entry::data(STANDARD.decode(data).ok()?));
        }
        let name = self.name?;
        let (container, object) = name.trim_start_matches('/').split_once('/')?;
        let bytes = match self.bytes? {
            Number::Number(n) => n,
            Number::Text(text) => text.parse().ok()?,
        };
        let range = match self.range {
            None => None,
            Some(text) => {
                let (first, last) = text.split_once('-')?;
                let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
                let end = last.checked_add(1)?;
                (first < end).then_some(Some(first..end))?
            }
        };
        Some(Entry {
            length: range.as_ref().map_or(bytes, |r| r.end - r.start),
            source: Source::Object {
                container: container.to_owned(),
                object: object.to_owned(),
                bytes,
                hash: self.hash?,
                content_type: self.content_type.unwrap_or_default(),
                last_modified: self.last_modified.as_deref().and_then(dates::parse_iso).unwrap_or(0),
                range,
                sub_slo: self.sub_slo,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(name: &str, range: Option<Range<u64>>, sub_slo: bool) -> Entry {
        Entry {
            length: range.as_ref().map_or(10, |r| r.end - r.start),
            source: Source::Object {
                container: "c".into(),
                object: name.into(),
                bytes: 10,
                hash: "0f".into(),
                content_type: "text/plain".into(),
                last_modified: 1_700_000_000,
                range,
                sub_slo,
            },
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            entries: vec![object("a", None, false), Entry::data(&b"ab"[..]), object("b/c", Some(2..5), true)],
        }
    }

    #[test]
    fn the_stored_form_is_swifts() {
        let json = manifest().to_json();
        assert_eq!(
            json,
            "[{\"name\": \"/c/a\", \"bytes\": 10, \"hash\": \"0f\", \"content_type\": \"text/plain\", \
             \"last_modified\": \"2023-11-14T22:13:20.000000\"}, {\"data\": \"YWI=\"}, \
             {\"name\": \"/c/b/c\", \"bytes\": 10, \"hash\": \"0f\", \"content_type\": \"text/plain\", \
             \"last_modified\": \"2023-11-14T22:13:20.000000\", \"range\": \"2-4\", \"sub_slo\": true}]"
        );
        assert_eq!(Manifest::from_json(json.as_bytes()).unwrap(), manifest());
    }

    #[test]
    fn the_raw_form_can_be_uploaded_again() {
        assert_eq!(
            manifest().to_raw(),
            "[{\"etag\": \"0f\", \"path\": \"/c/a\", \"size_bytes\": 10}, {\"data\": \"YWI=\"}, \
             {\"etag\": \"0f\", \"path\": \"/c/b/c\", \"range\": \"2-4\", \"size_bytes\": 10}]"
        );
        assert!(crate::swift::slo::manifest::parse(manifest().to_raw().as_bytes(), "c/m", 9).is_ok());
    }

    #[test]
    fn size_and_etag_cover_all_segments() {
        assert_eq!(manifest().size(), 15);
        let parts = format!("0f{}0f:2-4;", text::hex(&Md5::digest(b"ab")));
        assert_eq!(manifest().etag(), <[u8; 16]>::from(Md5::digest(parts)));
        let empty: [u8; 16] = Md5::digest(b"").into();
        assert_eq!(Manifest::default().etag(), empty);
    }

    #[test]
    fn unreadable_manifests_are_errors() {
        for json in [
            "",
            "{}",
            "[1]",
            "[{}]",
            "[{\"name\": \"c\", \"bytes\": 1, \"hash\": \"\"}]",
            "[{\"name\": \"/c/o\", \"bytes\": 1, \"hash\": \"\", \"range\": \"3-1\"}]",
            "[{\"data\": \"?\"}]",
        ] {
            assert!(Manifest::from_json(json.as_bytes()).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_stored_text_is_read_without_panic(
            name in ".{0,9}", range in "[0-9]{0,20}-[0-9]{0,20}", bytes: u64,
        ) {
            let json = format!(
                "[{{\"name\": {}, \"bytes\": {bytes}, \"hash\": \"\", \"range\": \"{range}\"}}]", text::json(&name)
            );
            if let Ok(manifest) = Manifest::from_json(json.as_bytes()) {
                manifest.etag();
                manifest.plan(0..manifest.size()).count();
            }
        }
    }
}
