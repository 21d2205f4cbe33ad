//! Time as Swift counts and prints it: seconds since 1970 with five decimals.
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Units (of 10 µs) in a second.
const UNITS: u64 = 100_000;
const NANOS: i64 = 10_000;

/// A point in time in units of 10 µs since 1970; at most 9999999999.99999 s, as in Swift.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(u64);

/// The text is not a time that Swift takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// Not digits with at most one point: a sign, an exponent, NaN, blanks inside, nothing.
    #[error("not a timestamp")]
    Malformed,
    /// 10000000000 s or more.
    #[error("timestamp too large")]
    TooLarge,
}

impl Timestamp {
    /// 1970-01-01T00:00:00.
    pub const ZERO: Timestamp = Timestamp(0);
    /// The last moment that has a timestamp, in 2286.
    pub const MAX: Timestamp = Timestamp(1_000_000_000_000_000 - 1);

    /// The present.
    pub fn now() -> Timestamp {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp((elapsed.as_nanos() / NANOS as u128).min(u128::from(Self::MAX.0)) as u64)
    }

    /// From units of 10 µs; none if it is beyond [`Timestamp::MAX`].
    pub fn from_units(units: u64) -> Option<Timestamp> {
        (units <= Self::MAX.0).then_some(Timestamp(units))
    }

    /// In units of 10 µs.
    pub fn units(self) -> u64 {
        self.0
    }

    /// From nanoseconds since 1970, as in `mtime_ns`; rounded down, and 1970 for anything earlier.
    pub fn from_nanos(ns: i64) -> Timestamp {
        Timestamp((ns / NANOS).max(0) as u64)
    }

    /// Nanoseconds since 1970; after the year 2262 the largest that an `i64` holds.
    pub fn nanos(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX).saturating_mul(NANOS)
    }

    /// From whole seconds since 1970; [`Timestamp::MAX`] where that is too much.
    pub fn from_seconds(seconds: u64) -> Timestamp {
        Timestamp(seconds.saturating_mul(UNITS).min(Self::MAX.0))
    }

    /// Whole seconds since 1970, rounded down.
    pub fn seconds(self) -> u64 {
        self.0 / UNITS
    }

    /// Whole seconds since 1970, rounded up: what `Last-Modified` says, so that nothing changes after it.
    pub fn seconds_up(self) -> u64 {
        self.0.div_ceil(UNITS)
    }

    /// `Last-Modified` for this time: the second rounded up, as in `Sun, 22 Nov 2026 06:55:12 GMT`.
    pub fn last_modified_http(self) -> String {
        let seconds = self.seconds_up();
        let days = seconds / 86_400;
        let date = Date::of(days);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let weekday = WEEKDAYS[(days % 7) as usize];
        let month = MONTHS[(date.month - 1) as usize % 12];
        // By hand, as `Display` below: every answer has one of each, and the formatter costs ten times as much.
        let mut text = String::with_capacity(29);
        text.push_str(weekday);
        text.push_str(", ");
        push_digits(&mut text, date.day, 2);
        text.push(' ');
        text.push_str(month);
        for (before, number, digits) in
            [(' ', date.year, 4), (' ', hour, 2), (':', minute, 2), (':', second, 2)]
        {
            text.push(before);
            push_digits(&mut text, number, digits);
        }
        text.push_str(" GMT");
        text
    }
}

/// Appends a number in decimal, with leading zeros up to so many digits.
fn push_digits(text: &mut String, number: u64, digits: u32) {
    let mut rest = digits.max(number.checked_ilog10().unwrap_or(0) + 1);
    while rest > 0 {
        rest -= 1;
        text.push(char::from(b'0' + (number / 10_u64.pow(rest) % 10) as u8));
    }
}

/// Ten digits, a point, five digits: such texts sort as the times do.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(16);
        push_digits(&mut text, self.0 / UNITS, 10);
        text.push('.');
        push_digits(&mut text, self.0 % UNITS, 5);
        f.write_str(&text)
    }
}

impl FromStr for Timestamp {
    type Err = ParseError;

    /// Digits with at most one point; further decimals are rounded to the nearest 10 µs.
    fn from_str(text: &str) -> Result<Timestamp, ParseError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
            return Err(ParseError::Malformed);
        }
        let whole = whole.trim_start_matches('0');
        if whole.len() > 10 {
            return Err(ParseError::TooLarge);
        }
        let number = |part: &str| part.bytes().fold(0, |n, b| n * 10 + u64::from(b - b'0'));
        let kept = &fraction[..fraction.len().min(5)];
        let missing = 5 - kept.len() as u32;
        let round = u64::from(fraction.as_bytes().get(5).is_some_and(|b| *b >= b'5'));
        let units = number(whole) * UNITS + number(kept) * 10_u64.pow(missing) + round;
        Timestamp::from_units(units).ok_or(ParseError::TooLarge)
    }
}

/// 1970-01-01 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Date {
    /// Four digits, from 1970 on.
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    /// 1 to 31.
    pub day: u64,
}

impl Date {
    /// The date of a number of days since 1970, counted in eras of 400 years that begin on 1 March, where leap
    /// days come last.
    pub fn of(days: u64) -> Date {
        let since_march_0 = days + 719_468;
        let era = since_march_0 / 146_097;
        let of_era = since_march_0 % 146_097;
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        Date { year, month, day }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<String, ParseError> {
        text.parse::<Timestamp>().map(|t| t.to_string())
    }

    #[test]
    fn printed_with_ten_digits_and_five_decimals() {
        assert_eq!(parse("1700000000.12345").as_deref(), Ok("1700000000.12345"));
        assert_eq!(parse("1.5").as_deref(), Ok("0000000001.50000"));
        assert_eq!(parse("0000001402464677").as_deref(), Ok("1402464677.00000"));
        assert_eq!(parse(".5").as_deref(), Ok("0000000000.50000"));
        assert_eq!(parse("5.").as_deref(), Ok("0000000005.00000"));
        assert_eq!(Timestamp::MAX.to_string(), "9999999999.99999");
    }

    #[test]
    fn further_decimals_are_rounded() {
        assert_eq!(parse("1.123456").as_deref(), Ok("0000000001.12346"));
        assert_eq!(parse("1.1234549999").as_deref(), Ok("0000000001.12345"));
        assert_eq!(parse("1.999999").as_deref(), Ok("0000000002.00000"));
    }

    #[test]
    fn what_swift_refuses_is_refused() {
        for text in
            ["", ".", "-1", "nan", "inf", "1e9", "1_0", "1402464677.04188_00000000", "1.2.3", " 1", "１"]
        {
            assert_eq!(parse(text), Err(ParseError::Malformed), "{text:?}");
        }
        for text in ["10000000000", "9999999999.999999", "99999999999999999999999999"] {
            assert_eq!(parse(text), Err(ParseError::TooLarge), "{text:?}");
        }
    }

    #[test]
    fn last_modified_is_the_second_rounded_up() {
        let at = |text: &str| text.parse::<Timestamp>().map(Timestamp::last_modified_http);
        assert_eq!(at("0").as_deref(), Ok("Thu, 01 Jan 1970 00:00:00 GMT"));
        assert_eq!(at("784111777").as_deref(), Ok("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(at("784111776.00001").as_deref(), Ok("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(at("1709164799.5").as_deref(), Ok("Thu, 29 Feb 2024 00:00:00 GMT"));
        assert_eq!(at("9999999999.99999").as_deref(), Ok("Sat, 20 Nov 2286 17:46:40 GMT"));
    }

    #[test]
    fn dates_follow_one_another() {
        let mut last = (1969, 12, 31);
        for days in 0..115_741 {
            let date = Date::of(days);
            let next = (date.year, date.month, date.day);
            let leap = last.0 % 4 == 0 && (last.0 % 100 != 0 || last.0 % 400 == 0);
            let length =
                [31, 28 + u64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][last.1 as usize - 1];
            let expected = match last {
                (year, 12, 31) => (year + 1, 1, 1),
                (year, month, day) if day == length => (year, month + 1, 1),
                (year, month, day) => (year, month, day + 1),
            };
            assert_eq!(next, expected);
            last = next;
        }
    }

    #[test]
    fn nanoseconds_before_1970_are_1970() {
        assert_eq!(Timestamp::from_nanos(-1), Timestamp::ZERO);
        assert_eq!(Timestamp::from_nanos(i64::MIN), Timestamp::ZERO);
        assert_eq!(Timestamp::MAX.nanos(), i64::MAX);
    }

    proptest! {
        #[test]
        fn text_and_back(units in 0..=Timestamp::MAX.0) {
            let time = Timestamp(units);
            prop_assert_eq!(time.to_string().parse(), Ok(time));
            prop_assert!(time.last_modified_http().len() == 29);
        }

        #[test]
        fn nanoseconds_and_back(ns in 0..i64::MAX) {
            let time = Timestamp::from_nanos(ns);
            prop_assert_eq!(time.nanos(), ns / NANOS * NANOS);
        }

        #[test]
        fn texts_sort_as_times(a in 0..=Timestamp::MAX.0, b in 0..=Timestamp::MAX.0) {
            prop_assert_eq!(a.cmp(&b), Timestamp(a).to_string().cmp(&Timestamp(b).to_string()));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}|[0-9.eE+_ -]{0,40}") {
            let _ = text.parse::<Timestamp>();
        }
    }
}
