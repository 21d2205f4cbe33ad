//! Dates as clients write them, and those of listings.

use namespace::timestamp::Date;
use std::time::UNIX_EPOCH;

/// Units of a timestamp in a second: Swift counts tens of microseconds.
pub const UNITS: u64 = 100_000;

/// Seconds since 1970 of an HTTP date. Time zones and weekdays are ignored, as Swift ignores them.
pub fn parse_http(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim();
    match httpdate::parse_http_date(text) {
        Ok(time) => time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs()),
        Err(_) => lenient(text),
    }
}

/// `[Mon,] 1 Jan 2024 10:00[:00] [zone]` with free spacing.
fn lenient(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let text = text.split_once(',').map_or(text, |(_, rest)| rest);
    let mut words = text.split([' ', '-']).filter(|w| !w.is_empty());
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?.get(..3)?;
    let month = MONTHS.iter().position(|m| name.eq_ignore_ascii_case(m))? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let year = match year {
        0..=68 => year + 2000,
        69..=99 => year + 1900,
        _ => year,
    };
    seconds(year, month, day, words.next()?)
}

/// Seconds since 1970 of what [`iso`] wrote.
pub fn parse_iso(date: &str) -> Option<u64> {
    let (day, clock) = date.split_once('T')?;
    let mut parts = day.split('-').map(|part| part.parse().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    seconds(year, month, day, clock.split('.').next()?)
}

fn seconds(year: u64, month: u64, day: u64, clock: &str) -> Option<u64> {
    let mut parts = clock.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    let sane = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    sane.then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// The date in a listing: `2024-01-31T10:00:00.123450`.
pub fn push_iso(out: &mut String, units: u64) {
    let Date { year, month, day } = Date::of(units / UNITS / 86_400);
    let second = units / UNITS % 86_400;
    let micros = units % UNITS * 10;
    let mut digits = [0_u8; 26];
    let fields = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (second / 3600, 2, b':'),
        (second / 60 % 60, 2, b':'),
        (second % 60, 2, b'.'),
        (micros, 6, 0),
    ];
    let mut at = 0;
    for (mut value, width, separator) in fields {
        for place in (at..at + width).rev() {
            digits[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
        at += width;
        if separator != 0 {
            digits[at] = separator;
            at += 1;
        }
    }
    out.extend(digits.iter().map(|d| char::from(*d)));
}

/// The date in a listing, on its own.
pub fn iso(units: u64) -> String {
    let mut out = String::with_capacity(26);
    push_iso(&mut out, units);
    out
}

/// The inverse of [`Date::of`], for years from 1970 on.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_dates_have_microseconds() {
        assert_eq!(iso(170_000_000_012_345), "2023-11-14T22:13:20.123450");
        assert_eq!(iso(95_186_879_999_999), "2000-02-29T23:59:59.999990");
        assert_eq!(iso(0), "1970-01-01T00:00:00.000000");
        assert_eq!(iso(951_782_400 * UNITS), "2000-02-29T00:00:00.000000");
        assert_eq!(iso(9_999_999_999 * UNITS), "2286-11-20T17:46:39.000000");
    }

    #[test]
    fn listing_dates_are_read_back() {
        for seconds in [0, 951_782_400, 1_700_000_000, 1_709_251_199, 9_999_999_999] {
            assert_eq!(parse_iso(&iso(seconds * UNITS)), Some(seconds));
        }
        for text in ["", "T", "2023-11-14", "2023-13-01T00:00:00", "2023-01-01T24:00:00", "x-y-zT0:0"] {
            assert_eq!(parse_iso(text), None, "{text}");
        }
    }

    #[test]
    fn dates_are_read_leniently() {
        let expected = Some(1_700_000_000);
        for text in [
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tuesday, 14-Nov-23 22:13:20 GMT",
            "Tue Nov 14 22:13:20 2023",
            "14 Nov 2023 22:13:20",
            "Tue, 14 Nov 2023 22:13:20 +0100",
        ] {
            assert_eq!(parse_http(text.as_bytes()), expected, "{text}");
        }
        for text in ["", "yesterday", "14 Nov", "99 Nov 2023 22:13:20", "\u{e9}\u{e9}, 1 \u{e9}\u{e9} 1 1:1"]
        {
            assert_eq!(parse_http(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_http(b"\xff"), None);
    }
}
