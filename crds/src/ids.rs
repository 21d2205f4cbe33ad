//! User and group ids as an administrator writes them: `1000`, `2000-2999`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A text is not an id or a range of ids.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0:?} is not an id as \"1000\" or a range as \"2000-2999\", from 1 to 4294967294")]
pub struct WrongRange(pub String);

/// The highest id; the one above it means "none" in system calls.
pub const HIGHEST: u32 = u32::MAX - 1;

/// An inclusive range of ids, never with 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdRange {
    first: u32,
    last: u32,
}

impl IdRange {
    /// Whether an id lies in it.
    pub fn contains(self, id: u32) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

impl FromStr for IdRange {
    type Err = WrongRange;

    fn from_str(text: &str) -> Result<Self, WrongRange> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (id(first), id(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(WrongRange(text.to_owned())),
        }
    }
}

/// Digits only: `u32::from_str` takes a sign too.
fn id(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| digits && (1..=HIGHEST).contains(id))
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        for text in ["1", "1000", "2000-2999", "4294967294"] {
            assert_eq!(text.parse::<IdRange>().unwrap().to_string(), text);
        }
        let range: IdRange = "10-20".parse().unwrap();
        assert!(range.contains(10) && range.contains(20) && !range.contains(9) && !range.contains(21));
        for wrong in ["", "0", "0-5", "5-4", "-5", "5-", "+5", "a", "1-2-3", "4294967295", " 1"] {
            assert_eq!(wrong.parse::<IdRange>(), Err(WrongRange(wrong.to_owned())), "{wrong}");
        }
    }
}
