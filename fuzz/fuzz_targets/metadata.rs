//! The metadata attribute: what was written is read, and what is read has one writing.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use lustre::fs::Fid;
use namespace::Timestamp;
use namespace::metadata::Metadata;

fuzz_target!(|data: &[u8]| {
    if let Ok(metadata) = Metadata::decode(data) {
        let encoded = metadata.encode();
        // A part names its spill file and leaves to it what else it held.
        if metadata.spill.is_none() {
            assert_eq!(Metadata::decode(&encoded).as_ref(), Ok(&metadata));
            // Only fields that are not known go.
            assert!(encoded == data || encoded.len() < data.len());
        }
    }
    let Ok((limit, metadata)) = build(&mut Unstructured::new(data)) else { return };
    assert_eq!(Metadata::decode(&metadata.encode()).as_ref(), Ok(&metadata));
    let (inline, spill) = metadata.split_for_spill(limit);
    assert_eq!(Metadata::join(&inline, spill.as_deref()), Ok((metadata, None)));
    // A spill file of anything may be corrupt, never fatal.
    assert!(Metadata::join(&inline, Some(data)).is_ok());
});

fn build(data: &mut Unstructured<'_>) -> Result<(usize, Metadata)> {
    let limit = data.int_in_range(0..=2000)?;
    let time = |units: Option<u64>| units.and_then(Timestamp::from_units);
    let metadata = Metadata {
        fid: data.arbitrary::<Option<[u8; 16]>>()?.and_then(|bytes| Fid::from_bytes(&bytes)),
        size: data.arbitrary()?,
        mtime_ns: data.arbitrary()?,
        md5: data.arbitrary()?,
        data_version: data.arbitrary()?,
        timestamp: time(data.arbitrary()?),
        meta_timestamp: time(data.arbitrary()?),
        content_type: data.arbitrary()?,
        delete_at: data.arbitrary()?,
        made: data.arbitrary()?,
        marker: data.arbitrary()?,
        temporary: data.arbitrary()?,
        headers: data.arbitrary()?,
        ..Metadata::default()
    };
    Ok((limit, metadata))
}
