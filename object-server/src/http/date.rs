//! The `Date` field, written once a second.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a date: `Sun, 06 Nov 1994 08:49:37 GMT`.
const LENGTH: usize = 29;

thread_local! {
    static LAST: Cell<(u64, [u8; LENGTH])> = const { Cell::new((u64::MAX, [b' '; LENGTH])) };
}

/// Appends the present date.
pub(super) fn append(out: &mut Vec<u8>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (mut second, mut text) = LAST.get();
    if second != now {
        second = now;
        let formatted = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now));
        for (to, from) in text.iter_mut().zip(formatted.bytes()) {
            *to = from;
        }
        LAST.set((second, text));
    }
    out.extend_from_slice(&text);
}
