//! Small text rules that Swift takes from Python: numbers, truth values, quoting, header spelling.

pub use namespace::hex;
use std::fmt::Write as _;

/// Percent-encodes everything but letters, digits, `_.-~/`.
pub fn quote(text: &[u8]) -> String {
    crate::python::quote(text).to_string()
}

/// Decodes `%XX`; what is no such escape stays as it is.
pub fn unquote(text: &[u8]) -> Vec<u8> {
    percent_encoding::percent_decode(text).collect()
}

/// Whether a header or parameter says yes (`true`, `1`, `yes`, `on`, `t`, `y`, any case).
pub fn is_true(value: &[u8]) -> bool {
    ["true", "1", "yes", "on", "t", "y"].iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

/// A decimal integer as Python reads one: surrounding blanks, a sign and single underscores between
/// digits are fine. Larger values saturate.
pub fn integer(text: &str) -> Option<i64> {
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let mut value: i64 = 0;
    let mut after_digit = false;
    for byte in digits.bytes() {
        match byte {
            b'0'..=b'9' => {
                value = value.saturating_mul(10).saturating_add(i64::from(byte - b'0'));
                after_digit = true;
            }
            b'_' if after_digit => after_digit = false,
            _ => return None,
        }
    }
    after_digit.then_some(if negative { -value } else { value })
}

/// A header name as Swift prints it: `x-object-META-a` becomes `X-Object-Meta-A`.
pub fn title_case(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|c| {
            let upper = start;
            start = !c.is_ascii_alphabetic();
            if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
        })
        .collect()
}

/// Appends `text` as a JSON string, ASCII only, as Python's `json.dumps` writes it.
pub fn push_json(out: &mut String, text: &str) {
    out.push('"');
    let mut clean = 0;
    for (at, c) in text.char_indices() {
        if (' '..='~').contains(&c) && c != '"' && c != '\\' {
            continue;
        }
        out.push_str(&text[clean..at]);
        clean = at + c.len_utf8();
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            // DEL is printable to Python.
            '\x7f' => out.push('\x7f'),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push_str(&text[clean..]);
    out.push('"');
}

/// A JSON string on its own.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_json(&mut out, text);
    out
}

/// Appends `text` as XML character data.
pub fn push_xml(out: &mut String, text: &str) {
    push_replaced(out, text, |byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        _ => None,
    });
}

/// Appends `text` as the inside of an XML attribute.
pub fn push_xml_attribute(out: &mut String, text: &str) {
    push_replaced(out, text, |byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'"' => Some("&quot;"),
        b'\r' => Some("&#13;"),
        b'\n' => Some("&#10;"),
        b'\t' => Some("&#09;"),
        _ => None,
    });
}

fn push_replaced(out: &mut String, text: &str, replace: impl Fn(u8) -> Option<&'static str>) {
    let mut clean = 0;
    for (at, byte) in text.bytes().enumerate() {
        // Only ASCII bytes are replaced, so every cut is at a character boundary.
        if let Some(with) = replace(byte) {
            out.push_str(&text[clean..at]);
            out.push_str(with);
            clean = at + 1;
        }
    }
    out.push_str(&text[clean..]);
}

/// An ETag without the quotes around it.
pub fn bare_etag(tag: &str) -> &str {
    match tag.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(inner) => inner,
        None => tag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_python_reads_them() {
        for (text, value) in [
            ("12", Some(12)),
            (" +12\n", Some(12)),
            ("-3", Some(-3)),
            ("1_000", Some(1000)),
            ("_1", None),
            ("1__0", None),
            ("1_", None),
            ("", None),
            ("-", None),
            ("1.0", None),
            ("0x1", None),
            ("99999999999999999999999", Some(i64::MAX)),
        ] {
            assert_eq!(integer(text), value, "{text:?}");
        }
    }

    #[test]
    fn json_is_ascii_with_surrogate_pairs() {
        assert_eq!(json("a\"\\\n\u{1}é😀\u{7f}"), "\"a\\\"\\\\\\n\\u0001\\u00e9\\ud83d\\ude00\u{7f}\"");
    }

    #[test]
    fn xml_text_and_attributes_differ_in_what_they_escape() {
        let mut text = String::new();
        push_xml(&mut text, "<a & \"b\">\n");
        assert_eq!(text, "&lt;a &amp; \"b\"&gt;\n");
        let mut attribute = String::new();
        push_xml_attribute(&mut attribute, "<a & \"b\">\n\t\ré");
        assert_eq!(attribute, "&lt;a &amp; &quot;b&quot;&gt;&#10;&#09;&#13;é");
    }

    #[test]
    fn quoting_keeps_slashes_and_unquoting_keeps_bad_escapes() {
        assert_eq!(quote("a b/é%".as_bytes()), "a%20b/%C3%A9%25");
        assert_eq!(unquote(b"%41%zz%2"), b"A%zz%2");
    }

    #[test]
    fn header_names_are_spelled_like_swift() {
        assert_eq!(title_case("x-object-META-a1b_c"), "X-Object-Meta-A1B_C");
    }

    #[test]
    fn etags_lose_only_a_pair_of_quotes() {
        assert_eq!(bare_etag("\"a\""), "a");
        assert_eq!(bare_etag("\"a"), "\"a");
        assert_eq!(bare_etag("\""), "\"");
    }
}
