//! Conditional requests.

use super::dates;
use super::errors::Answer;
use super::text::bare_etag;

/// The entity tags of an If-Match or If-None-Match header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tags {
    any: bool,
    list: Vec<String>,
}

impl Tags {
    fn parse(value: &[u8]) -> Self {
        let text = String::from_utf8_lossy(value);
        let list: Vec<String> = text
            .split(',')
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
            .map(|tag| bare_etag(tag).to_owned())
            .collect();
        Self { any: list.iter().any(|tag| tag == "*"), list }
    }

    /// Whether the object with this ETag is meant; an unknown ETag is met by `*` only.
    fn has(&self, etag: Option<&str>) -> bool {
        self.any || etag.is_some_and(|etag| self.list.iter().any(|tag| tag == etag))
    }
}

/// The conditions of a request, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    matching: Option<Tags>,
    none_matching: Option<Tags>,
    modified_since: Option<u64>,
    unmodified_since: Option<u64>,
    if_range: Option<String>,
}

impl Conditions {
    /// Reads the conditions; `header` looks one up by name.
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a [u8]>) -> Self {
        Self {
            matching: header("if-match").map(Tags::parse),
            none_matching: header("if-none-match").map(Tags::parse),
            modified_since: header("if-modified-since").and_then(dates::parse_http),
            unmodified_since: header("if-unmodified-since").and_then(dates::parse_http),
            if_range: header("if-range").map(|v| String::from_utf8_lossy(v).trim().to_owned()),
        }
    }

    /// Whether an answer needs the ETag.
    pub fn need_etag(&self) -> bool {
        let named = |tags: &Option<Tags>| tags.as_ref().is_some_and(|t| !t.any);
        named(&self.matching) || named(&self.none_matching)
    }

    /// The status that replaces a successful answer: 304 or 412.
    ///
    /// `etag` is bare (no quotes), `last_modified` in seconds, rounded up as its header is.
    pub fn check(&self, etag: Option<&str>, last_modified: u64) -> Option<u16> {
        if self.none_matching.as_ref().is_some_and(|t| t.has(etag)) {
            return Some(304);
        }
        if self.matching.as_ref().is_some_and(|t| !t.has(etag)) {
            return Some(412);
        }
        if self.modified_since.is_some_and(|t| last_modified <= t) {
            return Some(304);
        }
        if self.unmodified_since.is_some_and(|t| last_modified > t) {
            return Some(412);
        }
        None
    }

    /// The status when there is no such object: 412 for `If-Match: *`, else 404.
    pub fn missing(&self) -> u16 {
        if self.matching.as_ref().is_some_and(|t| t.any) { 412 } else { 404 }
    }

    /// Whether a Range header counts: an If-Range that names another version asks for everything.
    pub fn range_holds(&self, etag: Option<&str>, last_modified: u64) -> bool {
        let Some(validator) = &self.if_range else {
            return true;
        };
        match dates::parse_http(validator.as_bytes()) {
            Some(date) => date == last_modified,
            None => etag.is_some_and(|etag| bare_etag(validator) == etag),
        }
    }

    /// What an upload must check: whether the object must not exist yet. Only `*` is allowed there.
    pub fn for_upload(&self) -> Result<bool, Answer> {
        match &self.none_matching {
            None => Ok(false),
            Some(tags) if tags.any => Ok(true),
            Some(_) => Err(Answer::plain(400, "If-None-Match only supports *")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODIFIED: u64 = 1_700_000_000;
    const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
    const BEFORE: &str = "Tue, 14 Nov 2023 22:13:19 GMT";

    fn conditions(headers: &[(&str, &str)]) -> Conditions {
        Conditions::read(|name| {
            headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_bytes())
        })
    }

    fn check(headers: &[(&str, &str)]) -> Option<u16> {
        conditions(headers).check(Some("abc"), MODIFIED)
    }

    #[test]
    fn tags_are_compared_without_quotes() {
        assert_eq!(check(&[]), None);
        assert_eq!(check(&[("if-match", "\"abc\"")]), None);
        assert_eq!(check(&[("if-match", "x, abc")]), None);
        assert_eq!(check(&[("if-match", "*")]), None);
        assert_eq!(check(&[("if-match", "\"x\"")]), Some(412));
        assert_eq!(check(&[("if-match", "")]), Some(412));
        assert_eq!(check(&[("if-match", "W/\"abc\"")]), Some(412));
        assert_eq!(check(&[("if-none-match", "\"x\", \"abc\"")]), Some(304));
        assert_eq!(check(&[("if-none-match", "*")]), Some(304));
        assert_eq!(check(&[("if-none-match", "x")]), None);
    }

    #[test]
    fn dates_are_compared_by_the_second() {
        assert_eq!(check(&[("if-modified-since", DATE)]), Some(304));
        assert_eq!(check(&[("if-modified-since", BEFORE)]), None);
        assert_eq!(check(&[("if-unmodified-since", DATE)]), None);
        assert_eq!(check(&[("if-unmodified-since", BEFORE)]), Some(412));
        assert_eq!(check(&[("if-unmodified-since", "nonsense")]), None);
    }

    #[test]
    fn none_match_goes_before_match() {
        assert_eq!(check(&[("if-none-match", "abc"), ("if-match", "x")]), Some(304));
        assert_eq!(check(&[("if-match", "abc"), ("if-unmodified-since", BEFORE)]), Some(412));
    }

    #[test]
    fn an_unknown_etag_meets_only_the_star() {
        let unknown = |h: &[(&str, &str)]| conditions(h).check(None, MODIFIED);
        assert_eq!(unknown(&[("if-match", "abc")]), Some(412));
        assert_eq!(unknown(&[("if-match", "*")]), None);
        assert_eq!(unknown(&[("if-none-match", "abc")]), None);
        assert_eq!(unknown(&[("if-none-match", "*")]), Some(304));
        assert!(conditions(&[("if-none-match", "abc")]).need_etag());
        assert!(!conditions(&[("if-none-match", "*")]).need_etag());
    }

    #[test]
    fn a_missing_object_fails_if_match_star() {
        assert_eq!(conditions(&[("if-match", "*")]).missing(), 412);
        assert_eq!(conditions(&[("if-match", "abc")]).missing(), 404);
        assert_eq!(conditions(&[]).missing(), 404);
    }

    #[test]
    fn if_range_drops_the_range_of_another_version() {
        let holds = |value: &str| conditions(&[("if-range", value)]).range_holds(Some("abc"), MODIFIED);
        assert!(conditions(&[]).range_holds(None, MODIFIED));
        assert!(holds("\"abc\""));
        assert!(!holds("\"x\""));
        assert!(!holds("W/\"abc\""));
        assert!(holds(DATE));
        assert!(!holds(BEFORE));
    }

    #[test]
    fn uploads_know_only_the_star() {
        assert_eq!(conditions(&[("if-none-match", "*")]).for_upload(), Ok(true));
        assert_eq!(conditions(&[]).for_upload(), Ok(false));
        let refused = conditions(&[("if-none-match", "abc")]).for_upload();
        assert_eq!(
            refused.map_err(|a| (a.status, a.body)),
            Err((400, "If-None-Match only supports *".into()))
        );
    }
}
