//! Manifests as they are stored: what is read is written the same, and is planned within its segments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use object_server::swift::slo::stored::Manifest;

fuzz_target!(|data: &[u8]| {
    let Ok(manifest) = Manifest::from_json(data) else { return };
    assert_eq!(Manifest::from_json(manifest.to_json().as_bytes()).ok().as_ref(), Some(&manifest));
    assert!(serde_json::from_str::<serde_json::Value>(&manifest.to_raw()).is_ok_and(|raw| raw.is_array()));
    let size = manifest.size();
    for range in [0..size, size / 3..size / 2, size..u64::MAX] {
        let expected = range.end.min(size).saturating_sub(range.start);
        let mut planned = 0_u64;
        for piece in manifest.plan(range) {
            let segment = manifest.entries[piece.segment].length;
            assert!(piece.len > 0 && piece.offset <= segment && piece.len <= segment - piece.offset);
            planned = planned.saturating_add(piece.len);
        }
        assert!(planned == expected || size == u64::MAX, "{planned} of {expected}");
    }
});
