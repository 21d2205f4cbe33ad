//! Text as the reference server writes it: quoted for URLs, as a literal in an error message, as ASCII JSON.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_encode};
use serde_json::Value;

/// What stays as it is in a URL's path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~').remove(b'/');

/// Percent-encodes everything but letters, digits and `_.-~/`.
pub fn quote(text: &[u8]) -> PercentEncode<'_> {
    percent_encode(text, PATH)
}

/// The text as a literal in single quotes; in double quotes where it holds single ones only.
pub fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push(quote);
    for c in text.chars() {
        match c {
            '\\' => literal.push_str("\\\\"),
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            '\t' => literal.push_str("\\t"),
            c if c == quote => {
                literal.push('\\');
                literal.push(c);
            }
            c if c.is_control() => _ = write!(literal, "\\x{:02x}", u32::from(c)),
            c => literal.push(c),
        }
    }
    literal.push(quote);
    literal
}

/// JSON without blanks, every character beyond ASCII as `\uXXXX`.
pub fn json_ascii(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        // Beyond ASCII stands only inside strings, so that the escape is valid wherever it is needed.
        if c.is_ascii() && c != '\x7f' {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_choose_their_quotes() {
        assert_eq!(repr("plain"), "'plain'");
        assert_eq!(repr("it's"), "\"it's\"");
        assert_eq!(repr("it's \"x\""), "'it\\'s \"x\"'");
        assert_eq!(repr("a\\\n\r\t\x01é"), "'a\\\\\\n\\r\\t\\x01é'");
    }

    #[test]
    fn quoting_keeps_what_python_keeps() {
        assert_eq!(quote("/a b/é:~_.-".as_bytes()).to_string(), "/a%20b/%C3%A9%3A~_.-");
    }

    #[test]
    fn json_is_ascii() {
        assert_eq!(json_ascii(&Value::from("é😀\x7f")), r#""\u00e9\ud83d\ude00\u007f""#);
    }
}
