//! The head of an answer: how its body is delimited, and its bytes. Pure.

use memchr::memchr3;

use super::message::Version;
use super::{Headers, date};

/// What the framing of an answer depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// The request was a HEAD.
    pub(super) head: bool,
    /// The request's version.
    pub(super) version: Version,
    /// The connection may go on.
    pub(super) keep_alive: bool,
    /// The client named `keep-alive`, and is told so.
    pub(super) named: bool,
}

/// Size of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    /// There is no body, and the handler may know how long it would be.
    Empty,
    Known(u64),
    Unknown,
}

/// What is written as `Content-Length`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Length {
    None,
    /// What the handler put, if anything.
    Given,
    Exact(u64),
}

/// What tells the client where a body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delimiter {
    /// There is no body.
    NoBody,
    /// Its length, known beforehand.
    Length,
    /// The chunked coding.
    Chunked,
    /// The end of the connection.
    Close,
}

/// How an answer is delimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    length: Length,
    /// Where the body ends.
    pub(super) delimiter: Delimiter,
    /// The connection goes on after it.
    pub(super) keep_alive: bool,
    named: bool,
}

impl Plan {
    pub(super) fn new(status: u16, size: Size, asked: Asked, headers: &Headers) -> Self {
        let bodiless = asked.head || matches!(status, 204 | 304);
        let (delimiter, length) = match size {
            Size::Known(bytes) if asked.head && !headers.contains("Content-Length") => {
                (Delimiter::NoBody, Length::Exact(bytes))
            }
            // A 204 with a body would be a contradiction; a 304's length is the handler's to know.
            Size::Known(_) if bodiless && !asked.head => (Delimiter::NoBody, Length::None),
            _ if bodiless => (Delimiter::NoBody, Length::Given),
            Size::Empty => (Delimiter::Length, Length::Exact(0)),
            Size::Known(bytes) => (Delimiter::Length, Length::Exact(bytes)),
            Size::Unknown if asked.version == Version::Http10 => (Delimiter::Close, Length::None),
            Size::Unknown => (Delimiter::Chunked, Length::None),
        };
        let keep_alive = asked.keep_alive && delimiter != Delimiter::Close;
        Self { length, delimiter, keep_alive, named: asked.named }
    }
}

/// Appends the head of an answer.
pub(super) fn head(out: &mut Vec<u8>, status: u16, headers: &Headers, plan: &Plan, version: Version) {
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut given = None;
    let mut dated = false;
    for (name, value) in headers.iter() {
        match OurField::of(name) {
            Some(OurField::Length) => given = given.or(Some(value)),
            Some(OurField::Connection) => {}
            Some(OurField::Date) if dated => {}
            other => {
                dated |= other.is_some();
                field(out, name, value);
            }
        }
    }
    match (plan.length, given) {
        (Length::Exact(bytes), _) => {
            out.extend_from_slice(b"Content-Length: ");
            decimal(out, bytes);
            out.extend_from_slice(b"\r\n");
        }
        (Length::Given, Some(value)) if value.iter().all(u8::is_ascii_digit) => {
            field(out, "Content-Length", value);
        }
        _ => {}
    }
    if plan.delimiter == Delimiter::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if !dated {
        out.extend_from_slice(b"Date: ");
        date::append(out);
        out.extend_from_slice(b"\r\n");
    }
    match (plan.keep_alive, version) {
        (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
        (true, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (true, Version::Http11) if plan.named => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (true, Version::Http11) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Fields that are the layer's own.
enum OurField {
    Length,
    Connection,
    Date,
}

impl OurField {
    fn of(name: &str) -> Option<Self> {
        match name.len() {
            4 if name.eq_ignore_ascii_case("date") => Some(Self::Date),
            10 if name.eq_ignore_ascii_case("connection") => Some(Self::Connection),
            10 if name.eq_ignore_ascii_case("keep-alive") => Some(Self::Connection),
            14 if name.eq_ignore_ascii_case("content-length") => Some(Self::Length),
            17 if name.eq_ignore_ascii_case("transfer-encoding") => Some(Self::Connection),
            _ => None,
        }
    }
}

/// A name that is no token would let its writer end the line; such a field is left out.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return;
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    clean(out, value);
    out.extend_from_slice(b"\r\n");
}

/// Appends `text` with a space in place of each byte that would end the line, or truncate it for some readers.
fn clean(out: &mut Vec<u8>, text: &[u8]) {
    if memchr3(b'\r', b'\n', 0, text).is_none() {
        out.extend_from_slice(text);
        return;
    }
    out.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n' | 0) { b' ' } else { *byte }));
}

/// Appends a number in decimal.
pub(super) fn decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = number;
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        start = index;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

/// Appends the size line of a chunk.
pub(super) fn chunk_size(out: &mut Vec<u8>, bytes: u64) {
    let first = 60_u32.saturating_sub(bytes.leading_zeros() & !3);
    for shift in (0..=first).rev().step_by(4) {
        let digit = (bytes >> shift & 0xf) as u8;
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
    out.extend_from_slice(b"\r\n");
}

/// The reason phrase of a status, as Swift has it.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request URI Too Long",
        416 => "Requested Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        498 => "Rate Limited",
        499 => "Client Disconnect",
        500 => "Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked = Asked { head: false, version: Version::Http11, keep_alive: true, named: false };

    fn text(status: u16, size: Size, asked: Asked, headers: &[(&str, &[u8])]) -> String {
        let headers: Headers = headers.iter().copied().collect();
        let plan = Plan::new(status, size, asked, &headers);
        let mut out = Vec::new();
        head(&mut out, status, &headers, &plan, asked.version);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn http_render_never_writes_injected_lines() {
        let fields: [(&str, &[u8]); 4] =
            [("X-A", b"1\r\nX-Evil: 2\n\0"), ("X\r\nY", b"3"), ("X Z", b"3"), ("", b"3")];
        let head = text(200, Size::Known(0), GET, &fields);
        let lines: Vec<_> = head.split("\r\n").collect();
        assert_eq!(lines[..3], ["HTTP/1.1 200 OK", "X-A: 1  X-Evil: 2  ", "Content-Length: 0"]);
        assert!(lines[3].starts_with("Date: ") && lines[3].ends_with(" GMT"), "{head}");
        assert_eq!(lines[4..], ["", ""]);
        assert!(!head.contains('\0'));
    }

    #[test]
    fn http_render_delimits_every_body() {
        let head = Asked { head: true, ..GET };
        let old = Asked { version: Version::Http10, ..GET };
        let given: [(&str, &[u8]); 2] = [("content-length", b"77"), ("Transfer-Encoding", b"x")];
        for (status, size, asked, length, chunked) in [
            (200, Size::Known(5), GET, Some("5"), false),
            (200, Size::Empty, GET, Some("0"), false),
            (200, Size::Unknown, GET, None, true),
            (200, Size::Unknown, old, None, false),
            (200, Size::Empty, head, Some("77"), false),
            (200, Size::Known(5), head, Some("77"), false),
            (200, Size::Unknown, head, Some("77"), false),
            (204, Size::Empty, GET, Some("77"), false),
            (204, Size::Known(5), GET, None, false),
            (304, Size::Empty, GET, Some("77"), false),
        ] {
            let head = text(status, size, asked, &given);
            let found = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            assert_eq!(found, length, "{status} {size:?} {asked:?}");
            assert_eq!(head.contains("Transfer-Encoding: chunked\r\n"), chunked);
            assert!(!head.contains("Transfer-Encoding: x"));
        }
        assert!(text(200, Size::Unknown, old, &[]).contains("Connection: close\r\n"));
        assert!(text(200, Size::Empty, old, &[]).contains("Connection: keep-alive\r\n"));
        let named = Asked { named: true, ..GET };
        assert!(text(200, Size::Empty, named, &[]).contains("Connection: keep-alive\r\n"));
        assert!(!text(200, Size::Empty, GET, &[]).contains("Connection"));
        assert!(text(200, Size::Known(5), head, &[]).contains("Content-Length: 5\r\n"));
    }

    #[test]
    fn http_render_numbers() {
        for number in [0, 9, 10, 15, 16, 255, 256, 4096, u64::from(u32::MAX), u64::MAX] {
            let (mut decimals, mut hexes) = (Vec::new(), Vec::new());
            decimal(&mut decimals, number);
            chunk_size(&mut hexes, number);
            assert_eq!(decimals, number.to_string().as_bytes());
            assert_eq!(hexes, format!("{number:x}\r\n").as_bytes());
        }
    }
}
