//! Which pieces of which segments make up a range of a large object.

use std::ops::Range;

/// A piece of one segment. Offsets count from the start of what the segment contributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Index of the segment.
    pub segment: usize,
    /// First byte within the segment.
    pub offset: u64,
    /// Number of bytes, at least one.
    pub len: u64,
}

/// The pieces of a range, in order.
#[derive(Debug, Clone)]
pub struct Plan<I> {
    lengths: std::iter::Enumerate<I>,
    skip: u64,
    left: u64,
}

impl<I: Iterator<Item = u64>> Plan<I> {
    /// Plans `bytes` over segments of these lengths.
    pub fn new(lengths: impl IntoIterator<IntoIter = I>, bytes: Range<u64>) -> Self {
        Self {
            lengths: lengths.into_iter().enumerate(),
            skip: bytes.start,
            left: bytes.end.saturating_sub(bytes.start),
        }
    }
}

impl<I: Iterator<Item = u64>> Iterator for Plan<I> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        while self.left > 0 {
            let (segment, length) = self.lengths.next()?;
            if length <= self.skip {
                self.skip -= length;
                continue;
            }
            let offset = std::mem::take(&mut self.skip);
            let len = (length - offset).min(self.left);
            self.left -= len;
            return Some(Piece { segment, offset, len });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(lengths: &[u64], bytes: Range<u64>) -> Vec<(usize, u64, u64)> {
        Plan::new(lengths.iter().copied(), bytes).map(|p| (p.segment, p.offset, p.len)).collect()
    }

    #[test]
    fn ranges_cut_the_first_and_the_last_segment() {
        assert_eq!(plan(&[5, 5, 5], 0..15), [(0, 0, 5), (1, 0, 5), (2, 0, 5)]);
        assert_eq!(plan(&[5, 5, 5], 4..11), [(0, 4, 1), (1, 0, 5), (2, 0, 1)]);
        assert_eq!(plan(&[5, 5, 5], 6..8), [(1, 1, 2)]);
        assert_eq!(plan(&[0, 5, 0], 0..5), [(1, 0, 5)]);
        assert_eq!(plan(&[5], 5..9), []);
        assert_eq!(plan(&[5], 3..3), []);
        assert_eq!(plan(&[], 0..1), []);
    }

    proptest! {
        #[test]
        fn pieces_are_the_bytes_of_the_range(
            segments in prop::collection::vec(0_u64..9, 0..9), start in 0_u64..50, len in 0_u64..50,
        ) {
            let all: Vec<(usize, u64)> = segments
                .iter()
                .enumerate()
                .flat_map(|(at, n)| (0..*n).map(move |i| (at, i)))
                .collect();
            let end = all.len().min((start + len) as usize);
            let expected = all.get(start as usize..end).unwrap_or_default();
            let got: Vec<(usize, u64)> = plan(&segments, start..start + len)
                .iter()
                .flat_map(|&(at, offset, n)| (offset..offset + n).map(move |i| (at, i)))
                .collect();
            prop_assert_eq!(got, expected);
        }
    }
}
