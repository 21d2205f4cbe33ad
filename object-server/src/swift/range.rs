//! Range headers, and the framing of answers with several parts.

use super::text;
use std::ops::Range;

/// More parts than this are refused.
const MAX_PARTS: usize = 50;
/// More overlapping pairs than this are refused.
const MAX_OVERLAPS: usize = 2;
/// From this many parts on, parts out of order are refused.
const MAX_UNORDERED: usize = 8;

/// One range as asked for; positions are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spec {
    /// `a-b`
    Between(u64, u64),
    /// `a-`
    From(u64),
    /// `-n`: the last n bytes.
    Last(u64),
}

impl Spec {
    /// The bytes of `length` that this covers, if any. A suffix of nothing is an empty range at 0.
    pub fn within(self, length: u64) -> Option<Range<u64>> {
        match self {
            Self::Last(0) => None,
            Self::Last(n) => Some(length.saturating_sub(n)..length),
            Self::From(start) => (start < length).then_some(start..length),
            Self::Between(start, end) => (start < length).then(|| start..end.saturating_add(1).min(length)),
        }
    }
}

/// A syntactically valid Range header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges(Vec<Spec>);

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything, with 200.
    Whole,
    /// 416.
    Unsatisfiable,
    /// These ranges, with 206; at least one.
    Parts(Vec<Range<u64>>),
}

impl Ranges {
    /// Reads a header value; `None` means that the header must be ignored.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.replace(' ', "");
        let list =
            text.get(..6).filter(|unit| unit.eq_ignore_ascii_case("bytes=")).and_then(|_| text.get(6..))?;
        list.split(',').map(spec).collect::<Option<_>>().map(Self)
    }

    /// The ranges in the order of the header.
    pub fn specs(&self) -> &[Spec] {
        &self.0
    }

    /// Chooses what to send of `length` bytes. Abusive sets (too many, overlapping, out of order) are
    /// unsatisfiable.
    pub fn select(&self, length: u64) -> Selection {
        let mut parts = Vec::new();
        for spec in &self.0 {
            if let Some(part) = spec.within(length) {
                if parts.len() == MAX_PARTS {
                    return Selection::Unsatisfiable;
                }
                parts.push(part);
            }
        }
        if parts.is_empty() || abusive(&parts) {
            return Selection::Unsatisfiable;
        }
        if length == 0 {
            return Selection::Whole;
        }
        Selection::Parts(parts)
    }
}

fn abusive(parts: &[Range<u64>]) -> bool {
    let overlaps = parts
        .iter()
        .enumerate()
        .flat_map(|(at, a)| parts[at + 1..].iter().map(move |b| (a, b)))
        .filter(|(a, b)| overlap(a, b))
        .take(MAX_OVERLAPS + 1)
        .count();
    let unordered = parts.windows(2).any(|pair| (pair[0].start, pair[0].end) > (pair[1].start, pair[1].end));
    overlaps > MAX_OVERLAPS || unordered && parts.len() >= MAX_UNORDERED
}

/// Whether a bound of one lies strictly inside the other; equal ranges do not count, as in Swift.
fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    let inside = |x: u64, r: &Range<u64>| r.start < x && x < r.end;
    inside(b.start, a) || inside(b.end, a) || inside(a.start, b) || inside(a.end, b)
}

fn spec(text: &str) -> Option<Spec> {
    let (start, end) = text.split_once('-')?;
    let number = |digits: &str| {
        let value = text::integer(digits)?;
        u64::try_from(value).ok()
    };
    let end = if end.is_empty() {
        None
    } else if end.bytes().all(|b| b.is_ascii_digit()) {
        Some(number(end)?)
    } else {
        return None;
    };
    match (start.is_empty(), end) {
        (true, None) => None,
        (true, Some(n)) => Some(Spec::Last(n)),
        (false, None) => Some(Spec::From(number(start)?)),
        (false, Some(end)) => {
            let start = number(start)?;
            (start <= end).then_some(Spec::Between(start, end))
        }
    }
}

/// The value of a Content-Range header.
pub fn content_range(part: &Range<u64>, length: u64) -> String {
    // An empty part never gets here: `Selection` has none for a non-empty object.
    format!("bytes {}-{}/{length}", part.start, part.end.saturating_sub(1))
}

/// The value of the Content-Range header of a 416.
pub fn unsatisfied(length: u64) -> String {
    format!("bytes */{length}")
}

/// The framing of a multipart/byteranges body: for each part `head`, its bytes, [`Multipart::TAIL`]; at
/// the end `close`.
#[derive(Debug, Clone)]
pub struct Multipart {
    boundary: String,
    content_type: String,
    length: u64,
}

impl Multipart {
    /// What follows the bytes of each part.
    pub const TAIL: &[u8] = b"\r\n";

    /// Framing for an object of `length` bytes and this type, with 32 hex digits as the boundary.
    pub fn new(content_type: &str, length: u64, boundary: [u8; 16]) -> Self {
        Self { boundary: text::hex(&boundary), content_type: content_type.to_owned(), length }
    }

    /// The Content-Type header of the answer.
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges;boundary={}", self.boundary)
    }

    /// What precedes the bytes of a part.
    pub fn head(&self, part: &Range<u64>) -> String {
        format!(
            "--{}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n",
            self.boundary,
            self.content_type,
            content_range(part, self.length)
        )
    }

    /// What follows the last part.
    pub fn close(&self) -> String {
        format!("--{}--", self.boundary)
    }

    /// The length of the whole body.
    pub fn total(&self, parts: &[Range<u64>]) -> u64 {
        let framed: u64 = parts
            .iter()
            .map(|part| (self.head(part).len() + Self::TAIL.len()) as u64 + (part.end - part.start))
            .sum();
        framed + self.close().len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn select(header: &str, length: u64) -> Option<Selection> {
        Ranges::parse(header.as_bytes()).map(|r| r.select(length))
    }

    fn parts(list: &[(u64, u64)]) -> Selection {
        Selection::Parts(list.iter().map(|&(a, b)| a..b).collect())
    }

    #[test]
    fn single_ranges() {
        assert_eq!(select("bytes=0-9", 100), Some(parts(&[(0, 10)])));
        assert_eq!(select("BYTES = 5-", 100), Some(parts(&[(5, 100)])));
        assert_eq!(select("bytes=-5", 100), Some(parts(&[(95, 100)])));
        assert_eq!(select("bytes=-500", 100), Some(parts(&[(0, 100)])));
        assert_eq!(select("bytes=90-500", 100), Some(parts(&[(90, 100)])));
        assert_eq!(select("bytes=0-99999999999999999999", 100), Some(parts(&[(0, 100)])));
    }

    #[test]
    fn wrong_syntax_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=5",
            "bytes=-",
            "bytes=5-3",
            "bytes=a-b",
            "bytes=1-2,",
            "bytes=1-2,x",
            "bytes=--1",
            "bytes=1--2",
            "octets=1-2",
            "bytes=1-+2",
            "byte\u{e9}=1-2",
        ] {
            assert_eq!(select(header, 100), None, "{header:?}");
        }
    }

    #[test]
    fn nothing_to_send_is_unsatisfiable() {
        let none = Some(Selection::Unsatisfiable);
        assert_eq!(select("bytes=100-", 100), none);
        assert_eq!(select("bytes=100-200,300-", 100), none);
        assert_eq!(select("bytes=-0", 100), none);
        assert_eq!(select("bytes=0-", 0), none);
        assert_eq!(select("bytes=-5", 0), Some(Selection::Whole));
    }

    #[test]
    fn several_ranges_keep_their_order() {
        assert_eq!(select("bytes=0-1,200-,-2,4-5", 100), Some(parts(&[(0, 2), (98, 100), (4, 6)])));
        assert_eq!(select("bytes=0-1,200-300", 100), Some(parts(&[(0, 2)])));
    }

    #[test]
    fn abusive_sets_are_refused() {
        let many = |n: u64, step: u64| {
            let list: Vec<_> = (0..n).map(|i| format!("{}-{}", i * step, i * step + 1)).collect();
            format!("bytes={}", list.join(","))
        };
        assert!(matches!(
            select(&many(50, 10), 9999),
            Some(Selection::Parts(p)) if p.len() == 50
        ));
        let refused = Some(Selection::Unsatisfiable);
        assert_eq!(select(&many(51, 10), 9999), refused);
        assert_eq!(select(&many(10_000, 10), 999_999), refused);
        // Three overlapping pairs.
        assert_eq!(select("bytes=0-9,5-15,7-20", 100), refused);
        assert_eq!(select("bytes=0-9,5-15,10-20", 100), Some(parts(&[(0, 10), (5, 16), (10, 21)])));
        // The same range again and again is no overlap.
        assert!(matches!(select("bytes=0-9,0-9,0-9,0-9", 100), Some(Selection::Parts(_))));
        let backwards = |n: u64| {
            let list: Vec<_> = (0..n).rev().map(|i| format!("{}-{}", i * 3, i * 3)).collect();
            format!("bytes={}", list.join(","))
        };
        assert!(matches!(select(&backwards(7), 100), Some(Selection::Parts(_))));
        assert_eq!(select(&backwards(8), 100), refused);
    }

    #[test]
    fn multipart_framing_has_the_announced_length() {
        let list = [0..2, 10..20];
        let frame = Multipart::new("text/plain", 100, [0xab; 16]);
        let boundary = "ab".repeat(16);
        let mut body = String::new();
        for part in &list {
            body += &frame.head(part);
            body += &"x".repeat((part.end - part.start) as usize);
            body += "\r\n";
        }
        body += &frame.close();
        let expected = format!(
            "--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/100\r\n\r\nxx\r\n\
             --{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 10-19/100\r\n\r\nxxxxxxxxxx\r\n\
             --{boundary}--"
        );
        assert_eq!(body, expected);
        assert_eq!(frame.total(&list), body.len() as u64);
        assert_eq!(frame.content_type(), format!("multipart/byteranges;boundary={boundary}"));
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_panic(value: Vec<u8>, length: u64) {
            if let Some(ranges) = Ranges::parse(&value) {
                ranges.select(length);
            }
        }

        #[test]
        fn parts_lie_within_the_object(specs in "bytes=([0-9]{0,20}-[0-9]{0,20},){0,4}[0-9]{0,3}-[0-9]{0,3}", length: u64) {
            if let Some(Selection::Parts(list)) = select(&specs, length) {
                for part in list {
                    prop_assert!(part.start < part.end && part.end <= length);
                }
            }
        }
    }
}
