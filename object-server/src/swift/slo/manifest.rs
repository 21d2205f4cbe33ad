//! A manifest as a client uploads it: reading it, and checking it against the segments that exist.

use super::stored::{Entry, Source};
use crate::swift::errors::Answer;
use crate::swift::range::{Ranges, Spec};
use crate::swift::text;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Complaints beyond this many are not written out, so that an 8 MiB manifest cannot cost gigabytes.
const MAX_COMPLAINTS: usize = 10_000;

/// Accepts any padding and unused bits, as Python does.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// One segment as the client described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Bytes in the manifest itself.
    Data(Vec<u8>),
    /// (A part of) an object.
    Object(Reference),
}

/// An object that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Container and object, as the client wrote them, usually with a leading slash.
    pub path: String,
    /// The ETag that the object must have.
    pub etag: Option<String>,
    /// The size that the object must have.
    pub size: Option<i64>,
    /// The part of the object that is meant.
    pub range: Option<Spec>,
}

impl Reference {
    /// Container and object.
    pub fn target(&self) -> Option<(&str, &str)> {
        self.path.trim_start_matches('/').split_once('/')
    }
}

/// Reads a manifest. `own` is `container/object` of the manifest itself; `max_segments` does not count inline data.
pub fn parse(body: &[u8], own: &str, max_segments: usize) -> Result<Vec<Segment>, Answer> {
    let mut reader = Reader::new(own, max_segments);
    let mut json = serde_json::Deserializer::from_slice(body);
    let outcome = json.deserialize_any(&mut reader).and_then(|()| json.end());
    if let Err(error) = outcome {
        // A value of another type is a list error only if the whole text is JSON.
        let list_expected = reader.not_a_list
            && error.is_data()
            && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
        return Err(if list_expected {
            Answer::html(400, "Manifest must be a list.\n")
        } else {
            Answer::html(400, "Manifest must be valid JSON.\n")
        });
    }
    reader.finish()
}

/// Takes the elements of the list one by one, each checked when the next is known: only the last may be empty.
struct Reader<'a> {
    own: &'a str,
    max_segments: usize,
    held: Option<(usize, Value)>,
    segments: Vec<Segment>,
    complaints: Vec<String>,
    count: usize,
    objects: usize,
    all_data: bool,
    not_a_list: bool,
}

impl<'a> Reader<'a> {
    fn new(own: &'a str, max_segments: usize) -> Self {
        Self {
            own,
            max_segments,
            held: None,
            segments: Vec::new(),
            complaints: Vec::new(),
            count: 0,
            objects: 0,
            all_data: true,
            not_a_list: true,
        }
    }

    fn take(&mut self, value: Value) {
        self.check_held(false);
        self.held = Some((self.count, value));
        self.count += 1;
    }

    fn check_held(&mut self, last: bool) {
        let Some((index, value)) = self.held.take() else {
            return;
        };
        self.all_data &= value.get("data").is_some();
        self.objects += usize::from(value.get("path").is_some());
        match segment(value, last, self.own) {
            // More objects than are allowed are counted only.
            Ok(Segment::Object(_)) if self.objects > self.max_segments => {}
            Ok(segment) => self.segments.push(segment),
            Err(complaint) if self.complaints.len() < MAX_COMPLAINTS => {
                self.complaints.push(format!("Index {index}: {complaint}\n"));
            }
            Err(_) => {}
        }
    }

    fn finish(mut self) -> Result<Vec<Segment>, Answer> {
        self.check_held(true);
        if self.count > 0 && self.all_data {
            let text = "Inline data segments require at least one object-backed segment.\n";
            self.complaints.push(text.to_owned());
        }
        if !self.complaints.is_empty() {
            return Err(Answer::plain(400, self.complaints.concat()));
        }
        if self.objects > self.max_segments {
            let max = self.max_segments;
            let text = format!("Number of object-backed segments must be <= {max}");
            return Err(Answer::html(413, text));
        }
        Ok(self.segments)
    }
}

impl<'de> Visitor<'de> for &mut Reader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.not_a_list = false;
        while let Some(value) = list.next_element::<Value>()? {
            if self.count == usize::MAX {
                return Err(A::Error::custom("too many elements"));
            }
            self.take(value);
        }
        Ok(())
    }
}

fn segment(value: Value, last: bool, own: &str) -> Result<Segment, String> {
    let Value::Object(fields) = value else {
        return Err("not a JSON object".to_owned());
    };
    let (kind, allowed): (_, &[&str]) = if fields.contains_key("data") {
        ("data", &["data"])
    } else if fields.contains_key("path") {
        ("path", &["path", "range", "etag", "size_bytes"])
    } else {
        return Err("expected keys to include one of 'data' or 'path'".to_owned());
    };
    let extraneous: Vec<String> =
        fields.keys().filter(|key| !allowed.contains(&key.as_str())).map(|key| text::json(key)).collect();
    if !extraneous.is_empty() {
        return Err(format!("extraneous keys {}", extraneous.join(", ")));
    }
    if kind == "data" {
        return inline(fields.get("data").unwrap_or(&Value::Null));
    }
    reference(fields, last, own).map(Segment::Object)
}

const TOO_SMALL: &str = "too small; each segment must be at least 1 byte.";

fn inline(value: &Value) -> Result<Segment, String> {
    let decoded = value.as_str().and_then(decode_base64);
    let bytes = decoded.ok_or("data must be valid base64")?;
    if bytes.is_empty() {
        return Err(TOO_SMALL.to_owned());
    }
    Ok(Segment::Data(bytes))
}

/// Base64 with at least the padding it needs.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    let needed = match digits.len() % 4 {
        0 => 0,
        2 => 2,
        3 => 1,
        _ => return None,
    };
    (padding >= needed).then(|| BASE64.decode(digits).ok())?
}

fn reference(mut fields: Map<String, Value>, last: bool, own: &str) -> Result<Reference, String> {
    let Some(Value::String(path)) = fields.remove("path") else {
        return Err("\"path\" must be a string".to_owned());
    };
    let etag = match fields.remove("etag") {
        None | Some(Value::Null) => None,
        Some(Value::String(etag)) => Some(etag),
        Some(_) => return Err("\"etag\" must be a string or null (if provided)".to_owned()),
    };
    if !path.trim_matches('/').contains('/') {
        return Err(
            "path does not refer to an object. Path must be of the form /container/object.".to_owned()
        );
    }
    let size = match fields.remove("size_bytes") {
        None | Some(Value::Null) => None,
        Some(value) => Some(whole(&value).ok_or("invalid size_bytes")?),
    };
    if size.is_some_and(|size| size < 1) && !last {
        return Err(TOO_SMALL.to_owned());
    }
    if path.trim_start_matches('/') == own {
        return Err("manifest must not include itself as a segment".to_owned());
    }
    let range = range(fields.remove("range"), size)?;
    Ok(Reference { path, etag, size, range })
}

/// A number, or a text that is one.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().filter(|f| f.is_finite()).map(|f| f as i64)),
        Value::String(text) => text::integer(text),
        Value::Bool(yes) => Some(i64::from(*yes)),
        _ => None,
    }
}

fn range(value: Option<Value>, size: Option<i64>) -> Result<Option<Spec>, String> {
    let text = match value {
        None | Some(Value::Null | Value::Bool(false)) => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(Value::String(text)) => text,
        Some(Value::Number(n)) if n.as_f64() == Some(0.0) => return Ok(None),
        Some(Value::Number(n)) => n.to_string(),
        Some(_) => return Err("invalid range".to_owned()),
    };
    let ranges = Ranges::parse(format!("bytes={text}").as_bytes()).ok_or("invalid range")?;
    let [spec] = ranges.specs() else {
        return Err("multiple ranges (only one allowed)".to_owned());
    };
    let size = size.map(|size| u64::try_from(size).unwrap_or(0));
    if size.is_some_and(|size| spec.within(size).is_none()) {
        return Err("unsatisfiable range".to_owned());
    }
    Ok(Some(*spec))
}

/// What a HEAD of a segment tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Size in bytes (of a manifest: of all its segments).
    pub size: u64,
    /// ETag without quotes (of a manifest: the large object's).
    pub etag: String,
    /// Content type without parameters.
    pub content_type: String,
    /// Last-Modified in seconds since 1970.
    pub last_modified: u64,
    /// Whether it is itself a manifest.
    pub is_slo: bool,
}

/// Checks a segment against what was found, adding to `problems` (path and reason).
///
/// `found` is the status line of the HEAD if it failed. Only the last segment may be empty.
pub fn check(
    segment: &Reference,
    found: Result<&Found, &str>,
    last: bool,
    problems: &mut Vec<(String, String)>,
) -> Option<Entry> {
    let mut complain =
        |reason: &str| problems.push((text::quote(segment.path.as_bytes()), reason.to_owned()));
    let found = match found {
        Ok(found) => found,
        Err(status) => {
            complain(status);
            return None;
        }
    };
    let mut length = found.size;
    let mut range = None;
    if let Some(spec) = segment.range {
        match spec.within(found.size) {
            None => complain("Unsatisfiable Range"),
            Some(part) if part == (0..found.size) => {}
            Some(part) => {
                length = part.end - part.start;
                range = Some(part);
            }
        }
    }
    if length < 1 && !last {
        complain("Too small; each segment must be at least 1 byte.");
    }
    if segment.size.is_some_and(|s| u64::try_from(s) != Ok(found.size)) {
        complain("Size Mismatch");
    }
    if segment.etag.as_ref().is_some_and(|e| *e != found.etag) {
        complain("Etag Mismatch");
    }
    let (container, object) = segment.target()?;
    Some(Entry {
        length,
        source: Source::Object {
            container: container.to_owned(),
            object: object.to_owned(),
            bytes: found.size,
            hash: found.etag.clone(),
            content_type: found.content_type.clone(),
            last_modified: found.last_modified,
            range,
            sub_slo: found.is_slo,
        },
    })
}

#[cfg(test)]
mod tests;
