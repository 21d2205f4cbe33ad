//! Reports of what went wrong with which object, as JSON, XML or text.

use crate::swift::accept;
use crate::swift::text;
use std::fmt::Write as _;

/// The formats of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `key: value` lines.
    Text,
    /// A JSON object.
    Json,
    /// XML, under either of its names.
    Xml(&'static str),
}

impl Format {
    /// The format that the client likes best; `None` if it accepts none of them. A malformed header counts
    /// as none given when `lenient`, as unacceptable otherwise.
    pub fn choose(header: Option<&[u8]>, lenient: bool) -> Option<Self> {
        const OFFERED: [&str; 4] = ["text/plain", "application/json", "application/xml", "text/xml"];
        match accept::best_match(header, &OFFERED) {
            Ok(Some("application/json")) => Some(Self::Json),
            Ok(Some(kind @ ("application/xml" | "text/xml"))) => Some(Self::Xml(kind)),
            Ok(Some(_)) => Some(Self::Text),
            Ok(None) | Err(_) => lenient.then_some(Self::Text),
        }
    }

    /// The content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain",
            Self::Json => "application/json",
            Self::Xml(kind) => kind,
        }
    }

    /// Writes a report: `fields` in the order in which JSON shows them (the others sort them), then the
    /// problems: name and reason.
    pub fn write(self, root: &str, fields: &[(&str, Field)], problems: &[(String, String)]) -> String {
        match self {
            Self::Json => write_json(fields, problems),
            Self::Xml(_) => write_xml(root, &sorted(fields), problems),
            Self::Text => write_text(&sorted(fields), problems),
        }
    }
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Count(u64),
    /// A text.
    Text(String),
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

fn sorted<'a>(fields: &'a [(&'a str, Field)]) -> Vec<(&'a str, String)> {
    let mut list: Vec<_> = fields.iter().map(|(k, v)| (*k, v.to_string())).collect();
    list.sort_unstable();
    list
}

fn write_json(fields: &[(&str, Field)], problems: &[(String, String)]) -> String {
    let mut out = String::from("{");
    for (key, value) in fields {
        text::push_json(&mut out, key);
        out.push_str(": ");
        match value {
            Field::Count(n) => out.push_str(&n.to_string()),
            Field::Text(value) => text::push_json(&mut out, value),
        }
        out.push_str(", ");
    }
    out.push_str("\"Errors\": [");
    for (at, (name, reason)) in problems.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        out.push('[');
        text::push_json(&mut out, name);
        out.push_str(", ");
        text::push_json(&mut out, reason);
        out.push(']');
    }
    out.push_str("]}");
    out
}

// Writing to a String cannot fail.
fn write_xml(root: &str, fields: &[(&str, String)], problems: &[(String, String)]) -> String {
    let mut out = format!("<{root}>\n");
    for (key, value) in fields {
        let tag = key.replace(' ', "_").to_ascii_lowercase();
        let _ = write!(out, "<{tag}>");
        text::push_xml(&mut out, value);
        let _ = writeln!(out, "</{tag}>");
    }
    out.push_str("<errors>\n");
    for (name, reason) in problems {
        out.push_str("<object><name>");
        text::push_xml(&mut out, name);
        out.push_str("</name><status>");
        text::push_xml(&mut out, reason);
        out.push_str("</status></object>\n");
    }
    let _ = write!(out, "</errors>\n</{root}>\n");
    out
}

fn write_text(fields: &[(&str, String)], problems: &[(String, String)]) -> String {
    let mut out = String::new();
    for (key, value) in fields {
        let _ = writeln!(out, "{key}: {value}");
    }
    out.push_str("Errors:\n");
    for (name, reason) in problems {
        let _ = writeln!(out, "{name}, {reason}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_in_every_format() {
        let fields = [("Response Status", Field::Text("200 OK".into())), ("Number Deleted", Field::Count(2))];
        let problems = [("/c/%3C".to_owned(), "404 <Not> Found".to_owned())];
        assert_eq!(
            Format::Text.write("delete", &fields, &problems),
            "Number Deleted: 2\nResponse Status: 200 OK\nErrors:\n/c/%3C, 404 <Not> Found\n"
        );
        assert_eq!(
            Format::Json.write("delete", &fields, &problems),
            "{\"Response Status\": \"200 OK\", \"Number Deleted\": 2, \
             \"Errors\": [[\"/c/%3C\", \"404 <Not> Found\"]]}"
        );
        assert_eq!(
            Format::Xml("text/xml").write("delete", &fields, &problems),
            "<delete>\n<number_deleted>2</number_deleted>\n<response_status>200 OK</response_status>\n\
             <errors>\n<object><name>/c/%3C</name><status>404 &lt;Not&gt; Found</status></object>\n\
             </errors>\n</delete>\n"
        );
        assert_eq!(Format::Json.write("upload", &[], &[]), "{\"Errors\": []}");
    }

    #[test]
    fn the_client_chooses() {
        let choose = |h: &str, lenient| Format::choose(Some(h.as_bytes()), lenient);
        assert_eq!(Format::choose(None, false), Some(Format::Text));
        assert_eq!(choose("application/json", false), Some(Format::Json));
        assert_eq!(choose("text/xml", false), Some(Format::Xml("text/xml")));
        assert_eq!(choose("image/png", true), Some(Format::Text));
        assert_eq!(choose("image/png", false), None);
        assert_eq!(choose("x", false), None);
    }
}
