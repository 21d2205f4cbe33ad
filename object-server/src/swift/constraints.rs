//! Limits on names, metadata, sizes and times, with Swift's words for each.

use super::dates::UNITS;
use super::errors::Answer;
use super::text;
use crate::config::Limits;

/// The latest time at which an object can be told to expire: what fits ten digits.
const MAX_DELETE_AT: i64 = 9_999_999_999;

/// What metadata belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// X-Account-Meta-
    Account,
    /// X-Container-Meta-
    Container,
    /// X-Object-Meta-
    Object,
}

impl Level {
    /// The prefix of metadata headers, in lower case.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Account => "x-account-meta-",
            Self::Container => "x-container-meta-",
            Self::Object => "x-object-meta-",
        }
    }

    /// The prefix of headers that remove metadata; objects have none.
    pub fn remove_prefix(self) -> &'static str {
        match self {
            Self::Account => "x-remove-account-meta-",
            Self::Container => "x-remove-container-meta-",
            Self::Object => "x-remove-object-meta-",
        }
    }

    /// The item that a header carries, if it is metadata of this level.
    pub fn item(self, header: &str) -> Option<&str> {
        let start = header.get(..self.prefix().len())?;
        start.eq_ignore_ascii_case(self.prefix()).then(|| &header[self.prefix().len()..])
    }
}

/// Checks all headers of a request that sets metadata.
pub fn check_metadata<'a>(
    limits: &Limits,
    level: Level,
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), Answer> {
    let (mut count, mut size) = (0, 0);
    for (name, value) in headers {
        if value.len() > limits.max_header_size {
            let name: String = text::title_case(name).chars().take(limits.max_meta_name_length).collect();
            return Err(Answer::plain(400, format!("Header value too long: {name}")));
        }
        let Some(key) = level.item(name) else {
            continue;
        };
        check_item(limits, level, key, value)?;
        count += 1;
        size += key.len() + value.len();
        check_sum(limits, count, size)?;
    }
    Ok(())
}

fn check_item(limits: &Limits, level: Level, key: &str, value: &[u8]) -> Result<(), Answer> {
    let refuse = |text: String| Err(Answer::plain(400, text));
    if key.is_empty() {
        return refuse("Metadata name cannot be empty".to_owned());
    }
    let unclean = |bytes: &[u8]| std::str::from_utf8(bytes).is_err() || bytes.contains(&0);
    if level != Level::Object && (unclean(key.as_bytes()) || unclean(value)) {
        return refuse("Metadata must be valid UTF-8".to_owned());
    }
    let shown = || format!("{}{}", level.prefix(), text::title_case(key));
    if key.len() > limits.max_meta_name_length {
        return refuse(format!("Metadata name too long: {}", shown()));
    }
    if value.len() > limits.max_meta_value_length {
        let (name, max) = (shown(), limits.max_meta_value_length);
        return refuse(format!("Metadata value longer than {max}: {name}"));
    }
    Ok(())
}

/// Checks what an account or container would hold after an update.
pub fn check_total<'a>(
    limits: &Limits,
    level: Level,
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), Answer> {
    let (mut count, mut size) = (0, 0);
    for (name, value) in headers {
        if let Some(key) = level.item(name).filter(|_| !value.is_empty()) {
            count += 1;
            size += key.len() + value.len();
        }
    }
    check_sum(limits, count, size)
}

fn check_sum(limits: &Limits, count: usize, size: usize) -> Result<(), Answer> {
    let (most, largest) = (limits.max_meta_count, limits.max_meta_overall_size);
    if count > most {
        return Err(Answer::plain(400, format!("Too many metadata items; max {most}")));
    }
    if size > largest {
        return Err(Answer::plain(400, format!("Total metadata too large; max {largest}")));
    }
    Ok(())
}

/// Checks the length that an upload announces: `length` from Content-Length, or chunked.
pub fn check_length(limits: &Limits, length: Option<u64>, chunked: bool) -> Result<(), Answer> {
    match length {
        _ if chunked => Ok(()),
        Some(length) if length > limits.max_file_size => {
            Err(Answer::plain(413, "Your request is too large."))
        }
        Some(_) => Ok(()),
        None => Err(Answer::plain(411, "Missing Content-Length header.")),
    }
}

/// Checks that a content type can be stored.
pub fn check_content_type(value: &[u8]) -> Result<(), Answer> {
    if value.is_empty() || value.contains(&0) || std::str::from_utf8(value).is_err() {
        return Err(Answer::plain(400, "Invalid Content-Type"));
    }
    Ok(())
}

/// When the object is to expire, in seconds since 1970, from X-Delete-After (which goes first) or X-Delete-At.
///
/// `now` is the time of the request in units of a timestamp.
pub fn delete_at(after: Option<&[u8]>, at: Option<&[u8]>, now: u64) -> Result<Option<u64>, Answer> {
    let number = |value: &[u8], name: &str| {
        std::str::from_utf8(value)
            .ok()
            .and_then(text::integer)
            .ok_or_else(|| Answer::plain(400, format!("Non-integer {name}")))
    };
    let (time, name) = match (after, at) {
        (Some(after), _) => {
            let seconds = number(after, "X-Delete-After")?;
            let whole = i64::try_from(now / UNITS).unwrap_or(i64::MAX);
            (whole.saturating_add(seconds), "X-Delete-After")
        }
        (None, Some(at)) => (number(at, "X-Delete-At")?, "X-Delete-At"),
        (None, None) => return Ok(None),
    };
    let time = u64::try_from(time.clamp(0, MAX_DELETE_AT)).unwrap_or(0);
    if time.saturating_mul(UNITS) <= now {
        return Err(Answer::plain(400, format!("{name} in past")));
    }
    Ok(Some(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T>(result: Result<T, Answer>) -> Result<T, (u16, String)> {
        result.map_err(|a| (a.status, String::from_utf8_lossy(&a.body).into_owned()))
    }

    fn metadata(level: Level, headers: &[(&str, &[u8])]) -> Result<(), (u16, String)> {
        text(check_metadata(&Limits::default(), level, headers.iter().copied()))
    }

    fn refused(words: &str) -> Result<(), (u16, String)> {
        Err((400, words.to_owned()))
    }

    #[test]
    fn metadata_limits() {
        let level = Level::Object;
        assert_eq!(metadata(level, &[("X-Object-Meta-a", b"\xff")]), Ok(()));
        assert_eq!(
            metadata(Level::Container, &[("X-Container-Meta-a", b"\xff")]),
            refused("Metadata must be valid UTF-8")
        );
        assert_eq!(metadata(level, &[("X-Object-Meta-", b"x")]), refused("Metadata name cannot be empty"));
        let name = format!("x-object-meta-{}", "a".repeat(129));
        let shown = format!("A{}", "a".repeat(128));
        assert_eq!(
            metadata(level, &[(&name, b"x")]),
            refused(&format!("Metadata name too long: x-object-meta-{shown}"))
        );
        assert_eq!(metadata(level, &[(&name[..142], &[b'x'; 256])]), Ok(()));
        assert_eq!(
            metadata(level, &[("x-object-meta-ab", &[b'x'; 257])]),
            refused("Metadata value longer than 256: x-object-meta-Ab")
        );
        assert_eq!(metadata(level, &[("any", &[b'x'; 8193])]), refused("Header value too long: Any"));
    }

    #[test]
    fn metadata_totals() {
        let names: Vec<String> = (0..91).map(|i| format!("x-account-meta-{i:02}")).collect();
        let list = |n: usize, value: &'static [u8]| -> Vec<(&str, &[u8])> {
            names.iter().take(n).map(|k| (k.as_str(), value)).collect()
        };
        assert_eq!(metadata(Level::Account, &list(90, b"x")), Ok(()));
        assert_eq!(metadata(Level::Account, &list(91, b"x")), refused("Too many metadata items; max 90"));
        assert_eq!(metadata(Level::Account, &list(16, &[b'x'; 254])), Ok(()));
        assert_eq!(
            metadata(Level::Account, &list(17, &[b'x'; 254])),
            refused("Total metadata too large; max 4096")
        );
        assert!(check_total(&Limits::default(), Level::Account, list(91, b"")).is_ok());
        assert!(check_total(&Limits::default(), Level::Account, list(91, b"x")).is_err());
    }

    #[test]
    fn lengths() {
        assert_eq!(text(check_length(&Limits::default(), Some(5_368_709_122), false)), Ok(()));
        assert_eq!(text(check_length(&Limits::default(), None, true)), Ok(()));
        assert_eq!(
            text(check_length(&Limits::default(), Some(5_368_709_122 + 1), false)),
            Err((413, "Your request is too large.".into()))
        );
        assert_eq!(
            text(check_length(&Limits::default(), None, false)),
            Err((411, "Missing Content-Length header.".into()))
        );
    }

    #[test]
    fn expiry() {
        let now = 1000 * UNITS + 5;
        let at = |v: &[u8]| text(delete_at(None, Some(v), now));
        let after = |v: &[u8]| text(delete_at(Some(v), Some(b"x"), now));
        assert_eq!(text(delete_at(None, None, now)), Ok(None));
        assert_eq!(at(b"1001"), Ok(Some(1001)));
        assert_eq!(at(b"99999999999999"), Ok(Some(9_999_999_999)));
        assert_eq!(at(b"1000"), Err((400, "X-Delete-At in past".into())));
        assert_eq!(at(b"-5"), Err((400, "X-Delete-At in past".into())));
        assert_eq!(at(b""), Err((400, "Non-integer X-Delete-At".into())));
        assert_eq!(at(b"1e9"), Err((400, "Non-integer X-Delete-At".into())));
        assert_eq!(after(b"60"), Ok(Some(1060)));
        assert_eq!(after(b"0"), Err((400, "X-Delete-After in past".into())));
        assert_eq!(after(b"\xff"), Err((400, "Non-integer X-Delete-After".into())));
    }

    #[test]
    fn content_types_are_text() {
        assert_eq!(text(check_content_type(b"text/plain")), Ok(()));
        assert_eq!(text(check_content_type(b"\xff")), Err((400, "Invalid Content-Type".into())));
    }
}
