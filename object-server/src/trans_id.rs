//! Transaction ids (`X-Trans-Id`): `tx`, 21 hexadecimal digits that no other request has, `-`, the time in ten digits,
//! and a suffix if there is one.

use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::python::quote;

/// Makes transaction ids.
#[derive(Debug)]
pub struct TransIds {
    seeds: [RandomState; 2],
    count: AtomicU64,
    suffix: String,
}

impl TransIds {
    /// `suffix` follows every id, as the operator's mark of the cluster; usually empty.
    pub fn new(suffix: &str) -> Self {
        Self {
            seeds: [RandomState::new(), RandomState::new()],
            count: AtomicU64::new(0),
            suffix: quote(suffix.as_bytes()).to_string(),
        }
    }

    /// The next id, for a request received `now` (seconds since 1970). `extra` is the client's own
    /// `X-Trans-Id-Extra`, of which 32 characters count.
    pub fn next(&self, now: u64, extra: Option<&str>) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        // Unique, not secret: two keyed hashes of a counter cost less than a call for randomness.
        let [high, low] = [0, 1].map(|i| self.seeds[i].hash_one(count));
        let mut id = String::with_capacity(34 + self.suffix.len());
        _ = write!(id, "tx{high:016x}{:05x}-{now:010x}{}", low & 0xf_ffff, self.suffix);
        if let Some(extra) = extra.filter(|extra| !extra.is_empty()) {
            let end = extra.char_indices().nth(32).map_or(extra.len(), |(at, _)| at);
            _ = write!(id, "-{}", quote(&extra.as_bytes()[..end]));
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_have_swifts_form() {
        let id = TransIds::new("").next(0x1234_5678, None);
        assert_eq!(id.len(), 34);
        assert!(id.starts_with("tx") && id.ends_with("-0012345678"));
        assert!(id[2..23].bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
    }

    #[test]
    fn suffix_and_extra_are_quoted_and_cut() {
        let ids = TransIds::new("-pod 1");
        assert!(ids.next(0, Some("")).ends_with("-0000000000-pod%201"));
        let id = ids.next(0, Some(&format!("é\r\n{}", "x".repeat(40))));
        assert!(id.ends_with(&format!("-pod%201-%C3%A9%0D%0A{}", "x".repeat(29))), "{id}");
    }

    #[test]
    fn no_two_are_alike() {
        let ids = TransIds::new("");
        let seen: HashSet<String> = (0..10_000).map(|_| ids.next(1, None)).collect();
        assert_eq!(seen.len(), 10_000);
    }
}
