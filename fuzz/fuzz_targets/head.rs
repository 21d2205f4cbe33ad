//! Heads of requests: their end is found however they trickle in, and what was read can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use object_server::http::head::{Framing, Head, Scanner, parse};
use object_server::http::{Limits, Version};

fuzz_target!(|data: &[u8]| {
    // Small, so that they are reached.
    let limits = Limits { request_line: 128, header_line: 128, head: 512, headers: 8, ..Limits::default() };
    let mut scanner = Scanner::default();
    let length = scanner.scan(data, &limits);
    let mut trickle = Scanner::default();
    let piecewise =
        (0..=data.len()).map(|n| trickle.scan(&data[..n], &limits)).find(|found| *found != Ok(None));
    // Which of two faults is seen first may differ.
    assert_eq!(piecewise.unwrap_or(Ok(None)).ok(), length.ok());
    let Ok(Some(length)) = length else { return };
    assert!(length <= limits.head && scanner.fields() <= limits.headers);
    let Ok(head) = parse(&data[..length], scanner.fields()) else { return };
    check(&head);
    let again = parse(&written(&head), head.headers.len());
    assert!(again.is_ok_and(|again| same(&again, &head)), "{head:?}");
});

fn check(head: &Head) {
    assert!(head.target.starts_with(b"/") || head.target == b"*");
    assert!(head.target.iter().all(|b| *b > b' ' && *b != 0x7f));
    for (name, value) in head.headers.iter() {
        assert!(!name.is_empty() && !name.contains([' ', '\t', ':', '\r', '\n', '\0']), "{name:?}");
        assert!(!value.iter().any(|b| b"\r\n\0".contains(b)), "{value:?}");
    }
    // A body has one length, whoever reads the head.
    let chunked = head.framing == Framing::Chunked;
    assert_eq!(chunked, head.headers.contains("transfer-encoding"));
    assert!(!chunked || head.version == Version::Http11 && !head.headers.contains("content-length"));
    assert!(!head.expects || head.framing != Framing::Length(0));
}

fn written(head: &Head) -> Vec<u8> {
    let version: &[u8] = if head.version == Version::Http11 { b"HTTP/1.1" } else { b"HTTP/1.0" };
    let mut out = [head.method.as_bytes(), b" ", &head.target, b" ", version, b"\r\n"].concat();
    for (name, value) in head.headers.iter() {
        out.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn same(a: &Head, b: &Head) -> bool {
    a.method == b.method
        && a.target == b.target
        && a.version == b.version
        && a.headers.iter().eq(b.headers.iter())
        && (a.framing, a.expects, a.keep_alive) == (b.framing, b.expects, b.keep_alive)
}
