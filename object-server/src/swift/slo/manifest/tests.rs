use super::*;
use proptest::prelude::*;

fn parse_text(body: &str) -> Result<Vec<Segment>, (u16, String)> {
    parse(body.as_bytes(), "c/manifest", 1000)
        .map_err(|a| (a.status, String::from_utf8_lossy(&a.body).into_owned()))
}

fn complaint(element: &str) -> String {
    // A good last element keeps the first one from being the last.
    let body = format!("[{element}, {{\"path\": \"/c/o\"}}]");
    parse_text(&body).unwrap_err().1
}

#[test]
fn a_good_manifest() {
    let segments = parse_text(
        r#"[{"path": "/c/o/p", "etag": null, "size_bytes": "12", "range": "1-3"},
            {"data": "YWI="}, {"data": "YWI=="}, {"path": "c/o", "etag": "0f", "size_bytes": 0}]"#,
    )
    .unwrap();
    assert_eq!(
        segments,
        [
            Segment::Object(Reference {
                path: "/c/o/p".into(),
                etag: None,
                size: Some(12),
                range: Some(Spec::Between(1, 3)),
            }),
            Segment::Data(b"ab".to_vec()),
            Segment::Data(b"ab".to_vec()),
            Segment::Object(Reference {
                path: "c/o".into(),
                etag: Some("0f".into()),
                size: Some(0),
                range: None,
            }),
        ]
    );
    assert_eq!(parse_text("[]").unwrap(), []);
}

#[test]
fn what_is_no_manifest() {
    let json = Err((400, "Manifest must be valid JSON.\n".to_owned()));
    let list = Err((400, "Manifest must be a list.\n".to_owned()));
    for body in ["", "[", "[1,]", "[] x", "{\"a\": 1", "\u{1}", "[{\"path\":\"/a/b\"}"] {
        assert_eq!(parse_text(body), json, "{body}");
    }
    for body in ["{}", "1", "null", "\"x\"", "true", "{\"path\": []}"] {
        assert_eq!(parse_text(body), list, "{body}");
    }
}

#[test]
fn each_wrong_segment_is_named() {
    for (element, text) in [
        ("1", "not a JSON object"),
        ("{}", "expected keys to include one of 'data' or 'path'"),
        (r#"{"path": "/c/o", "b": 1, "a\u00e9": 2}"#, "extraneous keys \"a\\u00e9\", \"b\""),
        (r#"{"data": "YQ==", "path": "/c/o"}"#, "extraneous keys \"path\""),
        (r#"{"path": 1}"#, "\"path\" must be a string"),
        (r#"{"path": "/c/o", "etag": 1}"#, "\"etag\" must be a string or null (if provided)"),
        (
            r#"{"path": "/c/"}"#,
            "path does not refer to an object. Path must be of the form /container/object.",
        ),
        (r#"{"path": "/c/o", "size_bytes": "x"}"#, "invalid size_bytes"),
        (r#"{"path": "/c/o", "size_bytes": []}"#, "invalid size_bytes"),
        (r#"{"path": "/c/o", "size_bytes": 0}"#, TOO_SMALL),
        (r#"{"path": "/c/manifest"}"#, "manifest must not include itself as a segment"),
        (r#"{"path": "/c/o", "range": "x"}"#, "invalid range"),
        (r#"{"path": "/c/o", "range": "1-2,4-5"}"#, "multiple ranges (only one allowed)"),
        (r#"{"path": "/c/o", "range": "5-", "size_bytes": 5}"#, "unsatisfiable range"),
        (r#"{"data": "?"}"#, "data must be valid base64"),
        (r#"{"data": "YQ="}"#, "data must be valid base64"),
        (r#"{"data": 1}"#, "data must be valid base64"),
        (r#"{"data": ""}"#, TOO_SMALL),
    ] {
        assert_eq!(complaint(element), format!("Index 0: {text}\n"), "{element}");
    }
}

#[test]
fn complaints_add_up() {
    assert_eq!(
        parse_text(r#"[1, {"data": "YQ=="}, 2]"#),
        Err((400, "Index 0: not a JSON object\nIndex 2: not a JSON object\n".into()))
    );
    assert_eq!(
        parse_text(r#"[{"data": "YQ=="}]"#),
        Err((400, "Inline data segments require at least one object-backed segment.\n".into()))
    );
}

#[test]
fn too_many_segments() {
    let list = |n: usize| format!("[{}]", vec![r#"{"path": "/c/o"}"#; n].join(","));
    assert_eq!(parse_text(&list(1000)).map(|s| s.len()), Ok(1000));
    assert_eq!(
        parse_text(&list(1001)),
        Err((413, "Number of object-backed segments must be <= 1000".into()))
    );
}

#[test]
fn a_manifest_of_nonsense_stays_small() {
    let body = format!("[{}]", vec!["0"; 2_000_000].join(","));
    let (status, text) = parse_text(&body).unwrap_err();
    assert_eq!(status, 400);
    assert!(text.len() < 1 << 20);
}

fn found() -> Found {
    Found {
        size: 10,
        etag: "0f".into(),
        content_type: "text/plain".into(),
        last_modified: 1_700_000_000,
        is_slo: false,
    }
}

fn checked(body: &str, found: Result<&Found, &str>, last: bool) -> (Option<Entry>, Vec<String>) {
    let segments = parse_text(body).unwrap();
    let [Segment::Object(segment)] = segments.as_slice() else {
        unreachable!("one object");
    };
    let mut problems = Vec::new();
    let entry = check(segment, found, last, &mut problems);
    (entry, problems.into_iter().map(|(p, r)| format!("{p} {r}")).collect())
}

#[test]
fn segments_must_be_what_the_client_says() {
    let (entry, problems) = checked(r#"[{"path": "/c/é"}]"#, Err("404 Not Found"), false);
    assert_eq!((entry, problems), (None, vec!["/c/%C3%A9 404 Not Found".to_owned()]));
    let wrong = r#"[{"path": "/c/o", "etag": "1e", "size_bytes": 3}]"#;
    let (_, problems) = checked(wrong, Ok(&found()), false);
    assert_eq!(problems, ["/c/o Size Mismatch", "/c/o Etag Mismatch"]);
    let (_, problems) = checked(r#"[{"path": "/c/o", "range": "10-"}]"#, Ok(&found()), false);
    assert_eq!(problems, ["/c/o Unsatisfiable Range"]);
    let empty = Found { size: 0, ..found() };
    let (_, problems) = checked(r#"[{"path": "/c/o"}]"#, Ok(&empty), false);
    assert_eq!(problems, ["/c/o Too small; each segment must be at least 1 byte."]);
    let (entry, problems) = checked(r#"[{"path": "/c/o"}]"#, Ok(&empty), true);
    assert!(entry.is_some() && problems.is_empty());
}

#[test]
fn ranges_become_concrete() {
    let part = |range: &str| {
        let body = format!(r#"[{{"path": "/c/o", "range": "{range}"}}]"#);
        let (entry, problems) = checked(&body, Ok(&found()), false);
        assert_eq!(problems, Vec::<String>::new());
        let entry = entry.unwrap();
        let Source::Object { range, .. } = entry.source else {
            unreachable!("an object");
        };
        (entry.length, range)
    };
    assert_eq!(part("2-4"), (3, Some(2..5)));
    assert_eq!(part("-4"), (4, Some(6..10)));
    assert_eq!(part("0-"), (10, None));
    assert_eq!(part("-99"), (10, None));
}

proptest! {
    #[test]
    fn any_body_is_read_without_panic(body: Vec<u8>) {
        let _ = parse(&body, "c/o", 1000);
    }

    #[test]
    fn any_fields_are_read_without_panic(
        path in "\"?[/a-c]{0,5}\"?", size in "-?[0-9.e]{0,9}|\"[0-9]*\"", range in "\"[0-9,-]{0,9}\"|-?[0-9]",
    ) {
        let body = format!("[{{\"path\": {path}, \"size_bytes\": {size}, \"range\": {range}}}]");
        if let Ok(segments) = parse(body.as_bytes(), "c/o", 1000) {
            for segment in segments {
                if let Segment::Object(reference) = segment {
                    check(&reference, Ok(&found()), false, &mut Vec::new());
                }
            }
        }
    }
}
