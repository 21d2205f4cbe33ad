//! Listings of accounts and containers: choosing the format, writing the rows.

use super::accept;
use super::dates;
use super::errors::Answer;
use super::path::Query;
use super::text;
use namespace::ListQuery;
use std::fmt::Write as _;

/// The formats of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One name a line.
    Text,
    /// A JSON array.
    Json,
    /// `application/xml`
    Xml,
    /// The same as `text/xml`.
    TextXml,
}

/// What Accept headers choose from, in order of preference.
const OFFERED: [(&str, Format); 4] = [
    ("text/plain", Format::Text),
    ("application/json", Format::Json),
    ("application/xml", Format::Xml),
    ("text/xml", Format::TextXml),
];

impl Format {
    /// The format of the answer: the `format` parameter if there is one, else the Accept header.
    pub fn choose(query: &Query, accept: Option<&[u8]>) -> Result<Self, Answer> {
        if let Some(format) = query.text("format")?.filter(|f| !f.is_empty()) {
            return Ok(match format.to_ascii_lowercase().as_str() {
                "json" => Self::Json,
                "xml" => Self::Xml,
                _ => Self::Text,
            });
        }
        let options = OFFERED.map(|(kind, _)| kind);
        let best = accept::best_match(accept, &options)
            .map_err(|_| Answer::html(400, "Invalid Accept header"))?
            .ok_or_else(|| Answer::new(406))?;
        let found = OFFERED.iter().find(|(kind, _)| *kind == best);
        Ok(found.map_or(Self::Text, |(_, format)| *format))
    }

    /// The Content-Type header of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/json; charset=utf-8",
            Self::Xml => "application/xml; charset=utf-8",
            Self::TextXml => "text/xml; charset=utf-8",
        }
    }

    /// Writes a listing of containers.
    pub fn containers<'a>(self, account: &str, rows: impl IntoIterator<Item = Row<'a>>) -> String {
        match self {
            Self::Text => write_text(rows),
            Self::Json => write_json(rows),
            Self::Xml | Self::TextXml => write_xml("account", account, rows, "\n", |out, row| match row {
                Row::Subdir(name) => push_subdir(out, name, false),
                row => push_row_xml(out, row),
            }),
        }
    }

    /// Writes a listing of objects.
    pub fn objects<'a>(self, container: &str, rows: impl IntoIterator<Item = Row<'a>>) -> String {
        match self {
            Self::Text => write_text(rows),
            Self::Json => write_json(rows),
            Self::Xml | Self::TextXml => write_xml("container", container, rows, "", |out, row| match row {
                Row::Subdir(name) => push_subdir(out, name, true),
                row => push_row_xml(out, row),
            }),
        }
    }
}

/// The rows that a query asks for, `most` of them at most.
pub fn list_query(query: &Query, most: usize) -> Result<ListQuery, Answer> {
    let text = |name: &str| Ok::<_, Answer>(query.text(name)?.unwrap_or_default().to_owned());
    Ok(ListQuery {
        marker: text("marker")?,
        end_marker: text("end_marker")?,
        prefix: text("prefix")?,
        delimiter: text("delimiter")?,
        path: false,
        reverse: query.flag("reverse"),
        limit: query.limit(most)?,
    })
}

/// One row. Times are in units of a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row<'a> {
    /// Everything up to a delimiter.
    Subdir(&'a str),
    /// An object.
    Object {
        /// Its name.
        name: &'a str,
        /// Its size in bytes (of a large object, that of all segments).
        bytes: u64,
        /// Its MD5 in hex; empty while unknown.
        hash: &'a str,
        /// Its type.
        content_type: &'a str,
        /// When it changed.
        last_modified: u64,
        /// The ETag of a static large object.
        slo_etag: Option<&'a str>,
    },
    /// A container.
    Container {
        /// Its name.
        name: &'a str,
        /// How many objects it holds.
        count: u64,
        /// How many bytes they have.
        bytes: u64,
        /// When it changed.
        last_modified: u64,
        /// Its storage policy.
        policy: &'a str,
    },
}

fn write_text<'a>(rows: impl IntoIterator<Item = Row<'a>>) -> String {
    let mut out = String::new();
    for row in rows {
        let (Row::Subdir(name) | Row::Object { name, .. } | Row::Container { name, .. }) = row;
        out.push_str(name);
        out.push('\n');
    }
    out
}

fn write_json<'a>(rows: impl IntoIterator<Item = Row<'a>>) -> String {
    let mut out = String::from("[");
    for (at, row) in rows.into_iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        push_row_json(&mut out, row);
    }
    out.push(']');
    out
}

fn push_row_json(out: &mut String, row: Row<'_>) {
    // Writing to a String cannot fail.
    match row {
        Row::Subdir(name) => {
            out.push_str("{\"subdir\": ");
            text::push_json(out, name);
        }
        Row::Object { name, bytes, hash, content_type, last_modified, slo_etag } => {
            let _ = write!(out, "{{\"bytes\": {bytes}, \"hash\": ");
            text::push_json(out, hash);
            out.push_str(", \"name\": ");
            text::push_json(out, name);
            out.push_str(", \"content_type\": ");
            text::push_json(out, content_type);
            out.push_str(", \"last_modified\": \"");
            dates::push_iso(out, last_modified);
            out.push('"');
            if let Some(etag) = slo_etag {
                let _ = write!(out, ", \"slo_etag\": \"\\\"{etag}\\\"\"");
            }
        }
        Row::Container { name, count, bytes, last_modified, policy } => {
            out.push_str("{\"name\": ");
            text::push_json(out, name);
            let _ = write!(out, ", \"count\": {count}, \"bytes\": {bytes}, \"last_modified\": \"");
            dates::push_iso(out, last_modified);
            out.push_str("\", \"storage_policy\": ");
            text::push_json(out, policy);
        }
    }
    out.push('}');
}

/// `gap` separates the rows; Swift breaks lines in account listings only.
fn write_xml<'a>(
    root: &str,
    name: &str,
    rows: impl IntoIterator<Item = Row<'a>>,
    gap: &str,
    push: impl Fn(&mut String, Row<'a>),
) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = write!(out, "<{root} name=\"");
    text::push_xml_attribute(&mut out, name);
    out.push('"');
    let mut any = false;
    for row in rows {
        if !any {
            out.push('>');
            out.push_str(gap);
            any = true;
        }
        push(&mut out, row);
        out.push_str(gap);
    }
    if any {
        let _ = write!(out, "</{root}>");
    } else if gap.is_empty() {
        out.push_str(" />");
    } else {
        let _ = write!(out, ">{gap}</{root}>");
    }
    out
}

fn push_subdir(out: &mut String, name: &str, with_name: bool) {
    out.push_str("<subdir name=\"");
    text::push_xml_attribute(out, name);
    if with_name {
        out.push_str("\">");
        push_element(out, "name", name);
        out.push_str("</subdir>");
    } else {
        out.push_str("\" />");
    }
}

fn push_row_xml(out: &mut String, row: Row<'_>) {
    match row {
        Row::Subdir(_) => {}
        Row::Object { name, bytes, hash, content_type, last_modified, slo_etag: _ } => {
            out.push_str("<object>");
            push_element(out, "name", name);
            push_element(out, "hash", hash);
            let _ = write!(out, "<bytes>{bytes}</bytes>");
            push_element(out, "content_type", content_type);
            push_date(out, last_modified);
            out.push_str("</object>");
        }
        Row::Container { name, count, bytes, last_modified, policy } => {
            out.push_str("<container>");
            push_element(out, "name", name);
            let _ = write!(out, "<count>{count}</count><bytes>{bytes}</bytes>");
            push_date(out, last_modified);
            push_element(out, "storage_policy", policy);
            out.push_str("</container>");
        }
    }
}

fn push_date(out: &mut String, units: u64) {
    out.push_str("<last_modified>");
    dates::push_iso(out, units);
    out.push_str("</last_modified>");
}

fn push_element(out: &mut String, tag: &str, content: &str) {
    if content.is_empty() {
        let _ = write!(out, "<{tag} />");
        return;
    }
    let _ = write!(out, "<{tag}>");
    text::push_xml(out, content);
    let _ = write!(out, "</{tag}>");
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: u64 = 170_000_000_012_345;

    fn object<'a>(name: &'a str, hash: &'a str, slo_etag: Option<&'a str>) -> Row<'a> {
        Row::Object { name, bytes: 5, hash, content_type: "text/plain", last_modified: TIME, slo_etag }
    }

    fn container(name: &str) -> Row<'_> {
        Row::Container { name, count: 1, bytes: 2, last_modified: TIME, policy: "gold" }
    }

    fn choose(query: &str, accept: Option<&str>) -> Result<Format, u16> {
        Format::choose(&Query::new(query.as_bytes()), accept.map(str::as_bytes)).map_err(|a| a.status)
    }

    #[test]
    fn the_parameter_goes_before_the_header() {
        assert_eq!(choose("", None), Ok(Format::Text));
        assert_eq!(choose("format=JSON", Some("text/xml")), Ok(Format::Json));
        assert_eq!(choose("format=yaml", None), Ok(Format::Text));
        assert_eq!(choose("format=", Some("text/xml")), Ok(Format::TextXml));
        assert_eq!(choose("format=%ff", None), Err(400));
        assert_eq!(choose("", Some("application/xml")), Ok(Format::Xml));
        assert_eq!(choose("", Some("image/png")), Err(406));
        assert_eq!(choose("", Some("nonsense")), Err(400));
    }

    #[test]
    fn objects_in_every_format() {
        let rows = [Row::Subdir("a&/"), object("b\u{e9}<", "0f", None), object("c", "", Some("1e"))];
        assert_eq!(Format::Text.objects("c", rows), "a&/\nbé<\nc\n");
        assert_eq!(
            Format::Json.objects("c", rows),
            "[{\"subdir\": \"a&/\"}, \
             {\"bytes\": 5, \"hash\": \"0f\", \"name\": \"b\\u00e9<\", \"content_type\": \"text/plain\", \
             \"last_modified\": \"2023-11-14T22:13:20.123450\"}, \
             {\"bytes\": 5, \"hash\": \"\", \"name\": \"c\", \"content_type\": \"text/plain\", \
             \"last_modified\": \"2023-11-14T22:13:20.123450\", \"slo_etag\": \"\\\"1e\\\"\"}]"
        );
        assert_eq!(
            Format::Xml.objects("\"c\"", rows),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <container name=\"&quot;c&quot;\"><subdir name=\"a&amp;/\"><name>a&amp;/</name></subdir>\
             <object><name>bé&lt;</name><hash>0f</hash><bytes>5</bytes><content_type>text/plain</content_type>\
             <last_modified>2023-11-14T22:13:20.123450</last_modified></object>\
             <object><name>c</name><hash /><bytes>5</bytes><content_type>text/plain</content_type>\
             <last_modified>2023-11-14T22:13:20.123450</last_modified></object></container>"
        );
    }

    #[test]
    fn containers_in_every_format() {
        let rows = [Row::Subdir("a/"), container("b")];
        assert_eq!(Format::Text.containers("A", rows), "a/\nb\n");
        assert_eq!(
            Format::Json.containers("A", rows),
            "[{\"subdir\": \"a/\"}, {\"name\": \"b\", \"count\": 1, \"bytes\": 2, \
             \"last_modified\": \"2023-11-14T22:13:20.123450\", \"storage_policy\": \"gold\"}]"
        );
        assert_eq!(
            Format::TextXml.containers("A", rows),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<account name=\"A\">\n<subdir name=\"a/\" />\n\
             <container><name>b</name><count>1</count><bytes>2</bytes>\
             <last_modified>2023-11-14T22:13:20.123450</last_modified>\
             <storage_policy>gold</storage_policy></container>\n</account>"
        );
    }

    #[test]
    fn empty_listings() {
        assert_eq!(Format::Text.objects("c", []), "");
        assert_eq!(Format::Json.objects("c", []), "[]");
        assert_eq!(
            Format::Xml.objects("c", []),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<container name=\"c\" />"
        );
        assert_eq!(
            Format::Xml.containers("a", []),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<account name=\"a\">\n</account>"
        );
    }
}
