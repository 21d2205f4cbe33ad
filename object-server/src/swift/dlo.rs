//! Dynamic large objects: everything under a prefix, in the order of the names.

use super::errors::Answer;
use super::range::{Ranges, Selection};
use super::text;
use md5::{Digest, Md5};
use std::ops::Range;

/// The container and the prefix that an X-Object-Manifest header names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The container of the segments.
    pub container: String,
    /// What their names begin with.
    pub prefix: String,
}

/// Checks the header of an upload.
pub fn check(value: &[u8]) -> Result<(), Answer> {
    let good = match memchr::memchr(b'/', value) {
        Some(at) => at > 0 && at + 1 < value.len() && value[at + 1] != b'/',
        None => false,
    };
    if !good || value.contains(&b'?') || value.contains(&b'&') {
        let text = "X-Object-Manifest must be in the format container/prefix";
        return Err(Answer::html(400, text));
    }
    Ok(())
}

impl Manifest {
    /// Reads a stored header; `None` if it names no valid container and prefix.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = String::from_utf8(text::unquote(value)).ok()?;
        let (container, prefix) = text.split_once('/')?;
        Some(Self { container: container.to_owned(), prefix: prefix.to_owned() })
    }
}

/// The first page of the listing of segments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The sizes in bytes.
    pub lengths: Vec<u64>,
    /// The ETags as listed, without quotes; empty where unknown.
    pub hashes: Vec<String>,
    /// Whether there are no more segments than these.
    pub complete: bool,
}

/// What to answer to a GET or HEAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answering {
    /// Everything; the length is known if all segments are.
    Whole(Option<u64>),
    /// This range; the length is that of the first page, which is the whole if all segments are known.
    Part(Range<u64>, u64),
    /// 416, with the length if it is known.
    Unsatisfiable(Option<u64>),
}

impl Page {
    /// The size of all of them.
    pub fn size(&self) -> u64 {
        self.lengths.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The ETag of the whole: the MD5 of the segments' ETags; `None` if some segments or ETags are not known.
    pub fn etag(&self) -> Option<String> {
        if !self.complete || self.hashes.iter().any(String::is_empty) {
            return None;
        }
        let mut hash = Md5::new();
        for part in &self.hashes {
            hash.update(text::bare_etag(part));
        }
        Some(text::hex(&hash.finalize()))
    }

    /// Chooses what to send. Only a single range counts, and only where the first page can tell what it means.
    pub fn answer(&self, ranges: Option<&Ranges>) -> Answering {
        let size = self.size();
        let known = self.complete.then_some(size);
        let Some(ranges) = ranges.filter(|r| r.specs().len() == 1) else {
            return Answering::Whole(known);
        };
        if known.is_none() {
            let end = match ranges.specs() {
                [super::range::Spec::Between(_, last)] => last.saturating_add(1),
                _ => u64::MAX,
            };
            if end >= size {
                return Answering::Whole(None);
            }
        }
        match ranges.select(size) {
            Selection::Whole => Answering::Whole(known),
            Selection::Unsatisfiable => Answering::Unsatisfiable(known),
            Selection::Parts(parts) => match parts.into_iter().next() {
                Some(part) => Answering::Part(part, size),
                None => Answering::Whole(known),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_a_container_and_a_prefix() {
        assert!(check(b"c/p/q").is_ok());
        for value in [&b"c"[..], b"/p", b"c/", b"c//p", b"c/p?x", b"c&/p", b""] {
            assert_eq!(check(value).unwrap_err().status, 400);
        }
        assert_eq!(
            Manifest::parse(b"c%20d/p%2Fq"),
            Some(Manifest { container: "c d".into(), prefix: "p/q".into() })
        );
        assert_eq!(Manifest::parse(b"c/%ff"), None);
        assert_eq!(Manifest::parse(b"c"), None);
    }

    fn answer(page: &Page, header: &str) -> Answering {
        page.answer(Ranges::parse(header.as_bytes()).as_ref())
    }

    #[test]
    fn a_short_listing_is_the_whole() {
        let page = Page { lengths: vec![5, 5], hashes: vec!["0f".into(), "1e".into()], complete: true };
        assert_eq!(page.answer(None), Answering::Whole(Some(10)));
        assert_eq!(answer(&page, "bytes=2-6"), Answering::Part(2..7, 10));
        assert_eq!(answer(&page, "bytes=-3"), Answering::Part(7..10, 10));
        assert_eq!(answer(&page, "bytes=0-1,3-4"), Answering::Whole(Some(10)));
        assert_eq!(answer(&page, "bytes=10-"), Answering::Unsatisfiable(Some(10)));
        assert_eq!(page.etag(), Some(text::hex(&Md5::digest(b"0f1e"))));
        let unknown = Page { hashes: vec![String::new(), "1e".into()], ..page };
        assert_eq!(unknown.etag(), None);
        assert_eq!(Page { complete: true, ..Page::default() }.answer(None), Answering::Whole(Some(0)));
    }

    #[test]
    fn a_full_page_knows_only_its_own_bytes() {
        let page = Page { lengths: vec![1; 10_000], hashes: vec!["0f".into(); 10_000], complete: false };
        assert_eq!(page.etag(), None);
        assert_eq!(page.answer(None), Answering::Whole(None));
        assert_eq!(answer(&page, "bytes=2-6"), Answering::Part(2..7, 10_000));
        assert_eq!(answer(&page, "bytes=2-9999"), Answering::Whole(None));
        assert_eq!(answer(&page, "bytes=-1"), Answering::Whole(None));
        assert_eq!(answer(&page, "bytes=2-"), Answering::Whole(None));
    }
}
