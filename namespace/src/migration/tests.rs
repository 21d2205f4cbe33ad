use super::*;
use proptest::prelude::*;

const MTIME: i64 = 1_424_782_800_123_456_789;
const FILE: Observed = Observed { size: 5, mtime_ns: MTIME, directory: false };
const DIRECTORY: Observed = Observed { size: 4096, mtime_ns: MTIME, directory: true };

const OBJECT: &str = r#"{"ETag":"5d41402abc4b2a76b9719d911017c592","X-Timestamp":"1424782800.02345",
    "X-Object-PUT-Mtime":"1424782800.12346","Content-Length":"5","X-Type":"Object","X-Object-Type":"file",
    "Content-Type":"text/plain","name":"/AUTH_a/c/o","X-Object-Meta-Color":"r\u00f6t","Content-Encoding":"gzip",
    "X-Delete-At":"1500000000","X-Object-Sysmeta-Secret":"s"}"#;

#[test]
fn an_object_is_read_as_it_was_written() {
    let legacy = read(OBJECT.as_bytes(), FILE).unwrap();
    let md5 = Some([
        0x5d, 0x41, 0x40, 0x2a, 0xbc, 0x4b, 0x2a, 0x76, 0xb9, 0x71, 0x9d, 0x91, 0x10, 0x17, 0xc5, 0x92,
    ]);
    let headers = vec![
        ("content-encoding".to_owned(), b"gzip".to_vec()),
        ("x-object-meta-color".to_owned(), "röt".as_bytes().to_vec()),
    ];
    let metadata = Metadata {
        size: 5,
        mtime_ns: MTIME,
        md5,
        timestamp: "1424782800.02345".parse().ok(),
        content_type: Some("text/plain".to_owned()),
        headers,
        ..Metadata::default()
    };
    let expected = Legacy {
        kind: Kind::Object,
        metadata,
        current: true,
        delete_at: Some(1_500_000_000),
        static_large_object: false,
        not_taken: vec!["X-Object-Sysmeta-Secret".to_owned()],
    };
    let mut read = legacy;
    read.metadata.headers.sort();
    assert_eq!(read, expected);
}

#[test]
fn the_etag_counts_only_while_size_and_mtime_are_the_files() {
    for observed in [
        Observed { size: 6, ..FILE },
        Observed { mtime_ns: MTIME + 10_000, ..FILE },
        Observed { mtime_ns: 1_424_782_800_000_000_000, ..FILE },
    ] {
        let legacy = read(OBJECT.as_bytes(), observed).unwrap();
        assert!(!legacy.current);
        assert_eq!((legacy.metadata.md5, legacy.delete_at), (None, None));
        assert_eq!(legacy.metadata.content_type.as_deref(), Some("text/plain"));
        assert_eq!(legacy.metadata.headers.len(), 2);
    }
    // A nanosecond or two within the same 10 us are no difference.
    assert!(read(OBJECT.as_bytes(), Observed { mtime_ns: MTIME + 2, ..FILE }).unwrap().current);
}

#[test]
fn without_an_mtime_the_etag_does_not_count() {
    let old = OBJECT.replace("X-Object-PUT-Mtime", "X-Object-Meta-Other");
    let legacy = read(old.as_bytes(), FILE).unwrap();
    assert!(!legacy.current && legacy.metadata.md5.is_none());
}

#[test]
fn a_directory_is_an_object_only_as_a_marker() {
    let directory = |kind: &str| {
        format!(
            r#"{{"X-Type":"Object","X-Object-Type":"{kind}","Content-Length":0,"X-Object-PUT-Mtime":0,"ETag":"d41d8cd98f00b204e9800998ecf8427e","Content-Type":"application/directory"}}"#
        )
    };
    let marker = read(directory("marker_dir").as_bytes(), DIRECTORY).unwrap();
    assert!(marker.current && marker.metadata.marker && marker.metadata.md5.is_none());
    assert!(!read(directory("dir").as_bytes(), DIRECTORY).unwrap().metadata.marker);
    assert!(!read(directory("marker_dir").as_bytes(), FILE).unwrap().metadata.marker);
}

#[test]
fn containers_and_accounts_have_pairs() {
    let json = r#"{"X-Type":["Container",0],"X-Timestamp":["1424782800.00000_0000000000000001",0],
        "X-PUT-Timestamp":["1424782801.00000",0],"X-Object-Count":[3,0],"X-Bytes-Used":[12,0],
        "X-Container-Meta-Project":["p","1424782800.00000"],"X-Container-Meta-Gone":["","1424782800.00000"],
        "X-Container-Read":[".r:*","1424782800.00000"]}"#;
    let legacy = read(json.as_bytes(), DIRECTORY).unwrap();
    assert_eq!(legacy.kind, Kind::Container);
    assert_eq!(legacy.metadata.timestamp.map(Timestamp::seconds), Some(1_424_782_800));
    assert_eq!(legacy.metadata.meta_timestamp.map(Timestamp::seconds), Some(1_424_782_801));
    assert_eq!(legacy.metadata.headers, [("x-container-meta-project".to_owned(), b"p".to_vec())]);
    assert_eq!(legacy.not_taken, ["X-Container-Read"]);
    let account = read(br#"{"X-Type":"Account","X-Account-Meta-A":"b"}"#, DIRECTORY).unwrap();
    assert_eq!((account.kind, account.metadata.headers.len()), (Kind::Account, 1));
}

#[test]
fn a_pickle_is_refused() {
    for pickle in
        [b"\x80\x02}q\x01U\x04ETagq\x02U\x01xs.".as_slice(), b"\x80\x04}.", b"(dp0\nS'a'\np1\nS'b'\np2\ns."]
    {
        assert_eq!(read(pickle, FILE), Err(Error::Pickle));
    }
}

#[test]
fn corrupt_json_is_an_error() {
    for bytes in
        [b"".as_slice(), b"{", b"[]", b"null", b"{\"a\":\"\xff\"}", b"{} {}", &OBJECT.as_bytes()[..200]]
    {
        assert!(matches!(read(bytes, FILE), Err(Error::Json(_))));
    }
    assert!(matches!(read("[".repeat(100_000).as_bytes(), FILE), Err(Error::Json(_))));
    for (json, key) in [
        (r#"{"Content-Length":"-1"}"#, "Content-Length"),
        (r#"{"X-Timestamp":"soon"}"#, "X-Timestamp"),
        (r#"{"X-Type":"Thing"}"#, "X-Type"),
        (r#"{"X-Object-Meta-A":{}}"#, "X-Object-Meta-A"),
        (r#"{"X-Object-Meta-A":[1]}"#, "X-Object-Meta-A"),
    ] {
        assert_eq!(read(json.as_bytes(), FILE), Err(Error::Value(key.to_owned())));
    }
}

#[test]
fn what_would_break_a_response_is_not_taken() {
    let json = r#"{"X-Object-Meta-A":"b\r\nSet-Cookie: c","X-Object-Meta-B c":"d","X-Object-Meta-\n":"e",
        "Content-Type":"text/plain\r\nx: y","X-Object-Meta-":"f"}"#;
    let legacy = read(json.as_bytes(), FILE).unwrap();
    assert_eq!(
        (legacy.metadata.headers.len(), legacy.metadata.content_type, legacy.not_taken.len()),
        (0, None, 4)
    );
}

#[test]
fn a_large_objects_size_is_no_part_of_its_type() {
    let json = r#"{"Content-Type":"video/mp4;swift_bytes=12345","X-Static-Large-Object":"True","ETag":"\"not an md5\""}"#;
    let legacy = read(json.as_bytes(), FILE).unwrap();
    assert!(legacy.static_large_object);
    assert_eq!(legacy.metadata.content_type.as_deref(), Some("video/mp4"));
}

#[test]
fn pieces_are_numbered_from_the_second_on() {
    assert_eq!(
        [attribute(0), attribute(1), attribute(2)],
        ["user.swift.metadata", "user.swift.metadata1", "user.swift.metadata2"]
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = read(&bytes, FILE);
    }

    #[test]
    fn no_value_panics(
        key in prop::sample::select(vec!["X-Type", "ETag", "Content-Length", "X-Object-PUT-Mtime", "X-Timestamp", "X-Delete-At", "Content-Type", "X-Object-Meta-é"]),
        value in "\"\\PC{0,10}\"|-?[0-9]{1,25}|[0-9]e[0-9]{1,3}|\\[\"a\",0\\]|null|true",
        mtime_ns: i64,
    ) {
        let _ = read(format!("{{\"{key}\":{value}}}").as_bytes(), Observed { mtime_ns, ..FILE });
    }
}
