//! The attribute of `SwiftOnFile`: only what is metadata of ours comes out of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use namespace::metadata::Metadata;
use namespace::migration::{Observed, read};

// Size and mtime of the file in decimal, a line each, then the attribute. No size: a directory.
fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |b| *b == b'\n');
    let [Some(size), Some(mtime), Some(attribute)] = [lines.next(), lines.next(), lines.next()] else {
        return;
    };
    let size = number(size).and_then(|size| u64::try_from(size).ok());
    let observed =
        Observed { size: size.unwrap_or(0), mtime_ns: number(mtime).unwrap_or(0), directory: size.is_none() };
    let Ok(legacy) = read(attribute, observed) else { return };
    let metadata = &legacy.metadata;
    assert_eq!((metadata.size, metadata.mtime_ns), (observed.size, observed.mtime_ns));
    assert!(metadata.fid.is_none() && metadata.delete_at.is_none() && metadata.spill.is_none());
    assert!(metadata.md5.is_none() || legacy.current && !observed.directory);
    assert!(legacy.delete_at.is_none() || legacy.current);
    assert!(!metadata.marker || observed.directory);
    for (name, value) in &metadata.headers {
        assert!(
            !name.is_empty() && !name.contains(|c: char| !c.is_ascii_graphic() || c.is_ascii_uppercase())
        );
        assert!(!value.is_empty() && !value.iter().any(u8::is_ascii_control), "{name}: {value:?}");
    }
    assert_eq!(Metadata::decode(&metadata.encode()).as_ref(), Ok(metadata));
});

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
