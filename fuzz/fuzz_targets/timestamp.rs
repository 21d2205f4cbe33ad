//! Times: `X-Timestamp`, HTTP dates and the dates of listings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use namespace::Timestamp;
use object_server::swift::dates;

fuzz_target!(|data: &[u8]| {
    if let Some(time) = std::str::from_utf8(data).ok().and_then(|text| text.parse().ok()) {
        check(time);
    }
    if let Some(seconds) = dates::parse_http(data) {
        check(Timestamp::from_seconds(seconds));
    }
    if let Some(seconds) = std::str::from_utf8(data).ok().and_then(dates::parse_iso) {
        check(Timestamp::from_seconds(seconds));
    }
});

fn check(time: Timestamp) {
    assert!(time <= Timestamp::MAX);
    let text = time.to_string();
    assert_eq!((text.len(), text.parse()), (16, Ok(time)));
    assert_eq!(dates::parse_iso(&dates::iso(time.units())), Some(time.seconds()));
    assert_eq!(dates::parse_http(time.last_modified_http().as_bytes()), Some(time.seconds_up()));
    if time.nanos() < i64::MAX {
        assert_eq!(Timestamp::from_nanos(time.nanos()), time);
    }
}
