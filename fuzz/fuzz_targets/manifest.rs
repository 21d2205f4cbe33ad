//! Manifests of large objects as clients upload them: what is taken can be stored, read and uploaded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use object_server::swift::slo::manifest::{Found, Segment, check, parse};
use object_server::swift::slo::stored::{Entry, Manifest};

const OWN: &str = "c/manifest";
const MOST: usize = 20;

fuzz_target!(|data: &[u8]| {
    let Ok(segments) = parse(data, OWN, MOST) else { return };
    let objects = segments.iter().filter(|s| matches!(s, Segment::Object(_))).count();
    assert!(objects <= MOST && (objects > 0 || segments.is_empty()));
    let Some(manifest) = checked(&segments) else { return };
    let pieces: u64 = manifest.plan(0..manifest.size()).map(|piece| piece.len).sum();
    assert_eq!(pieces, manifest.size());
    let json = manifest.to_json();
    assert_eq!(Manifest::from_json(json.as_bytes()).ok().as_ref(), Some(&manifest));
    let again = parse(manifest.to_raw().as_bytes(), OWN, MOST).ok();
    assert_eq!(again.as_deref().and_then(checked).as_ref(), Some(&manifest));
});

/// The manifest, if each segment were an object of 1000 bytes.
fn checked(segments: &[Segment]) -> Option<Manifest> {
    let mut problems = Vec::new();
    let entries = segments.iter().enumerate().map(|(at, segment)| match segment {
        Segment::Data(bytes) => {
            assert!(!bytes.is_empty());
            Some(Entry::data(bytes.clone()))
        }
        Segment::Object(reference) => {
            let target = reference.target();
            assert!(target.is_some_and(|(container, object)| !container.is_empty() && !object.is_empty()));
            assert_ne!(reference.path.trim_start_matches('/'), OWN);
            let found = Found {
                size: 1000,
                etag: reference.etag.clone().unwrap_or_default(),
                content_type: "text/plain".to_owned(),
                last_modified: 1_700_000_000,
                is_slo: false,
            };
            check(reference, Ok(&found), at + 1 == segments.len(), &mut problems)
        }
    });
    let entries = entries.collect::<Option<Vec<_>>>()?;
    problems.is_empty().then_some(Manifest { entries })
}
