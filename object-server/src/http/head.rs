//! The head of a request: finding its end within bounds, then reading it strictly.
//!
//! Everything here is pure. Strictness is a defence: where two parties on the way read the same bytes
//! differently, one request can be smuggled inside another, so whatever is ambiguous is refused.

use memchr::{memchr, memchr_iter};

use super::Headers;
use super::limits::Limits;
use super::message::Version;

/// Why a head was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeadError {
    /// The request line is longer than allowed.
    #[error("request line too long")]
    LineTooLong,
    /// A header line, the number of fields or the whole head is larger than allowed.
    #[error("header fields too large")]
    TooLarge,
    /// Not HTTP, or not well-formed.
    #[error("malformed head")]
    Malformed,
    /// A version other than 1.0 and 1.1.
    #[error("unsupported protocol version")]
    Version,
    /// One header line over its bound.
    #[error("header line too long")]
    FieldTooLong,
    /// Content-Length that is no number, or contradicts itself or Transfer-Encoding.
    #[error("ambiguous body length")]
    Framing,
    /// A transfer coding other than `chunked`.
    #[error("unsupported transfer coding")]
    Coding,
    /// An expectation other than `100-continue`.
    #[error("unsupported expectation")]
    Expectation,
}

impl HeadError {
    /// The status that answers it.
    pub fn status(self) -> u16 {
        match self {
            Self::LineTooLong => 414,
            Self::TooLarge => 431,
            // As Swift answers a header line that is too long.
            Self::Malformed | Self::Framing | Self::FieldTooLong => 400,
            Self::Version => 505,
            Self::Coding => 501,
            Self::Expectation => 417,
        }
    }
}

/// How the body of a request is delimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// So many bytes; 0 where the head names no body.
    Length(u64),
    /// The chunked coding.
    Chunked,
}

/// A head that was read.
#[derive(Debug)]
pub struct Head {
    /// The method.
    pub method: String,
    /// Path and query, raw.
    pub target: Vec<u8>,
    /// The version.
    pub version: Version,
    /// The header fields.
    pub headers: Headers,
    /// How the body is delimited.
    pub framing: Framing,
    /// Whether the client waits for `100 Continue`.
    pub expects: bool,
    /// Whether the client wants the connection to go on.
    pub keep_alive: bool,
}

/// Looks for the end of a head, each byte once however it trickles in.
#[derive(Debug, Default)]
pub struct Scanner {
    scanned: usize,
    line: usize,
    lines: usize,
}

impl Scanner {
    /// Looks on in `bytes`, which begins with what earlier calls saw. Some(length) when the head is complete, the
    /// empty line included. Empty lines before the request line belong to it (RFC 9112, 2.2).
    pub fn scan(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, HeadError> {
        if self.lines == 0 && self.scanned == 0 {
            // What cannot begin a request (a TLS hello on the plain port, say) need not wait for its end.
            match bytes.first() {
                Some(byte) if !is_token(*byte) && *byte != b'\r' => return Err(HeadError::Malformed),
                _ => {}
            }
        }
        let unseen = bytes.get(self.scanned..).unwrap_or_default();
        for offset in memchr_iter(b'\n', unseen) {
            let end = self.scanned + offset;
            if end == self.line || bytes.get(end - 1) != Some(&b'\r') {
                return Err(HeadError::Malformed);
            }
            let length = end + 1 - self.line;
            self.line = end + 1;
            if length == 2 && self.lines > 0 {
                return if end < limits.head { Ok(Some(end + 1)) } else { Err(HeadError::TooLarge) };
            }
            self.check(length, limits)?;
            self.lines += usize::from(length > 2);
        }
        self.scanned = bytes.len();
        self.check(bytes.len() - self.line, limits)?;
        if bytes.len() >= limits.head { Err(HeadError::TooLarge) } else { Ok(None) }
    }

    fn check(&self, line: usize, limits: &Limits) -> Result<(), HeadError> {
        if self.lines == 0 && line > limits.request_line {
            return Err(HeadError::LineTooLong);
        }
        if self.lines > 0 && line > limits.header_line {
            return Err(HeadError::FieldTooLong);
        }
        if self.lines > limits.headers && line > 2 {
            return Err(HeadError::TooLarge);
        }
        Ok(())
    }

    /// Header fields in the head that was found.
    pub fn fields(&self) -> usize {
        self.lines.saturating_sub(1)
    }
}

/// Reads a complete head, as [`Scanner`] delimits it, of `fields` header fields.
pub fn parse(bytes: &[u8], fields: usize) -> Result<Head, HeadError> {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).ok_or(HeadError::Malformed)?;
    let bytes = bytes.get(start..).unwrap_or_default();
    let end = memchr(b'\n', bytes).ok_or(HeadError::Malformed)?;
    let (line, rest) = bytes.split_at(end + 1);
    let line = line.strip_suffix(b"\r\n").ok_or(HeadError::Malformed)?;
    let (method, target, version) = request_line(line)?;
    let mut headers = header_fields(rest, fields)?;
    let (target, authority) = origin_form(method, target)?;
    if let Some(authority) = authority {
        headers.insert("Host", authority);
    }
    let framing = framing(&headers, version)?;
    let expects = expectation(&headers, version)? && framing != Framing::Length(0);
    let keep_alive = keeps_alive(&headers, version);
    Ok(Head { method: method.to_owned(), target, version, headers, framing, expects, keep_alive })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn request_line(line: &[u8]) -> Result<(&str, &[u8], Version), HeadError> {
    let space = memchr(b' ', line).ok_or(HeadError::Malformed)?;
    let (method, rest) = (&line[..space], &line[space + 1..]);
    let space = memchr(b' ', rest).ok_or(HeadError::Malformed)?;
    let (target, version) = (&rest[..space], &rest[space + 1..]);
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return Err(HeadError::Malformed);
    }
    let visible = |byte: &u8| *byte > b' ' && *byte != 0x7f;
    if target.is_empty() || !target.iter().all(visible) {
        return Err(HeadError::Malformed);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(HeadError::Version);
        }
        _ => return Err(HeadError::Malformed),
    };
    let method = std::str::from_utf8(method).map_err(|_| HeadError::Malformed)?;
    Ok((method, target, version))
}

fn header_fields(bytes: &[u8], fields: usize) -> Result<Headers, HeadError> {
    const FEW: usize = 32;
    let mut few = [httparse::EMPTY_HEADER; FEW];
    let mut many = Vec::new();
    let slots = if fields <= FEW {
        &mut few[..]
    } else {
        many.resize(fields, httparse::EMPTY_HEADER);
        &mut many[..]
    };
    let parsed = match httparse::parse_headers(bytes, slots) {
        Ok(httparse::Status::Complete((length, parsed))) if length == bytes.len() => parsed,
        _ => return Err(HeadError::Malformed),
    };
    let mut headers = Headers::with_capacity(parsed.len() + 1, bytes.len());
    for field in parsed {
        headers.append(field.name, field.value);
    }
    Ok(headers)
}

/// Path and query, and the authority of an absolute-form target.
fn origin_form<'a>(method: &str, target: &'a [u8]) -> Result<(Vec<u8>, Option<&'a [u8]>), HeadError> {
    if target.first() == Some(&b'/') {
        return Ok((target.to_vec(), None));
    }
    if target == b"*" {
        return if method == "OPTIONS" { Ok((target.to_vec(), None)) } else { Err(HeadError::Malformed) };
    }
    let rest = [&b"http://"[..], b"https://"]
        .iter()
        .find_map(|scheme| {
            let (start, rest) = target.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        })
        .ok_or(HeadError::Malformed)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() {
        return Err(HeadError::Malformed);
    }
    let mut target = path.to_vec();
    if target.first() != Some(&b'/') {
        target.insert(0, b'/');
    }
    Ok((target, Some(authority)))
}

fn framing(headers: &Headers, version: Version) -> Result<Framing, HeadError> {
    let mut length = None;
    for value in headers.get_all("Content-Length") {
        let number = decimal(value).ok_or(HeadError::Framing)?;
        if length.replace(number).is_some_and(|earlier| earlier != number) {
            return Err(HeadError::Framing);
        }
    }
    let mut codings = headers.get_all("Transfer-Encoding");
    let Some(coding) = codings.next() else {
        return Ok(Framing::Length(length.unwrap_or(0)));
    };
    if length.is_some() || version == Version::Http10 {
        return Err(HeadError::Framing);
    }
    if !coding.eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
        return Err(HeadError::Coding);
    }
    Ok(Framing::Chunked)
}

/// Digits and nothing else: no sign, no space, no list.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

fn expectation(headers: &Headers, version: Version) -> Result<bool, HeadError> {
    let mut expects = false;
    for value in headers.get_all("Expect") {
        if version == Version::Http10 {
            return Ok(false);
        }
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(HeadError::Expectation);
        }
        expects = true;
    }
    Ok(expects)
}

fn keeps_alive(headers: &Headers, version: Version) -> bool {
    let mut keep = version == Version::Http11;
    for value in headers.get_all("Connection") {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keep |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    keep
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Head, HeadError> {
        let mut scanner = Scanner::default();
        let length = scanner.scan(bytes, &Limits::default())?.ok_or(HeadError::Malformed)?;
        parse(&bytes[..length], scanner.fields())
    }

    fn framed(fields: &str) -> Result<Framing, HeadError> {
        read(format!("PUT /x HTTP/1.1\r\n{fields}\r\n").as_bytes()).map(|head| head.framing)
    }

    #[test]
    fn http_head_reads_a_request() {
        let head = read(b"\r\nPUT /v1/%C3?a=b HTTP/1.1\r\nHost: h\r\nX-A:  v\xe9 \r\nX-A: w\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        assert_eq!((head.method.as_str(), &head.target[..]), ("PUT", &b"/v1/%C3?a=b"[..]));
        assert_eq!(head.headers.get_all("x-a").collect::<Vec<_>>(), [&b"v\xe9"[..], b"w"]);
        assert_eq!(head.framing, Framing::Length(5));
        assert!(head.expects && head.keep_alive);
    }

    #[test]
    fn http_head_refuses_ambiguous_framing() {
        use HeadError::{Coding, Framing as Ambiguous, Malformed};
        for (fields, error) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Ambiguous),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Ambiguous),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Ambiguous),
            ("Content-Length: 5, 5\r\n", Ambiguous),
            ("Content-Length: +5\r\n", Ambiguous),
            ("Content-Length: -5\r\n", Ambiguous),
            ("Content-Length: 5 5\r\n", Ambiguous),
            ("Content-Length: 0x5\r\n", Ambiguous),
            ("Content-Length:\r\n", Ambiguous),
            ("Content-Length: 18446744073709551616\r\n", Ambiguous),
            ("Transfer-Encoding: gzip, chunked\r\n", Coding),
            ("Transfer-Encoding: identity\r\n", Coding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Coding),
            ("Transfer-Encoding: \x0bchunked\r\n", Malformed),
            ("Transfer-Encoding : chunked\r\n", Malformed),
            ("Content-Length : 5\r\n", Malformed),
            ("X: a\r\n b\r\n", Malformed),
            ("X: a\rb\r\n", Malformed),
            ("X: a\0b\r\n", Malformed),
            ("X: a\nContent-Length: 5\r\n", Malformed),
            (" X: a\r\n", Malformed),
            (": a\r\n", Malformed),
            ("no colon\r\n", Malformed),
        ] {
            assert_eq!(framed(fields), Err(error), "{fields:?}");
        }
        assert_eq!(framed("Content-Length: 5\r\nContent-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framed("transfer-encoding: Chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(framed(""), Ok(Framing::Length(0)));
        let old = read(b"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").map(|head| head.framing);
        assert_eq!(old, Err(Ambiguous));
    }

    #[test]
    fn http_head_refuses_bad_request_lines() {
        for (line, status) in [
            ("PRI * HTTP/2.0", 505),
            ("GET / HTTP/3.0", 505),
            ("GET /", 400),
            ("GET  / HTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 400),
            ("GET / http/1.1", 400),
            ("GET /a b HTTP/1.1", 400),
            ("G@T / HTTP/1.1", 400),
            ("GET \x01 HTTP/1.1", 400),
            ("GET * HTTP/1.1", 400),
            ("CONNECT host:443 HTTP/1.1", 400),
            ("GET host HTTP/1.1", 400),
            ("GET http:// HTTP/1.1", 400),
            ("\x16\x03\x01 / HTTP/1.1", 400),
        ] {
            let error = read(format!("{line}\r\n\r\n").as_bytes()).unwrap_err();
            assert_eq!(error.status(), status, "{line:?}");
        }
        assert_eq!(read(b"OPTIONS * HTTP/1.1\r\n\r\n").unwrap().target, b"*");
    }

    #[test]
    fn http_head_takes_absolute_targets_apart() {
        for (target, path) in
            [("http://a.b:80/v1/x?y", "/v1/x?y"), ("HTTPS://a.b:80", "/"), ("http://a.b:80?q", "/?q")]
        {
            let head = read(format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(head.target, path.as_bytes());
            assert_eq!(head.headers.get("host"), Some(&b"a.b:80"[..]));
        }
    }

    #[test]
    fn http_head_connection_options() {
        for (version, fields, keep) in [
            ("1.1", "", true),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.1", "Connection: x, close\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: CLOSE\r\n", false),
        ] {
            let head = read(format!("GET / HTTP/{version}\r\n{fields}\r\n").as_bytes()).unwrap();
            assert_eq!(head.keep_alive, keep, "{version} {fields:?}");
        }
    }

    #[test]
    fn http_head_bounds() {
        let limits = Limits { request_line: 40, header_line: 30, head: 200, headers: 5, ..Limits::default() };
        let scan = |bytes: &str| Scanner::default().scan(bytes.as_bytes(), &limits);
        let line = "GET / HTTP/1.1\r\n";
        assert_eq!(scan(&"G".repeat(41)), Err(HeadError::LineTooLong));
        assert_eq!(scan(&format!("{line}{}", "h".repeat(31))), Err(HeadError::FieldTooLong));
        assert_eq!(scan(&format!("{line}{}", "a: b\r\n".repeat(6))), Err(HeadError::TooLarge));
        assert_eq!(scan(&format!("{line}{}\r\n", "a: b\r\n".repeat(5))), Ok(Some(48)));
        let long = format!("A: {}\r\n", "x".repeat(25));
        let wide = Limits { headers: 100, ..limits.clone() };
        let many = format!("{line}{}\r\n", long.repeat(7));
        assert_eq!(Scanner::default().scan(many.as_bytes(), &wide), Err(HeadError::TooLarge));
    }

    proptest! {
        #[test]
        fn http_head_never_panics_and_splits_do_not_matter(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), Just(b'A'), any::<u8>()], 0..300),
            split in 0_usize..300,
        ) {
            let limits = Limits { request_line: 50, header_line: 50, head: 200, headers: 4, ..Limits::default() };
            let whole = Scanner::default().scan(&bytes, &limits);
            let mut scanner = Scanner::default();
            let first = scanner.scan(&bytes[..split.min(bytes.len())], &limits);
            let both = match first { Ok(None) => scanner.scan(&bytes, &limits), other => other };
            prop_assert_eq!(whole.is_ok(), both.is_ok());
            if let (Ok(Some(length)), Ok(found)) = (whole, both) {
                prop_assert_eq!(found, Some(length));
                let _ = parse(&bytes[..length], scanner.fields());
            }
        }
    }
}
