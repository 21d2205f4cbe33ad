use super::*;
use proptest::prelude::*;

fn ordinary() -> Metadata {
    Metadata {
        fid: Fid::from_bytes(&[7; 20]),
        size: 5_000_000_000,
        mtime_ns: 1_700_000_000_123_456_789,
        md5: Some([9; 16]),
        timestamp: Timestamp::from_units(170_000_000_012_345),
        meta_timestamp: Timestamp::from_units(170_000_000_112_345),
        content_type: Some("application/octet-stream".to_owned()),
        ..Metadata::default()
    }
}

fn with_fields(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Writer::new(MAGIC);
    for (tag, value) in fields {
        out.field(*tag, value);
    }
    out.bytes
}

#[test]
fn an_ordinary_object_takes_under_120_bytes() {
    let bytes = ordinary().encode();
    assert_eq!(bytes.len(), 104);
}

#[test]
fn the_first_version_keeps_its_bytes() {
    let bytes =
        b"lb~m\x01\x81\x02\xaa\xbb\x82\x01\x05\x04\x100123456789abcdef\x86\x06\xb9\x24\x0b\x26\x9d\x9a\
        \x88\x0atext/plain\x8b\x01\x01\xff\x07\x03a-bxyz";
    let metadata = Metadata {
        fid: Fid::from_bytes(&[0xaa, 0xbb]),
        size: 5,
        md5: Some(*b"0123456789abcdef"),
        timestamp: Timestamp::from_units(169_999_738_807_481),
        content_type: Some("text/plain".to_owned()),
        headers: vec![("a-b".to_owned(), b"xyz".to_vec())],
        made: true,
        ..Metadata::default()
    };
    assert_eq!(Metadata::decode(bytes), Ok(metadata.clone()));
    assert_eq!(metadata.encode(), bytes);
}

#[test]
fn a_newer_format_is_refused_and_says_so() {
    let mut bytes = ordinary().encode();
    bytes[4] = 2;
    let error = Metadata::decode(&bytes).unwrap_err();
    assert_eq!(error, Error::Newer("2".to_owned()));
    assert_eq!(error.to_string(), "metadata is of format 2, which is newer than this release reads");
    assert!(matches!(Metadata::decode(&with_fields(&[(0xb2, b"x")])), Err(Error::Newer(_))));
    assert!(matches!(Metadata::decode(&with_fields(&[(FLAGS, &[0x10])])), Err(Error::Newer(_))));
    bytes[4] = 0;
    assert_eq!(Metadata::decode(&bytes), Err(Error::Corrupt("version")));
}

#[test]
fn an_unknown_field_that_is_not_critical_is_passed_over() {
    assert_eq!(Metadata::decode(&with_fields(&[(SIZE, &[5]), (50, b"x")])).map(|m| m.size), Ok(5));
}

#[test]
fn what_no_release_writes_is_corrupt() {
    let md5 = [1; 16];
    for fields in [
        &[(MD5, &md5[..]), (MD5, &md5)] as &[(u8, &[u8])],
        &[(MD5, &md5), (SIZE, &[5])],
        &[(50, b"x"), (50, b"x")],
        &[(0, b"")],
        &[(FID, b"")],
        &[(FID, &[1; 41])],
        &[(SIZE, &[0])],
        &[(SIZE, &[])],
        &[(SIZE, &[1; 9])],
        &[(MTIME, &[1; 7])],
        &[(MTIME, &[0; 8])],
        &[(MD5, &md5[..15])],
        &[(TIMESTAMP, &[0xff; 8])],
        &[(CONTENT_TYPE, b"\xff")],
        &[(SLO, &[0; 17])],
        &[(SLO, &[0; 19])],
        &[(SLO, &[1; 66])],
        &[(SLO, &[1; 68])],
        &[(FLAGS, &[0])],
        &[(FLAGS, &[1, 1])],
        &[(SPILL, &[0; 32])],
        &[(HEADER, b"")],
        &[(HEADER, b"\x05abc")],
    ] {
        assert!(matches!(Metadata::decode(&with_fields(fields)), Err(Error::Corrupt(_))), "{fields:?}");
    }
    for bytes in [b"".as_slice(), b"lb~m", b"lb~s\x01", b"{}", b"lb~m\x01\x82", b"lb~m\x01\x82\x81\x00\x05"] {
        assert!(matches!(Metadata::decode(bytes), Err(Error::Corrupt(_))), "{bytes:?}");
    }
}

#[test]
fn it_matches_only_the_content_it_was_written_for() {
    let metadata = ordinary();
    let fid = Fid::from_bytes(&[7; 20]).unwrap();
    assert!(metadata.matches(&fid, metadata.size, metadata.mtime_ns));
    assert!(!metadata.matches(&Fid::from_bytes(&[7; 19]).unwrap(), metadata.size, metadata.mtime_ns));
    assert!(!metadata.matches(&fid, metadata.size + 1, metadata.mtime_ns));
    assert!(!metadata.matches(&fid, metadata.size, metadata.mtime_ns + 1));
    assert!(!Metadata::default().matches(&fid, 0, 0));
}

#[test]
fn what_fits_is_not_spilled() {
    let metadata = ordinary();
    assert_eq!(metadata.split_for_spill(3584), (metadata.encode(), None));
}

fn large() -> Metadata {
    let headers = (0..90).map(|n| (format!("x-object-meta-{n}"), vec![b'v'; 40])).collect();
    Metadata { headers, content_type: Some("t/".repeat(200)), ..ordinary() }
}

#[test]
fn a_missing_or_wrong_spill_file_leaves_the_attributes_part() {
    let metadata = large();
    let (inline, spill) = metadata.split_for_spill(3584);
    let spill = spill.unwrap();
    assert!(inline.len() < 450);
    assert_eq!(Metadata::join(&inline, Some(&spill)), Ok((metadata.clone(), None)));

    let kept = Metadata::decode(&inline).unwrap();
    assert!(kept.spill.is_some() && kept.headers.is_empty() && kept.md5 == metadata.md5);
    assert_eq!(Metadata::join(&inline, None), Ok((kept.clone(), Some(SpillFault::Missing))));
    let mut wrong = spill.clone();
    wrong[40] ^= 1;
    for wrong in [wrong.as_slice(), b"", &spill[1..]] {
        assert_eq!(Metadata::join(&inline, Some(wrong)), Ok((kept.clone(), Some(SpillFault::Wrong))));
    }
}

#[test]
fn the_attributes_part_can_change_without_the_spill_file() {
    let (inline, spill) = large().split_for_spill(3584);
    let mut part = Metadata::decode(&inline).unwrap();
    part.md5 = Some([3; 16]);
    let (again, none) = part.split_for_spill(10);
    assert_eq!(none, None);
    let expected = Metadata { md5: Some([3; 16]), ..large() };
    assert_eq!(Metadata::join(&again, spill.as_deref()), Ok((expected, None)));
}

#[test]
fn a_spill_file_of_a_newer_release_is_reported() {
    let newer = b"lb~s\x02";
    let spill = Spill { sha256: Sha256::digest(newer).into(), len: 5 };
    let part = Metadata { spill: Some(spill), ..ordinary() };
    let fault = SpillFault::Unreadable(Error::Newer("2".to_owned()));
    assert_eq!(Metadata::join(&part.encode(), Some(newer)), Ok((part, Some(fault))));
}

fn time() -> impl Strategy<Value = Option<Timestamp>> {
    prop::option::of((0..=Timestamp::MAX.units()).prop_map(|units| Timestamp::from_units(units).unwrap()))
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let fid = prop::option::of(
        prop::collection::vec(any::<u8>(), 1..=40).prop_map(|b| Fid::from_bytes(&b).unwrap()),
    );
    let number = || prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..300_u64];
    let kept = (any::<[u8; 16]>(), any::<[u8; 32]>(), number()).prop_map(|(md5, sha256, len)| Kept {
        md5,
        sha256,
        len,
    });
    let slo = (any::<[u8; 16]>(), number(), prop::option::of(kept)).prop_map(|(etag, size, kept)| Slo {
        etag,
        size,
        kept,
    });
    let text = prop::option::of(prop_oneof!["\\PC{0,30}", "[a-z/]{250,300}"]);
    let headers = prop::collection::vec(("[a-z-]{0,20}", prop::collection::vec(any::<u8>(), 0..200)), 0..8);
    let content =
        (fid, number(), any::<i64>(), prop::option::of(any::<[u8; 16]>()), prop::option::of(number()));
    let rest = (time(), time(), text, prop::option::of(number()), headers, prop::option::of(slo));
    (content, rest, any::<[bool; 3]>()).prop_map(|(content, rest, [made, marker, temporary])| {
        let (fid, size, mtime_ns, md5, data_version) = content;
        let (timestamp, meta_timestamp, content_type, delete_at, headers, slo) = rest;
        Metadata {
            fid,
            size,
            mtime_ns,
            md5,
            data_version,
            timestamp,
            meta_timestamp,
            content_type,
            delete_at,
            headers,
            slo,
            made,
            marker,
            temporary,
            spill: None,
        }
    })
}

proptest! {
    #[test]
    fn encoded_and_back(metadata in metadata()) {
        prop_assert_eq!(Metadata::decode(&metadata.encode()), Ok(metadata));
    }

    #[test]
    fn split_and_joined(metadata in metadata(), limit in 0_usize..2000) {
        let (inline, spill) = metadata.split_for_spill(limit);
        prop_assert!(inline.len() <= limit.max(520));
        prop_assert_eq!(spill.is_some(), metadata.encode().len() > limit);
        prop_assert_eq!(Metadata::join(&inline, spill.as_deref()), Ok((metadata, None)));
    }

    #[test]
    fn a_cut_is_never_taken_for_the_whole(metadata in metadata(), cut in any::<prop::sample::Index>()) {
        let bytes = metadata.encode();
        let cut = cut.index(bytes.len());
        if let Ok(part) = Metadata::decode(&bytes[..cut]) {
            prop_assert_ne!(part, metadata);
        }
    }

    #[test]
    fn arbitrary_bytes_are_read_as_they_were_written_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [b"lb~m\x01".as_slice(), &bytes].concat();
        let _ = Metadata::join(&bytes, Some(&bytes));
    }

    #[test]
    fn damaged_bytes_are_read_as_they_were_written_or_not_at_all(
        metadata in metadata(), at in any::<prop::sample::Index>(), value: u8,
    ) {
        let mut bytes = metadata.encode();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(read) = Metadata::decode(&bytes) {
            let known = read.encode();
            // An unknown field may have been passed over.
            prop_assert!(known == bytes || known.len() < bytes.len());
        }
    }
}
