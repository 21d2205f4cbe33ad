//! Range headers: what is sent lies within the object.
#![no_main]

use libfuzzer_sys::fuzz_target;
use object_server::swift::range::{Ranges, Selection, Spec, content_range};

// The object's length in decimal, a line end, the header's value.
fuzz_target!(|data: &str| {
    let Some((length, value)) = data.split_once('\n') else { return };
    let length = length.parse().unwrap_or(1000);
    let Some(ranges) = Ranges::parse(value.as_bytes()) else { return };
    let written: Vec<String> = ranges.specs().iter().map(written).collect();
    let again = Ranges::parse(format!("bytes={}", written.join(",")).as_bytes());
    assert_eq!(again.as_ref(), Some(&ranges));
    match ranges.select(length) {
        Selection::Whole => assert_eq!(length, 0),
        Selection::Unsatisfiable => {}
        Selection::Parts(parts) => {
            assert!((1..=50).contains(&parts.len()));
            for part in parts {
                assert!(part.start < part.end && part.end <= length, "{part:?}");
                let shown = format!("bytes {}-{}/{length}", part.start, part.end - 1);
                assert_eq!(content_range(&part, length), shown);
            }
        }
    }
});

fn written(spec: &Spec) -> String {
    match spec {
        Spec::Between(first, last) => format!("{first}-{last}"),
        Spec::From(first) => format!("{first}-"),
        Spec::Last(count) => format!("-{count}"),
    }
}
