//! Listings: which names a query wants, and names of any kind in every format.
#![no_main]

use libfuzzer_sys::fuzz_target;
use namespace::ListQuery;
use object_server::swift::listing::{Format, Row, list_query};
use object_server::swift::path::Query;
use serde_json::Value;

// A line with the query, one with the Accept header, then names.
fuzz_target!(|data: &str| {
    let mut lines = data.split('\n');
    let [Some(query), Some(accept)] = [lines.next(), lines.next()] else { return };
    let names: Vec<&str> = lines.collect();
    let query = Query::new(query.as_bytes());
    if let Ok(query) = list_query(&query, 100) {
        assert!(query.limit <= 100);
        names.iter().filter(|name| query.wants(name)).for_each(|name| wanted(&query, name));
    }
    if let Ok(format) = Format::choose(&query, Some(accept.as_bytes())) {
        shown(format, &names);
    }
});

fn wanted(query: &ListQuery, name: &str) {
    assert!(name.starts_with(&query.prefix));
    // No directory on the way to it is passed over.
    assert!((0..=name.len()).filter_map(|end| name.get(..end)).all(|below| query.wants_below(below)));
    if let Some(rolled) = query.rolled(name) {
        assert!(name.starts_with(rolled) && rolled.starts_with(&query.prefix), "{rolled:?}");
        assert!(rolled.len() > query.prefix.len() && rolled.ends_with(&query.delimiter), "{rolled:?}");
    }
}

fn shown(format: Format, names: &[&str]) {
    let row = |name| Row::Object {
        name,
        bytes: 1,
        hash: "0f",
        content_type: name,
        last_modified: 0,
        slo_etag: None,
    };
    let text = format.objects("c", names.iter().copied().map(row));
    match format {
        Format::Text => assert_eq!(text.split_terminator('\n').collect::<Vec<_>>(), names),
        Format::Json => {
            let rows: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
            assert!(rows.iter().map(|row| row["name"].as_str()).eq(names.iter().copied().map(Some)));
            assert!(text.is_ascii());
        }
        Format::Xml | Format::TextXml => {
            // No name makes or ends an element.
            let elements = if names.is_empty() { 1 } else { 2 + names.len() * 12 };
            let empty = names.iter().filter(|name| name.is_empty()).count() * 2;
            assert_eq!(text.matches('<').count(), 1 + elements - empty, "{text}");
        }
    }
}
